// The official Node client against a server: node node_client.mjs MODULES URL. Prints what it received as JSON.
import { createRequire } from "node:module";

const [modules, url] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { OpenAI, BadRequestError, NotFoundError } = require("openai");
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const model = "gpt-4o";
const messages = [{ role: "user", content: "The area of a wide room" }];
const options = { model, messages, max_tokens: 12, seed: 3, temperature: 0.8 };
const ping = { type: "function", function: { name: "ping", parameters: { type: "object", properties: {} } } };
const form = {
  type: "json_schema",
  json_schema: { name: "x", schema: { type: "object", properties: { a: { type: "boolean" } }, required: ["a"], additionalProperties: false } },
};

async function streamed() {
  const stream = await client.chat.completions.create({ ...options, stream: true, stream_options: { include_usage: true } });
  let text = "", usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, completion_tokens: usage.completion_tokens };
}

async function toolLoop() {
  const said = [];
  const runner = client.chat.completions.runTools({
    model, messages, seed: 1, max_tokens: 200, tool_choice: { type: "function", function: { name: "ping" } }, parallel_tool_calls: false,
    tools: [{ type: "function", function: { ...ping.function, parse: JSON.parse, function: (args) => { said.push(args); return "pong"; } } }],
  });
  await runner.finalChatCompletion().catch(() => null); // a named tool is called once
  return { said, results: runner.messages.filter((m) => m.role === "tool").map((m) => m.content) };
}

async function refused(work) {
  try { await work(); return null; } catch (error) {
    return { bad: error instanceof BadRequestError, missing: error instanceof NotFoundError, status: error.status, param: error.param, code: error.code };
  }
}

const chat = await client.chat.completions.create({ ...options, logprobs: true, top_logprobs: 2 });
const formed = await client.chat.completions.create({ model, messages, seed: 2, response_format: form });
const required = await client.chat.completions.create({ model, messages, seed: 2, tools: [ping], tool_choice: "required" });
const text = await client.completions.create({ model, prompt: "area", max_tokens: 5, seed: 1, echo: true, logprobs: 1 });
const vectors = await client.embeddings.create({ model, input: ["area", "wide room"] });
const models = [];
for await (const one of client.models.list()) models.push(one.id);
console.log(JSON.stringify({
  chat: chat.choices[0].message.content,
  logprobs: chat.choices[0].logprobs.content.length,
  streamed: await streamed(),
  formed: JSON.parse(formed.choices[0].message.content),
  required: required.choices[0].message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
  reason: required.choices[0].finish_reason,
  loop: await toolLoop(),
  text: text.choices[0].text,
  echoed: text.choices[0].logprobs.tokens.length,
  embeddings: vectors.data.map((one) => one.embedding),
  models,
  refused: await refused(() => client.chat.completions.create({ ...options, temperature: -1 })),
  unknown: await refused(() => client.chat.completions.create({ ...options, model: "no-such" })),
}));
