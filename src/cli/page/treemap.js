// The map of sizes. A node is a folder, of all layers or of one, or a file; folders show what is in them, large ones deeper.

const MAX_TILES = 600;
const MAX_DEPTH = 6;
// Pixels of the smallest tile, and of one that is worth a level more.
const MIN_AREA = 60;
const LARGE = 30_000;
const map = { group: "folder", show: "kept", trail: [], sums: new Map(), files: null };

// The files of each folder: `order` from `start[folder]` to `start[folder + 1]`.
function filesByFolder() {
  if (map.files) return map.files;
  const start = new Uint32Array(folders.name.length + 1);
  for (const folder of files.folder) start[folder + 1] += 1;
  for (let at = 0; at < folders.name.length; at += 1) start[at + 1] += start[at];
  const next = start.slice();
  const order = new Uint32Array(files.name.length);
  for (let file = 0; file < files.name.length; file += 1) order[next[files.folder[file]]++] = file;
  const inside = folders.name.map(() => []);
  for (let at = 1; at < folders.name.length; at += 1) inside[folders.parent[at]].push(at);
  map.files = { start, order, inside };
  return map.files;
}

const counts = (file) => (map.show === "all" ? true : (map.show === "wasted") === isWaste(file));

// Bytes, those of them that are wasted, and the layer with most of them, for each folder; of one layer, or of all (-1).
function sumsOf(layer) {
  const known = map.sums.get(layer);
  if (known) return known;
  const bytes = new Float64Array(folders.name.length);
  const waste = new Float64Array(folders.name.length);
  const main = new Int32Array(folders.name.length).fill(-1);
  if (layer >= 0) {
    for (let file = 0; file < files.name.length; file += 1) {
      if (files.layer[file] !== layer || !counts(file)) continue;
      bytes[files.folder[file]] += files.size[file];
      if (isWaste(file)) waste[files.folder[file]] += files.size[file];
    }
    for (let at = folders.name.length - 1; at > 0; at -= 1) {
      bytes[folders.parent[at]] += bytes[at];
      waste[folders.parent[at]] += waste[at];
    }
    main.fill(layer);
  } else {
    const most = new Float64Array(folders.name.length);
    for (let each = 0; each < page.layers.length; each += 1) {
      const { bytes: one, waste: lost } = sumsOf(each);
      for (let at = 0; at < one.length; at += 1) {
        bytes[at] += one[at];
        waste[at] += lost[at];
        if (one[at] > most[at]) [most[at], main[at]] = [one[at], each];
      }
    }
  }
  const sums = { bytes, waste, main };
  map.sums.set(layer, sums);
  return sums;
}

const ROOT = { kind: "root" };
const isFolder = (node) => node.kind === "folder" || node.kind === "layer";
const bytesOf = (node) => node.bytes ?? sumsOf(node.layer ?? -1).bytes[node.folder ?? 0];

function childrenOf(node) {
  if (node.children) return node.children;
  let children;
  if (node.kind === "file") {
    children = [];
  } else if (node.kind === "root" && map.group === "layer") {
    children = page.layers.map((_, layer) => ({ kind: "layer", layer, folder: 0, main: layer, bytes: sumsOf(layer).bytes[0] }));
  } else {
    const { start, order, inside } = filesByFolder();
    const layer = node.layer ?? -1;
    const folder = node.folder ?? 0;
    const sums = sumsOf(layer);
    children = inside[folder].filter((at) => sums.bytes[at] > 0).map((at) => {
      const names = [folders.name[at]];
      const within = (outer) => inside[outer].filter((inner) => sums.bytes[inner] > 0);
      // Folders that hold one folder and nothing else are one tile.
      for (let only = within(at); only.length === 1 && sums.bytes[only[0]] === sums.bytes[at]; only = within(at)) {
        at = only[0];
        names.push(folders.name[at]);
      }
      return { kind: "folder", layer, folder: at, name: names.join("/"), main: sums.main[at], bytes: sums.bytes[at], wasted: sums.waste[at] === sums.bytes[at] };
    });
    for (let at = start[folder]; at < start[folder + 1]; at += 1) {
      const file = order[at];
      if (counts(file) && (layer < 0 || files.layer[file] === layer)) {
        children.push({ kind: "file", file, layer, main: files.layer[file], bytes: files.size[file] });
      }
    }
  }
  node.children = children.filter((child) => child.bytes > 0).sort((a, b) => b.bytes - a.bytes);
  return node.children;
}

function nameOf(node) {
  if (node.kind === "root") return "/";
  if (node.kind === "layer") return `${node.layer + 1} ${page.layers[node.layer].instruction}`;
  return node.kind === "file" ? files.name[node.file] : node.name;
}
function placeOf(node) {
  if (node.kind === "root") return "/";
  if (node.kind === "layer") return `${layerLabel(node.layer)}: ${page.layers[node.layer].instruction}`;
  return node.kind === "file" ? pathOf(node.file) : `${folderPaths[node.folder]}/`;
}

