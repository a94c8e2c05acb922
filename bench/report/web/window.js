// The window of a cell: its numbers, curves, runs and command. Its address is #cell=….

const dialog = document.getElementById("window");
const PERCENT = 2; // decimals
let drawnRuns = [];

function keyOfCell(cell) {
  return [cell.label, cell.pair, cell.metric].join(" | ");
}

function percent(value) {
  return value === undefined ? "—" : value.toFixed(PERCENT);
}

function duration(seconds) {
  if (seconds === null) return "—";
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function table(heads, rows) {
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
  const body = rows.map((row) => make("tr", {}, ...row.map((text) => (text instanceof Node ? text : make("td", {}, String(text))))));
  return make("table", { class: "plain" }, head, make("tbody", {}, ...body));
}

function scrolling(label, content) {
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, content);
}

function runTable(cell) {
  const heads = ["run", "status", "last epoch", "best epoch", "epochs", "time", "id", "host", "device", "threads", "commit", "reason"];
  const rows = cell.runs.map((id) => {
    const run = runs[id];
    const epoch = run.best[recordedName(cell, "epoch")];
    const best = epoch === undefined ? "—" : `${percent(run.best[cell.series])} (epoch ${epoch})`;
    const epochs = run.of ? `${run.epochs} of ${run.of}` : "—";
    const origin = made[run.made] ?? {};
    const from = ["host", "device", "threads", "commit"].map((name) => origin[name] ?? "—");
    const name = make("th", { scope: "row" }, `seed ${run.seed}`);
    const reason = make("td", { class: "wide" }, run.reason);
    return [name, run.status, percent(run.last[cell.series]), best, epochs, duration(run.wall_s), id, ...from, reason];
  });
  return scrolling("Runs", table(heads, rows));
}

// draws loss and metric of each seed into a box of the open window
function drawRuns(cell, box) {
  const names = { [recordedName(cell, "loss")]: "training loss", [cell.series]: `${cell.metric} on the test split, percent` };
  for (const [key, name] of Object.entries(names)) {
    const lines = cell.runs
      .map((id, look) => ({ name: `seed ${runs[id].seed}`, look, curve: runs[id].curves[key] }))
      .filter((line) => line.curve?.[0].length);
    if (!lines.length) continue;
    const legend = legendOf(lines, (at, isOn) => drawn.plot.setSeries(at + 1, { show: isOn }));
    const holder = make("div", {}, legend.element);
    box.append(holder);
    const drawn = chartOf(name, name, lines, legend);
    holder.prepend(drawn.element);
    drawnRuns.push(drawn);
  }
  const every = Math.max(...cell.runs.map((id) => runs[id].every));
  if (every > 1) box.after(make("p", { class: "legend" }, `One in every ${every} epochs is drawn, including the last.`));
}

// returns nested settings as {"data.name": "digits", …}
function flat(value, path = "") {
  if (value === null || typeof value !== "object") return { [path]: String(value) };
  if (Array.isArray(value) && value.every((one) => typeof one !== "object")) return { [path]: value.join(", ") };
  return Object.assign({}, ...Object.entries(value).map(([key, one]) => flat(one, path ? `${path}.${key}` : key)));
}

function code(text) {
  return make("pre", { tabindex: "0" }, make("code", {}, text));
}

function open(cell) {
  removeCharts(drawnRuns);
  drawnRuns = [];
  document.getElementById("window-title").textContent = `${cell.label}, ${pairText(cell.pair)}, ${cell.metric}`;
  const facts = Object.entries(cell.facts).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
  const first = runs[cell.runs[0]];
  const settings = Object.entries(flat(first.settings)).map(([name, text]) => `${name}: ${text}`);
  const box = make("div", { class: "charts" });
  document.getElementById("window-body").replaceChildren(
    make("dl", {}, ...facts),
    box,
    make("h3", {}, "Runs"),
    runTable(cell),
    make("h3", {}, "Command to repeat it"),
    code(cell.command),
    make("details", {}, make("summary", {}, `Settings of seed ${first.seed}`), code(settings.join("\n"))),
  );
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  drawRuns(cell, box);
}

function openAddressed() {
  const key = parts.get("cell");
  const at = cells.findIndex((cell) => keyOfCell(cell) === key);
  if (at < 0) return dialog.close();
  const button = results.querySelector(`[data-cell="${at}"]`);
  giveStop(button);
  open(cells[at]);
}

results.addEventListener("click", (event) => {
  const button = event.target.closest(".cell");
  if (!button) return;
  address("cell", keyOfCell(cells[button.dataset.cell]));
  openAddressed();
});

for (const one of document.querySelectorAll("dialog")) {
  one.querySelector(".close").addEventListener("click", () => one.close());
  one.addEventListener("click", (event) => {
    if (event.target === one) one.close(); // a click outside the window
  });
}

dialog.addEventListener("close", () => {
  address("cell", "");
  results.querySelector('.cell[tabindex="0"]')?.focus();
});

openAddressed();
window.addEventListener("hashchange", openAddressed);
