// The table of results: filters, groups of columns, keyboard, and the part of the address that keeps all of it.

const results = document.getElementById("results");
const filters = { method: document.getElementById("filter-method"), pair: document.getElementById("filter-pair") };
const groups = [...document.querySelectorAll("#groups input")]; // each shows the columns of one kind
const shownAtFirst = groups.map((group) => group.checked);
const heads = [...results.tHead.rows[0].cells].slice(1);

function matches(name, query) {
  const words = query.toLowerCase().replaceAll("→", "->").split(/\s+/); // a name must contain every word
  return words.every((word) => name.toLowerCase().includes(word));
}

function filter() {
  const rows = [...results.tBodies[0].rows];
  const kinds = new Set(groups.filter((group) => !group.checked).map((group) => group.value));
  for (const row of rows) row.hidden = !matches(row.dataset.name, filters.method.value);
  for (const head of heads) {
    const isOff = kinds.has(head.dataset.kind) || (head.dataset.average && kinds.has("average"));
    head.hidden = isOff || !matches(head.dataset.name, filters.pair.value);
    for (const row of rows) row.cells[head.cellIndex].hidden = head.hidden;
  }
  results.style.setProperty("--columns", heads.filter((head) => !head.hidden).length); // for the size of print
  const shown = (parts) => `${parts.filter((part) => !part.hidden).length} of ${parts.length}`;
  document.getElementById("shown").textContent = `${shown(rows)} rows, ${shown(heads)} columns`;
  giveStop();
}

// the address: #method=…&pair=…&show=…&sort=…&cell=…; an address without "=" is a section's

let parts = new URLSearchParams();

function address(key, value) {
  if (value) parts.set(key, value);
  else parts.delete(key);
  history.replaceState(null, "", `#${parts}`);
}

function restore() {
  if (location.hash && !location.hash.includes("=")) return; // what is shown stays
  parts = new URLSearchParams(location.hash.slice(1));
  for (const [name, input] of Object.entries(filters)) input.value = parts.get(name) ?? "";
  const shown = parts.get("show")?.split(",");
  groups.forEach((group, at) => (group.checked = shown ? shown.includes(group.value) : shownAtFirst[at]));
  const [, order, name] = parts.get("sort")?.match(/^(ascending|descending) (.*)$/) ?? [];
  const head = [...results.tHead.rows[0].cells].find((one) => one.dataset.name === name);
  sortBy(results, head ?? results.tHead.rows[0].cells[0], head && order);
  filter();
}

for (const [name, input] of Object.entries(filters)) {
  input.addEventListener("input", () => {
    filter();
    address(name, input.value);
  });
  input.form.addEventListener("submit", (event) => event.preventDefault());
}

for (const group of groups) {
  group.addEventListener("change", () => {
    filter();
    const shown = groups.filter((one) => one.checked).map((one) => one.value);
    address("show", shown.join(",") || "none");
  });
}

results.addEventListener("sorted", () => {
  const head = results.tHead.querySelector("[aria-sort]");
  address("sort", head && `${head.getAttribute("aria-sort")} ${head.dataset.name}`);
});

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
  const grid = [...results.tBodies[0].rows]
    .filter((row) => !row.hidden)
    .map((row) => [...row.cells].map((one) => (one.hidden ? null : one.querySelector(".cell"))));
  let [row, column] = [grid.findIndex((buttons) => buttons.includes(event.target)), cell.cellIndex];
  do {
    row += step[0];
    column += step[1];
  } while (grid[row] && column in grid[row] && !grid[row][column]); // passes what has no window
  const button = grid[row]?.[column];
  if (!button) return;
  giveStop(button);
  button.focus();
});

restore();
window.addEventListener("hashchange", restore);
