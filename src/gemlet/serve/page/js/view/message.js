/**
 * One message: its text, what there is to say about it, and what can be done with it.
 * @typedef {import("../tree.js").Message} Message
 *
 * @typedef {object} Actions
 * @property {(message: Message, text: string) => void} edit
 * @property {(message: Message) => void} regenerate
 * @property {(message: Message) => void} choose
 * @property {(conversation: string, draft: {message: string, text: string} | null) => void} keepEdit
 */
import { MarkdownView } from "../markdown.js";
import { copyText, el, fitHeight, grouped, icon, iconButton, announce } from "./dom.js";

const LONG_QUESTION = 1500;

export class MessageView {
  #actions;
  #body = el("div", { class: "body" });
  #notice = el("div", { class: "notice-place" });
  #branches = el("div", { class: "branches" });
  #buttons = el("div", { class: "actions" });
  #facts = el("span", { class: "facts" });
  /** @type {MarkdownView | null} */
  #markdown = null;
  #editing = false;

  /** @param {Message} message @param {Actions} actions */
  constructor(message, actions) {
    this.message = message;
    this.#actions = actions;
    const own = message.role === "user";
    const label = own ? "You" : `Answer${message.model ? ` of ${message.model}` : ""}`;
    this.root = el(
      "article",
      { class: `message ${message.role}`, "aria-label": label, tabindex: "-1", "data-id": message.id },
      this.#body,
      this.#notice,
      el("footer", { class: "message-foot" }, this.#branches, this.#buttons, this.#facts),
    );
    this.#buttons.append(iconButton("copy", "Copy", () => this.copy()));
    if (own) {
      this.#buttons.append(iconButton("edit", "Edit", () => this.startEdit()));
      this.#showQuestion();
    } else {
      this.#buttons.append(iconButton("again", "Another answer", () => this.#actions.regenerate(this.message)));
    }
  }

  /**
   * @param {Message} message
   * @param {Message[]} siblings
   * @param {import("../chat.js").Run | null} run  where this answer is being written here
   * @param {boolean} busy  whether any answer of the conversation is being written
   */
  update(message, siblings, run, busy) {
    this.message = message;
    this.#showBranches(siblings, busy);
    for (const button of this.#buttons.children) {
      if (button.getAttribute("aria-label") !== "Copy") /** @type {HTMLButtonElement} */ (button).disabled = busy;
    }
    if (message.role === "user") return;
    this.root.classList.toggle("streaming", run !== null);
    this.root.setAttribute("aria-busy", String(run !== null));
    this.#showAnswer(run);
    this.#notice.replaceChildren(...this.#notices(run));
    this.#facts.textContent = run ? "" : factsOf(message);
    this.#buttons.hidden = run !== null;
  }

  async copy() {
    await copyText(this.message.content);
    announce("Copied");
    const button = this.#buttons.firstElementChild;
    button?.replaceChildren(icon("check"));
    setTimeout(() => button?.replaceChildren(icon("copy")), 1500);
  }

  /** @param {string} [text]  what was typed before the page was reloaded */
  startEdit(text = this.message.content) {
    if (this.#editing || this.message.role !== "user") return;
    this.#editing = true;
    const area = /** @type {HTMLTextAreaElement} */ (el("textarea", { "aria-label": "Edit the message", rows: "1" }));
    area.value = text;
    const keep = () => this.#actions.keepEdit(this.message.conversation, { message: this.message.id, text: area.value });
    const stop = () => {
      this.#editing = false;
      this.#actions.keepEdit(this.message.conversation, null);
      this.root.classList.remove("editing");
      this.#showQuestion();
      this.root.focus();
    };
    const send = () => {
      if (!area.value.trim()) return;
      stop();
      this.#actions.edit(this.message, area.value);
    };
    area.addEventListener("input", () => (fitHeight(area), keep()));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") stop();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const buttons = el(
      "div",
      { class: "edit-buttons" },
      el("button", { type: "button", class: "quiet", onclick: stop }, "Cancel"),
      el("button", { type: "button", class: "primary", onclick: send }, "Ask again"),
    );
    this.root.classList.add("editing");
    this.#body.replaceChildren(area, buttons);
    fitHeight(area);
    area.focus();
  }

  #showQuestion() {
    const text = el("div", { class: "plain" }, this.message.content);
    this.#body.replaceChildren(text);
    if (this.message.content.length <= LONG_QUESTION) return;
    text.classList.add("folded");
    const more = el("button", { type: "button", class: "ghost more", "aria-expanded": "false" }, "Show all");
    more.addEventListener("click", () => {
      const folded = text.classList.toggle("folded");
      more.textContent = folded ? "Show all" : "Show less";
      more.setAttribute("aria-expanded", String(!folded));
    });
    this.#body.append(more);
  }

