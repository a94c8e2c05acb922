// Sorting of tables. A click on a head sorts numbers downwards and text upwards, the second click reverses the order, and
// the third restores the page's. Text from the store is always set as text, never as markup.

const DRAWN = ["svg", "path"];

function make(name, attributes, ...children) {
  const element = DRAWN.includes(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function keyOf(cell) {
  const text = "value" in cell.dataset ? cell.dataset.value : cell.querySelector(".cell") ? "" : cell.textContent.trim();
  return text !== "" && text !== "—" && Number.isFinite(Number(text)) ? Number(text) : text.replace("—", "");
}

function compareKeys(one, other, direction) {
  if (one === "" || other === "") return (one === "") - (other === ""); // cells without a number come last in both orders
  if (typeof one === "number" && typeof other === "number") return direction * (one - other);
  return direction * String(one).localeCompare(String(other), undefined, { numeric: true });
}

// returns the orders of a column's clicks; null is the page's order
function ordersOf(rows, column) {
  const numeric = rows.some((row) => typeof keyOf(row.cells[column]) === "number");
  return numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
}

function sortBy(table, head, order) {
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  const rows = [...table.tBodies[0].rows].sort((a, b) => a.dataset.place - b.dataset.place);
  if (order) {
    const direction = order === "ascending" ? 1 : -1;
    head.setAttribute("aria-sort", order);
    rows.sort((a, b) => compareKeys(keyOf(a.cells[head.cellIndex]), keyOf(b.cells[head.cellIndex]), direction));
  }
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  [...table.tBodies[0].rows].forEach((row, place) => (row.dataset.place = place));
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!event.target.closest("button")) return;
    const orders = ordersOf([...table.tBodies[0].rows], head.cellIndex);
    sortBy(table, head, orders[(orders.indexOf(head.getAttribute("aria-sort")) + 1) % orders.length]);
    table.dispatchEvent(new Event("sorted"));
  });
}

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
