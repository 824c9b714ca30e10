// The details of a micro-batch, and the life of a request.
import { el, quietButton } from "./dom.js";

const ms = (seconds) => (seconds === null || Number.isNaN(seconds) ? "–" : seconds < 1 ? `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(2)} s`);
const plural = (count, one) => `${count} ${one}${count === 1 ? "" : one.endsWith("h") ? "es" : "s"}`;
export const shortId = (id) => id.replace(/^(chat)?cmpl-|^resp_|^msg_/, "").slice(0, 8);

const row = (name, value) => [el("dt", { textContent: name }), el("dd", {}, value)];

/** Return what to show of a micro-batch. choose(number) is called for a request of it. */
export function batchDetails(state, batch, choose) {
  const stages = batch.stages.flatMap((run, stage) => run ? row(`Stage ${stage}`, `${ms(run.end - run.start)}, from ${ms(Math.max(0, run.start - batch.sent))} after sending`) : []);
  const named = batch.rows.map(([number, tokens]) => {
    const request = state.requests.get(number);
    const text = `${request ? shortId(request.id) : number}: ${plural(tokens, "token")}`;
    return el("li", {}, request ? quietButton(text, () => choose(number)) : text);
  });
  const more = batch.sequences - batch.rows.length;
  return el("div", {},
    el("h2", { textContent: `Micro-batch ${batch.step}` }),
    el("dl", {},
      ...row("Tokens", `${batch.prefill} prefill, ${batch.decode} decode`),
      ...row("Sequences", String(batch.sequences)),
      ...row("In flight", batch.done ? ms(batch.done - batch.sent) : "still"),
      ...stages),
    el("ul", { class: "rows", "aria-label": "Its sequences" }, ...named),
    more > 0 ? el("p", { class: "muted", textContent: `and ${more} more, which the events do not name` }) : null);
}

/** Return the life of a request: its phases on a bar, and in words. */
export function requestLife(state, request) {
  const end = request.end ?? state.time;
  const chunks = request.batches.filter(([batch, tokens]) => tokens > 1 || !request.first || batch.sent < request.first);
  const steps = request.batches.length - chunks.length;
  const decoding = request.first ? end - request.first : null;
  const made = request.output - (request.first ? 1 : request.before);
  const outcome = { stop: "it is complete", length: "at the length limit", abort: "its client stopped it", error: "with an error" }[request.reason] ?? request.reason;
  const prefilled = chunks.map(([, tokens]) => tokens);
  const shown = prefilled.slice(0, 12).join(" + ") + (prefilled.length > 12 ? " + …" : "");
  return el("div", {},
    el("h2", {}, "Request ", el("code", { textContent: shortId(request.id), title: request.id })),
    lifeBar(request, chunks, end),
    el("dl", {},
      ...row("Prompt", `${plural(request.prompt, "token")}${request.cached ? `, ${request.cached} of them from the prefix cache` : ""}`),
      ...row("Waited", `${ms(request.scheduled - request.arrival)} until its first micro-batch`),
      ...(prefilled.length ? row("Prefill", `${shown} tokens in ${plural(prefilled.length, "micro-batch")}`) : []),
      ...row("First token", request.first ? `after ${ms(request.first - request.arrival)}` : request.before ? "before this page watched" : "not yet"),
      ...(decoding !== null && made > 0 ? row("Decode", `${plural(made, "token")} in ${ms(decoding)}, ${ms(decoding / made)} each; seen in ${plural(steps, "micro-batch")}`) : []),
      ...(request.preemptions ? row("Preempted", plural(request.preemptions, "time")) : []),
      ...row("Ended", request.end ? `after ${ms(request.end - request.arrival)}: ${outcome}` : "not yet")));
}

function lifeBar(request, chunks, end) {
  const span = Math.max(end - request.arrival, 1e-6);
  const bar = el("div", { class: "life", role: "img", "aria-label": "Waiting, prefill and decode over time; the words are below." });
  const part = (kind, from, to) => {
    const left = Math.max(0, (from - request.arrival) / span);
    const piece = el("span", { class: kind });
    piece.style.left = `${100 * left}%`;
    piece.style.width = `max(2px, ${100 * Math.min(1 - left, (to - from) / span)}%)`;
    bar.append(piece);
  };
  part("waited", request.arrival, request.scheduled);
  if (request.first) part("decoded", request.first, end);
  for (const [batch] of chunks) part("prefilled", batch.sent, Math.min(batch.done ?? end, end));
  return bar;
}

const STATES = { stop: "done", length: "done", abort: "stopped", error: "failed" };

/** Return the cells of a request in the table. */
export function requestCells(request) {
  const ttft = request.first ? ms(request.first - request.arrival) : "–";
  const tpot = request.first && request.end && request.output > 1 ? ms((request.end - request.first) / (request.output - 1)) : "–";
  const phase = request.end ? STATES[request.reason] ?? request.reason : request.first || request.before ? "decode" : "prefill";
  const prompt = request.cached ? `${request.prompt} (${request.cached} cached)` : String(request.prompt);
  return [prompt, String(request.output), ms(request.scheduled - request.arrival), ttft, tpot, phase];
}