  /** @param {import("../chat.js").Run | null} run */
  #showAnswer(run) {
    if (run && !this.message.content) {
      this.#body.replaceChildren(waiting(run));
      this.#markdown = null;
      return;
    }
    if (!this.#markdown) {
      const prose = el("div", { class: "prose" });
      this.#body.replaceChildren(prose);
      this.#markdown = new MarkdownView(prose);
    }
    this.#markdown.show(markdownOf(this.message, run === null), run === null);
  }

  /** @param {Message[]} siblings @param {boolean} busy */
  #showBranches(siblings, busy) {
    const at = siblings.findIndex((message) => message.id === this.message.id);
    if (siblings.length < 2) {
      this.#branches.replaceChildren();
      return;
    }
    const what = this.message.role === "user" ? "version" : "answer";
    const step = (to) => this.#actions.choose(siblings[to]);
    this.#branches.replaceChildren(
      iconButton("left", `Previous ${what}`, () => step(at - 1), { disabled: at === 0 || busy }),
      el("span", { "aria-label": `${what} ${at + 1} of ${siblings.length}` }, `${at + 1}/${siblings.length}`),
      iconButton("right", `Next ${what}`, () => step(at + 1), { disabled: at === siblings.length - 1 || busy }),
    );
  }

  /** @param {import("../chat.js").Run | null} run */
  #notices(run) {
    const { message } = this;
    if (run) return [];
    const again = (label) =>
      el("button", { type: "button", class: "quiet", onclick: () => this.#actions.regenerate(message) }, label);
    if (message.state === "error") return [errorNotice(message, again("Try again"))];
    if (message.state === "stopped") return [el("p", { class: "note" }, "Stopped.")];
    if (message.state === "streaming") {
      return [el("p", { class: "note" }, "The page was closed while this answer came. ", again("Answer again"))];
    }
    if (message.finish === "length") {
      return [el("p", { class: "note" }, "Cut off: the token limit or the end of the context was reached.")];
    }
    return message.content ? [] : [el("p", { class: "note" }, "The model answered with nothing. ", again("Try again"))];
  }
}

/** @param {Message} message @param {HTMLElement} retry */
function errorNotice({ error, content }, retry) {
  const facts = [error?.param ? `Parameter: ${error.param}` : "", error?.code ? `Code: ${error.code}` : ""];
  const wait = error?.retryAfter ? `The server asks to wait ${Math.ceil(error.retryAfter)} s.` : "";
  return el(
    "div",
    { class: "error", role: "alert" },
    el("p", {}, content ? "The answer broke off. " : "", error?.message ?? "Something went wrong."),
    el("p", { class: "small" }, [wait, ...facts].filter(Boolean).join(" · ")),
    retry,
  );
}

/** @param {import("../chat.js").Run} run */
function waiting({ prefill }) {
  if (!prefill?.total) {
    return el("div", { class: "waiting" }, el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i")),
      el("span", { class: "visually-hidden" }, "Waiting for the answer"));
  }
  const bar = el("progress", { max: prefill.total, value: prefill.done, "aria-label": "Reading the prompt" });
  const text = `Reading the prompt: ${grouped(prefill.done)} of ${grouped(prefill.total)} tokens`;
  return el("div", { class: "waiting" }, bar, el("span", { class: "small" }, text));
}

/** An answer that was asked to be JSON is shown as such. @param {Message} message @param {boolean} complete */
function markdownOf({ content, format }, complete) {
  if (!format || format === "text") return content;
  let json = content;
  try {
    if (complete) json = JSON.stringify(JSON.parse(content), null, 2);
  } catch {
    // Cut off: shown as it came.
  }
  const longest = Math.max(2, ...(json.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}json\n${json}\n${fence}`;
}

/** @param {Message} message */
function factsOf({ model, usage, timings }) {
  const facts = [model];
  if (usage?.completion_tokens) facts.push(`${grouped(usage.completion_tokens)} tokens`);
  if (timings?.decode_tokens_per_s) facts.push(`${speed(timings.decode_tokens_per_s)} tokens/s`);
  if (timings?.ttft_s) facts.push(`first after ${timings.ttft_s.toFixed(timings.ttft_s < 10 ? 2 : 0)} s`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached) facts.push(`${grouped(cached)} of ${grouped(usage?.prompt_tokens ?? cached)} prompt tokens from the cache`);
  return facts.filter(Boolean).join(" · ");
}

/** @param {number} perSecond */
export function speed(perSecond) {
  return perSecond < 10 ? perSecond.toFixed(1) : String(Math.round(perSecond));
}
