// Draws micro-batches over time: a lane for each stage, and below it the tokens of each micro-batch.

const GUTTER = 62;
const TOKENS_HEIGHT = 84;
const AXIS = 20;
const GAP = 6;

const COLOURS = ["text", "muted", "line", "soft", "panel", "prefill", "decode", "bubble", "accent"];

export class Gantt {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.blocks = []; // {step, x, y, width, height} of what is drawn, to find what is under the pointer
    const learn = () => { this.colours = Object.fromEntries(COLOURS.map((name) => [name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()])); };
    learn();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", learn);
  }

  laneHeight(pp) {
    return pp > 8 ? 20 : pp > 4 ? 28 : 40;
  }

  /** Return the step of the micro-batch at a point of the canvas, or null. */
  at(x, y) {
    return this.blocks.find((one) => x >= one.x && x <= one.x + one.width && y >= one.y && y <= one.y + one.height)?.step ?? null;
  }

  /** Draw the time [from, to]. chosen: the step that stands out, or null. */
  draw(state, pp, from, to, chosen) {
    const lane = this.laneHeight(pp);
    const bottom = pp * (lane + GAP);
    const width = this.canvas.clientWidth;
    const height = bottom + TOKENS_HEIGHT + AXIS;
    const scale = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const { context: c, colours } = this;
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = "12px system-ui, sans-serif";
    c.textBaseline = "middle";
    const x = (time) => GUTTER + ((time - from) / (to - from)) * (width - GUTTER);
    const batches = state.between(from, to);
    this.blocks = [];
    c.save();
    c.beginPath();
    c.rect(GUTTER, 0, width - GUTTER, height);
    c.clip();
    this.drawLanes(state, pp, lane, from, to, x);
    const ends = new Array(pp).fill(-Infinity);
    for (const batch of batches) {
      c.globalAlpha = chosen !== null && chosen !== batch.step ? 0.3 : 1;
      for (let stage = 0; stage < pp; stage++) {
        const run = batch.stages[stage];
        const top = stage * (lane + GAP);
        if (run) {
          this.drawBlock(batch, x(run.start), top, x(run.end) - x(run.start), lane);
          ends[stage] = Math.max(ends[stage], run.end);
        } else if (!batch.done) {
          // No report yet: it is somewhere from here on. Only the outline is drawn, since this is a guess.
          const begin = Math.max(ends[stage], batch.sent, batch.stages[stage - 1]?.end ?? batch.sent);
          if (begin < to && (stage === 0 || batch.stages[stage - 1])) this.drawGuess(x(begin), top, x(to) - x(begin), lane);
          break;
        }
      }
    }
    this.drawTokens(batches, bottom, x, from, chosen);
    c.restore();
    this.drawLabels(pp, lane, bottom, from, to, x);
  }

  drawLanes(state, pp, lane, from, to, x) {
    const { context: c, colours } = this;
    for (let stage = 0; stage < pp; stage++) {
      const top = stage * (lane + GAP);
      c.fillStyle = colours.soft;
      c.fillRect(GUTTER, top, c.canvas.width, lane);
      c.fillStyle = colours.bubble;
      for (const [begin, end] of state.present(from, to)) c.fillRect(x(begin), top, x(end) - x(begin), lane);
    }
  }

  drawBlock(batch, left, top, width, height) {
    const { context: c, colours } = this;
    const drawn = Math.max(width - 1, 1);
    const total = batch.prefill + batch.decode;
    // The heights are the shares of the tokens, and a small share stays visible.
    const share = batch.prefill && batch.decode ? Math.min(0.8, Math.max(0.2, batch.prefill / total)) : Number(batch.prefill > 0);
    c.fillStyle = colours.prefill;
    c.fillRect(left, top, drawn, height * share);
    c.fillStyle = colours.decode;
    c.fillRect(left, top + height * share, drawn, height * (1 - share));
    this.blocks.push({ step: batch.step, x: left, y: top, width, height });
    if (height < 24 || c.globalAlpha < 1) return;
    c.fillStyle = "#fff";
    c.textAlign = "center";
    const label = [batch.prefill && `${batch.prefill} p`, batch.decode && `${batch.decode} d`].filter(Boolean);
    const middle = left + width / 2;
    if (label.length === 2 && height >= 36 && Math.max(...label.map((one) => c.measureText(one).width)) + 6 < width) {
      this.write(label[0], middle, top + height * 0.29);
      this.write(label[1], middle, top + height * 0.74);
    } else if (c.measureText(label.join(" ")).width + 6 < width) {
      this.write(label.join(" "), middle, top + height / 2);
    }
  }

  write(text, x, y) {
    const { context: c } = this;
    c.lineWidth = 2.5;
    c.strokeStyle = "rgb(0 0 0 / .45)";
    c.strokeText(text, x, y);
    c.fillText(text, x, y);
  }

  drawGuess(left, top, width, height) {
    const { context: c, colours } = this;
    c.strokeStyle = colours.muted;
    c.lineWidth = 1;
    c.setLineDash([4, 3]);
    c.strokeRect(left + 0.5, top + 0.5, Math.max(width - 1, 1), height - 1);
    c.setLineDash([]);
  }

  drawTokens(batches, top, x, from, chosen) {
    const { context: c, colours } = this;
    const shown = batches.filter((batch) => batch.stages[0] && batch.stages[0].end >= from);
    this.most = Math.max(1, ...shown.map((batch) => batch.prefill + batch.decode));
    const area = TOKENS_HEIGHT - 12;
    const base = top + TOKENS_HEIGHT;
    for (const batch of shown) {
      const left = x(batch.stages[0].start);
      const width = Math.max(x(batch.stages[0].end) - left - 1, 1);
      const [decode, prefill] = [batch.decode, batch.prefill].map((tokens) => (tokens ? Math.max(1.5, (area * tokens) / this.most) : 0));
      c.globalAlpha = chosen !== null && chosen !== batch.step ? 0.3 : 1;
      c.fillStyle = colours.decode;
      c.fillRect(left, base - decode, width, decode);
      c.fillStyle = colours.prefill;
      c.fillRect(left, base - decode - prefill, width, prefill);
      this.blocks.push({ step: batch.step, x: left, y: base - area, width, height: area });
    }
    c.globalAlpha = 1;
  }

  drawLabels(pp, lane, bottom, from, to, x) {
    const { context: c, colours } = this;
    c.fillStyle = colours.muted;
    c.textAlign = "left";
    for (let stage = 0; stage < pp; stage++) c.fillText(`stage ${stage}`, 0, stage * (lane + GAP) + lane / 2);
    c.fillText("tokens", 0, bottom + TOKENS_HEIGHT - 8);
    c.fillText(String(this.most), 0, bottom + 18);
    c.strokeStyle = colours.line;
    c.lineWidth = 1;
    const base = bottom + TOKENS_HEIGHT + 0.5;
    c.beginPath();
    c.moveTo(GUTTER, base);
    c.lineTo(this.canvas.clientWidth, base);
    c.stroke();
    const tick = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((one) => (one / (to - from)) * (this.canvas.clientWidth - GUTTER) > 64) ?? 20;
    c.textAlign = "center";
    for (let ago = tick; ago < to - from - tick / 4; ago += tick) {
      c.fillText(`−${Number(ago.toFixed(2))} s`, x(to - ago), base + 11);
    }
  }
}
