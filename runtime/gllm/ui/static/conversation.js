// The messages of a chat as plain data: what is sent, what comes back, and the exports.
import { call, events } from "./api.js";

/** Return an empty answer, which `stream` fills. */
export function newAnswer() {
  return { role: "assistant", content: "", reasoning: "", calls: [], tokens: [], finish: null, usage: null, error: "", seconds: null };
}

/** Return the API's form of the messages. */
export function toApi(system, messages) {
  const sent = messages.map((message) => {
    if (message.role !== "assistant") return { ...message };
    const calls = message.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
    return { role: "assistant", content: message.content, ...(calls.length && { tool_calls: calls }) };
  });
  return system ? [{ role: "system", content: system }, ...sent] : sent;
}

/** Fill an answer from the stream of a request; call `changed` after each piece. Throws ApiError. */
export async function stream(body, answer, signal, changed) {
  const began = performance.now();
  const response = await call("v1/chat/completions", {
    body: { ...body, stream: true, stream_options: { include_usage: true } },
    signal,
  });
  for await (const { data } of events(response)) {
    if (data.error) {
      answer.error = data.error.message;
      break;
    }
    answer.usage = data.usage ?? answer.usage;
    const choice = data.choices[0];
    if (choice) take(answer, choice);
    const piece = choice && (choice.delta.content || choice.delta.reasoning_content || choice.delta.tool_calls);
    if (piece) answer.first ??= (performance.now() - began) / 1000;
    changed();
  }
  answer.seconds = (performance.now() - began) / 1000;
}

function take(answer, { delta, logprobs, finish_reason: finish }) {
  answer.content += delta.content ?? "";
  answer.reasoning += delta.reasoning_content ?? "";
  for (const { index, id, function: called } of delta.tool_calls ?? []) {
    answer.calls[index] ??= { id: "", name: "", arguments: "" };
    answer.calls[index].id ||= id ?? "";
    answer.calls[index].name += called?.name ?? "";
    answer.calls[index].arguments += called?.arguments ?? "";
  }
  answer.tokens.push(...(logprobs?.content ?? []));
  answer.finish = finish ?? answer.finish;
}

/** Return a conversation as a JSON document that the API can take again. */
export function toJson(model, settings, system, messages) {
  const usage = messages.filter((message) => message.usage).map((message) => message.usage);
  return JSON.stringify({ model, exported: new Date().toISOString(), ...settings, messages: toApi(system, messages), usage }, null, 2) + "\n";
}

/** Return a conversation as Markdown. */
export function toMarkdown(model, system, messages) {
  const parts = [`# Chat with ${model}`];
  if (system) parts.push("## System", system);
  for (const message of messages) {
    parts.push({ user: "## User", assistant: "## Assistant", tool: "## Tool result" }[message.role]);
    if (message.reasoning) parts.push(message.reasoning.trim().split("\n").map((line) => `> ${line}`).join("\n"));
    if (message.content) parts.push(message.content);
    for (const made of message.calls ?? []) parts.push(fenced(`${made.name}(${made.arguments})`));
  }
  return parts.join("\n\n") + "\n";
}

function fenced(text) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}
