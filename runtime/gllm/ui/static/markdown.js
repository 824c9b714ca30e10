// A small Markdown renderer. It builds nodes and never parses HTML: tags in the text stay text, images are not loaded,
// and a link is a link only to http, https or mailto.
import { el } from "./dom.js";

const LINK = /^(https?:\/\/|mailto:)/i;
const INLINE = new RegExp(
  [
    "(?<code>`+)(?<codeText>[^`].*?[^`]|[^`])\\k<code>(?!`)",
    "!?\\[(?<label>[^\\]\\n]+)\\]\\((?<target>[^\\s()]*(?:\\([^\\s()]*\\)[^\\s()]*)*)(?: +\"[^\"\\n]*\")?\\)",
    "(?<strong>\\*\\*|__)(?=\\S)(?<strongText>.+?)(?<=\\S)\\k<strong>",
    "~~(?<gone>\\S(?:.*?\\S)?)~~",
    "(?<![\\w*])(?<em>[*_])(?=[^\\s*_])(?<emText>.+?)(?<=[^\\s*_])\\k<em>(?![\\w*])",
    "(?<bare>https?://[^\\s<>]*[^\\s<>.,;:!?'\")\\]])",
  ].join("|"),
  "su",
);

/** Return the nodes of a text's blocks. */
export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"));
}

function blocks(lines, depth = 0) {
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.match(/^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/);
    const heading = line.match(/^ {0,3}(#{1,6})\s+(.*?)\s*#*$/);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const end = findFrom(lines, at + 1, (one) => one.trim().startsWith(fence[1]));
      nodes.push(el("pre", {}, el("code", { textContent: lines.slice(at + 1, end).join("\n"), data: fence[2] ? { language: fence[2] } : {} })));
      at = end + 1;
    } else if (heading) {
      // The page's own headings end at h3.
      nodes.push(el(`h${Math.min(heading[1].length + 3, 6)}`, {}, ...inline(heading[2])));
      at += 1;
    } else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) {
      nodes.push(el("hr"));
      at += 1;
    } else if (/^ {0,3}>/.test(line) && depth < 8) {
      const end = findFrom(lines, at, (one) => !/^ {0,3}>/.test(one));
      nodes.push(el("blockquote", {}, ...blocks(lines.slice(at, end).map((one) => one.replace(/^ {0,3}> ?/, "")), depth + 1)));
      at = end;
    } else if (marker(line) && depth < 8) {
      const end = endOfList(lines, at);
      nodes.push(list(lines.slice(at, end), depth));
      at = end;
    } else if (isTable(lines, at)) {
      const end = findFrom(lines, at, (one) => !one.includes("|"));
      nodes.push(table(lines.slice(at, end)));
      at = end;
    } else {
      const end = findFrom(lines, at + 1, (one, index) => !one.trim() || startsBlock(one) || isTable(lines, index));
      nodes.push(el("p", {}, ...withBreaks(lines.slice(at, end))));
      at = end;
    }
  }
  return nodes;
}

const marker = (line) => line.match(/^( {0,3})([-*+]|(\d{1,9})[.)])( +|$)/);
const startsBlock = (line) => /^ {0,3}(#{1,6}\s|`{3,}|~{3,}|>|([-*_])( *\2){2,} *$)/.test(line) || (marker(line) && /\S\s+\S/.test(line));
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function findFrom(lines, start, test) {
  for (let index = start; index < lines.length; index++) if (test(lines[index], index)) return index;
  return lines.length;
}

function isTable(lines, at) {
  return lines[at].includes("|") && /^\s*\|?(\s*:?-+:?\s*\|)+\s*:?-*:?\s*$/.test(lines[at + 1] ?? "");
}

function table(lines) {
  const [head, , ...body] = lines.map(cells);
  return el("table", {},
    el("thead", {}, el("tr", {}, ...head.map((cell) => el("th", { scope: "col" }, ...inline(cell))))),
    el("tbody", {}, ...body.map((row) => el("tr", {}, ...head.map((_, index) => el("td", {}, ...inline(row[index] ?? "")))))));
}

function endOfList(lines, start) {
  const ordered = Boolean(marker(lines[start])[3]);
  let at = start + 1;
  for (; at < lines.length; at++) {
    const found = marker(lines[at]);
    if (found ? Boolean(found[3]) !== ordered : lines[at].trim() && !/^ {2,}|^\t/.test(lines[at]) && !lines[at - 1].trim()) break;
    if (!found && startsBlock(lines[at])) break;
  }
  while (!lines[at - 1].trim()) at -= 1;
  return at;
}

function list(lines, depth) {
  const first = marker(lines[0]);
  const items = [];
  for (const line of lines) {
    const found = marker(line);
    if (found && found[1].length <= first[1].length + 1) items.push([line.slice(found[0].length)]);
    else items.at(-1).push(line.replace(/^(\t| {1,4})/, ""));
  }
  const rows = items.map((item) => {
    const nodes = blocks(item, depth + 1);
    // A single paragraph needs no margin of its own.
    return el("li", {}, ...(nodes.length && nodes[0].tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes));
  });
  return first[3] ? el("ol", { start: Number(first[3]) }, ...rows) : el("ul", {}, ...rows);
}

function withBreaks(lines) {
  const nodes = [];
  let text = "";
  lines.forEach((line, index) => {
    text += line.replace(/( {2,}|\\)$/, "");
    if (index === lines.length - 1) return;
    if (/( {2,}|\\)$/.test(line)) {
      nodes.push(...inline(text), el("br"));
      text = "";
    } else text += "\n";
  });
  return [...nodes, ...inline(text)];
}

/** Return the nodes of a text without blocks: code, bold, emphasis, links. */
export function inline(text, depth = 0) {
  const nodes = [];
  let rest = text;
  while (rest) {
    const found = depth < 8 ? rest.match(INLINE) : null;
    if (!found) break;
    const { codeText, label, target, strongText, gone, emText, bare } = found.groups;
    nodes.push(rest.slice(0, found.index));
    if (codeText !== undefined) nodes.push(el("code", { textContent: codeText }));
    else if (label !== undefined) nodes.push(LINK.test(target) ? link(target, inline(label, depth + 1)) : found[0]);
    else if (strongText !== undefined) nodes.push(el("strong", {}, ...inline(strongText, depth + 1)));
    else if (gone !== undefined) nodes.push(el("s", {}, ...inline(gone, depth + 1)));
    else if (emText !== undefined) nodes.push(el("em", {}, ...inline(emText, depth + 1)));
    else nodes.push(link(bare, [bare]));
    rest = rest.slice(found.index + found[0].length);
  }
  return [...nodes, rest].filter((node) => node !== "");
}

const link = (target, nodes) => el("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, ...nodes);
