// The page: totals, images, findings, layers, and one file.

const CARDS = 12;

function start() {
  startTheme();
  byId("command").textContent = page.command;
  byId("title").append(shown(page.title));
  document.title = `${plain(page.title)} · strata`;
  const only = page.images.length === 1 ? page.images[0] : null;
  if (only) byId("about").textContent = [only.platform, only.digest].filter(Boolean).join(" · ");
  else page.images.slice(0, 8).forEach((image, at) => byId("about").append(at ? ", " : "", shown(image.name), at === 7 ? ", …" : ""));
  figures();
  images();
  findings();
  if (files && files.name.length) {
    byId("map").hidden = false;
    byId("files").hidden = false;
    startMap();
    startTable();
  }
  layers();
  byId("footer").append(
    el("p", null, "Unpacked bytes; 1 MB is 1,000,000. Wasted: bytes of a layer that a later layer overwrites or deletes, or that are there more than once. Compressed costs are estimates."),
    ...page.notes.map((note) => el("p", null, note)),
    el("p", null, page.generator));
}

// Follows the system until it is switched; what was chosen is kept where the browser lets a page keep something.
function startTheme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  try { root.dataset.theme = localStorage.getItem("strata-theme") ?? ""; } catch { /* Files have no storage in some browsers. */ }
  if (!root.dataset.theme) delete root.dataset.theme;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("strata-theme", root.dataset.theme); } catch { /* As above. */ }
    label();
  });
  system.addEventListener("change", label);
  label();
}

function figures() {
  const total = page.totals;
  const figure = (name, bytes, note, bad) => {
    const [number, unit] = typeof bytes === "string" ? [bytes, ""] : size(bytes).split(" ");
    return el("div", { class: bad ? "bad" : null }, el("dt", null, name), el("dd", null, number, unit ? el("small", null, unit) : null), note ? el("dd", { class: "note" }, note) : null);
  };
  const bad = total.wasted_bytes > total.unpacked_bytes / 100;
  const share = percent(total.wasted_bytes, total.unpacked_bytes);
  const wasted = page.images.length === 1 ? figure("Wasted", total.wasted_bytes, `${share} of the unpacked bytes`, bad)
    : figure("Copies", total.wasted_bytes, `${share}: contents that are there already`, bad);
  const parts = [figure("Unpacked", total.unpacked_bytes, "each layer once"), figure("Compressed", total.compressed_bytes, "as pushed and pulled"), wasted];
  if (page.images.length > 1) parts.push(figure("Shared", total.shared_bytes, "compressed, by several images"), figure("Images", count(page.images.length)));
  if (page.layers.length) parts.push(figure("Layers", count(page.layers.length)));
  if (files && files.name.length) parts.push(figure("Files", count(files.name.length - [...files.kind].filter((kind) => kind === "w").length)));
  byId("figures").append(...parts);
}

function images() {
  const share = page.images.some((image) => image.shared_bytes > 0) || page.images.length > 1;
  const kinds = [["unique", share ? "unique" : "in the image"], ...(share ? [["shared", "shared with others"]] : []), ["wasted", "wasted"]];
  byId("images").hidden = false;
  if (page.images.length === 1) byId("images-title").textContent = "Image";
  byId("images-legend").append(...kinds.map(([kind, label]) => el("li", { class: kind }, label)));
  const sorted = [...page.images].sort((a, b) => b.unpacked_bytes - a.unpacked_bytes);
  const most = sorted[0].unpacked_bytes;
  byId("image-bars").append(...sorted.map((image) => {
    const parts = kinds.map(([kind, label]) => [kind, image[`${kind}_bytes`], label]);
    const words = parts.filter(([, bytes]) => bytes > 0).map(([, bytes, label]) => el("span", null, el("b", null, size(bytes)), ` ${label}`));
    return el("div", { class: "bar" }, el("div", { class: "name", title: plain(image.name) }, shown(image.name)),
      el("div", { class: "track" }, stack(parts, image.unpacked_bytes, most)), el("div", { class: "total" }, size(image.unpacked_bytes)), el("div", { class: "parts" }, ...words));
  }));
}

function findings() {
  if (!page.findings.length) return;
  byId("findings").hidden = false;
  const sorted = [...page.findings].sort((a, b) => b.wasted_bytes - a.wasted_bytes);
  byId("findings-sum").textContent = `${plural(sorted.length, "finding")}, largest first`;
  const list = byId("finding-list");
  const more = byId("more-findings");
  const show = (number) => {
    list.append(...sorted.slice(list.children.length, list.children.length + number).map(card));
    const left = sorted.length - list.children.length;
    more.hidden = left === 0;
    more.textContent = `Show ${count(Math.min(left, 100))} more of ${count(left)}`;
  };
  more.addEventListener("click", () => show(100));
  show(CARDS);
}

