// The view of the pipeline: the verdict, the chart, the figures, the requests.
import { call, events } from "./api.js";
import { byId, el, quietButton } from "./dom.js";
import { Figures } from "./figures.js";
import { Gantt } from "./gantt.js";
import { batchDetails, requestCells, requestLife, shortId } from "./life.js";
import { PipelineState } from "./pipeline_state.js";
import { verdict } from "./verdict.js";

const DELAY = 0.25; // The chart ends this many seconds ago, so that it moves evenly although events come in groups.
const RETRY_MS = 1500;
const TABLE_MS = 500;
const VERDICT_MS = 1000;
const SHOWN_REQUESTS = 12;
const HIDDEN_MS = 30_000;
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const FRAME_MS = 25;
const DARK = matchMedia("(prefers-color-scheme: dark)");
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

export class Pipeline {
  constructor() {
    this.states = new Map();
    this.chosenEngine = null;
    this.hello = {};
    this.problem = null;
    this.pausedAt = null;
    this.step = null; // the chosen micro-batch
    this.request = null; // the chosen request's number
    this.build();
    this.follow();
    // A browser keeps pages that were left, and with them their connections, of which it has six for a server.
    addEventListener("pagehide", () => this.connection?.abort());
    this.frame();
    setInterval(() => this.refresh(), TABLE_MS);
    setInterval(() => this.judge(), VERDICT_MS);
  }

  get visible() {
    return !byId("pipeline").hidden && !document.hidden;
  }

  get state() {
    return this.states.get(this.chosenEngine) ?? this.empty;
  }

