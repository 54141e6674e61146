
"use strict";
(() => {
// Names are data: they become text nodes and attributes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const el = (tag, attrs, ...children) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs || {})) if (v !== undefined && v !== false) e.setAttribute(k, v === true ? "" : v);
  e.append(...children.filter(c => c !== undefined && c !== ""));
  return e;
};
const nodes = data.nodes, units = data.units;
const folded = data.level === "namespaces";
nodes.forEach((n, i) => { n.i = i; n.low = (n.n + (n.g ? "" : " outside")).toLowerCase(); });
const nodesOf = units.map(() => []);
nodes.forEach(n => nodesOf[n.u].push(n));
const cells = data.cells.map(list => {
  const m = new Map();
  for (let i = 0; list && i < list.length; i += 2) m.set(list[i], list[i + 1]);
  return m;
});
const others = data.gates.map(g => {
  const m = new Map();
  for (let i = 0; i < g.x.length; i += 2) m.set(g.x[i], g.x[i + 1]);
  return m;
});

// cell says what stands in row r and column c.
function cell(r, c) {
  if (!r.g && !c.g) return { kind: "na", text: "both are outside the cluster: nobody judges here" };
  if (r.a & 4 && c.a & 4) return { kind: "na", text: "left out" };
  if (!(units[r.u].f & units[c.u].f)) return { kind: "na", text: "they have no addresses of one family" };
  if (r === c && !(units[r.u].m && r.p !== 1)) return { kind: "self", text: "a pod always reaches itself" };
  const p = cells[r.u].get(c.u);
  return p === undefined ? { kind: "deny", text: "nothing" } : { kind: "open", ports: p, text: data.ports[p] };
}

// Colours go to the most frequent connections, the first to "All".
const colours = 7, colour = new Map();
(() => {
  const count = data.ports.map(() => 0);
  cells.forEach((m, from) => m.forEach((p, to) => { count[p] += nodesOf[from].length * nodesOf[to].length; }));
  const order = data.ports.map((_, i) => i).sort((a, b) => count[b] - count[a] || (data.ports[a] < data.ports[b] ? -1 : 1));
  const all = data.ports.indexOf("All");
  let next = 1;
  if (all >= 0) colour.set(all, "c0");
  for (const p of order) if (p !== all) colour.set(p, next < colours ? "c" + next++ : "co");
})();

function short(text) {
  if (text === "All") return "all";
  const one = /^(TCP|UDP|SCTP) (\d+)$/.exec(text);
  if (one) return one[2] + (one[1] === "TCP" ? "" : one[1][0].toLowerCase());
  const list = /^TCP (\d+),(\d+)$/.exec(text);
  return list && list[0].length < 12 ? list[1] + "," + list[2] : "…";
}

// --- what is shown
const most = 220, openBelow = 6400;
let rows = [], columns = [], items = { rows: [], columns: [] };
const closed = new Set(), opened = new Set();
let filter = { q: [], from: [], to: [] };
const words = id => $(id).value.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (n, list) => list.every(w => n.low.includes(w));
const touched = (r, c) => !filter.q.length || matches(r, filter.q) || matches(c, filter.q);

function choose() {
  filter = { q: words("q"), from: words("from"), to: words("to") };
  rows = nodes.filter(n => n.a & 1 && matches(n, filter.from));
  columns = nodes.filter(n => n.a & 2 && matches(n, filter.to));
  if (!filter.q.length) return;
  const hitRow = rows.filter(n => matches(n, filter.q)), hitColumn = columns.filter(n => matches(n, filter.q));
  const allRows = rows, allColumns = columns, isOpen = (r, c) => cell(r, c).kind === "open";
  const all = new Set(nodes.filter(n => matches(n, filter.q)));
  rows = allRows.filter(r => all.has(r) || hitColumn.some(c => isOpen(r, c)));
  columns = allColumns.filter(c => all.has(c) || hitRow.some(r => isOpen(r, c)));
}

// itemsOf are the lines of an axis: nodes, and namespaces that are closed.
function itemsOf(list, large) {
  const out = [];
  let last;
  for (const n of list) {
    const shut = !folded && n.g && (large ? !opened.has(n.g) : closed.has(n.g));
    if (shut && last && last.ns === n.g) { last.nodes.push(n); continue; }
    last = shut ? { ns: n.g, nodes: [n] } : { node: n, nodes: [n] };
    out.push(last);
  }
  return out;
}

const counts = new Map();
function count(r, c) {
  const key = r.nodes.length + " " + c.nodes.length + " " + r.nodes[0].i + " " + c.nodes[0].i + " " + filter.q;
  let n = counts.get(key);
  if (n) return n;
  n = { open: 0, all: 0 };
  for (const a of r.nodes) for (const b of c.nodes) {
    if (!touched(a, b)) continue;
    const k = cell(a, b).kind;
    if (k === "open") n.open++;
    if (k === "open" || k === "deny") n.all++;
  }
  counts.set(key, n);
  return n;
}

const label = (n, whole) => {
  const s = el("span", { title: n.n });
  if (!folded && n.g && n.n.startsWith(n.g + "/")) s.append(whole ? el("span", { class: "n" }, n.g + "/") : "", n.n.slice(n.g.length + 1)); else s.append(n.n);
  if (n.p > 1) s.append(el("span", { class: "n" }, " ×" + n.p));
  return s;
};

function toggle(ns) {
  const large = rows.length * columns.length > openBelow, set = large ? opened : closed;
  set.has(ns) ? set.delete(ns) : set.add(ns);
  draw();
}

const nsButton = (ns, shut, n) => {
  const b = el("button", { type: "button", "aria-expanded": String(!shut), title: ns }, (shut ? "▸ " : "▾ ") + ns + (shut ? " (" + n + ")" : ""));
  b.addEventListener("click", () => toggle(ns));
  return b;
};

// narrow says whether column i's namespace has no room for its name above.
function narrow(i) {
  const g = items.columns[i].node.g;
  return items.columns.filter(c => c.node && c.node.g === g).length < 3;
}

function head() {
  const groups = el("tr"), names = el("tr");
  groups.append(el("th", { class: "corner", rowspan: 2 }, "from ↓  to →"));
  let run, ns;
  items.columns.forEach((c, i) => {
    const g = c.ns || c.node.g;
    c.edge = i > 0 && g !== ns;
    if (!run || g !== ns) {
      run = el("th", { class: "ns", scope: "colgroup", colspan: 0 });
      if (!folded) run.append(g ? nsButton(g, !!c.ns, c.nodes.length) : el("button", { disabled: true }, "outside"));
      groups.append(run);
      ns = g;
    }
    run.setAttribute("colspan", +run.getAttribute("colspan") + 1);
    names.append(el("th", { scope: "col", class: c.edge ? "edge" : undefined }, el("div", { class: "up" }, c.ns ? el("span", { title: c.ns }, c.ns) : label(c.node, narrow(i)))));
  });
  for (const th of groups.querySelectorAll(".ns")) {
    const b = th.querySelector("button");
    if (b && +th.getAttribute("colspan") < 3) b.textContent = b.disabled ? "" : b.textContent[0];
  }
  return el("thead", {}, groups, names);
}

function draw() {
  choose();
  const large = rows.length * columns.length > openBelow;
  items = { rows: itemsOf(rows, large), columns: itemsOf(columns, large) };
  const left = Math.max(0, items.rows.length - most) + Math.max(0, items.columns.length - most);
  items.rows.length = Math.min(items.rows.length, most);
  items.columns.length = Math.min(items.columns.length, most);
  $("shown").textContent = (rows.length + columns.length ? rows.length + " of " + nodes.filter(n => n.a & 1).length + " sources, " + columns.length + " of " + nodes.filter(n => n.a & 2).length + " destinations" : "nothing matches") +
    (left ? "; the first " + most + " of each are drawn: search to see others" : "");
  const wide = items.columns.length <= 45, body = el("tbody");
  let ns;
  items.rows.forEach((r, i) => {
    const g = r.ns || r.node.g;
    if (!folded && g !== ns && !r.ns) {
      body.append(el("tr", { class: "ns" }, el("th", { scope: "rowgroup" }, g ? nsButton(g, false) : el("button", { disabled: true }, "outside"))));
    }
    ns = g;
    const tr = el("tr", {}, el("th", { scope: "row" }, r.ns ? nsButton(r.ns, true, r.nodes.length) : label(r.node)));
    items.columns.forEach((c, j) => tr.append(square(r, c, i, j, wide)));
    body.append(tr);
  });
  $("grid").replaceChildren(head(), body);
  const first = $("grid").querySelector("td");
  if (first) first.tabIndex = 0;
  mark();
  drawGraph();
}

function square(r, c, i, j, wide) {
  const td = el("td", { "data-r": i, "data-c": j, tabindex: -1, role: "gridcell" });
  const name = x => x.ns || x.node.n, classes = wide ? ["wide"] : [];
  if (c.edge) classes.push("edge");
  const ns = x => x.ns || x.node.g;
  if (ns(r) && ns(r) === ns(c) && !folded) classes.push("own");
  let text;
  if (r.ns || c.ns) {
    const n = count(r, c);
    const part = n.open / n.all;
    classes.push(part === 1 ? "every" : n.open ? "some s" + (part < .05 ? 1 : part < .25 ? 2 : part < .6 ? 3 : 4) : "deny");
    text = n.open + " of " + n.all + " pairs connect";
    td.append(n.open ? String(n.open) : "");
  } else {
    const k = cell(r.node, c.node);
    text = k.text;
    if (!touched(r.node, c.node)) classes.push("beyond"); else {
      classes.push(k.kind === "open" ? colour.get(k.ports) : k.kind);
      if (k.kind === "open" && wide) td.append(short(k.text));
      if (k.kind === "self" || k.kind === "na") td.append(k.kind === "self" ? "–" : "");
    }
  }
  td.className = classes.join(" ");
  td.title = name(r) + " → " + name(c) + ": " + text;
  td.setAttribute("aria-label", td.title);
  return td;
}

// --- why
let selected;
const gateOf = (n, way) => units[n.u][way];
function doorOf(gate, other) {
  const g = data.gates[gate], id = units[other.u].id, x = others[gate].has(id) ? others[gate].get(id) : g.d;
  return x < 0 ? undefined : data.doors[x];
}

function door(title, gate, other) {
  const out = [el("h3", {}, title)];
  if (gate === -1) return [...out, el("p", { class: "small" }, "It has no door of its own: it is outside, or on its node's network, where policies of pods do not judge.")];
  if (gate === -2) return [...out, el("ul", {}, el("li", { class: "allow" }, el("span", { class: "badge" }, "ALLOW "), el("span", { class: "ports" }, "All"), el("div", { class: "small" }, data.reasons["not-isolated"])))];
  const list = el("ul"), says = doorOf(gate, other);
  for (const s of says || []) {
    const li = el("li", { class: s.a ? "allow" : "deny" }, el("span", { class: "badge" }, s.a ? "ALLOW " : "DENY "), el("span", { class: "ports" }, s.p));
    li.append(el("div", { class: "small" }, s.u >= 0 && s.r === "rule" ? "decided by " + data.texts[s.u] : data.reasons[s.r] + (s.u >= 0 ? ": " + data.texts[s.u] : "")));
    for (const t of s.t || []) li.append(el("div", { class: "small" }, t));
    list.append(li);
  }
  out.push(list);
  if (!says) out.push(el("p", { class: "small" }, "This page does not hold which rule decides; the command below tells it."));
  const policies = data.gates[gate].p;
  const by = el("details", { open: policies.length < 6 }, el("summary", { class: "small" }, "governed by " + policies.length + (policies.length === 1 ? " policy" : " policies")));
  for (const p of policies) by.append(el("div", { class: "small policy" }, data.texts[p]));
  return [...out, by];
}

const quote = s => /^[\w./:()-]+$/.test(s) && !/[()]/.test(s) ? s : "'" + s.replaceAll("'", "'\\''") + "'";
function command(r, c, k) {
  const port = k.kind === "open" && /(\d+)(-\d+)?/.exec(k.text), protocol = port && /^(UDP|SCTP)/.exec(k.text);
  const at = n => quote(n.x || n.n);
  return "sallyport explain -f MANIFESTS " + at(r) + " " + at(c) + (port ? " " + port[1] : "") + (protocol ? " --protocol " + protocol[1] : "");
}

function panel(...children) {
  const close = el("button", { class: "close", type: "button" }, "Close");
  close.addEventListener("click", shut);
  $("why").replaceChildren(close, ...children);
  $("why").hidden = false;
  $("why").scrollTop = 0;
  document.body.classList.add("asking");
}

function shut() {
  $("why").hidden = true;
  document.body.classList.remove("asking");
  selected = undefined;
  mark();
  look();
}

// explain shows why the connection from r to c is as it is.
function explain(r, c) {
  const k = cell(r, c);
  selected = [r, c];
  const verdict = k.kind === "open" ? el("p", { class: "verdict allow" }, el("span", { class: "badge allow" }, "ALLOW "), el("span", { class: "ports" }, k.text)) :
    k.kind === "deny" ? el("p", { class: "verdict deny" }, el("span", { class: "badge deny" }, "DENY "), "everything") : el("p", { class: "verdict" }, k.text);
  const parts = [el("h2", {}, r.n + " → " + c.n), verdict];
  if (folded && (k.kind === "open" || k.kind === "deny")) parts.push(el("p", { class: "small" }, "What any workload of the one may open towards any of the other. For the single workloads, run"), el("code", {}, "sallyport matrix -f MANIFESTS -o html -n " + quote(r.g || c.g)));
  else if (k.kind === "open" || k.kind === "deny") {
    parts.push(...door("Egress of " + r.n, gateOf(r, "e"), c), ...door("Ingress of " + c.n, gateOf(c, "i"), r));
    if (r.g && c.g && gateOf(r, "e") === -1) parts.push(el("p", { class: "small" }, "Where both are on one node, the node always reaches its pod."));
    parts.push(el("h3", {}, k.kind === "open" ? "The same on the command line" : "What nearly matched, and what would open it"), el("code", {}, command(r, c, k)));
  }
  panel(...parts);
  mark();
  look();
}

const link = (r, c, text) => {
  const b = el("button", { class: "link", type: "button" }, text);
  b.addEventListener("click", () => explain(r, c));
  return b;
};

function listOf(pairs, text) {
  const ul = el("ul");
  for (const [r, c, k] of pairs.slice(0, 200)) ul.append(el("li", { class: "allow" }, link(r, c, text(r, c) + ": " + k.text)));
  if (pairs.length > 200) ul.append(el("li", {}, "and " + (pairs.length - 200) + " more"));
  return pairs.length ? ul : el("p", { class: "small" }, "nobody");
}

const open = (from, to) => {
  const out = [];
  for (const r of from) for (const c of to) {
    const k = cell(r, c);
    if (k.kind === "open") out.push([r, c, k]);
  }
  return out;
};

function between(r, c, title) {
  const pairs = open(r, c);
  panel(el("h2", {}, title), el("p", { class: "small" }, pairs.length + " pairs connect"), listOf(pairs, (a, b) => a.n + " → " + b.n));
}

function about(list, title) {
  panel(el("h2", {}, title), el("h3", {}, "reaches"), listOf(open(list, nodes.filter(n => n.a & 2)), (a, b) => (list.length > 1 ? a.n + " → " : "") + b.n),
    el("h3", {}, "is reached by"), listOf(open(nodes.filter(n => n.a & 1), list), (a, b) => a.n + (list.length > 1 ? " → " + b.n : "")));
}

function mark() {
  for (const td of $("grid").querySelectorAll("[aria-selected]")) td.removeAttribute("aria-selected");
  if (!selected) return;
  const i = items.rows.findIndex(x => x.node === selected[0]), j = items.columns.findIndex(x => x.node === selected[1]);
  const td = $("grid").querySelector("td[data-r='" + i + "'][data-c='" + j + "']");
  if (td) td.setAttribute("aria-selected", "true");
}

function press(td) {
  const r = items.rows[td.dataset.r], c = items.columns[td.dataset.c];
  if (r.ns || c.ns) between(r.nodes, c.nodes, (r.ns || r.node.n) + " → " + (c.ns || c.node.n));
  else explain(r.node, c.node);
}

$("grid").addEventListener("click", e => {
  const td = e.target.closest("td");
  if (!td) return;
  focusOn(td);
  press(td);
});
function focusOn(td) {
  for (const x of $("grid").querySelectorAll("td[tabindex='0']")) x.tabIndex = -1;
  td.tabIndex = 0;
  td.focus();
}
$("grid").addEventListener("keydown", e => {
  const td = e.target.closest("td");
  if (!td) return;
  if (e.key === "Enter" || e.key === " ") { e.preventDefault(); press(td); return; }
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
  if (!move) return;
  e.preventDefault();
  const next = $("grid").querySelector("td[data-r='" + (+td.dataset.r + move[0]) + "'][data-c='" + (+td.dataset.c + move[1]) + "']");
  if (next) { focusOn(next); next.scrollIntoView({ block: "nearest", inline: "nearest" }); }
});

// --- the graph
const svg = document.querySelector("svg.graph");
const vertices = new Map(), arcs = svg ? [...svg.querySelectorAll(".arc")] : [];
const wholeGraph = svg && folded || svg && [...svg.querySelectorAll(".node")].every(v => !v.dataset.units);
if (svg) for (const v of svg.querySelectorAll(".node")) {
  const list = wholeGraph ? nodes.filter(n => n.g === v.dataset.ns) : v.dataset.units.split(" ").flatMap(u => nodesOf[+u]);
  vertices.set(v.dataset.v, { v, list });
  const title = () => wholeGraph ? v.dataset.ns || "outside" : list.length === 1 ? list[0].n : list.length > 6 ? (v.dataset.ns || "outside") + " (" + list.length + ")" : list.map(n => n.n).join(", ");
  act(v, () => about(list, title()), () => look(v.dataset.v));
}
for (const a of arcs) act(a, () => {
  const from = vertices.get(a.dataset.from).list, to = vertices.get(a.dataset.to).list;
  if (wholeGraph && !folded) { between(from, to, (from[0].g || "outside") + " → " + (to[0].g || "outside")); return; }
  for (const r of from) for (const c of to) if (cell(r, c).kind === "open") { explain(r, c); return; }
});
function act(e, press, hover) {
  e.addEventListener("click", press);
  e.addEventListener("keydown", k => { if (k.key === "Enter" || k.key === " ") { k.preventDefault(); press(); } });
  if (!hover) return;
  for (const on of ["mouseenter", "focus"]) e.addEventListener(on, hover);
  for (const off of ["mouseleave", "blur"]) e.addEventListener(off, () => look());
}

// look lifts what belongs to a vertex, or to the selected cell, out of the rest.
function look(v) {
  if (!svg) return;
  const near = new Set();
  for (const a of arcs) {
    const from = vertices.get(a.dataset.from).list, to = vertices.get(a.dataset.to).list;
    const on = v !== undefined ? a.dataset.from === v || a.dataset.to === v : !!selected && (from.includes(selected[0]) && to.includes(selected[1]) || a.classList.contains("back") && to.includes(selected[0]) && from.includes(selected[1]));
    a.classList.toggle("on", on);
    if (on) { near.add(a.dataset.from); near.add(a.dataset.to); }
  }
  svg.classList.toggle("looking", v !== undefined || near.size > 0);
  for (const [n, x] of vertices) { x.v.classList.toggle("on", n === v); x.v.classList.toggle("near", near.has(n)); }
}

function drawGraph() {
  if (!svg) return;
  const inRows = new Set(rows), inColumns = new Set(columns), on = filter.q.length + filter.from.length + filter.to.length > 0;
  svg.classList.toggle("filtered", on);
  const used = new Set();
  for (const a of arcs) {
    const from = vertices.get(a.dataset.from).list, to = vertices.get(a.dataset.to).list;
    const any = (x, y) => x.some(r => inRows.has(r) && y.some(c => inColumns.has(c) && touched(r, c) && cell(r, c).kind === "open"));
    const gone = !any(from, to) && !(a.classList.contains("back") && any(to, from));
    a.classList.toggle("gone", on && gone);
    if (!gone) { used.add(a.dataset.from); used.add(a.dataset.to); }
  }
  for (const [n, x] of vertices) {
    const hit = x.list.some(n => (inRows.has(n) || inColumns.has(n)) && (filter.q.length ? matches(n, filter.q) : filter.from.length && inRows.has(n) || filter.to.length && inColumns.has(n)));
    x.v.classList.toggle("gone", on && !used.has(n) && !hit);
  }
}

// --- the page
const n = (x, one, many) => x + " " + (x === 1 ? one : many || one + "s");
$("summary").textContent = n(nodes.filter(x => x.g).length, folded ? "namespace" : "row of workloads or pods", folded ? undefined : "workloads or pods") + ", " + n(data.pods, "pod") + ", " + n(data.policies, "policy", "policies") +
  ". What has no colour is denied.";
for (const t of data.notes) $("notes").append(el("p", { class: "note" }, t));
for (const [p, c] of [...colour].filter(x => x[1] !== "co")) $("legend").append(el("li", {}, el("span", { class: "chip " + c }), data.ports[p]));
if ([...colour.values()].includes("co")) $("legend").append(el("li", {}, el("span", { class: "chip co" }), "others: point at the cell"));
$("legend").append(el("li", {}, el("span", { class: "chip" }), "denied"));
$("filter").addEventListener("submit", e => e.preventDefault());
let timer;
for (const id of ["q", "from", "to"]) $(id).addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => { draw(); remember(); }, nodes.length > 300 ? 200 : 0); });

function show(which) {
  for (const x of ["matrix", "graph"]) {
    $(x).hidden = x !== which;
    $("show-" + x).setAttribute("aria-pressed", String(x === which));
  }
  view = which;
}
let view;
for (const x of ["matrix", "graph"]) $("show-" + x).addEventListener("click", () => { show(x); remember(); });
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme:dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});
document.addEventListener("keydown", e => {
  if (e.key === "Escape") shut();
  if (e.key === "/" && !/INPUT/.test(document.activeElement.tagName)) { e.preventDefault(); $("q").focus(); }
});

// What is searched for stands in the address, so that it can be sent to others.
function remember() {
  const p = new URLSearchParams();
  for (const id of ["q", "from", "to"]) if ($(id).value) p.set(id, $(id).value);
  if (view === "graph") p.set("view", view);
  const text = "#" + p;
  if (text !== (location.hash || "#")) location.replace(text);
}
const p = new URLSearchParams(location.hash.slice(1));
for (const id of ["q", "from", "to"]) if (p.has(id)) $(id).value = p.get(id);
show(p.get("view") === "graph" ? "graph" : "matrix");
draw();
})();
