/**
 * Conversations on this machine: IndexedDB, one record for each message, so that two tabs never overwrite each
 * other's. Where the browser forbids it, memory, until the page is closed.
 *
 * @typedef {import("./tree.js").Meta} Meta
 * @typedef {import("./tree.js").Message} Message
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {{meta: Meta, message: Message | null, at: number}} Found   `at`: where the text was found
 */

const STORES = /** @type {const} */ (["conversations", "messages"]);

/** @returns {Promise<Store>} */
export async function openStore() {
  try {
    return new Store(await openDatabase());
  } catch {
    return new Store(null);
  }
}

/** @returns {Promise<IDBDatabase>} */
function openDatabase() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("gemlet", 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("conversations", { keyPath: "id" });
      opening.result.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Store {
  #database;
  #memory = { conversations: new Map(), messages: new Map() };

  /** @param {IDBDatabase | null} database */
  constructor(database) {
    this.#database = database;
    if (database) database.onversionchange = () => database.close();
  }

  /** Whether conversations outlive the page. */
  get lasting() {
    return this.#database !== null;
  }

  /** @returns {Promise<Meta[]>} the latest first */
  async list() {
    return (await this.#all("conversations")).sort((a, b) => b.updated - a.updated);
  }

  /**
   * @param {string} id
   * @returns {Promise<Conversation | null>}
   */
  async load(id) {
    const meta = await this.#get("conversations", id);
    if (!meta) return null;
    const messages = await this.#messagesOf(id);
    return { meta, messages: new Map(messages.map((message) => [message.id, message])) };
  }

  /** @param {Meta} meta */
  async saveMeta(meta) {
    await this.#write("conversations", [meta]);
  }

  /** @param {Message[]} messages */
  async saveMessages(...messages) {
    await this.#write("messages", messages);
  }

  /** @param {string} id */
  async hasMessage(id) {
    return (await this.#get("messages", id)) !== undefined;
  }

  /** @param {string} id */
  async removeMessage(id) {
    await this.#delete("messages", [id]);
  }

  /** @param {Conversation} conversation */
  async save(conversation) {
    await this.#write("conversations", [conversation.meta], [...conversation.messages.values()]);
  }

  /**
   * @param {string} id
   * @returns {Promise<Conversation | null>} what was removed
   */
  async remove(id) {
    const conversation = await this.load(id);
    if (!conversation) return null;
    await this.#delete("messages", [...conversation.messages.keys()]);
    await this.#delete("conversations", [id]);
    return conversation;
  }

  async clear() {
    if (!this.#database) {
      for (const name of STORES) this.#memory[name].clear();
      return;
    }
    const transaction = this.#database.transaction(STORES, "readwrite");
    for (const name of STORES) transaction.objectStore(name).clear();
    await committed(transaction);
  }

  /**
   * Conversations whose title or one of whose messages holds the text, the latest first, each once.
   * @param {string} text
   * @returns {Promise<Found[]>}
   */
  async search(text) {
    const wanted = text.trim().toLowerCase();
    const [metas, messages] = await Promise.all([this.list(), this.#all("messages")]);
    /** @type {Map<string, Found>} */
    const hits = new Map();
    for (const message of messages.sort((a, b) => a.created - b.created)) {
      const at = hits.has(message.conversation) ? -1 : message.content.toLowerCase().indexOf(wanted);
      if (at >= 0) hits.set(message.conversation, { meta: null, message, at });
    }
    return metas.flatMap((meta) => {
      const hit = hits.get(meta.id);
      if (hit) return [{ ...hit, meta }];
      return meta.title.toLowerCase().includes(wanted) ? [{ meta, message: null, at: 0 }] : [];
    });
  }

  /** @param {"conversations" | "messages"} name */
  async #all(name) {
    if (!this.#database) return structuredClone([...this.#memory[name].values()]);
    return result(this.#database.transaction(name).objectStore(name).getAll());
  }

  /** @param {"conversations" | "messages"} name @param {string} id */
  async #get(name, id) {
    if (!this.#database) return structuredClone(this.#memory[name].get(id));
    return result(this.#database.transaction(name).objectStore(name).get(id));
  }

  /** @param {string} id @returns {Promise<Message[]>} */
  async #messagesOf(id) {
    if (!this.#database) return (await this.#all("messages")).filter((message) => message.conversation === id);
    return result(this.#database.transaction("messages").objectStore("messages").index("conversation").getAll(id));
  }

  /** @param {"conversations" | "messages"} name @param {any[]} records @param {Message[]} [messages] written with them */
  async #write(name, records, messages = []) {
    const all = [...records.map((record) => [name, record]), ...messages.map((message) => ["messages", message])];
    if (!this.#database) {
      for (const [store, record] of all) this.#memory[store].set(record.id, structuredClone(record));
      return;
    }
    const transaction = this.#database.transaction(STORES, "readwrite");
    for (const [store, record] of all) transaction.objectStore(store).put(record);
    await committed(transaction);
  }

  /** @param {"conversations" | "messages"} name @param {string[]} ids */
  async #delete(name, ids) {
    if (!this.#database) {
      for (const id of ids) this.#memory[name].delete(id);
      return;
    }
    const transaction = this.#database.transaction(name, "readwrite");
    for (const id of ids) transaction.objectStore(name).delete(id);
    await committed(transaction);
  }
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
    transaction.commit?.();
  });
}
