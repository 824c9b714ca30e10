// The tokens of an answer with their probabilities: in colour, and as a table for the token under the pointer or focus.
import { byId, el } from "./dom.js";

const LEVELS = [0.02, 0.2, 0.5, 0.8];
const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(logprob > -4.6 ? 1 : 3)} %`;
const visible = (token) => token.replace(/\n/g, "↵").replace(/\t/g, "⇥") || "(empty)";

/** Return the element of an answer's tokens. Arrow keys move from token to token. */
export function tokensView(tokens) {
  const spans = tokens.map((token, index) => {
    const p = Math.exp(token.logprob);
    return el("span", {
      textContent: token.token,
      tabIndex: index ? -1 : 0,
      data: { p: String(LEVELS.filter((level) => p >= level).length) },
      "aria-label": `${visible(token.token)}, ${percent(token.logprob)}`,
      role: "option",
      on: { pointerenter: (event) => showTip(event.target, token), focus: (event) => showTip(event.target, token), pointerleave: hideTip, blur: hideTip },
    });
  });
  const view = el("div", { class: "tokens", role: "listbox", "aria-label": "Tokens with their probabilities. Arrow keys move." }, ...spans);
  view.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = step && spans[spans.indexOf(document.activeElement) + step];
    if (event.key === "Escape") hideTip();
    if (!next) return;
    event.preventDefault();
    document.activeElement.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  return view;
}

function showTip(span, token) {
  hideTip();
  const others = token.top_logprobs ?? [];
  const rows = others.some((other) => other.token === token.token) ? others : [token, ...others];
  const tip = el("div", { id: "token-tip", role: "tooltip" }, el("table", {}, ...rows.map((row) =>
    el("tr", { data: row.token === token.token ? { chosen: "" } : {} },
      el("td", { textContent: visible(row.token) }), el("td", { textContent: percent(row.logprob) })))));
  document.body.append(tip);
  const at = span.getClientRects()[0] ?? span.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = at.bottom + tip.offsetHeight + 12 < innerHeight ? `${at.bottom + 6}px` : `${at.top - tip.offsetHeight - 6}px`;
  span.setAttribute("aria-describedby", "token-tip");
}

export function hideTip() {
  byId("token-tip")?.remove();
}
