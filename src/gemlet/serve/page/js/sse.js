/**
 * Reading a stream of server-sent events.
 * @typedef {{data: string} | {comment: string}} StreamEvent
 */

/**
 * The events and comments of a response body, as they arrive. Ends with the body; leaving the loop cancels it.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<StreamEvent>}
 */
export async function* readEvents(body) {
  let data = [];
  for await (const line of readLines(body)) {
    if (line === "") {
      if (data.length) yield { data: data.join("\n") };
      data = [];
    } else if (line.startsWith(":")) {
      yield { comment: line.slice(1).trim() };
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
    }
  }
  if (data.length) yield { data: data.join("\n") };
}

/**
 * Lines that end with LF, CR or CR LF, without their ends.
 * @param {ReadableStream<Uint8Array>} body
 */
async function* readLines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      // A CR at the very end may be half of a CR LF.
      const cut = !done && rest.endsWith("\r") ? rest.length - 1 : rest.length;
      const lines = rest.slice(0, cut).split(/\r\n|\n|\r/);
      rest = lines.pop() + rest.slice(cut);
      yield* lines;
      if (done) break;
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}
