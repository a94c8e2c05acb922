"use strict";
// Sorting, filtering, and the window of each cell. Text from the store is always set as text, never as markup.

const { cells, runs } = JSON.parse(document.getElementById("data").textContent);
const made = JSON.parse(document.getElementById("made").textContent);
const SERIES = 6; // colours of lines
const PERCENT = 2; // decimals

// sorting: the first click sorts numbers downwards and text upwards, the second reverses it, the third restores the page's order

function keyOf(cell) {
  const text = "value" in cell.dataset ? cell.dataset.value : cell.querySelector(".cell") ? "" : cell.textContent.trim();
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

function compare(one, other, direction) {
  if (one === "" || other === "") return (one === "") - (other === ""); // cells without a number come last in both orders
  if (typeof one === "number" && typeof other === "number") return direction * (one - other);
  return direction * String(one).localeCompare(String(other), undefined, { numeric: true });
}

function sort(table, head, rows) {
  const column = head.cellIndex;
  const numeric = rows.some((row) => typeof keyOf(row.cells[column]) === "number");
  const orders = numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
  const order = orders[(orders.indexOf(head.getAttribute("aria-sort")) + 1) % orders.length];
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  let sorted = rows;
  if (order) {
    head.setAttribute("aria-sort", order);
    const direction = order === "ascending" ? 1 : -1;
    sorted = [...rows].sort((a, b) => compare(keyOf(a.cells[column]), keyOf(b.cells[column]), direction));
  }
  table.tBodies[0].append(...sorted);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.tBodies[0].rows]; // the order of the page
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(table, button.closest("th"), rows));
  }
}

// filtering: a name must contain every word

const results = document.getElementById("results");
const filters = { method: document.getElementById("filter-method"), pair: document.getElementById("filter-pair") };

function matches(name, query) {
  const words = query.toLowerCase().replaceAll("→", "->").split(/\s+/);
  return words.every((word) => name.toLowerCase().includes(word));
}

function filter() {
  const rows = [...results.tBodies[0].rows];
  const heads = [...results.tHead.rows[0].cells].slice(1);
  for (const row of rows) row.hidden = !matches(row.dataset.name, filters.method.value);
  for (const head of heads) {
    head.hidden = !matches(head.dataset.name, filters.pair.value);
    for (const row of rows) row.cells[head.cellIndex].hidden = head.hidden;
  }
  const shown = (parts) => `${parts.filter((part) => !part.hidden).length} of ${parts.length}`;
  document.getElementById("shown").textContent = `${shown(rows)} rows, ${shown(heads)} columns`;
  giveStop();
}

for (const input of Object.values(filters)) {
  input.addEventListener("input", filter);
  input.form.addEventListener("submit", (event) => event.preventDefault());
}

// keyboard: the tab key stops once in the table; the arrow keys move from cell to cell

function isShown(button) {
  return !button.closest("td").hidden && !button.closest("tr").hidden;
}

function giveStop(wanted) {
  const buttons = [...results.querySelectorAll(".cell")];
  const current = wanted ?? buttons.find((button) => button.tabIndex === 0 && isShown(button)) ?? buttons.find(isShown);
  for (const button of buttons) button.tabIndex = button === current ? 0 : -1;
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

results.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  const cell = event.target.closest("td");
  if (!step || !cell) return;
  event.preventDefault();
  const rows = [...results.tBodies[0].rows].filter((row) => !row.hidden);
  const columns = [...cell.parentElement.cells].filter((one) => !one.hidden).map((one) => one.cellIndex);
  const row = rows[rows.indexOf(cell.parentElement) + step[0]];
  const button = row?.cells[columns[columns.indexOf(cell.cellIndex) + step[1]]]?.querySelector(".cell");
  if (!button) return;
  giveStop(button);
  button.focus();
});

// the window of a cell

const dialog = document.getElementById("window");

function make(name, attributes, ...children) {
  const drawing = ["svg", "path", "text", "title"].includes(name);
  const element = drawing ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step / 1e6; at += 1) found.push(Number((at * step).toPrecision(6)));
  return found;
}

function tickText(tick) {
  const size = Math.abs(tick);
  return size >= 1e5 || (size > 0 && size < 1e-3) ? tick.toExponential() : String(tick); // shorter, so that it fits
}

