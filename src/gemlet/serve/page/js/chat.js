/**
 * The open conversation and the answers that are being written, also those of conversations that are not open.
 * Tells what changed by events: "open" (another conversation, or another branch), "message" (detail: the message),
 * "list" (titles or order), "run" (an answer began or ended), "failed" (detail: text, something could not be kept).
 *
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Message} Message
 *
 * @typedef {object} Run
 * @property {Conversation} conversation
 * @property {Message} message
 * @property {AbortController} controller
 * @property {{done: number, total: number} | null} prefill
 * @property {boolean} discarded  its conversation was deleted
 * @property {number} pieces      pieces of text so far
 * @property {number} firstPiece  when the first one came, in milliseconds
 */
import { ApiError, streamChat } from "./api.js";
import * as tree from "./tree.js";

const SAVE_EVERY = 400;

export class Chat extends EventTarget {
  /** @type {Conversation} */
  current;
  /** @type {Map<string, Run>} by conversation */
  runs = new Map();
  #store;
  #askKey;
  #leaving = false;
  #channel = "BroadcastChannel" in window ? new BroadcastChannel("gemlet") : null;

  /**
   * @param {import("./store.js").Store} store
   * @param {Conversation} first  shown until one is opened
   * @param {(refused: boolean) => Promise<boolean>} askKey  asks for an API key; false when none was given
   */
  constructor(store, first, askKey) {
    super();
    this.#store = store;
    this.#askKey = askKey;
    this.current = first;
    this.#channel?.addEventListener("message", ({ data }) => this.#changedElsewhere(data));
  }

  /** The answer that is being written in the open conversation. */
  get run() {
    return this.runs.get(this.current.meta.id) ?? null;
  }

  /** Whether the open conversation has anything to keep. */
  get empty() {
    return this.current.messages.size === 0;
  }

  /** @param {Conversation} conversation */
  show(conversation) {
    this.current = conversation;
    this.#tell("open");
  }

  /**
   * @param {string} id
   * @param {string} [message]  one to show
   * @returns {Promise<boolean>} whether there is such a conversation
   */
  async open(id, message) {
    const conversation = this.runs.get(id)?.conversation ?? (await this.#store.load(id));
    if (!conversation) return false;
    if (message) tree.choose(conversation, message);
    this.show(conversation);
    return true;
  }

  /** @param {string} text */
  async send(text) {
    const shown = tree.path(this.current);
    await this.#ask(this.current, shown.at(-1)?.id ?? tree.ROOT, text);
  }

  /**
   * Asks again with another text; the old one stays beside it.
   * @param {Message} message
   * @param {string} text
   */
  async edit(message, text) {
    await this.#ask(this.current, message.parent, text);
  }

  /** Another answer to the same question. @param {Message} answer */
  async regenerate(answer) {
    const conversation = this.current;
    if (this.runs.has(conversation.meta.id)) return;
    const answered = [...conversation.messages.values()].some((message) => message.parent === answer.id);
    if (!answer.content && !answered) {
      // Nothing is lost with an answer that never came.
      conversation.messages.delete(answer.id);
      this.#keep(() => this.#store.removeMessage(answer.id));
    }
    await this.#answer(conversation, answer.parent);
  }

  /** Shows a message and those that follow from it. @param {Message} message */
  async choose(message) {
    tree.choose(this.current, message.id);
    this.#tell("open");
    await this.saveMeta();
  }

  stop() {
    this.run?.controller.abort();
  }

  /** Ends the answer of a conversation that is to be deleted. @param {string} id */
  discard(id) {
    const run = this.runs.get(id);
    if (!run) return;
    run.discarded = true;
    run.controller.abort();
    this.runs.delete(id);
  }

  /** Keeps what was changed in the open conversation's settings, model or title. */
  async saveMeta(conversation = this.current) {
    if (conversation.messages.size === 0) return;
    await this.#keep(() => this.#store.saveMeta(conversation.meta));
    this.changed(conversation.meta.id);
  }

  /** Writes every answer that is coming to the store; called when the page goes away. */
  leave() {
    this.#leaving = true;
    for (const { message } of this.runs.values()) this.#keep(() => this.#store.saveMessages(message));
  }

  /** Tells this page's views and other tabs. @param {string | null} id */
  changed(id) {
    this.#tell("list");
    this.#channel?.postMessage({ id });
  }

  /** @param {Conversation} conversation @param {string} parent @param {string} text */
  async #ask(conversation, parent, text) {
    if (this.runs.has(conversation.meta.id)) return;
    const question = tree.addMessage(conversation, { parent, role: "user", content: text, state: "done" });
    await this.#answer(conversation, question.id);
  }

