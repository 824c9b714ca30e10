// The settings of the chat: what is left empty is not sent, so that the server's own default counts.
import { el } from "./dom.js";

const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }],
  ["top_p", "Top p", { min: 0, max: 1, step: 0.05 }],
  ["top_k", "Top k", { min: -1, step: 1 }],
  ["min_p", "Min p", { min: 0, max: 1, step: 0.01 }],
  ["max_tokens", "Max tokens", { min: 1, step: 1 }],
  ["seed", "Seed", { min: 0, step: 1 }],
  ["presence_penalty", "Presence penalty", { min: -2, max: 2, step: 0.1 }],
  ["repetition_penalty", "Repetition penalty", { min: 0.1, max: 2, step: 0.05 }],
];

export class Settings {
  /** Fill a form with the controls, after an element of other controls. */
  constructor(form, extra) {
    this.form = form;
    const field = (name, label, control, wide = false) =>
      el("div", { class: wide ? "wide" : "" }, el("label", { htmlFor: `set-${name}`, textContent: label }), control);
    const area = (name, rows, placeholder) => el("textarea", { id: `set-${name}`, name, rows, placeholder, spellcheck: name === "system" });
    form.append(
      extra,
      field("system", "System prompt", area("system", 2, "None"), true),
      ...NUMBERS.map(([name, label, bounds]) =>
        field(name, label, el("input", { id: `set-${name}`, name, type: "number", placeholder: "default", ...bounds, inputMode: "decimal" }))),
      field("stop", "Stop at (one text a line)", area("stop", 1, "Nothing"), true),
      field("reasoning", "Reasoning", el("select", { id: "set-reasoning", name: "reasoning" },
        ...["default", "none", "low", "medium", "high"].map((value) => el("option", { value, textContent: value }))), true),
      el("label", { class: "check wide" }, el("input", { type: "checkbox", name: "logprobs" }), "Show token probabilities"),
      field("tools", "Tools (a JSON list, as in the API)", area("tools", 2, '[{"type": "function", "function": {…}}]'), true),
      el("p", { class: "error wide", role: "alert" }),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  get system() {
    return this.form.elements.system.value.trim();
  }

  /** Return the fields of a request. Throws an Error that names a wrong field. */
  read() {
    const fields = {};
    const values = this.form.elements;
    for (const [name, label] of NUMBERS) {
      if (!values[name].checkValidity()) throw this.problem(name, `${label}: ${values[name].validationMessage}`);
      if (values[name].value !== "") fields[name] = Number(values[name].value);
    }
    const stops = values.stop.value.split("\n").filter(Boolean);
    if (stops.length) fields.stop = stops;
    if (values.reasoning.value !== "default") fields.reasoning_effort = values.reasoning.value;
    if (values.logprobs.checked) Object.assign(fields, { logprobs: true, top_logprobs: 5 });
    if (values.tools.value.trim()) {
      try {
        fields.tools = JSON.parse(values.tools.value);
      } catch (error) {
        throw this.problem("tools", `Tools: ${error.message}`);
      }
    }
    this.form.querySelector("[role=alert]").textContent = "";
    return fields;
  }

  problem(name, text) {
    this.form.closest("details").open = true;
    this.form.querySelector("[role=alert]").textContent = text;
    this.form.elements[name].focus();
    return new Error(text);
  }
}
