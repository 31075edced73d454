// The report as it is in the page, and how its parts are written. Every text of the report goes into the page as text.

const page = JSON.parse(document.getElementById("data").textContent);
const files = page.files;
const folders = page.folders;
const byId = (id) => document.getElementById(id);

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "vars") for (const [key, number] of Object.entries(value)) element.style.setProperty(key, number);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// As strata writes sizes: powers of 1000, three digits.
function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let unit = 0;
  let value = bytes;
  while (unit < units.length - 1 && Number(value.toPrecision(3)) >= 1000) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : Number(value.toPrecision(3))} ${units[unit]}`;
}
const count = (number) => number.toLocaleString("en-US");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
function percent(part, whole) {
  if (!whole || !part) return "0 %";
  const value = (part / whole) * 100;
  return value < 0.1 ? "< 0.1 %" : `${value < 99.95 ? value.toFixed(1) : Math.round(value)} %`;
}

// What cannot be seen, or would move its neighbours: control characters, marks of direction, and bytes that are no text,
// which come as U+DC80 to U+DCFF.
const RAW = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const SHORT = new Map([["\n", "\\n"], ["\t", "\\t"], ["\r", "\\r"]]);
function rawText(c) {
  const code = c.charCodeAt(0);
  if (code >= 0xdc80 && code <= 0xdcff) return `\\x${(code - 0xdc00).toString(16)}`;
  return SHORT.get(c) ?? (code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`);
}
// A name as text for labels.
const plain = (text) => text.replace(RAW, rawText);
// The same for the eye: what was replaced is marked.
function shown(text, into = el("bdi")) {
  let at = 0;
  for (const match of text.matchAll(RAW)) {
    if (match.index > at) into.append(text.slice(at, match.index));
    into.append(el("span", { class: "raw" }, rawText(match[0])));
    at = match.index + 1;
  }
  into.append(text.slice(at));
  return into;
}

// Folders are numbered so that a parent comes before what is in it; 0 is the root.
const folderPaths = folders.name.map(() => "");
for (let at = 1; at < folders.name.length; at += 1) {
  folderPaths[at] = `${folderPaths[folders.parent[at]]}/${folders.name[at]}`;
}
const pathOf = (file) => `${folderPaths[files.folder[file]]}/${files.name[file]}`;

const KEPT = "k";
const STATES = new Map([["k", "in the image"], ["o", "overwritten later"], ["d", "deleted later"]]);
const KINDS = new Map([["f", "file"], ["l", "symbolic link"], ["h", "hard link"], ["c", "character device"], ["b", "block device"], ["p", "named pipe"], ["w", "deletion"], ["d", "folder"]]);
const TYPES = new Map([["l", "l"], ["c", "c"], ["b", "b"], ["p", "p"], ["d", "d"]]);
const isWaste = (file) => files.fate[file] !== KEPT;
function stateOf(file) {
  if (files.kind[file] === "w") return "deletes";
  if (isWaste(file)) return STATES.get(files.fate[file]);
  return files.change[file] === "c" ? "changed" : "added";
}
function modeText(file) {
  if (files.kind[file] === "w") return "";
  const mode = page.attributes[files.attribute[file]][0];
  const bits = [..."rwxrwxrwx"].map((letter, at) => (mode & (0o400 >> at) ? letter : "-"));
  const special = (bit, at, on, off) => { if (mode & bit) bits[at] = bits[at] === "x" ? on : off; };
  special(0o4000, 2, "s", "S");
  special(0o2000, 5, "s", "S");
  special(0o1000, 8, "t", "T");
  return (TYPES.get(files.kind[file]) ?? "-") + bits.join("");
}
const isSetId = (file) => files.kind[file] === "f" && (page.attributes[files.attribute[file]][0] & 0o6000) !== 0;
const ownerText = (file) => (files.kind[file] === "w" ? "" : page.attributes[files.attribute[file]].slice(1).join(":"));

const place = (thing) => (thing.line ? `${thing.file ?? "Dockerfile"}:${thing.line}` : "");
const layerLabel = (layer) => `layer ${layer + 1}${place(page.layers[layer]) ? `, ${place(page.layers[layer])}` : ""}`;
const wasteOf = (layer) => layer.overwritten_bytes + layer.deleted_bytes;

// Hues a golden angle apart, so that neighbours differ; a base's layers are nearly grey.
function colour(layer) {
  const base = page.layers[layer]?.base;
  return { "--hue": String(Math.round((175 + layer * 137.508) % 360)), "--chroma": base ? "0.02" : undefined };
}
function paint(element, layer) {
  for (const [name, value] of Object.entries(colour(layer))) {
    if (value !== undefined) element.style.setProperty(name, value);
  }
  return element;
}
const chip = (layer) => paint(el("span", { class: "chip", title: page.layers[layer]?.instruction ?? "" }, String(layer + 1)), layer);

// A bar of parts: class and bytes.
function stack(parts, whole, full) {
  const bar = el("div", { class: "stack", "aria-hidden": "true" });
  bar.style.width = `${full ? Math.max((whole / full) * 100, whole ? 0.4 : 0) : 0}%`;
  for (const [kind, bytes] of parts) {
    if (bytes <= 0) continue;
    const part = el("i", { class: kind });
    part.style.flex = `${bytes} 1 0`;
    bar.append(part);
  }
  return bar;
}

// Radio buttons that are one choice: arrows move.
function choice(into, options, chosen, changed) {
  const buttons = options.map(([value, label]) =>
    el("button", { type: "button", role: "radio", "data-value": value, on: { click: () => pick(value, true) } }, label));
  function pick(value, tell) {
    for (const button of buttons) {
      const on = button.dataset.value === value;
      button.setAttribute("aria-checked", String(on));
      button.tabIndex = on ? 0 : -1;
    }
    if (tell) changed(value);
  }
  into.append(...buttons);
  into.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    pick(next.dataset.value, true);
  });
  pick(chosen, false);
  return (value) => pick(value, true);
}
