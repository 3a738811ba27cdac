/** The list of conversations, its search, and what can be done with one. */
import { byId, el, iconButton } from "./dom.js";

const DAY = 86_400_000;
const AROUND = 40;

/**
 * @typedef {object} SidebarActions
 * @property {(id: string, message?: string) => void} open
 * @property {(id: string, title: string) => void} rename
 * @property {(id: string) => void} remove
 * @property {(id: string, format: "markdown" | "json") => void} save
 */
export class Sidebar {
  #store;
  #chat;
  #actions;
  #list = byId("conversations");
  /** @type {HTMLInputElement} */
  #search = byId("search");
  #menu = byId("menu");
  /** @type {{id: string, item: HTMLElement} | null} */
  #target = null;
  #round = 0;

  /**
   * @param {import("../store.js").Store} store
   * @param {import("../chat.js").Chat} chat
   * @param {SidebarActions} actions
   */
  constructor(store, chat, actions) {
    this.#store = store;
    this.#chat = chat;
    this.#actions = actions;
    this.#search.addEventListener("input", () => this.refresh());
    this.#search.addEventListener("keydown", (event) => this.#searchKey(event));
    this.#list.addEventListener("keydown", (event) => this.#listKey(event));
    this.#menu.addEventListener("click", (event) => this.#chosen(event));
    for (const type of ["list", "open", "run"]) chat.addEventListener(type, () => this.refresh());
  }

  focusSearch() {
    this.#search.focus();
    this.#search.select();
  }

  async refresh() {
    const round = ++this.#round;
    const text = this.#search.value.trim();
    const found = text ? await this.#store.search(text) : (await this.#store.list()).map((meta) => ({ meta }));
    // A later refresh may have been faster; a title that is being changed must not be drawn over.
    if (round !== this.#round || this.#list.querySelector("input")) return;
    const nodes = [];
    let group = "";
    for (const { meta, message, at } of found) {
      const next = text ? "" : groupOf(meta.updated);
      if (next !== group) nodes.push(el("li", { class: "group", role: "presentation" }, (group = next)));
      nodes.push(this.#item(meta, message, at, text));
    }
    if (!nodes.length) nodes.push(el("li", { class: "none" }, text ? "Nothing found." : "No conversations yet."));
    const focused = /** @type {HTMLElement | null} */ (document.activeElement?.closest("#conversations [data-id]"))?.dataset.id;
    this.#list.replaceChildren(...nodes);
    if (focused) this.#link(focused)?.focus();
  }

  /** @param {string} id @returns {HTMLElement | null} */
  #link(id) {
    return this.#list.querySelector(`[data-id="${id}"] a`);
  }

  /** @param {import("../tree.js").Meta} meta @param {any} message @param {number} at @param {string} text */
  #item(meta, message, at, text) {
    const { id, title } = meta;
    const current = id === this.#chat.current.meta.id;
    const link = el("a", { href: `#c=${id}`, "aria-current": current ? "page" : null, title }, el("span", {}, title));
    if (message) link.append(snippet(message.content, at, text.length));
    if (this.#chat.runs.has(id)) link.append(el("span", { class: "running", role: "img", "aria-label": "An answer is being written" }));
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.#actions.open(id, message?.id);
    });
    const item = el("li", { class: "conversation", "data-id": id }, link);
    const more = iconButton("more", `Actions for ${title}`, () => this.#openMenu(id, item, more), { "aria-haspopup": "menu" });
    item.append(more);
    return item;
  }

  /** @param {string} id @param {HTMLElement} item @param {HTMLElement} button */
  #openMenu(id, item, button) {
    this.#target = { id, item };
    this.#menu.showPopover();
    const place = button.getBoundingClientRect();
    const { offsetWidth, offsetHeight } = this.#menu;
    this.#menu.style.left = `${Math.max(8, Math.min(place.left, innerWidth - offsetWidth - 8))}px`;
    this.#menu.style.top = `${Math.min(place.bottom + 4, innerHeight - offsetHeight - 8)}px`;
    /** @type {HTMLElement} */ (this.#menu.firstElementChild).focus();
  }

  /** @param {Event} event */
  #chosen(event) {
    const action = /** @type {HTMLElement} */ (event.target).closest("button")?.dataset.action;
    if (!action || !this.#target) return;
    const { id, item } = this.#target;
    this.#menu.hidePopover();
    if (action === "rename") this.#rename(id, item);
    else if (action === "remove") this.#actions.remove(id);
    else this.#actions.save(id, action === "markdown" ? "markdown" : "json");
  }

  /** @param {string} id @param {HTMLElement} item */
  #rename(id, item) {
    const link = item.querySelector("a");
    const input = /** @type {HTMLInputElement} */ (el("input", { type: "text", "aria-label": "Title", maxlength: "200" }));
    input.value = link?.title ?? "";
    let ended = false;
    const end = (keep) => {
      // Taking the field away takes its focus, which would end it a second time.
      if (ended) return;
      ended = true;
      const title = input.value.trim();
      input.remove();
      if (keep && title) this.#actions.rename(id, title);
      this.refresh().then(() => this.#link(id)?.focus());
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter" && !event.isComposing);
    });
    input.addEventListener("blur", () => end(true));
    item.replaceChildren(input);
    input.focus();
    input.select();
  }

  /** @param {KeyboardEvent} event */
  #searchKey(event) {
    if (event.key === "Escape" && this.#search.value) {
      this.#search.value = "";
      this.refresh();
      event.stopPropagation();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      const first = /** @type {HTMLElement | null} */ (this.#list.querySelector("a"));
      if (event.key === "Enter") first?.click();
      else first?.focus();
    }
  }

  /** @param {KeyboardEvent} event */
  #listKey(event) {
    const link = /** @type {HTMLElement} */ (event.target).closest("a");
    if (!link) return;
    const links = /** @type {HTMLElement[]} */ ([...this.#list.querySelectorAll("a")]);
    const at = links.indexOf(link);
    if (event.key === "ArrowDown") links[Math.min(at + 1, links.length - 1)].focus();
    else if (event.key === "ArrowUp") (links[at - 1] ?? this.#search).focus();
    else if (event.key === "F2" || event.key === "Delete") {
      const item = /** @type {HTMLElement} */ (link.closest("li"));
      if (event.key === "F2") this.#rename(item.dataset.id ?? "", item);
      else this.#actions.remove(item.dataset.id ?? "");
    } else return;
    event.preventDefault();
  }
}

/** @param {number} updated */
function groupOf(updated) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (updated >= today) return "Today";
  if (updated >= today - DAY) return "Yesterday";
  return updated >= today - 6 * DAY ? "Last 7 days" : "Older";
}

/** @param {string} content @param {number} at @param {number} length */
function snippet(content, at, length) {
  const from = Math.max(0, at - AROUND);
  const before = (from ? "…" : "") + content.slice(from, at);
  const after = content.slice(at + length, at + length + AROUND);
  return el("small", {}, before, el("mark", {}, content.slice(at, at + length)), after);
}
