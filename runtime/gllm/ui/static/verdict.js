// One sentence on the pipeline: is it balanced, and if not, why.
import { quantile } from "./pipeline_state.js";

const BALANCED = 0.08; // Bubbles up to this share count as none.
const SLOWER = 1.1; // A stage that takes this much longer than the others is the reason.
const LONG = 1.6; // A micro-batch that takes this many times the usual one makes the others wait.
const VARYING = 0.3; // Mean error of predicted step times from which the noise of a machine is the reason.
const MOMENTS = 2000;
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
  const { shares, times, usual, longest } = causes(state.between(state.time - WINDOW, state.time), pp);
  const all = shares.few + shares.unequal + shares.rest;
  if (!all) return { level: "note", text: `There are ${where}.`, detail: queue };
  // With many requests there is work for all micro-batches: then too few of them are a consequence of unequal ones.
  const scarce = state.stats.num_running < 2 * pp ? shares.few : 0;
  const uneven = shares.unequal + shares.few - scarce;
  const part = (count) => `${percent(count / all)} of the bubbles come from this.`;
  if (scarce > Math.max(uneven, shares.rest)) {
    return { level: "note", text: `Too little work for ${pp} stages: ${where}.`, detail: `${state.stats.num_running} requests run, and often fewer than ${pp} micro-batches are in flight. More requests at once would fill the pipeline. ${queue}` };
  }
  if (uneven > shares.rest && 2 * shares.unequal < shares.few) {
    const advice = policy === "balanced" ? "" : " --policy balanced spreads them.";
    return { level: "bad", text: `Requests are bunched: ${where}.`, detail: `${state.stats.num_running} requests run, but often in fewer than ${pp} micro-batches.${advice} ${part(uneven)} ${queue}` };
  }
  if (uneven > shares.rest) {
    const advice = policy === "balanced" ? "A smaller --max-prefill-tokens" : "A smaller --max-prefill-tokens, or --policy balanced,";
    return { level: "bad", text: `Micro-batches are unequal: ${where}.`, detail: `Half of them take at most ${ms(usual)} on a stage, the longest ${ms(longest)}, and the other stages wait for it. ${part(uneven)} ${advice} makes them more even. ${queue}` };
  }
  const slowest = times.indexOf(Math.max(...times));
  const others = mean(times.filter((_, stage) => stage !== slowest));
  if (slowest !== worst && times[slowest] > SLOWER * others) {
    return { level: "bad", text: `Stage ${slowest} is the slowest: ${where}.`, detail: `A micro-batch takes it ${ms(times[slowest])}, the other stages ${ms(others)}. Fewer layers there (--assigned-layers), or a look at its machine, would help. ${queue}` };
  }
  const errors = state.stats.stages.map((stage) => stage.prediction_error ?? 0);
  if (Math.max(...errors) > VARYING) {
    return { level: "note", text: `Step times vary: ${where}.`, detail: `They differ from the engine's predictions by ${percent(Math.max(...errors))} on average, so micro-batches that should take equal time do not. Other programs on a machine are a usual cause. ${queue}` };
  }
  return { level: "note", text: `Stages and micro-batches are even, and still there are ${where}.`, detail: `The time passes between steps: transfers between stages, and the host's work for each step. ${queue}` };
}

/**
 * Look at many moments: why does a stage that could compute not compute? `few`: fewer micro-batches than stages are in
 * flight; `unequal`: another stage computes an unusually long one; `rest`: neither.
 * Return the number of moments by cause, the mean seconds of each stage, and the usual and longest seconds of a run.
 */
export function causes(batches, pp) {
  const runs = Array.from({ length: pp }, (_, stage) => batches.map((batch) => batch.stages[stage]).filter(Boolean));
  const seconds = runs.flat().map(({ start, end }) => end - start);
  const usual = quantile(seconds, 0.5) ?? 0;
  const shares = { few: 0, unequal: 0, rest: 0 };
  const sent = batches.map((batch) => batch.sent);
  const done = batches.map((batch) => batch.done).filter(Boolean);
  const next = new Array(pp).fill(0);
  let [begun, ended] = [0, 0];
  for (let moment = 0; done.length && moment < MOMENTS; moment++) {
    const time = sent[0] + ((moment + 0.5) / MOMENTS) * (done.at(-1) - sent[0]);
    while (sent[begun] <= time) begun += 1;
    while (done[ended] <= time) ended += 1;
    if (begun === ended) continue;
    const now = runs.map((stage, index) => {
      while (stage[next[index]]?.end <= time) next[index] += 1;
      const run = stage[next[index]];
      return run && run.start <= time ? run.end - run.start : 0;
    });
    const cause = begun - ended < pp ? "few" : Math.max(...now) > LONG * usual ? "unequal" : "rest";
    shares[cause] += now.filter((one) => one === 0).length;
  }
  const times = runs.map((stage) => (stage.length ? mean(stage.map(({ start, end }) => end - start)) : 0));
  return { shares, times, usual, longest: quantile(seconds, 0.999) ?? 0 };
}

function queueDetail({ stats, requests }) {
  if (!stats.num_waiting) return "No request waits.";
  const why = stats.kv_usage > 0.9 ? ", because the KV pages are full" : "";
  const preempted = [...requests.values()].some((one) => !one.end && one.preemptions) ? " Requests were preempted." : "";
  return `${stats.num_waiting === 1 ? "1 request waits" : `${stats.num_waiting} requests wait`}${why}.${preempted}`;
}
