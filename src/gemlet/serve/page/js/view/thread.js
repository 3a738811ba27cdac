/** The messages of the open conversation, the examples where there are none, and where the view is scrolled to. */
import { path, siblings } from "../tree.js";
import { announce, byId, copyText, el, icon, reducedMotion } from "./dom.js";
import { MessageView } from "./message.js";

const NEAR = 80;
const SPOKEN = 1500;

const EXAMPLES = [
  ["Explain", "Why is the sky blue, and why is it red in the evening?"],
  ["Write", "Write a short, friendly email that moves a meeting from Tuesday to Thursday."],
  ["Code", "Write a Python function that finds duplicate files in a folder, and explain how it works."],
  ["Plan", "Plan three simple dinners for two people that share their ingredients, as a table."],
];

export class Thread {
  #chat;
  #actions;
  #scroller = byId("thread");
  #list = byId("messages");
  #jump = byId("jump");
  /** @type {Map<string, MessageView>} */
  #views = new Map();
  #shown = "";
  #waiting = false;
  #following = true;

  /**
   * @param {import("../chat.js").Chat} chat
   * @param {import("./message.js").Actions} actions
   * @param {(text: string) => void} onExample
   */
  constructor(chat, actions, onExample) {
    this.#chat = chat;
    this.#actions = actions;
    byId("examples").append(...EXAMPLES.map(([title, text]) => example(title, text, onExample)));
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#jump.addEventListener("click", () => this.toEnd(true));
    this.#list.addEventListener("click", (event) => copyCode(event));
    // The height changes without a scroll: images, the keyboard of a phone, a growing composer.
    new ResizeObserver(() => this.#following && this.toEnd()).observe(this.#scroller);
    chat.addEventListener("open", () => this.show());
    chat.addEventListener("message", () => this.#soon());
    chat.addEventListener("run", (event) => this.#run(event.detail));
  }

  /** The views in their order. */
  get views() {
    return [...this.#views.values()];
  }

  show() {
    const { current, run } = this.#chat;
    const messages = path(current);
    const other = this.#shown !== current.meta.id;
    this.#shown = current.meta.id;
    const old = other ? new Map() : this.#views;
    this.#views = new Map(
      messages.map((message) => [message.id, old.get(message.id) ?? new MessageView(message, this.#actions)]),
    );
    for (const message of messages) {
      const own = run?.message.id === message.id ? run : null;
      this.#views.get(message.id)?.update(message, siblings(current, message), own, run !== null);
    }
    const roots = this.views.map((view) => view.root);
    // Unchanged ones are left where they are, so that focus and selection stay.
    roots.forEach((root, index) => {
      if (this.#list.children[index] !== root) this.#list.insertBefore(root, this.#list.children[index] ?? null);
    });
    while (this.#list.children.length > roots.length) this.#list.lastElementChild?.remove();
    byId("empty").hidden = messages.length > 0;
    this.#list.hidden = messages.length === 0;
    if (other || this.#following) this.toEnd();
  }

  /** @param {boolean} [smooth] */
  toEnd(smooth = false) {
    this.#following = true;
    const behavior = smooth && !reducedMotion() ? "smooth" : "instant";
    this.#scroller.scrollTo({ top: this.#scroller.scrollHeight, behavior });
    this.#jump.hidden = true;
  }

  /** Scrolls to a message and marks it for a moment. @param {string} id */
  reveal(id) {
    const root = this.#views.get(id)?.root;
    if (!root) return;
    this.#following = false;
    root.scrollIntoView({ block: "center" });
    root.classList.add("found");
    setTimeout(() => root.classList.remove("found"), 2000);
  }

  /** Moves the focus from message to message. @param {number} by */
  step(by) {
    const roots = this.views.map((view) => view.root);
    const at = roots.findIndex((root) => root.contains(document.activeElement));
    const to = at < 0 ? (by < 0 ? roots.length - 1 : 0) : Math.min(roots.length - 1, Math.max(0, at + by));
    roots[to]?.focus();
    roots[to]?.scrollIntoView({ block: "nearest" });
  }

  /** The view that has the focus, or the last one of a role. @param {"user" | "assistant"} role */
  target(role) {
    const focused = this.views.find((view) => view.root.contains(document.activeElement));
    if (focused?.message.role === role) return focused;
    return this.views.filter((view) => view.message.role === role).at(-1) ?? null;
  }

  /** Draws at most once a frame, however fast the text comes. */
  #soon() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      const { current, run } = this.#chat;
      if (!run || current.meta.id !== this.#shown) return;
      this.#views.get(run.message.id)?.update(run.message, siblings(current, run.message), run, true);
      if (this.#following) this.toEnd();
    });
  }

  /** @param {import("../chat.js").Run | undefined} ended */
  #run(ended) {
    if (!ended) {
      announce("The answer is being written.");
      this.#following = true;
      return;
    }
    if (ended.conversation !== this.#chat.current) return;
    this.show();
    const { content, state } = ended.message;
    const heard = content.length > SPOKEN ? `${content.slice(0, SPOKEN)}… and more.` : content;
    if (state === "done") announce(`Answer: ${heard}`);
    else if (state === "stopped") announce("Stopped.");
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#following = scrollHeight - scrollTop - clientHeight < NEAR;
    this.#jump.hidden = this.#following;
  }
}

/** @param {string} title @param {string} text @param {(text: string) => void} onExample */
function example(title, text, onExample) {
  return el(
    "li",
    {},
    el("button", { type: "button", class: "example", onclick: () => onExample(text) }, el("strong", {}, title), text),
  );
}

/** @param {Event} event */
async function copyCode(event) {
  const button = /** @type {Element} */ (event.target).closest("button.copy-code");
  if (!button) return;
  await copyText(button.closest(".code")?.querySelector("code")?.textContent ?? "");
  button.replaceChildren(icon("check"), "Copied");
  announce("Code copied");
  setTimeout(() => button.replaceChildren(icon("copy"), "Copy"), 1500);
}
