// The figures beside the chart: stages, queue, KV pages, prefix cache, latencies.
import { el } from "./dom.js";
import { latencies, quantile } from "./pipeline_state.js";

const percent = (share) => `${(100 * share).toFixed(0)} %`;
const seconds = (value) => (value === null ? "–" : value < 1 ? `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms` : `${value.toFixed(2)} s`);
const whole = (value) => Math.round(value).toLocaleString("en");

/** A card with a name, a value, a note and, if asked for, a bar. It is built once; `set` changes its texts. */
class Card {
  constructor(name, parts = []) {
    this.value = el("p", { class: "value" });
    this.note = el("p", { class: "note" });
    this.parts = parts.map((kind) => el("span", { class: kind }));
    this.element = el("section", { class: "card", "aria-label": name }, el("h3", { textContent: name }), this.value,
      parts.length ? el("div", { class: "bar", "aria-hidden": "true" }, ...this.parts) : null, this.note);
  }

  set(value, note, shares = []) {
    if (this.value.textContent !== value) this.value.textContent = value;
    if (this.note.textContent !== note) this.note.textContent = note;
    shares.forEach((share, index) => { this.parts[index].style.width = `${100 * Math.max(0, Math.min(1, share))}%`; });
  }
}

export class Figures {
  constructor(stages, others) {
    this.stagesElement = stages;
    this.stages = [];
    this.queue = new Card("Requests");
    this.kv = new Card("KV pages", ["used"]);
    this.prefix = new Card("Prefix cache");
    this.ttft = new Card("Time to first token");
    this.tpot = new Card("Time per output token");
    this.rate = new Card("Tokens per second");
    others.append(...[this.queue, this.kv, this.prefix, this.ttft, this.tpot, this.rate].map((card) => card.element));
  }

  show(state) {
    const { stats, engine } = state;
    if (!stats) return;
    if (this.stages.length !== stats.stages.length) {
      this.stages = stats.stages.map((_, stage) => new Card(`Stage ${stage}`, ["busy", "idle-with-work"]));
      this.stagesElement.replaceChildren(...this.stages.map((card) => card.element));
    }
    stats.stages.forEach(({ busy, bubble, step_time: step, prediction_error: error }, stage) => {
      const present = bubble < 1 ? busy / (1 - bubble) : 0;
      const shift = state.shifts[stage] ? `; clock shifted by ${seconds(Math.abs(state.shifts[stage]))}` : "";
      this.stages[stage].set(`${percent(busy)} busy, ${percent(bubble)} bubble`,
        step ? `last step ${seconds(step)}, predicted within ${percent(error)}${shift}` : "no step yet", [busy, present - busy]);
    });
    this.queue.set(`${stats.num_running} run, ${stats.num_waiting} wait`,
      `${whole(stats.num_waiting_tokens)} prompt tokens to compute, ${stats.num_preemptions} preemptions`);
    const pages = engine.num_pages ?? 0;
    this.kv.set(percent(stats.kv_usage), pages ? `${whole(stats.kv_usage * pages)} of ${whole(pages)} pages of ${engine.page_size} tokens` : "", [stats.kv_usage]);
    const asked = stats.prefix_cache_queries;
    this.prefix.set(asked ? `${percent(stats.prefix_cache_hits / asked)} hits` : "–", asked ? `${whole(stats.prefix_cache_hits)} of ${whole(asked)} prompt tokens since the start` : "no prompt looked up");
    const { ttft, tpot, prefillRate, decodeRate } = latencies(state);
    const both = (values) => `p95 ${seconds(quantile(values, 0.95))}; ${values.length} in the last 60 s`;
    this.ttft.set(seconds(quantile(ttft, 0.5)), ttft.length ? both(ttft) : "none in the last 60 s");
    this.tpot.set(seconds(quantile(tpot, 0.5)), tpot.length ? both(tpot) : "none in the last 60 s");
    this.rate.set(`${whole(decodeRate)} decode`, `${whole(prefillRate)} prefill; in the last 5 s`);
  }
}
