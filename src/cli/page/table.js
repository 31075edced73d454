// The table of files. Only the rows in sight are in the page, however many there are.

const ROW_HEIGHT = 28;
// Browsers lose count beyond some ten million pixels: longer tables scroll in larger steps.
const MAX_HEIGHT = 8_000_000;
const PRINTED_ROWS = 60;
const table = { order: new Uint32Array(0), key: "size", down: true, active: -1, words: [], layer: "", state: "", lower: null, ranks: null, rows: new Map() };

const COLUMNS = [
  ["path", "Path", "", false],
  ["size", "Size", "num", true],
  ["layer", "Layer", "", false],
  ["state", "State", "", false],
  ["mode", "Mode", "", true],
  ["owner", "Owner", "", false],
];
const STATE_FILTERS = [
  ["", "All states", () => true],
  ["kept", "In the image", (file) => !isWaste(file) && files.kind[file] !== "w"],
  ["wasted", "Wasted", isWaste],
  ["changed", "Changed", (file) => files.change[file] === "c"],
  ["deletes", "Deletions", (file) => files.kind[file] === "w"],
  ["setid", "Set-user-ID, set-group-ID", isSetId],
];

// The place of each path in their order.
function pathRanks() {
  if (table.ranks) return table.ranks;
  const paths = Array.from(files.name, (_, file) => pathOf(file));
  const order = paths.map((_, file) => file).sort((a, b) => (paths[a] < paths[b] ? -1 : paths[a] > paths[b] ? 1 : files.layer[a] - files.layer[b]));
  table.ranks = new Uint32Array(order.length);
  order.forEach((file, rank) => { table.ranks[file] = rank; });
  return table.ranks;
}
function keyOf() {
  const ranks = pathRanks();
  const attribute = (at) => (file) => (files.kind[file] === "w" ? -1 : page.attributes[files.attribute[file]][at]);
  const states = ["added", "changed", "deletes", "overwritten later", "deleted later"];
  return { path: (file) => ranks[file], size: (file) => files.size[file], layer: (file) => files.layer[file],
    state: (file) => states.indexOf(stateOf(file)), mode: attribute(0), owner: attribute(1) }[table.key];
}

function select() {
  table.lower ??= Array.from(files.name, (_, file) => plain(pathOf(file)).toLowerCase());
  const state = STATE_FILTERS.find(([value]) => value === table.state)[2];
  const layer = table.layer === "" ? -1 : Number(table.layer);
  const chosen = [];
  let bytes = 0;
  for (let file = 0; file < files.name.length; file += 1) {
    if (layer >= 0 && files.layer[file] !== layer) continue;
    if (!state(file) || !table.words.every((word) => table.lower[file].includes(word))) continue;
    chosen.push(file);
    bytes += files.size[file];
  }
  const ranks = pathRanks();
  const key = keyOf();
  const sign = table.down ? -1 : 1;
  const keys = new Float64Array(files.name.length);
  for (const file of chosen) keys[file] = key(file) * sign;
  table.order = Uint32Array.from(chosen).sort((a, b) => keys[a] - keys[b] || ranks[a] - ranks[b]);
  table.active = -1;
  const all = files.name.length;
  byId("count").textContent = `${chosen.length === all ? plural(all, "entry").replace("entrys", "entries") : `${count(chosen.length)} of ${count(all)} entries`}, ${size(bytes)}`;
  byId("grid").setAttribute("aria-rowcount", String(table.order.length + 1));
  byId("space").style.height = `${Math.min(table.order.length * ROW_HEIGHT, MAX_HEIGHT)}px`;
  byId("viewport").scrollTop = 0;
  for (const row of table.rows.values()) row.remove();
  table.rows.clear();
  drawRows();
}

function rowOf(at) {
  const file = table.order[at];
  const folder = folderPaths[files.folder[file]];
  const path = el("span", { class: "path", role: "gridcell", title: plain(pathOf(file)) }, shown(`${folder}/`, el("bdi", { class: "dir" })), shown(files.name[file]));
  const layer = el("span", { role: "gridcell" }, chip(files.layer[file]));
  return el("div", { class: "row", role: "row", id: `row-${at}`, "aria-rowindex": String(at + 2), "data-at": String(at) },
    path,
    el("span", { class: "num", role: "gridcell" }, files.kind[file] === "w" ? "–" : size(files.size[file])),
    layer,
    el("span", { class: `state${isWaste(file) ? " waste" : ""}`, role: "gridcell" }, stateOf(file)),
    el("span", { class: `mode${isSetId(file) ? " hot" : ""}`, role: "gridcell" }, modeText(file)),
    el("span", { class: "owner", role: "gridcell" }, ownerText(file)));
}

