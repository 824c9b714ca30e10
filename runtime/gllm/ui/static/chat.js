// The chat: sends messages, shows answers as they come, and stops them.
import { byId, download, el, quietButton } from "./dom.js";
import { newAnswer, stream, toApi, toJson, toMarkdown } from "./conversation.js";
import { MessageView } from "./message.js";
import { Settings } from "./settings.js";

const WIDE = matchMedia("(min-width: 761px)");

export class Chat {
  /** server: {model, state}, kept up to date by the page. */
  constructor(server) {
    this.server = server;
    this.messages = [];
    this.views = new Map();
    this.running = null;
    this.list = byId("conversation");
    this.prompt = byId("prompt");
    this.settings = new Settings(byId("settings-form"), el("div", { class: "wide row" },
      quietButton("New chat", () => this.clear()),
      quietButton("Export JSON", () => this.export("json")),
      quietButton("Export Markdown", () => this.export("md"))));
    const fold = () => { byId("settings").open = WIDE.matches; };
    WIDE.addEventListener("change", fold);
    fold();
    byId("composer").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.send(); }
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("chat").addEventListener("keydown", (event) => { if (event.key === "Escape" && this.running) this.stop(); });
    addEventListener("pagehide", () => this.stop());
    this.clear();
  }

  clear() {
    this.stop();
    this.messages = [];
    this.views.clear();
    this.list.replaceChildren(el("p", { class: "empty", textContent: "Nothing said yet. What you write is sent to this server only, and is gone when you close the tab." }));
    this.prompt.focus();
  }

  send() {
    const text = this.prompt.value.trim();
    if (!text || this.running) return;
    this.add({ role: "user", content: text });
    this.prompt.value = "";
    this.answer();
  }

  stop() {
    this.running?.abort();
  }

  add(message) {
    const actions = {
      edit: (old, text) => { if (text.trim()) { old.content = text.trim(); this.restart(old); } },
      resend: (old) => this.restart(old),
      answerCalls: (old, texts) => this.returnResults(old, texts),
    };
    if (!this.messages.length) this.list.replaceChildren();
    this.messages.push(message);
    const view = new MessageView(message, actions);
    this.views.set(message, view);
    this.list.append(view.element);
    this.scroll(true);
    return view;
  }

  /** Drop what follows a message, and ask again. */
  async restart(message) {
    this.stop();
    await this.finished;
    const kept = this.messages.indexOf(message) + 1;
    for (const gone of this.messages.splice(kept)) {
      this.views.get(gone).element.remove();
      this.views.delete(gone);
    }
    this.views.get(message).draw(true);
    this.answer();
  }

  returnResults(message, texts) {
    if (this.running) return;
    message.answered = true;
    this.views.get(message).draw(true);
    message.calls.forEach((made, index) => this.add({ role: "tool", tool_call_id: made.id, content: texts[index] }));
    this.answer();
  }

  answer() {
    this.finished = this.run();
  }

  async run() {
    let fields;
    try {
      fields = this.settings.read();
    } catch {
      return; // The form says what is wrong.
    }
    const body = { ...fields, model: this.server.model, messages: toApi(this.settings.system, this.messages) };
    const answer = newAnswer();
    const view = this.add(answer);
    const running = (this.running = new AbortController());
    this.show("The answer is being generated.");
    view.draw(false);
    const watch = setInterval(() => this.explainPause(answer), 1000);
    answer.pieceTime = performance.now();
    try {
      await stream(body, answer, running.signal, () => {
        const follow = this.atEnd();
        answer.pieceTime = performance.now();
        view.changed();
        this.scroll(follow);
      });
    } catch (error) {
      if (running.signal.aborted) answer.stopped = true;
      else answer.error = error.message;
    }
    clearInterval(watch);
    this.running = null;
    const follow = this.atEnd();
    view.draw(true);
    this.scroll(follow);
    const tokens = answer.usage ? `, ${answer.usage.completion_tokens} tokens` : "";
    this.show(answer.error ? "The answer failed." : answer.stopped ? "The answer was stopped." : `The answer is complete${tokens}.`);
  }

  /** A stream pauses while the engine is replaced: say so, instead of looking broken. */
  explainPause(answer) {
    if (performance.now() - answer.pieceTime < 1500) return;
    this.show(this.server.state === "ready" ? "Waiting for the next token." : "The engine is being restarted; the answer goes on when it is back.");
  }

  show(text) {
    const state = byId("chat-state");
    if (state.textContent !== text) state.textContent = text;
    byId("send").hidden = Boolean(this.running);
    byId("stop").hidden = !this.running;
  }

  atEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
  }

  scroll(follow) {
    if (follow) requestAnimationFrame(() => { this.list.scrollTop = this.list.scrollHeight; });
  }

  export(kind) {
    const { model } = this.server;
    if (kind === "md") return download("chat.md", "text/markdown", toMarkdown(model, this.settings.system, this.messages));
    let fields = {};
    try {
      fields = this.settings.read();
    } catch { /* The messages are worth saving without the settings. */ }
    return download("chat.json", "application/json", toJson(model, fields, this.settings.system, this.messages));
  }
}
