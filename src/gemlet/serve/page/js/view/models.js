/** Which model answers, with which adapter. */
import { byId, el } from "./dom.js";

export class ModelPicker {
  /** @type {HTMLSelectElement} */
  #model = byId("model");
  /** @type {HTMLSelectElement} */
  #adapter = byId("adapter");
  /** @type {import("../api.js").Model[]} */
  #models = [];

  /** @param {(id: string) => void} onChange */
  constructor(onChange) {
    this.#model.addEventListener("change", () => {
      this.#showAdapters("");
      onChange(this.id);
    });
    this.#adapter.addEventListener("change", () => onChange(this.id));
  }

  /** What the API is asked for: the model with its adapter. */
  get id() {
    const adapter = this.#adapter.value;
    return adapter ? `${this.#model.value}+${adapter}` : this.#model.value;
  }

  /** @returns {import("../api.js").Model | null} */
  get chosen() {
    return this.#models.find((model) => model.id === this.#model.value) ?? null;
  }

  /** The server's first model; empty where it has none. */
  get first() {
    return this.#models[0]?.id ?? "";
  }

  /** @param {import("../api.js").Model[]} models */
  fill(models) {
    this.#models = models;
  }

  /** @param {string} id */
  serves(id) {
    return this.#find(id) !== undefined;
  }

  /**
   * Shows a model. One that the server does not have is listed as such and not replaced in silence.
   * @param {string} id
   */
  choose(id) {
    const known = this.#find(id);
    const base = known?.id ?? id;
    const options = this.#models.map((model) => el("option", { value: model.id }, model.id));
    if (base && !this.#models.some((model) => model.id === base)) {
      options.push(el("option", { value: base }, `${base} (not served)`));
    }
    if (!options.length) options.push(el("option", { value: "" }, "no model"));
    this.#model.replaceChildren(...options);
    this.#model.value = base;
    this.#showAdapters(known && known.id !== id ? id.slice(known.id.length + 1) : "");
  }

  /** @param {string} id  with or without an adapter */
  #find(id) {
    return this.#models.find((model) => model.id === id || model.adapters.some((name) => `${model.id}+${name}` === id));
  }

  /** @param {string} chosen */
  #showAdapters(chosen) {
    const adapters = this.chosen?.adapters ?? [];
    const options = adapters.map((name) => el("option", { value: name }, `+ ${name}`));
    this.#adapter.replaceChildren(el("option", { value: "" }, "no adapter"), ...options);
    this.#adapter.value = chosen;
    byId("adapter-field").hidden = adapters.length === 0;
    byId("base-note").hidden = this.chosen?.chatFormat !== false;
  }
}