// Squarified: each row takes more as long as its worst tile becomes squarer.
function squarify(nodes, x, y, width, height, total, visit) {
  let at = 0;
  let left = total;
  while (at < nodes.length && width > 0.5 && height > 0.5) {
    const side = Math.min(width, height);
    const scale = (width * height) / left;
    let sum = 0;
    let worst = Infinity;
    let end = at;
    while (end < nodes.length) {
      const next = sum + nodes[end].bytes * scale;
      const ratio = Math.max((side * side * nodes[at].bytes * scale) / (next * next), (next * next) / (side * side * nodes[end].bytes * scale));
      if (ratio > worst) break;
      [sum, worst, end] = [next, ratio, end + 1];
    }
    const depth = sum / side;
    let offset = 0;
    for (let each = at; each < end; each += 1) {
      const length = (nodes[each].bytes * scale) / depth;
      if (width >= height) visit(nodes[each], x, y + offset, depth, length);
      else visit(nodes[each], x + offset, y, length, depth);
      offset += length;
      left -= nodes[each].bytes;
    }
    if (width >= height) [x, width] = [x + depth, width - depth];
    else [y, height] = [y + depth, height - depth];
    at = end;
  }
}

// What is too small for a tile of its own, or too much, becomes one.
function gather(nodes, area, total, room) {
  const least = (total / area) * MIN_AREA;
  const big = nodes.slice(0, Math.max(room, 1)).filter((node) => node.bytes >= least);
  if (nodes.length - big.length < 2) return nodes;
  const small = nodes.slice(big.length);
  const bytes = small.reduce((sum, node) => sum + node.bytes, 0);
  return bytes > least / 3 || !big.length ? [...big, { kind: "rest", bytes, number: small.length, main: small[0].main }] : big;
}

let tiles = [];
function drawMap() {
  const box = byId("treemap");
  const focused = box.contains(document.activeElement);
  const top = map.trail.at(-1) ?? ROOT;
  const width = box.clientWidth;
  const height = box.clientHeight;
  const whole = bytesOf(top);
  tiles = [];
  if (!whole) {
    box.replaceChildren(el("p", { class: "none" }, map.show === "wasted" ? "Nothing is wasted here." : "No bytes here."));
  } else {
    // Level by level, so that what is left out where there is too much is what is smallest and deepest.
    const drawn = [];
    let level = [[top, 0, 0, width, height]];
    for (let depth = 1; level.length && drawn.length < MAX_TILES; depth += 1) {
      const next = [];
      for (const [outer, x, y, w, h] of level.sort((a, b) => b[3] * b[4] - a[3] * a[4])) {
        const nodes = gather(childrenOf(outer), w * h, bytesOf(outer), MAX_TILES - drawn.length);
        const sum = nodes.reduce((total, each) => total + each.bytes, 0);
        if (drawn.length >= MAX_TILES) break;
        squarify(nodes, x, y, w, h, sum, (node, tx, ty, tw, th) => {
          if (tw < 2 || th < 2) return;
          const tile = tileOf(node, whole, tw, th, depth);
          Object.assign(tile.style, { left: `${tx}px`, top: `${ty}px`, width: `${tw}px`, height: `${th}px` });
          drawn.push(tile);
          tiles.push({ tile, node, depth, x: tx + tw / 2, y: ty + Math.min(th / 2, 9) });
          const deeper = depth < 3 || (depth < MAX_DEPTH && tw * th > LARGE);
          if (isFolder(node) && deeper && tw > 46 && th > 44) next.push([node, tx + 2, ty + 20, tw - 4, th - 22]);
        });
      }
      level = next;
    }
    box.replaceChildren(...drawn);
    if (tiles.length) tiles[0].tile.tabIndex = 0;
    if (focused) tiles[0]?.tile.focus({ preventScroll: true });
  }
  const crumb = (node, depth, last) => el("li", null, el("button", {
    type: "button", "aria-current": last ? "true" : null, title: plain(placeOf(node)), on: { click: () => last || goTo(map.trail.slice(0, depth)) },
  }, node.kind === "root" ? "Everything" : shown(nameOf(node))));
  const trail = [ROOT, ...map.trail];
  byId("crumbs").replaceChildren(...trail.map((node, depth) => crumb(node, depth, depth === trail.length - 1)));
  legend(top);
  caption(null);
}

// The layers that the most bytes of this place come from.
function legend(top) {
  const folder = top.folder ?? 0;
  const shares = page.layers.map((_, layer) => [layer, (top.layer ?? -1) >= 0 && top.layer !== layer ? 0 : sumsOf(layer).bytes[folder]]);
  const most = shares.filter(([, bytes]) => bytes > 0).sort((a, b) => b[1] - a[1]).slice(0, 8);
  byId("map-legend").replaceChildren(...most.map(([layer, bytes]) =>
    el("li", null, chip(layer), el("span", null, shown(page.layers[layer].instruction)), size(bytes))));
}

