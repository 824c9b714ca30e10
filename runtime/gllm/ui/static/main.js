// The page: its views, the server's state, the key.
import { askForKey, call } from "./api.js";
import { Chat } from "./chat.js";
import { byId } from "./dom.js";
import { Pipeline } from "./pipeline.js";

const POLL_MS = 2000;
const VIEWS = ["chat", "pipeline"];
const server = { model: "", state: "unknown" };

let pipeline = null;

function show() {
  const view = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat";
  for (const name of VIEWS) {
    byId(name).hidden = name !== view;
    if (name === view) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  // Events flow only to those who look.
  if (view === "pipeline") pipeline ??= new Pipeline();
  document.title = `${view === "chat" ? "Chat" : "Pipeline"} · gLLM`;
}

function setState(state, text) {
  server.state = state;
  const shown = byId("state");
  shown.dataset.state = state;
  if (shown.textContent !== text) shown.textContent = text;
}

async function poll() {
  try {
    const response = await fetch("ready");
    const body = await response.json();
    if (body.simulated) {
      // A simulated run has a pipeline, and nobody to chat with.
      setState("ready", "simulated");
      byId("to-chat").hidden = true;
      if (location.hash !== "#pipeline") location.hash = "#pipeline";
    } else if (response.ok) setState("ready", "ready");
    else {
      const loaded = body.loaded === undefined ? "" : `, ${Math.round(100 * body.loaded)} % of the weights`;
      setState("waiting", body.reason === "draining" ? "draining" : `engine starts${loaded}`);
      byId("state").title = body.reason ?? "";
    }
    if (!server.model) learnModel();
  } catch {
    setState("lost", "no connection");
  }
}

/** Ask for the model's name: the first call that needs the key. */
async function learnModel() {
  if (server.asked) return;
  server.asked = true;
  try {
    const { data } = await (await call("v1/models")).json();
    server.model = data[0].id;
    byId("model").textContent = server.model;
  } catch {
    server.asked = false; // The next poll tries again.
  }
}

async function keepPolling() {
  for (;;) {
    if (!document.hidden) await poll();
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

new Chat(server);
addEventListener("hashchange", show);
byId("change-key").addEventListener("click", () => askForKey(""));
show();
keepPolling();
