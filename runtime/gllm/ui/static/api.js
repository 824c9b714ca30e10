// Calls of the server's API. The key is kept in sessionStorage: only this tab has it, until it is closed.
import { byId } from "./dom.js";

const KEY = "gllm-api-key";
let asking = null;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Ask for the key; resolves when the user has given one. Calls that fail together share one dialog. */
export function askForKey(why) {
  asking ??= new Promise((done) => {
    const dialog = byId("key-dialog");
    byId("key-error").textContent = why;
    byId("key").value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (byId("key").value) sessionStorage.setItem(KEY, byId("key").value);
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** Send a request with the key, which is asked for when the server wants one. Throws ApiError. */
export async function call(path, { body, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
    const options = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
    const response = await fetch(path, options).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server does not answer. Is it running?");
    });
    byId("change-key").hidden = !key;
    if (response.ok) return response;
    if (response.status !== 401) throw new ApiError(response.status, await reason(response));
    await askForKey(key ? "The server refused this key." : "");
  }
}

async function reason(response) {
  try {
    const body = await response.json();
    return body.error?.message ?? body.reason ?? `HTTP ${response.status}`;
  } catch {
    return `HTTP ${response.status}`;
  }
}

/** Yield {event, data} of a response of server-sent events; data is parsed JSON. It ends at [DONE] or with the body. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        let event = "message";
        let data = "";
        for (const line of frame.split("\n")) {
          if (line.startsWith("event: ")) event = line.slice(7);
          else if (line.startsWith("data: ")) data += line.slice(6);
        }
        if (data === "[DONE]") return;
        if (data) yield { event, data: JSON.parse(data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