  build() {
    this.empty = new PipelineState();
    this.sentence = el("p", { id: "verdict" });
    this.spoken = el("p", { class: "hidden", role: "status" });
    this.detail = el("p", { class: "muted" });
    this.banner = el("section", { class: "verdict", "aria-label": "Verdict", data: { level: "idle" } }, this.sentence, this.detail);
    this.pause = quietButton("Pause", () => this.togglePause(), { "aria-pressed": "false" });
    this.seconds = el("select", { "aria-label": "Seconds in the chart" },
      ...[1, 2, 5, 10, 30].map((value) => el("option", { value: String(value), textContent: `${value} s`, selected: value === 5 })));
    this.engines = el("select", { "aria-label": "Engine", hidden: true, on: { change: () => { this.chosenEngine = this.engines.value; this.judge(); } } });
    this.about = el("span", { class: "muted" });
    const canvas = el("canvas", { tabIndex: 0, role: "img", "aria-label": "Micro-batches on each stage over time. Arrow keys choose one, space pauses." });
    const legend = [["prefill", "prefill (p)"], ["decode", "decode (d)"], ["bubble", "bubble: work in flight, stage idle"], ["soft", "no work"], ["guess", "in flight, not reported yet"]];
    this.chart = el("figure", { class: "chart" }, canvas,
      el("figcaption", {}, ...legend.map(([kind, text]) => el("span", {}, el("i", { class: kind }), text))));
    this.gantt = new Gantt(canvas);
    this.listen(canvas);
    const stages = el("div", { class: "cards" });
    const others = el("div", { class: "cards" });
    this.figures = new Figures(stages, others);
    this.table = el("tbody");
    this.rows = new Map();
    const heads = ["Request", "Prompt", "Output", "Waited", "TTFT", "TPOT", "State"];
    this.details = el("section", { id: "details", "aria-label": "Details", tabIndex: -1 });
    this.showDetails(null);
    byId("pipeline").append(this.banner, this.spoken,
      el("div", { class: "controls" }, this.pause, this.seconds, this.engines, this.about), this.chart, stages, others,
      el("div", { class: "split" },
        el("section", { class: "requests", "aria-label": "Requests" }, el("h2", { textContent: "Newest requests" }), el("div", { class: "scroll" },
          el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", textContent: text })))), this.table))),
        this.details));
  }

  listen(canvas) {
    canvas.addEventListener("pointermove", (event) => { this.hovered = this.gantt.at(event.offsetX, event.offsetY); canvas.classList.toggle("over", this.hovered !== null); });
    canvas.addEventListener("pointerleave", () => { this.hovered = null; });
    canvas.addEventListener("click", (event) => {
      const step = this.gantt.at(event.offsetX, event.offsetY);
      if (step !== null) this.chooseBatch(step);
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === " ") this.togglePause();
      else if (event.key === "Escape") this.chooseBatch(null);
      else if (move) {
        const steps = this.state.between(...this.window()).map((batch) => batch.step);
        const at = steps.indexOf(this.step);
        this.chooseBatch(steps[at < 0 ? steps.length - 1 : Math.max(0, Math.min(steps.length - 1, at + move))] ?? null);
      } else return;
      event.preventDefault();
    });
  }

  // --- events ------------------------------------------------------------------------------------------

  async follow() {
    for (;;) {
      while (!this.visible) await pause(TABLE_MS);
      this.connection = new AbortController();
      try {
        const response = await call("pipeline/events", { signal: this.connection.signal });
        for await (const { event, data } of events(response)) this.take(event, data);
        this.problem = this.hello.simulated ? null : "the server is shutting down";
      } catch (error) {
        if (!this.connection.signal.aborted) this.problem = error.message;
      }
      this.judge();
      if (this.hello.simulated) return;
      await pause(RETRY_MS);
    }
  }

  take(event, data) {
    if (event === "hello") {
      this.hello = data;
      this.states.clear();
      this.about.textContent = data.simulated ? "the policy of the simulated run" : `policy ${data.policy}`;
    } else if (event === "state") {
      this.problem = data.ready ? null : data.reason;
      for (const engine of data.engines) this.stateOf(engine.engine).setEngine(engine);
      this.listEngines(data.engines.map(({ engine }) => engine));
      this.judge();
    } else if (event === "pipeline") {
      this.stateOf(data.engine).take(data);
      const ahead = Date.now() / 1000 - data.time;
      // The smallest difference had the shortest way; it may drift slowly.
      this.ahead = this.ahead === undefined || Math.abs(ahead - this.ahead) > 5 ? ahead : Math.min(this.ahead + 0.0005, ahead);
    } else if (event === "end") {
      this.ended = true;
      this.judge();
    }
  }

  stateOf(name) {
    if (!this.states.has(name)) this.states.set(name, new PipelineState());
    this.chosenEngine ??= name;
    return this.states.get(name);
  }

  listEngines(names) {
    this.engines.hidden = names.length < 2 && !this.hello.simulated;
    if (names.length && !names.includes(this.chosenEngine)) this.chosenEngine = names[0];
    this.engines.replaceChildren(...names.map((name) => el("option", { value: name, textContent: name, selected: name === this.chosenEngine })));
  }

  // --- drawing -----------------------------------------------------------------------------------------

  window() {
    const to = this.pausedAt ?? (this.ended ? this.state.time : Date.now() / 1000 - (this.ahead ?? 0) - DELAY);
    return [to - Number(this.seconds.value), to];
  }

  frame() {
    if (this.visible && !this.still()) {
      const pp = this.state.stats?.stages.length || this.hello.pp || 1;
      this.gantt.draw(this.state, pp, ...this.window(), this.hovered ?? this.step);
    }
    setTimeout(() => requestAnimationFrame(() => this.frame()), CALM.matches ? 500 : FRAME_MS);
  }

  /** Whether the chart is as it was drawn last: nothing in it moves. */
  still() {
    const [from, to] = this.window();
    const moves = this.pausedAt === null && !this.ended && this.state.between(from, to).length > 0;
    const drawn = [this.chosenEngine, this.hovered ?? this.step, this.seconds.value, this.state.stats?.stages.length,
      this.gantt.canvas.clientWidth, DARK.matches, moves, this.pausedAt].join();
    const same = !moves && drawn === this.drawn;
    this.drawn = drawn;
    return same;
  }

  judge() {
    const { level, text, detail } = verdict(this.state, this.problem, this.hello.policy || this.chosenEngine);
    // Shares change all the time: a screen reader is told when the cause changes.
    if (text.split(":")[0] !== this.sentence.textContent.split(":")[0]) this.say(text);
    if (this.sentence.textContent !== text) this.sentence.textContent = text;
    const lost = this.state.dropped ? ` ${this.state.dropped} micro-batches were too many to show.` : "";
    const replay = this.ended ? " The simulated run has ended: reload the page to see it again." : "";
    this.detail.textContent = detail + lost + replay;
    this.banner.dataset.level = level;
  }

  say(text) {
    this.spoken.textContent = text;
  }

  refresh() {
    // The server has room for few viewers: a tab that nobody looks at gives its place back.
    this.hiddenSince = this.visible ? null : this.hiddenSince ?? Date.now();
    if (this.hiddenSince && Date.now() - this.hiddenSince > HIDDEN_MS && !this.hello.simulated) this.connection.abort();
    if (!this.visible) return;
    this.figures.show(this.state);
    if (this.pausedAt === null) this.fillTable();
    const batch = this.state.batches.get(this.step);
    if (batch && !batch.shownEnd) this.chooseBatch(this.step);
    const request = this.state.requests.get(this.request);
    if (request && !request.shownEnd) {
      this.details.replaceChildren(requestLife(this.state, request));
      request.shownEnd = Boolean(request.end);
    }
  }

  fillTable() {
    const newest = [...this.state.requests.values()].slice(-SHOWN_REQUESTS).reverse();
    const rows = newest.map((request) => {
      let row = this.rows.get(request);
      if (!row) {
        const open = quietButton(shortId(request.id) || String(request.number), () => this.chooseRequest(request.number), { "aria-label": `Life of request ${shortId(request.id)}` });
        row = el("tr", {}, el("td", {}, open), ...Array.from({ length: 6 }, () => el("td")));
        this.rows.set(request, row);
      }
      row.classList.toggle("chosen", request.number === this.request);
      requestCells(request).forEach((text, index) => { row.cells[index + 1].textContent = text; });
      return row;
    });
    for (const request of this.rows.keys()) if (!newest.includes(request)) this.rows.delete(request);
    // Rows that stay are not moved: moving one would take the focus from its button.
    for (const row of [...this.table.rows]) if (!rows.includes(row)) row.remove();
    rows.forEach((row, index) => { if (this.table.rows[index] !== row) this.table.insertBefore(row, this.table.rows[index] ?? null); });
    if (!rows.length) this.table.replaceChildren(el("tr", {}, el("td", { colSpan: 7, class: "muted", textContent: "No request since this page was opened." })));
  }

  // --- choices -----------------------------------------------------------------------------------------

  togglePause() {
    this.pausedAt = this.pausedAt === null ? this.window()[1] : null;
    this.pause.setAttribute("aria-pressed", String(this.pausedAt !== null));
    this.pause.textContent = this.pausedAt === null ? "Pause" : "Go on";
  }

  chooseBatch(step) {
    this.step = step;
    this.request = null;
    const batch = this.state.batches.get(step);
    if (batch && step !== this.said) this.say(`Micro-batch ${step}: ${batch.prefill} prefill and ${batch.decode} decode tokens`);
    this.said = step;
    if (batch) batch.shownEnd = Boolean(batch.done);
    this.showDetails(batch ? batchDetails(this.state, batch, (number) => this.chooseRequest(number)) : null);
  }

  chooseRequest(number) {
    this.request = number;
    this.step = null;
    const request = this.state.requests.get(number);
    request.shownEnd = Boolean(request.end);
    this.showDetails(requestLife(this.state, request));
    this.details.focus({ preventScroll: false });
  }

  showDetails(shown) {
    this.details.replaceChildren(shown ?? el("p", { class: "muted", textContent: "Click a micro-batch in the chart, or a request, to see its details here." }));
  }
}