function card(finding) {
  const where = [];
  if (place(finding)) where.push(el("b", null, place(finding)), "  ");
  where.push(finding.instruction ?? "");
  const image = page.images.length > 1 && finding.image !== null && finding.image !== undefined ? page.images[finding.image].name : null;
  const paths = (finding.paths ?? []).slice(0, 4);
  const hidden = (finding.paths ?? []).length - paths.length + finding.more_paths;
  return el("li", { class: "card" },
    el("p", { class: "saves" }, el("b", null, size(finding.wasted_bytes)), finding.compressed_estimate_bytes ? `about ${size(finding.compressed_estimate_bytes)} compressed` : null),
    shown(finding.title, el("h3")),
    image ? el("p", { class: "sum" }, shown(image)) : null,
    where.length > 1 || where[0] ? el("p", { class: "where" }, ...where) : null,
    paths.length ? el("p", { class: "paths" }, ...paths.flatMap((path) => [shown(path), el("br")]), hidden > 0 ? `and ${count(hidden)} more` : null) : null,
    finding.change ? withCode(finding.change.replace(/^[a-z]/, (c) => c.toUpperCase()), el("p", { class: "todo" })) : null);
}

// Text between backticks is code.
function withCode(text, into) {
  text.split("`").forEach((part, at) => into.append(at % 2 ? shown(part, el("code")) : shown(part, el("span"))));
  return into;
}

function layers() {
  if (!page.layers.length) return;
  byId("layers").hidden = false;
  byId("layers-legend").append(el("li", { class: "unique" }, "in the image"), el("li", { class: "wasted" }, "overwritten or deleted later"));
  const most = Math.max(...page.layers.map((layer) => layer.unpacked_bytes));
  byId("layer-list").append(...page.layers.map((layer, at) => {
    const waste = wasteOf(layer);
    const counts = [[layer.added, "added"], [layer.changed, "changed"], [layer.removed, "removed"]].filter(([number]) => number);
    const facts = counts.length ? counts.map(([number, word]) => `${count(number)} ${word}`).join(", ") : "no files";
    const step = el("div", { class: "step" }, el("code", { title: layer.instruction }, layer.instruction || "(no history)"),
      el("p", null, place(layer) ? el("b", null, place(layer)) : layer.base ? el("span", null, "of the base") : null, el("span", null, facts), el("span", { title: `${layer.digest}\ndiffID ${layer.diff_id}` }, layer.digest.slice(7, 19)),
        files && files.name.length ? el("button", { type: "button", class: "open", "aria-label": `Files of layer ${at + 1}`, on: { click: () => filterLayer(at) } }, "files") : null));
    return el("li", null, chip(at), step,
      el("div", { class: "track" }, stack([["unique", layer.unpacked_bytes - waste], ["wasted", waste]], layer.unpacked_bytes, most)),
      el("div", { class: "size" }, size(layer.unpacked_bytes), el("small", null, size(layer.compressed_bytes))),
      waste ? el("div", { class: "lost" }, size(waste), el("small", null, "wasted")) : el("div", { class: "lost" }));
  }));
}

function showFile(file) {
  const path = pathOf(file);
  byId("details-title").replaceChildren(shown(path));
  const layer = page.layers[files.layer[file]];
  const facts = [
    ["Size", `${size(files.size[file])} (${count(files.size[file])} bytes)`],
    ["Kind", KINDS.get(files.kind[file])],
    ["State", stateOf(file)],
    ["Mode, owner", `${modeText(file)} ${ownerText(file)}`.trim()],
    ["Layer", `${files.layer[file] + 1}, ${layer.digest}`],
    ["Instruction", layer.instruction],
    ["Line", place(layer)],
  ];
  byId("details-facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)]));
  const same = [];
  for (let other = 0; other < files.name.length; other += 1) {
    if (files.name[other] === files.name[file] && files.folder[other] === files.folder[file]) same.push(other);
  }
  same.sort((a, b) => files.layer[a] - files.layer[b]);
  byId("details-history").replaceChildren(...same.map((other) => el("li", { "aria-current": other === file ? "true" : null }, chip(files.layer[other]),
    el("code", null, page.layers[files.layer[other]].instruction), el("span", { class: `state${isWaste(other) ? " waste" : ""}` }, `${stateOf(other)}, ${size(files.size[other])}`))));
  byId("details").showModal();
}

byId("details").addEventListener("click", (event) => {
  if (event.target === byId("details")) byId("details").close();
});
start();
