/** Conversations as files: Markdown to read, JSON to keep and to take elsewhere. */
import { addMessage, newConversation, noSettings, path, ROOT } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Message} Message
 */

const FORMAT = "gemlet-conversations";
const VERSION = 1;

/** The branch that is shown. @param {Conversation} conversation */
export function toMarkdown(conversation) {
  const { title, created, settings } = conversation.meta;
  const parts = [`# ${title}`, new Date(created).toISOString().slice(0, 10)];
  if (settings.system.trim()) parts.push("## System prompt", settings.system.trim());
  for (const { role, model, content } of path(conversation)) {
    parts.push(role === "user" ? "## You" : `## ${model || "Answer"}`, content.trim());
  }
  return `${parts.join("\n\n")}\n`;
}

/** All branches. @param {Conversation[]} conversations */
export function toJson(conversations) {
  const bare = conversations.map(({ meta, messages }) => ({ ...meta, messages: [...messages.values()] }));
  return `${JSON.stringify({ format: FORMAT, version: VERSION, conversations: bare }, null, 2)}\n`;
}

/**
 * Reads what `toJson` wrote. Also a plain list of messages, `{"messages": [{"role", "content"}]}`, as APIs take it.
 * @param {string} text
 * @returns {Conversation[]}
 */
export function fromJson(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`This file is not JSON: ${error.message}`);
  }
  if (Array.isArray(file?.messages) && file.format === undefined) return [fromPlain(file.messages)];
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error(`This file holds no conversations: it has neither "format": "${FORMAT}" nor "messages".`);
  }
  if (file.version !== VERSION) throw new Error(`This file has version ${file.version}; this page reads ${VERSION}.`);
  return file.conversations.map(fromRecord);
}

/** @param {any[]} messages */
function fromPlain(messages) {
  const conversation = newConversation("", noSettings());
  let parent = ROOT;
  messages.forEach((message, index) => {
    const { role, content } = message ?? {};
    if (typeof content !== "string") throw new Error(`Message ${index + 1} has no text.`);
    if (role === "system") conversation.meta.settings.system = content;
    else if (role === "user" || role === "assistant") {
      parent = addMessage(conversation, { parent, role, content, state: "done" }).id;
    } else throw new Error(`Message ${index + 1} has the role ${JSON.stringify(role)}.`);
  });
  return conversation;
}

/**
 * Only fields that are known, each of its type.
 * @param {any} record
 * @param {number} index
 * @returns {Conversation}
 */
function fromRecord(record, index) {
  const where = `Conversation ${index + 1}`;
  if (!isId(record?.id) || !Array.isArray(record.messages)) throw new Error(`${where} has no id or no messages.`);
  const meta = {
    id: record.id,
    title: text(record.title) || "Imported chat",
    named: record.named === true,
    created: time(record.created),
    updated: time(record.updated),
    model: text(record.model),
    settings: settingsOf(record.settings),
    chosen: Object.fromEntries(Object.entries(record.chosen ?? {}).filter(([from, to]) => isId(from) && isId(to))),
  };
  const messages = record.messages.map((message, at) => messageOf(message, meta.id, `${where}, message ${at + 1}`));
  return { meta, messages: new Map(messages.map((message) => [message.id, message])) };
}

/** @param {any} record @param {string} conversation @param {string} where @returns {Message} */
function messageOf(record, conversation, where) {
  const { id, parent, role, content } = record ?? {};
  if (!isId(id) || !isId(parent)) throw new Error(`${where} has no id or no parent.`);
  if (role !== "user" && role !== "assistant") throw new Error(`${where} has the role ${JSON.stringify(role)}.`);
  if (typeof content !== "string") throw new Error(`${where} has no text.`);
  const message = { id, conversation, parent, role, content, created: time(record.created), state: stateOf(record.state) };
  if (record.model) message.model = text(record.model);
  if (["json_object", "json_schema"].includes(record.format)) message.format = record.format;
  if (record.finish) message.finish = text(record.finish);
  if (record.usage) message.usage = numbers(record.usage);
  if (record.timings) message.timings = numbers(record.timings);
  if (record.error) message.error = { message: text(record.error.message), code: null, param: null, retryAfter: null };
  return message;
}

/** @param {any} settings */
function settingsOf(settings) {
  return {
    system: text(settings?.system),
    sampling: numbers(settings?.sampling),
    format: ["json_object", "json_schema"].includes(settings?.format) ? settings.format : "text",
    schema: text(settings?.schema),
  };
}

/** @param {unknown} value */
const isId = (value) => typeof value === "string" && /^\w{1,64}$/.test(value);
/** @param {unknown} value */
const text = (value) => (typeof value === "string" ? value : "");
/** @param {unknown} value */
const time = (value) => (Number.isFinite(value) ? Number(value) : Date.now());
/** @param {unknown} value @returns {Message["state"]} */
const stateOf = (value) => (value === "stopped" || value === "error" || value === "streaming" ? value : "done");

/** The numbers of an object, one level down too. @param {any} object @returns {Record<string, any>} */
function numbers(object) {
  return Object.fromEntries(
    Object.entries(object ?? {}).flatMap(([name, value]) => {
      if (Number.isFinite(value)) return [[name, value]];
      return value && typeof value === "object" && name.endsWith("_details") ? [[name, numbers(value)]] : [];
    }),
  );
}

/**
 * Adds imported conversations; of those that are here already, the messages that are missing.
 * @param {import("./store.js").Store} store
 * @param {Conversation[]} conversations
 * @returns {Promise<number>} how many brought something new
 */
export async function addTo(store, conversations) {
  let added = 0;
  for (const { meta, messages } of conversations) {
    const here = await store.load(meta.id);
    const missing = [...messages.values()].filter((message) => !here?.messages.has(message.id));
    for (const message of missing) {
      if (await store.hasMessage(message.id)) throw new Error(`"${meta.title}" uses a message id of another conversation.`);
    }
    if (here && !missing.length) continue;
    await store.save({ meta: here?.meta ?? meta, messages: new Map(missing.map((message) => [message.id, message])) });
    added += 1;
  }
  return added;
}

/** @param {string} name @param {string} type @param {string} content */
export function download(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A title as a file's name. @param {string} title */
export function fileName(title) {
  return title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "chat";
}
