// One sentence on the pipeline: is it balanced, and if not, why.
import { quantile } from "./pipeline_state.js";

const BALANCED = 0.08; // Bubbles up to this share count as none.
const SLOWER = 1.1; // A stage that takes this much longer than the others is the reason.
const UNEQUAL = 0.3; // Mean difference of neighbours, as a share of their time, from which micro-batches are the reason.
const WINDOW = 30; // Seconds: as long as the engine's own shares look back.

const percent = (share) => `${Math.round(100 * share)} %`;
const ms = (seconds) => `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Return {level, text, detail}; level is good, note, bad or idle. problem: why the engine does not serve, or null. */
export function verdict(state, problem, policy = "") {
  const { stats } = state;
  if (problem) return { level: "bad", text: `No engine serves: ${problem}`, detail: "Requests wait, and go on when it is back." };
  if (!stats) return { level: "idle", text: "Waiting for the engine's first figures.", detail: "" };
  if (stats.seconds_since_progress > 5) {
    return { level: "bad", text: `No micro-batch has come back for ${Math.round(stats.seconds_since_progress)} s.`, detail: "A stage is very slow or hangs: see --step-timeout, and the log." };
  }
  if (!stats.num_running && !stats.num_waiting && !stats.num_inflight) {
    return { level: "idle", text: "Idle: no request runs, so there are no bubbles.", detail: "Send requests to see micro-batches move through the stages." };
  }
  const bubbles = stats.stages.map((stage) => stage.bubble);
  const queue = queueDetail(state);
  if (stats.stages.length === 1) {
    return { level: bubbles[0] < BALANCED ? "good" : "note", text: `One stage: it computes ${percent(1 - bubbles[0])} of the time with work.`, detail: `There is no pipeline to balance. ${queue}` };
  }
  const worst = bubbles.indexOf(Math.max(...bubbles));
  if (bubbles[worst] < BALANCED) {
    return { level: "good", text: `Balanced: every stage computes at least ${percent(1 - bubbles[worst])} of the time with work.`, detail: queue };
  }
  return reason(state, bubbles, worst, policy);
}

function reason(state, bubbles, worst, policy) {
  const where = `bubbles of ${percent(bubbles[worst])} in stage ${worst}`;
  const queue = queueDetail(state);
  const pp = bubbles.length;
  const batches = state.between(state.time - WINDOW, state.time).filter((batch) => batch.done);
  const { inFlight, times, spread, slowest } = analyse(batches, pp, state.present(state.time - WINDOW, state.time));
  if (!batches.length) return { level: "note", text: `Bubbles: ${where.slice(11)}.`, detail: queue };
  if (state.stats.num_running < pp || inFlight < pp - 0.2) {
    return { level: "note", text: `Too little work for ${pp} stages: ${where}.`, detail: `On average ${inFlight.toFixed(1)} micro-batches are in flight, and ${state.stats.num_running} requests run. More requests at once would fill the pipeline. ${queue}` };
  }
  const others = mean(times.filter((_, stage) => stage !== slowest));
  if (times[slowest] > SLOWER * others) {
    return { level: "bad", text: `Stage ${slowest} is the slowest: ${where}.`, detail: `A micro-batch takes it ${ms(times[slowest])}, the other stages ${ms(others)}. Fewer layers there (--assigned-layers), or a look at its machine, would help. ${queue}` };
  }
  if (spread > UNEQUAL) {
    const seconds = batches.map((batch) => Math.max(...computed(batch)));
    return { level: "bad", text: `Micro-batches are unequal: ${where}.`, detail: `They take from ${ms(quantile(seconds, 0.05))} to ${ms(quantile(seconds, 0.95))}, so stages wait for each other. A smaller --max-prefill-tokens${policy === "balanced" ? "" : ", or --policy balanced,"} makes them more even. ${queue}` };
  }
  return { level: "note", text: `Stages and micro-batches are even, and still there are ${where}.`, detail: `The time passes between steps: transfers between stages, and the host's work for each step. ${queue}` };
}

const computed = (batch) => batch.stages.filter(Boolean).map(({ start, end }) => end - start);

/** Return mean micro-batches in flight, mean seconds of each stage, the slowest stage, and how unequal neighbours are. */
function analyse(batches, pp, present) {
  const span = present.reduce((sum, [begin, end]) => sum + end - begin, 0);
  const flown = batches.reduce((sum, batch) => sum + batch.done - batch.sent, 0);
  const times = Array.from({ length: pp }, (_, stage) => {
    const seconds = batches.flatMap((batch) => (batch.stages[stage] ? [batch.stages[stage].end - batch.stages[stage].start] : []));
    return seconds.length ? mean(seconds) : 0;
  });
  const slowest = times.indexOf(Math.max(...times));
  const longest = batches.map((batch) => Math.max(0, ...computed(batch)));
  const average = longest.length ? mean(longest) : 0;
  const steps = longest.slice(1).map((value, index) => Math.abs(value - longest[index]));
  const spread = steps.length && average ? mean(steps) / average : 0;
  return { inFlight: span ? flown / span : 0, times, spread, slowest };
}

function queueDetail({ stats, requests }) {
  if (!stats.num_waiting) return "No request waits.";
  const why = stats.kv_usage > 0.9 ? ", because the KV pages are full" : "";
  const preempted = [...requests.values()].some((one) => !one.end && one.preemptions) ? " Requests were preempted." : "";
  return `${stats.num_waiting} requests wait${why}.${preempted}`;
}