function chart(name, lines) {
  const [width, height, left, right, top, bottom] = [360, 200, 44, 8, 8, 24];
  const epochs = lines.flatMap((line) => line.curve[0]);
  const values = lines.flatMap((line) => line.curve[1]);
  const last = Math.max(...epochs, 2);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.04 || Math.abs(high) * 0.04 || 1;
  const x = (epoch) => left + ((epoch - 1) / (last - 1)) * (width - left - right);
  const y = (value) => top + (1 - (value - low + margin) / (high - low + 2 * margin)) * (height - top - bottom);
  const ends = lines.map((line) => `seed ${line.seed} ends at ${line.curve[1].at(-1)}`).join(", ");
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} by epoch: ${ends}` });
  for (const tick of ticks(low - margin, high + margin)) {
    svg.append(make("path", { class: "axis", d: `M${left} ${y(tick)}H${width - right}` }));
    svg.append(make("text", { x: left - 5, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  }
  for (const tick of ticks(1, last).filter(Number.isInteger)) {
    svg.append(make("text", { x: x(tick), y: height - 8, "text-anchor": "middle" }, String(tick)));
  }
  for (const { curve, series } of lines) {
    const points = curve[0].map((epoch, at) => `${x(epoch).toFixed(1)} ${y(curve[1][at]).toFixed(1)}`);
    // a run with one epoch is a point: a line without length is visible only with round ends
    const d = points.length > 1 ? `M${points.join("L")}` : `M${points[0]}h.1`;
    svg.append(make("path", { class: `line s${series}`, d, "stroke-linecap": points.length > 1 ? "butt" : "round" }));
  }
  return make("figure", {}, svg, make("figcaption", {}, `${name} by epoch`));
}

// returns the name of a number of the cell's network, where a run trains two networks
function own(cell, name) {
  return cell.series.startsWith("peer_") ? `peer_${name}` : name;
}

function charts(cell) {
  const names = { [own(cell, "loss")]: "training loss", [cell.series]: `${cell.metric} on the test split, percent` };
  const found = Object.entries(names).flatMap(([key, name]) => {
    const lines = cell.runs.map((id, at) => ({ seed: runs[id].seed, curve: runs[id].curves[key], series: at % SERIES }));
    const drawn = lines.filter((line) => line.curve?.[0].length);
    return drawn.length ? [chart(name, drawn)] : [];
  });
  if (!found.length) return [];
  const every = Math.max(...cell.runs.map((id) => runs[id].every));
  const note = every > 1 ? [make("p", { class: "legend" }, `One in every ${every} epochs is drawn, including the last.`)] : [];
  return [make("div", { class: "charts" }, ...found), ...note];
}

function percent(value) {
  return value === undefined ? "—" : value.toFixed(PERCENT);
}

function duration(seconds) {
  if (seconds === null) return "—";
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function runRow(cell, id, at) {
  const run = runs[id];
  const swatch = make("svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" });
  swatch.append(make("path", { class: `line s${at % SERIES}`, d: "M0 5H26" }));
  const epoch = run.best[own(cell, "epoch")];
  const best = epoch === undefined ? "—" : `${percent(run.best[cell.series])} (epoch ${epoch})`;
  const epochs = run.of ? `${run.epochs} of ${run.of}` : "—";
  const texts = [run.status, percent(run.last[cell.series]), best, epochs, duration(run.wall_s), id];
  const origin = run.made === null ? {} : made[run.made];
  const from = ["host", "device", "threads", "commit"].map((name) => origin[name] ?? "—");
  const first = make("th", { scope: "row" }, swatch, `seed ${run.seed}`);
  const rest = [...texts, ...from].map((text) => make("td", {}, text));
  return make("tr", {}, first, ...rest, make("td", { class: "wide" }, run.reason));
}

function runTable(cell) {
  const heads = ["run", "status", "last epoch", "best epoch", "epochs", "time", "id", "host", "device", "threads", "commit", "reason"];
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
  const body = make("tbody", {}, ...cell.runs.map((id, at) => runRow(cell, id, at)));
  const scroll = { class: "scroll", role: "region", "aria-label": "Runs", tabindex: "0" };
  return make("div", scroll, make("table", { class: "plain" }, head, body));
}

function open(cell) {
  document.getElementById("window-title").textContent = `${cell.label}, ${cell.pair.replaceAll("->", " → ")}, ${cell.metric}`;
  const facts = Object.entries(cell.facts).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
  const code = (text) => make("pre", { tabindex: "0" }, make("code", {}, text));
  const seed = runs[cell.runs[0]].seed;
  document.getElementById("window-body").replaceChildren(
    make("dl", {}, ...facts),
    ...charts(cell),
    make("h3", {}, "Runs"),
    runTable(cell),
    make("h3", {}, "Command to repeat it"),
    code(cell.command),
    make("details", {}, make("summary", {}, `Settings of seed ${seed}`), code(cell.settings)),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

results.addEventListener("click", (event) => {
  const button = event.target.closest(".cell");
  if (!button) return;
  giveStop(button);
  open(cells[button.dataset.cell]);
});
document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // a click outside the window
});

filter();
