// How one message looks, and what can be done with it.
import { el, quietButton } from "./dom.js";
import { markdown } from "./markdown.js";
import { hideTip, tokensView } from "./tokens.js";

const NAMES = { user: "You", assistant: "Answer", tool: "Tool result" };
const REDRAW_MS = 80;

/** The view of a message. Actions: edit(message, text), resend(message), answerCalls(message, texts). */
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.asTokens = true;
    this.body = el("div", { class: "body" });
    this.reasoning = el("div");
    this.thought = el("summary", { textContent: "Reasoning" });
    this.folded = el("details", { class: "reasoning", hidden: true }, this.thought, this.reasoning);
    this.calls = el("div");
    this.tools = el("div", { class: "tools" });
    this.element = el("article", { class: `message ${message.role}`, "aria-label": NAMES[message.role] },
      el("h3", { textContent: NAMES[message.role] }), this.folded, this.body, this.calls, this.tools);
    this.draw(message.role !== "assistant");
  }

  /** Draw soon: a stream changes a message more often than anybody can read. */
  changed() {
    this.timer ??= setTimeout(() => this.draw(false), REDRAW_MS);
  }

  draw(done) {
    clearTimeout(this.timer);
    this.timer = null;
    const { message } = this;
    this.element.classList.toggle("answering", !done);
    if (message.role !== "assistant") {
      this.body.textContent = message.content;
    } else {
      hideTip();
      this.folded.hidden = !message.reasoning;
      this.reasoning.textContent = message.reasoning;
      this.thought.textContent = message.content || done ? "Reasoning" : "Reasoning…";
      const tokens = done && this.asTokens && message.tokens.length;
      this.body.replaceChildren(...(tokens ? [tokensView(message.tokens)] : markdown(message.content)));
      if (message.error) this.body.append(el("p", { class: "error", role: "alert", textContent: message.error }));
    }
    this.calls.replaceChildren(...(message.calls ?? []).map(callView));
    if (done) this.drawTools();
    else this.tools.replaceChildren();
  }

  drawTools() {
    const { message, actions } = this;
    const tools = [];
    if (message.role === "user") tools.push(quietButton("Edit", () => this.edit()), quietButton("Resend", () => actions.resend(message)));
    if (message.role === "assistant") {
      tools.push(quietButton("Copy", () => navigator.clipboard?.writeText(message.content)));
      if (message.tokens.length) {
        tools.push(quietButton("Tokens", () => { this.asTokens = !this.asTokens; this.draw(true); }, { "aria-pressed": String(this.asTokens) }));
        if (this.asTokens) tools.push(el("span", {}, el("span", { class: "likely", textContent: "likely" }), " to ", el("span", { class: "unlikely", textContent: "unlikely" })));
      }
      tools.push(el("span", { textContent: figures(message) }));
      if (message.calls.length && !message.answered) this.calls.append(this.resultForm());
    }
    this.tools.replaceChildren(...tools);
  }

  edit() {
    const area = el("textarea", { value: this.message.content, rows: 3, "aria-label": "Edit the message" });
    const close = () => { this.draw(true); this.tools.querySelector("button").focus(); };
    const send = () => this.actions.edit(this.message, area.value);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    });
    this.body.replaceChildren(el("div", { class: "editor" }, area,
      el("div", {}, el("button", { type: "button", textContent: "Send again", on: { click: send } }), quietButton("Cancel", close))));
    this.tools.replaceChildren();
    area.focus();
  }

  /** Return a form for what the called tools return. */
  resultForm() {
    const areas = this.message.calls.map((made) => el("textarea", { rows: 2, "aria-label": `Result of ${made.name}`, placeholder: `Result of ${made.name}` }));
    return el("form", { class: "editor", on: { submit: (event) => { event.preventDefault(); this.actions.answerCalls(this.message, areas.map((area) => area.value)); } } },
      ...areas, el("div", {}, el("button", { type: "submit", textContent: areas.length > 1 ? "Send the results" : "Send the result" })));
  }
}

function callView(made) {
  let text = made.arguments;
  try {
    text = JSON.stringify(JSON.parse(text), null, 2);
  } catch { /* Not complete yet, or no JSON: it is shown as it is. */ }
  return el("div", { class: "call" }, el("h4", { textContent: `Calls ${made.name}` }), el("pre", {}, el("code", { textContent: text })));
}

function figures({ usage, first, seconds, finish, stopped }) {
  const parts = [];
  if (usage) parts.push(`${usage.prompt_tokens} + ${usage.completion_tokens} tokens`);
  if (first) parts.push(`first after ${first.toFixed(2)} s`);
  if (usage && first && usage.completion_tokens > 1 && seconds > first) {
    parts.push(`${((usage.completion_tokens - 1) / (seconds - first)).toFixed(1)} tokens/s`);
  }
  if (stopped) parts.push("stopped");
  if (finish === "length") parts.push("cut off at the length limit");
  return parts.join(" · ");
}