function tileOf(node, whole, w, h, depth) {
  const outer = isFolder(node);
  const waste = node.kind === "file" ? isWaste(node.file) : node.wasted || map.show === "wasted";
  const tile = el("button", { type: "button", tabindex: "-1", class: `${outer ? "folder" : node.kind}${waste ? " waste" : ""}` });
  paint(tile, node.main);
  if (w > 40 && h > 17) {
    const two = !outer && h > 38;
    if (two) tile.classList.add("two");
    const name = node.kind === "rest" ? `${count(node.number)} more` : node.kind === "layer" ? page.layers[node.layer].instruction : nameOf(node);
    const label = el("span", null, depth === 1 && outer ? el("b", null, shown(name)) : shown(name));
    if (node.kind === "layer") label.prepend(`${node.layer + 1}  `);
    if (two || w > 100) label.append(el("small", null, size(node.bytes)));
    tile.append(label);
  }
  const what = node.kind === "rest" ? `${plural(node.number, "smaller thing")}` : plain(placeOf(node));
  tile.setAttribute("aria-label", `${what}, ${size(node.bytes)}, ${percent(node.bytes, whole)}${outer ? ", open" : ""}`);
  return tile;
}

function caption(node) {
  const line = byId("caption");
  const top = map.trail.at(-1) ?? ROOT;
  const whole = bytesOf(top);
  if (!node) {
    line.replaceChildren(el("b", null, size(whole)), ` in ${plural(childrenOf(top).length, "thing")}. Colours are layers. Select a folder to look inside.`);
    return;
  }
  const name = node.kind === "rest" ? `${count(node.number)} more` : placeOf(node);
  const parts = [shown(name, el("b")), ` · ${size(node.bytes)} · ${percent(node.bytes, whole)}`];
  if (node.main >= 0 && node.kind !== "layer" && node.kind !== "rest") {
    parts.push(` · ${node.kind === "folder" ? "mostly " : ""}${layerLabel(node.main)}: `, page.layers[node.main].instruction);
  }
  if (node.kind === "file" && isWaste(node.file)) parts.push(` · ${stateOf(node.file)}`);
  line.replaceChildren(...parts);
}

function goTo(trail) {
  map.trail = trail;
  drawMap();
}
function open(node) {
  if (node.kind === "file") return showFile(node.file);
  if (node.kind === "rest") return undefined;
  return goTo(trailTo(node));
}
// From the top to a node that may be some levels down.
function trailTo(node) {
  const steps = [];
  const top = map.trail.at(-1) ?? ROOT;
  const under = (from) => childrenOf(from).find((child) => child === node || (child.kind !== "file" && contains(child, node)));
  for (let at = top; at !== node; ) {
    at = under(at);
    steps.push(at);
  }
  return [...map.trail, ...steps];
}
function contains(outer, inner) {
  if ((outer.layer ?? -1) !== (inner.layer ?? -1)) return false;
  for (let at = inner.folder; at > 0; at = folders.parent[at]) if (folders.parent[at] === outer.folder) return true;
  return false;
}
function showMap(group, show) {
  if (map.show !== show) map.sums.clear();
  Object.assign(map, { group, show, trail: [] });
  delete ROOT.children;
  drawMap();
}

function startMap() {
  const box = byId("treemap");
  const found = (event) => {
    const tile = event.target.closest("button");
    return tiles.find((each) => each.tile === tile);
  };
  const into = (handler) => (event) => { const hit = found(event); if (hit) handler(hit, event); };
  box.addEventListener("click", into((hit) => open(hit.node)));
  box.addEventListener("mouseover", into((hit) => caption(hit.node)));
  box.addEventListener("focusin", into((hit) => { for (const each of tiles) each.tile.tabIndex = each === hit ? 0 : -1; caption(hit.node); }));
  box.addEventListener("mouseleave", () => caption(null));
  box.addEventListener("keydown", into((hit, event) => {
    if (event.key === "Backspace" || event.key === "Escape") {
      if (map.trail.length) { event.preventDefault(); goTo(map.trail.slice(0, -1)); }
      return;
    }
    const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!direction) return;
    event.preventDefault();
    // The nearest tile of the same level; where there is none, the nearest of any.
    const nearest = (among) => {
      let best = null;
      let least = Infinity;
      for (const other of among) {
        const dx = other.x - hit.x;
        const dy = other.y - hit.y;
        const along = dx * direction[0] + dy * direction[1];
        const across = Math.abs(dx * direction[1]) + Math.abs(dy * direction[0]);
        if (other !== hit && along > 1 && along + across * 2 < least) [best, least] = [other, along + across * 2];
      }
      return best;
    };
    (nearest(tiles.filter((other) => other.depth === hit.depth)) ?? nearest(tiles))?.tile.focus();
  }));
  choice(byId("group"), [["folder", "By folder"], ["layer", "By layer"]], map.group, (value) => showMap(value, map.show));
  choice(byId("show"), [["kept", "In the image"], ["wasted", "Wasted"], ["all", "Both"]], map.show, (value) => showMap(map.group, value));
  let last = 0;
  new ResizeObserver(() => {
    if (box.clientWidth !== last) { last = box.clientWidth; drawMap(); }
  }).observe(box);
  drawMap();
}
