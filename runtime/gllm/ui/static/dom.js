// Builds elements. Text is always a text node: nothing here turns a string into HTML.

/** Return a new element. Properties: class, data (an object), on (event handlers), attributes, and DOM properties. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") for (const [event, handle] of Object.entries(value)) element.addEventListener(event, handle);
    else if (name in element && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Return a small, unobtrusive button. */
export function quietButton(text, click, properties = {}) {
  return el("button", { type: "button", class: "quiet", textContent: text, on: { click }, ...properties });
}

/** Save text as a file of the browser's downloads. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