function drawRows() {
  const viewport = byId("viewport");
  const space = byId("space");
  const real = table.order.length * ROW_HEIGHT;
  const drawn = Math.min(real, MAX_HEIGHT);
  const room = viewport.clientHeight;
  // Where the first visible row is among all, and where it is drawn.
  const share = drawn > room ? viewport.scrollTop / (drawn - room) : 0;
  const top = share * Math.max(real - room, 0);
  const shift = viewport.scrollTop - top;
  const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - 6);
  const last = Math.min(table.order.length, Math.ceil((top + room) / ROW_HEIGHT) + 6);
  for (const [at, row] of table.rows) {
    if (at < first || at >= last) { row.remove(); table.rows.delete(at); }
  }
  for (let at = first; at < last; at += 1) {
    let row = table.rows.get(at);
    if (!row) { row = rowOf(at); table.rows.set(at, row); space.append(row); }
    row.style.top = `${at * ROW_HEIGHT + shift}px`;
    row.classList.toggle("active", at === table.active);
  }
}

function activate(at) {
  if (!table.order.length) return;
  table.active = Math.max(0, Math.min(table.order.length - 1, at));
  const viewport = byId("viewport");
  const room = viewport.clientHeight;
  const real = table.order.length * ROW_HEIGHT;
  const drawn = Math.min(real, MAX_HEIGHT);
  const scale = real > room ? (drawn - room) / (real - room) : 0;
  const top = scale ? viewport.scrollTop / scale : 0;
  const at0 = table.active * ROW_HEIGHT;
  if (at0 < top) viewport.scrollTop = at0 * scale;
  else if (at0 + ROW_HEIGHT > top + room) viewport.scrollTop = (at0 + ROW_HEIGHT - room) * scale;
  drawRows();
  viewport.setAttribute("aria-activedescendant", `row-${table.active}`);
}

function sortBy(key, firstDown) {
  table.down = table.key === key ? !table.down : firstDown;
  table.key = key;
  for (const [name] of COLUMNS) {
    byId(`column-${name}`).setAttribute("aria-sort", name !== key ? "none" : table.down ? "descending" : "ascending");
  }
  select();
}

function filterLayer(layer) {
  byId("by-layer").value = table.layer = String(layer);
  select();
  byId("files").scrollIntoView();
  byId("files").focus({ preventScroll: true });
}

function startTable() {
  byId("columns").append(...COLUMNS.map(([key, label, style, down]) =>
    el("span", { role: "columnheader", id: `column-${key}`, class: `c-${key} ${style}`, "aria-sort": key === "size" ? "descending" : "none" },
      el("button", { type: "button", on: { click: () => sortBy(key, down) } }, label))));
  byId("by-layer").append(el("option", { value: "" }, "All layers"),
    ...page.layers.map((layer, at) => el("option", { value: String(at) }, `${at + 1}  ${layer.instruction.slice(0, 60)}`)));
  byId("by-state").append(...STATE_FILTERS.map(([value, label]) => el("option", { value }, label)));
  byId("by-layer").addEventListener("change", (event) => { table.layer = event.target.value; select(); });
  byId("by-state").addEventListener("change", (event) => { table.state = event.target.value; select(); });
  let waiting = 0;
  byId("search").addEventListener("input", (event) => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      table.words = event.target.value.toLowerCase().split(" ").filter(Boolean);
      select();
    });
  });
  const viewport = byId("viewport");
  let drawing = 0;
  viewport.addEventListener("scroll", () => { drawing ||= requestAnimationFrame(() => { drawing = 0; drawRows(); }); }, { passive: true });
  viewport.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) { activate(Number(row.dataset.at)); showFile(table.order[table.active]); }
  });
  viewport.addEventListener("keydown", (event) => {
    const many = Math.floor(viewport.clientHeight / ROW_HEIGHT) - 1;
    const to = { ArrowDown: table.active + 1, ArrowUp: table.active - 1, PageDown: table.active + many, PageUp: table.active - many, Home: 0, End: table.order.length - 1 }[event.key];
    if (to !== undefined) { event.preventDefault(); activate(to); }
    else if (event.key === "Enter" && table.active >= 0) showFile(table.order[table.active]);
  });
  new ResizeObserver(drawRows).observe(viewport);
  window.addEventListener("beforeprint", printRows);
  select();
}

// Paper has no scroll bar: the first rows, in the order on the screen.
function printRows() {
  const printed = byId("printed");
  const rows = Array.from(table.order.slice(0, PRINTED_ROWS));
  printed.caption.textContent = rows.length < table.order.length ? `The first ${rows.length} of ${count(table.order.length)}` : "";
  printed.tHead.replaceChildren(el("tr", null, ...COLUMNS.map(([, label]) => el("th", null, label))));
  printed.tBodies[0].replaceChildren(...rows.map((file) => el("tr", null, el("td", null, shown(pathOf(file))),
    ...[size(files.size[file]), String(files.layer[file] + 1), stateOf(file), modeText(file), ownerText(file)].map((text) => el("td", null, text)))));
}
