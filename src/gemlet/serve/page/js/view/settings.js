/** The panel of the open conversation's system prompt, sampling and format of answers. */
import { noSettings } from "../tree.js";
import { byId, el } from "./dom.js";

const SAMPLING = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.1, hint: "0 always takes the likeliest token." },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "Only the likeliest tokens that make up this share." },
  { name: "top_k", label: "Top k", min: 0, max: 262144, step: 1, hint: "Only this many of the likeliest tokens." },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "Only tokens at least this share of the likeliest one's." },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.1, max: 2, step: 0.05, hint: "Above 1 makes repeating less likely." },
  { name: "max_tokens", label: "Longest answer", min: 1, max: 1048576, step: 1, hint: "In tokens; empty: to the end of the context." },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 53 - 1, step: 1, hint: "The same seed, model and messages give the same answer." },
];

const EXAMPLE = {
  type: "object",
  properties: { name: { type: "string" }, year: { type: "integer" }, tags: { type: "array", items: { type: "string" } } },
  required: ["name", "year", "tags"],
  additionalProperties: false,
};

export class SettingsPanel {
  #chat;
  #onChange;
  /** @type {HTMLTextAreaElement} */
  #system = byId("system");
  /** @type {HTMLSelectElement} */
  #format = byId("format");
  /** @type {HTMLTextAreaElement} */
  #schema = byId("schema");
  /** @type {Map<string, HTMLInputElement>} */
  #inputs = new Map();

  /**
   * @param {import("../chat.js").Chat} chat
   * @param {() => void} onChange  keeps the settings
   * @param {(settings: import("../tree.js").Settings) => void} onDefault  makes them those of new chats
   */
  constructor(chat, onChange, onDefault) {
    this.#chat = chat;
    this.#onChange = onChange;
    byId("sampling").append(...SAMPLING.map((field) => this.#field(field)));
    for (const control of [this.#system, this.#format, this.#schema]) {
      control.addEventListener("input", () => this.#read());
    }
    byId("schema-example").addEventListener("click", () => {
      this.#schema.value = JSON.stringify(EXAMPLE, null, 2);
      this.#read();
    });
    byId("settings-default").addEventListener("click", () => onDefault(structuredClone(chat.current.meta.settings)));
    byId("settings-reset").addEventListener("click", () => {
      chat.current.meta.settings = noSettings();
      this.show();
      onChange();
    });
    chat.addEventListener("open", () => this.show());
  }

  /** What keeps the settings from being used, and where; null when nothing does. */
  get problem() {
    for (const [name, input] of this.#inputs) {
      if (!input.validity.valid) return { text: `${name}: ${input.validationMessage}`, control: input };
    }
    const text = this.#schemaProblem();
    return text ? { text, control: this.#schema } : null;
  }

  show() {
    const { system, sampling, format, schema } = this.#chat.current.meta.settings;
    if (this.#system.value !== system) this.#system.value = system;
    if (this.#schema.value !== schema) this.#schema.value = schema;
    this.#format.value = format;
    for (const [name, input] of this.#inputs) {
      const value = name in sampling ? String(sampling[name]) : "";
      if (Number(input.value) !== Number(value) || input.value === "" || value === "") input.value = value;
      this.#mark(input);
    }
    this.#showSchema();
  }

  /** @param {typeof SAMPLING[number]} field */
  #field({ name, label, min, max, step, hint }) {
    const id = `sampling-${name}`;
    const input = /** @type {HTMLInputElement} */ (
      el("input", {
        id, type: "number", min, max, step: Number.isInteger(step) ? step : "any", placeholder: "default",
        inputmode: Number.isInteger(step) ? "numeric" : "decimal", "aria-describedby": `${id}-hint`,
        oninput: () => (this.#read(), this.#mark(input)),
      })
    );
    this.#inputs.set(name, input);
    return el("div", { class: "field" }, el("label", { for: id }, label), input, el("p", { class: "hint", id: `${id}-hint` }, hint));
  }

  /** @param {HTMLInputElement} input */
  #mark(input) {
    input.setAttribute("aria-invalid", String(!input.validity.valid));
    input.title = input.validationMessage;
  }

  #read() {
    const sampling = {};
    for (const [name, input] of this.#inputs) {
      if (input.value !== "" && input.validity.valid) sampling[name] = input.valueAsNumber;
    }
    const format = /** @type {import("../tree.js").Settings["format"]} */ (this.#format.value);
    this.#chat.current.meta.settings = { system: this.#system.value, sampling, format, schema: this.#schema.value };
    this.#showSchema();
    this.#onChange();
  }

  #showSchema() {
    const wanted = this.#format.value === "json_schema";
    byId("schema-field").hidden = !wanted;
    const text = this.#schemaProblem();
    byId("schema-problem").textContent = text ?? "";
    this.#schema.setAttribute("aria-invalid", String(text !== null));
  }

  #schemaProblem() {
    if (this.#format.value !== "json_schema") return null;
    if (!this.#schema.value.trim()) return "Write a JSON schema, or choose another format.";
    try {
      const schema = JSON.parse(this.#schema.value);
      return schema && typeof schema === "object" && !Array.isArray(schema) ? null : "A schema is a JSON object.";
    } catch (error) {
      return `Not JSON yet: ${error.message}`;
    }
  }
}