  /**
   * The run is there before anything is awaited: a second request for the same conversation finds it.
   * @param {Conversation} conversation
   * @param {string} parent  the question
   */
  async #answer(conversation, parent) {
    const { model, settings } = conversation.meta;
    const message = tree.addMessage(conversation, {
      parent, role: "assistant", content: "", state: "streaming", model, format: settings.format,
    });
    /** @type {Run} */
    const run = {
      conversation, message, controller: new AbortController(), prefill: null, discarded: false, pieces: 0, firstPiece: 0,
    };
    this.runs.set(conversation.meta.id, run);
    this.#tell("run");
    if (conversation === this.current) this.#tell("open");
    await this.#keep(() => this.#store.save(conversation));
    this.changed(conversation.meta.id);
    try {
      await this.#stream(run, requestBody(conversation, parent));
      message.state = "done";
    } catch (error) {
      // The browser cuts the connection of a page that goes away; the next one offers to ask again.
      if (this.#leaving) return;
      this.#fail(run, error);
    }
    this.runs.delete(conversation.meta.id);
    if (run.discarded) return;
    conversation.meta.updated = Date.now();
    await this.#keep(() => this.#store.save(conversation));
    this.#tell("message", message);
    this.#tell("run", run);
    this.changed(conversation.meta.id);
  }

  /** @param {Run} run @param {object} body */
  async #stream(run, body) {
    let saved = Date.now();
    for (let refused = false; ; refused = true) {
      try {
        for await (const event of streamChat(body, run.controller.signal)) {
          take(run, event);
          if (run.discarded) return;
          if (Date.now() - saved > SAVE_EVERY) {
            saved = Date.now();
            this.#keep(() => this.#store.saveMessages(run.message));
          }
          this.#tell("message", run.message);
        }
        return;
      } catch (error) {
        if (!(error instanceof ApiError && error.status === 401 && (await this.#askKey(refused)))) throw error;
      }
    }
  }

  /** @param {Run} run @param {any} error */
  #fail({ message, controller }, error) {
    if (controller.signal.aborted) {
      message.state = "stopped";
      return;
    }
    message.state = "error";
    const { code = null, param = null, retryAfter = null } = error instanceof ApiError ? error : {};
    message.error = { message: String(error?.message ?? error), code, param, retryAfter };
    if (!(error instanceof ApiError)) console.error(error);
  }

  /** @param {{id: string | null}} data */
  async #changedElsewhere({ id }) {
    this.#tell("list");
    const shown = this.current.meta.id;
    if (id !== shown || this.runs.has(shown)) return;
    const loaded = await this.#store.load(shown);
    if (loaded && this.current.meta.id === shown && !this.runs.has(shown)) this.show(loaded);
  }

  /** @param {() => Promise<void>} write */
  async #keep(write) {
    try {
      await write();
    } catch (error) {
      this.#tell("failed", `This could not be kept: ${error?.message ?? error}`);
    }
  }

  /** @param {string} type @param {any} [detail] */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {Run} run @param {import("./api.js").AnswerEvent} event */
function take(run, event) {
  const { message } = run;
  if (event.type === "prefill") run.prefill = { done: event.done, total: event.total };
  else if (event.type === "finish") message.finish = event.reason;
  else if (event.type === "text") {
    message.content += event.text;
    run.pieces += 1;
    run.firstPiece ||= performance.now();
  } else {
    if (event.usage) message.usage = event.usage;
    if (event.timings) message.timings = event.timings;
  }
}

/** @param {Conversation} conversation @param {string} question */
function requestBody(conversation, question) {
  const { model, settings } = conversation.meta;
  const body = { model, messages: tree.requestMessages(conversation, question), ...settings.sampling };
  if (settings.format === "json_object") body.response_format = { type: "json_object" };
  if (settings.format === "json_schema") {
    const schema = JSON.parse(settings.schema);
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  }
  return body;
}
