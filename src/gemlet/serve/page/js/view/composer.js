/** The box where questions are written, and the line below it: speed and how full the context is. */
import { keep, recall } from "../keep.js";
import { path } from "../tree.js";
import { byId, fitHeight, grouped } from "./dom.js";
import { speed } from "./message.js";

const FULL = 0.85;

export class Composer {
  #chat;
  #send;
  #contextLength;
  #form = byId("composer");
  /** @type {HTMLTextAreaElement} */
  #area = byId("prompt");
  #saving = 0;
  /** Under which name the text in the box is kept. */
  #name = "";

  /**
   * @param {import("../chat.js").Chat} chat
   * @param {(text: string) => boolean} send  false: it was not sent, the text stays
   * @param {() => number | null} contextLength  of the chosen model
   */
  constructor(chat, send, contextLength) {
    this.#chat = chat;
    this.#send = send;
    this.#contextLength = contextLength;
    this.#form.addEventListener("submit", (event) => (event.preventDefault(), this.#submit()));
    this.#area.addEventListener("keydown", (event) => this.#key(event));
    this.#area.addEventListener("input", () => this.#changed());
    byId("stop").addEventListener("click", () => chat.stop());
    chat.addEventListener("open", () => this.#open());
    chat.addEventListener("run", () => this.refresh());
    chat.addEventListener("message", () => this.#showMeter());
    addEventListener("pagehide", () => this.#keepDraft());
  }

  focus() {
    this.#area.focus();
  }

  /** @param {string} text */
  fill(text) {
    this.#area.value = text;
    this.#changed();
    this.focus();
  }

  /** What depends on the model, the conversation or a running answer. */
  refresh() {
    const busy = this.#chat.run !== null;
    byId("stop").hidden = !busy;
    byId("send").hidden = busy;
    /** @type {HTMLButtonElement} */ (byId("send")).disabled = !this.#area.value.trim();
    this.#showMeter();
  }

  /** New chats share one draft. */
  get #draftName() {
    return `draft.${this.#chat.empty ? "new" : this.#chat.current.meta.id}`;
  }

  #open() {
    if (this.#name !== this.#draftName) {
      this.#keepDraft();
      this.#name = this.#draftName;
      this.#area.value = recall(this.#name, "");
      fitHeight(this.#area);
    }
    this.refresh();
  }

  #changed() {
    fitHeight(this.#area);
    this.refresh();
    clearTimeout(this.#saving);
    this.#saving = setTimeout(() => this.#keepDraft(), 150);
  }

  #keepDraft() {
    clearTimeout(this.#saving);
    if (this.#name) keep(this.#name, this.#area.value);
  }

  #submit() {
    const text = this.#area.value;
    if (!text.trim() || this.#chat.run) return;
    // Emptied before: sending opens a conversation, and the box keeps what it holds under the old one.
    this.#area.value = "";
    if (!this.#send(text)) this.#area.value = text;
    this.#keepDraft();
    fitHeight(this.#area);
    this.refresh();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    // 229: Safari ends an input method's word with an Enter that is no longer composing.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    if (matchMedia("(pointer: coarse)").matches && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.#submit();
  }

  #showMeter() {
    const run = this.#chat.run;
    byId("speed").textContent = run ? runningSpeed(run) : "";
    const last = path(this.#chat.current).findLast((message) => message.usage);
    const used = last ? (last.usage?.prompt_tokens ?? 0) + (last.usage?.completion_tokens ?? 0) : 0;
    const total = this.#contextLength();
    const gauge = byId("gauge");
    gauge.hidden = !total || !used;
    if (!total || !used) return;
    const share = Math.min(1, used / total);
    byId("gauge-fill").style.width = `${(share * 100).toFixed(1)}%`;
    gauge.classList.toggle("full", share >= FULL);
    const text = `${grouped(used)} of ${grouped(total)} tokens of context used`;
    gauge.setAttribute("aria-valuemax", String(total));
    gauge.setAttribute("aria-valuenow", String(used));
    gauge.setAttribute("aria-valuetext", text);
    gauge.title = share >= FULL ? `${text}. Start a new chat soon, or branch from an earlier message.` : text;
    byId("gauge-text").textContent = `${grouped(used)} / ${grouped(total)}`;
  }
}

/** @param {import("../chat.js").Run} run */
function runningSpeed({ pieces, firstPiece, prefill }) {
  if (!pieces) return prefill ? "Reading…" : "Waiting…";
  const seconds = (performance.now() - firstPiece) / 1000;
  return pieces > 1 && seconds > 0.3 ? `${speed((pieces - 1) / seconds)} tokens/s` : "Answering…";
}
