/** The server's public API, at the address that the page came from. */
import { readEvents } from "./sse.js";

/**
 * @typedef {object} Model
 * @property {string} id
 * @property {number | null} contextLength
 * @property {boolean} chatFormat  false for a base model
 * @property {string[]} adapters   names that may follow the id after a "+"
 *
 * @typedef {{prompt_tokens?: number, completion_tokens?: number, prompt_tokens_details?: {cached_tokens?: number}}} Usage
 * @typedef {{prefill_tokens_per_s?: number, decode_tokens_per_s?: number, ttft_s?: number}} Timings
 *
 * @typedef {{type: "prefill", done: number, total: number}
 *   | {type: "text", text: string}
 *   | {type: "finish", reason: string}
 *   | {type: "usage", usage: Usage | null, timings: Timings | null}} AnswerEvent
 */

/** What went wrong with a request, in words for a person. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null, param?: string | null, retryAfter?: number | null}} [facts]
   */
  constructor(message, { status = 0, code = null, param = null, retryAfter = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

const KEY = "gemlet.key";

/** The API key, kept until the tab is closed. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  /** @param {string} value */
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/**
 * @returns {Promise<Model[]>} base models first, each once; their adapters are in `adapters`
 */
export async function listModels() {
  const answer = await (await request("v1/models")).json();
  const entries = Array.isArray(answer?.data) ? answer.data.filter((entry) => typeof entry?.id === "string") : [];
  const models = entries.map((entry) => ({
    id: entry.id,
    contextLength: Number.isFinite(entry.context_length) ? entry.context_length : null,
    chatFormat: entry.chat_format !== false,
    adapters: Array.isArray(entry.adapters) ? entry.adapters.map(adapterName).filter(Boolean) : [],
  }));
  const withAdapter = new Set(models.flatMap((model) => model.adapters.map((name) => `${model.id}+${name}`)));
  return models.filter((model) => !withAdapter.has(model.id));
}

/** @param {unknown} entry  a name, or an object with one */
function adapterName(entry) {
  const name = typeof entry === "object" ? (entry?.name ?? entry?.id) : entry;
  return typeof name === "string" ? name : "";
}

/**
 * One streamed chat completion.
 * @param {object} body  the request, without `stream`
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<AnswerEvent>}
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let finished = false;
  try {
    for await (const event of readEvents(response.body)) {
      if ("comment" in event) {
        const progress = /^prefill (\d+)\/(\d+)/.exec(event.comment);
        if (progress) yield { type: "prefill", done: Number(progress[1]), total: Number(progress[2]) };
      } else if (event.data === "[DONE]") {
        return;
      } else {
        for (const part of readChunk(event.data)) {
          finished ||= part.type === "finish";
          yield part;
        }
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke while the answer came.");
  }
  if (!finished) throw new ApiError("The connection closed before the answer was complete.");
}

/**
 * @param {string} data
 * @returns {Generator<AnswerEvent>}
 */
function* readChunk(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is not JSON.");
  }
  if (chunk?.error) throw errorOf(chunk.error, 200);
  const choice = chunk?.choices?.[0];
  if (typeof choice?.delta?.content === "string" && choice.delta.content) {
    yield { type: "text", text: choice.delta.content };
  }
  if (choice?.finish_reason) yield { type: "finish", reason: String(choice.finish_reason) };
  if (chunk?.usage || chunk?.timings) {
    yield { type: "usage", usage: chunk.usage ?? null, timings: chunk.timings ?? null };
  }
}

/**
 * @param {string} path  below the page's own address
 * @param {RequestInit} [init]
 */
async function request(path, init = {}) {
  const headers = new Headers(init.headers);
  if (apiKey.get()) headers.set("Authorization", `Bearer ${apiKey.get()}`);
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Is `gemlet serve` still running?");
  }
  if (response.ok) return response;
  let body = null;
  try {
    body = await response.json();
  } catch {
    // A proxy's page of HTML says less than the status.
  }
  const retryAfter = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  throw errorOf(body?.error, response.status, Number.isFinite(retryAfter) ? retryAfter : null);
}

/**
 * @param {any} error  the API's error object, if there was one
 * @param {number} status
 * @param {number | null} [retryAfter]
 */
function errorOf(error, status, retryAfter = null) {
  const said = typeof error === "string" ? error : error?.message;
  return new ApiError(said || `The server answered with status ${status} and no reason.`, {
    status,
    code: error?.code ?? null,
    param: error?.param ?? null,
    retryAfter,
  });
}
