/**
 * A conversation is a tree: an edited question or another answer is a sibling, and nothing is overwritten.
 *
 * @typedef {object} Settings     empty values are left to the model
 * @property {string} system
 * @property {Record<string, number>} sampling   names as in the API
 * @property {"text" | "json_object" | "json_schema"} format
 * @property {string} schema      JSON text
 *
 * @typedef {object} Meta
 * @property {string} id
 * @property {string} title
 * @property {boolean} named      whether a person chose the title
 * @property {number} created
 * @property {number} updated
 * @property {string} model       as the API calls it, with its adapter
 * @property {Settings} settings
 * @property {Record<string, string>} chosen   parent id, or "root" -> the child that is shown
 *
 * @typedef {object} Message
 * @property {string} id
 * @property {string} conversation
 * @property {string} parent      a message's id, or "root"
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {number} created
 * @property {"done" | "streaming" | "stopped" | "error"} state
 * @property {string} [model]
 * @property {Settings["format"]} [format]
 * @property {string} [finish]
 * @property {{message: string, code: string | null, param: string | null, retryAfter: number | null}} [error]
 * @property {import("./api.js").Usage} [usage]
 * @property {import("./api.js").Timings} [timings]
 *
 * @typedef {{meta: Meta, messages: Map<string, Message>}} Conversation
 */

export const ROOT = "root";

/** @returns {string} 128 random bits; `crypto.randomUUID` is missing where the page is not served over TLS or locally */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @returns {Settings} */
export function noSettings() {
  return { system: "", sampling: {}, format: "text", schema: "" };
}

/**
 * @param {string} model
 * @param {Settings} settings
 * @returns {Conversation}
 */
export function newConversation(model, settings) {
  const now = Date.now();
  const meta = {
    id: newId(), title: "New chat", named: false, created: now, updated: now, model,
    settings: structuredClone(settings), chosen: {},
  };
  return { meta, messages: new Map() };
}

/**
 * Adds a message and shows it.
 * @param {Conversation} conversation
 * @param {Pick<Message, "parent" | "role" | "content" | "state"> & Partial<Message>} fields
 * @returns {Message}
 */
export function addMessage(conversation, fields) {
  // Siblings are ordered by time: two in one millisecond must not tie.
  const latest = Math.max(0, ...Array.from(conversation.messages.values(), (message) => message.created));
  const message = {
    id: newId(), conversation: conversation.meta.id, created: Math.max(Date.now(), latest + 1), ...fields,
  };
  conversation.messages.set(message.id, message);
  choose(conversation, message.id);
  conversation.meta.updated = Date.now();
  if (!conversation.meta.named && message.role === "user" && message.parent === ROOT) {
    conversation.meta.title = titleOf(message.content);
  }
  return message;
}

/** @param {string} text */
function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line || "New chat";
}

/**
 * @param {Conversation} conversation
 * @returns {Map<string, Message[]>} parent id -> its children, oldest first
 */
function childrenByParent(conversation) {
  const children = new Map();
  for (const message of conversation.messages.values()) {
    if (!children.has(message.parent)) children.set(message.parent, []);
    children.get(message.parent).push(message);
  }
  for (const list of children.values()) list.sort((a, b) => a.created - b.created);
  return children;
}

/**
 * The messages that are shown, from the first to the last. An imported tree with a loop ends where it repeats.
 * @param {Conversation} conversation
 * @returns {Message[]}
 */
export function path(conversation) {
  const children = childrenByParent(conversation);
  const shown = [];
  const seen = new Set();
  let at = ROOT;
  for (;;) {
    const options = children.get(at);
    if (!options) return shown;
    const next = options.find((message) => message.id === conversation.meta.chosen[at]) ?? options[options.length - 1];
    if (seen.has(next.id)) return shown;
    seen.add(next.id);
    shown.push(next);
    at = next.id;
  }
}

/**
 * A message and all that have the same parent, oldest first.
 * @param {Conversation} conversation
 * @param {Message} message
 */
export function siblings(conversation, message) {
  return childrenByParent(conversation).get(message.parent) ?? [message];
}

/**
 * Shows a message, and with it those that led to it.
 * @param {Conversation} conversation
 * @param {string} id
 */
export function choose(conversation, id) {
  for (const message of ancestry(conversation, id)) conversation.meta.chosen[message.parent] = message.id;
}

/**
 * @param {Conversation} conversation
 * @param {string} id
 * @returns {Message[]} from the first message to this one
 */
export function ancestry(conversation, id) {
  const found = [];
  let message = conversation.messages.get(id);
  while (message && !found.includes(message)) {
    found.unshift(message);
    message = conversation.messages.get(message.parent);
  }
  return found;
}

/**
 * What the API is sent: the system prompt and the messages up to one of them. Answers without text are left out.
 * @param {Conversation} conversation
 * @param {string} id
 */
export function requestMessages(conversation, id) {
  const messages = ancestry(conversation, id)
    .filter((message) => message.role === "user" || message.content)
    .map(({ role, content }) => ({ role, content }));
  const system = conversation.meta.settings.system.trim();
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}
