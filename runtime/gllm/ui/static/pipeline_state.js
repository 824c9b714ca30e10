// What is known of one engine's pipeline: its micro-batches, requests and figures, merged from the events.

const KEPT_SECONDS = 60;
const KEPT_REQUESTS = 200;

export class PipelineState {
  constructor() {
    this.clear();
    this.engine = {};
  }

  clear() {
    this.batches = new Map(); // step -> {step, sent, done, prefill, decode, sequences, rows, stages: [{start, end}]}
    this.requests = new Map(); // number -> {number, id, arrival, scheduled, first, end, reason, ..., batches: [[batch, tokens]]}
    this.stats = null;
    this.shifts = [];
    this.dropped = 0;
    this.time = 0;
  }

  /** Note what the event `state` says of this engine; a new engine counts its steps from 1 again. */
  setEngine(engine) {
    if (this.engine.epoch !== undefined && engine.epoch !== this.engine.epoch) this.clear();
    this.engine = engine;
  }

  take(events) {
    this.time = events.time;
    this.stats = events.stats;
    this.shifts = events.clock_shifts;
    this.dropped += events.dropped;
    // Requests first: a micro-batch names them. Ends come last, since the same message may have their last steps.
    for (const one of events.requests) if (one.kind === "scheduled") this.begin(one);
    for (const one of events.sent) this.send(one);
    for (const { step, stage, start, seconds } of events.stages) {
      const batch = this.batches.get(step);
      if (batch) batch.stages[stage] = { start, end: start + seconds };
    }
    for (const { step, time } of events.done) {
      const batch = this.batches.get(step);
      if (batch) batch.done = time;
    }
    for (const one of events.requests) if (one.kind !== "scheduled") this.progress(one);
    this.trim();
  }

  begin({ number, id, arrival, time, prompt_tokens, cached_tokens = 0, output_tokens = 0, preemptions = 0 }) {
    this.requests.set(number, {
      number, id, arrival, scheduled: time, prompt: prompt_tokens ?? 0, cached: cached_tokens, output: output_tokens, before: output_tokens,
      preemptions, first: null, end: null, reason: "", batches: [],
    });
    while (this.requests.size > KEPT_REQUESTS) this.requests.delete(this.requests.keys().next().value);
  }

  send({ step, time, prefill_tokens, decode_tokens, num_sequences, rows }) {
    const batch = { step, sent: time, done: null, prefill: prefill_tokens, decode: decode_tokens, sequences: num_sequences, rows, stages: [] };
    this.batches.set(step, batch);
    for (const [number, tokens] of rows) {
      const request = this.requests.get(number);
      request?.batches.push([batch, tokens]);
      if (request?.first && tokens === 1) request.output += 1; // Exact again with the next event of the request.
    }
  }

  progress({ number, kind, time, output_tokens = 0, preemptions = 0, reason = "" }) {
    const request = this.requests.get(number);
    if (!request) return;
    Object.assign(request, { output: output_tokens, preemptions });
    if (kind === "first_token") request.first = time;
    else Object.assign(request, { end: time, reason });
  }

  trim() {
    for (const [step, batch] of this.batches) {
      if (batch.sent > this.time - KEPT_SECONDS) break;
      this.batches.delete(step);
    }
  }

  /** Return the micro-batches that were in flight after `from` and before `to`, oldest first. */
  between(from, to) {
    return [...this.batches.values()].filter((batch) => batch.sent <= to && (batch.done ?? to) >= from);
  }

  /** Return the times [begin, end] within a window in which at least one micro-batch was in flight. */
  present(from, to) {
    const spans = [];
    for (const batch of this.between(from, to)) {
      const end = Math.min(batch.done ?? to, to);
      const last = spans.at(-1);
      if (last && batch.sent <= last[1]) last[1] = Math.max(last[1], end);
      else spans.push([Math.max(batch.sent, from), end]);
    }
    return spans;
  }
}

/** Return the quantile of numbers, or null of none. */
export function quantile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

/** Return the seconds to the first token and per later token of recent requests, and tokens per second. */
export function latencies(state, seconds = 60, rateSeconds = 5) {
  const since = state.time - seconds;
  const recent = [...state.requests.values()];
  const ttft = recent.filter((one) => one.first > since).map((one) => one.first - one.arrival);
  const tpot = recent.filter((one) => one.end > since && one.output > 1 && one.first)
    .map((one) => (one.end - one.first) / (one.output - 1));
  const sent = [...state.batches.values()].filter((batch) => batch.sent > state.time - rateSeconds);
  const sum = (key) => sent.reduce((total, batch) => total + batch[key], 0) / rateSeconds;
  return { ttft, tpot, prefillRate: sum("prefill"), decodeRate: sum("decode") };
}
