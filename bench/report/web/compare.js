// Two runs' settings side by side, and a second suite's numbers next to these.

const sides = ["run-a", "run-b"].map((id) => document.getElementById(id));

function optionsOfRuns() {
  return [...new Set(cells.map((cell) => cell.pair))].map((pair) => {
    const options = new Map(); // a run that serves several metrics is one option
    for (const cell of cells.filter((one) => one.pair === pair)) {
      for (const id of cell.runs) options.set(id, make("option", { value: id }, `${cell.label}, seed ${runs[id].seed}`));
    }
    return make("optgroup", { label: pairText(pair) }, ...options.values());
  });
}

function factsOf(id) {
  return { ...flat(runs[id].settings), ...flat(made[runs[id].made] ?? {}, "made on") };
}

function showSettings() {
  const [one, other] = sides.map((side) => factsOf(side.value));
  const names = [...new Set([...Object.keys(one), ...Object.keys(other)])].filter((name) => one[name] !== other[name]);
  const rows = names.map((name) => [name, one[name] ?? "—", other[name] ?? "—"]);
  const heads = ["setting", ...sides.map((side) => side.selectedOptions[0].textContent)];
  const said = rows.length ? scrolling("Settings that differ", table(heads, rows)) : make("p", {}, "These runs have equal settings.");
  document.getElementById("settings-diff").replaceChildren(said);
}

for (const side of sides) {
  side.append(...optionsOfRuns());
  side.addEventListener("change", showSettings);
}
sides[1].selectedIndex = Math.min(1, sides[1].options.length - 1);
showSettings();

// a second suite: another page, or a table.csv

function parsedCsv(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end !== ",") rows.push([]);
  }
  const [names, ...rest] = rows.filter((row) => row.length > 1);
  return (rest ?? []).map((row) => Object.fromEntries(names.map((name, at) => [name, asWritten(row[at] ?? "")])));
}

// returns a text without the apostrophe that keeps spreadsheets from taking it for a formula
function asWritten(text) {
  return /^'+[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) ? text.slice(1) : text;
}

// returns the name and [{pair, metric, label, mean}] of another suite; none if the text is neither a page nor a table
async function suiteIn(text, name) {
  const [, packed] = text.match(/<script type="application\/octet-stream" id="data">([^<]*)</) ?? [];
  const found = packed ? await unpacked(packed) : { name, cells: parsedCsv(text) };
  const isText = (value) => typeof value === "string";
  const numbers = found.cells.filter((one) => [one.pair, one.metric, one.label].every(isText) && one.mean !== undefined);
  return [String(found.name), numbers.map((one) => ({ ...one, mean: numberOrNull(one.mean) }))];
}

function numberOrNull(value) {
  return value === "" || value === null || !Number.isFinite(Number(value)) ? null : Number(value);
}

function signed(value) {
  const size = Math.abs(value).toFixed(PERCENT);
  return value < 0 && Number(size) > 0 ? `-${size}` : `+${size}`; // no -0.00
}

function isPlace(one) {
  return (other) => ["pair", "label", "metric"].every((key) => one[key] === other[key]);
}

document.getElementById("second").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  const place = document.getElementById("second-table");
  if (!file) return place.replaceChildren();
  const [name, theirs] = await suiteIn(await file.text(), file.name).catch(() => [file.name, []]);
  if (!theirs.length) {
    return place.replaceChildren(make("p", { role: "alert" }, `${file.name} is neither a page (report.html) nor a table.csv of this program.`));
  }
  const places = [...cells, ...theirs.filter((one) => !cells.some(isPlace(one)))];
  const rows = places.map((one) => {
    const [here, there] = [cells, theirs].map((side) => side.find(isPlace(one))?.mean ?? null);
    const gap = here === null || there === null ? null : there - here;
    const number = (value, text) => make("td", { "data-value": value ?? "" }, value === null ? "—" : text(value));
    return [one.label, pairText(one.pair), one.metric, number(here, percent), number(there, percent), number(gap, signed)];
  });
  const shown = table([], rows);
  shown.classList.add("sortable");
  const heads = ["method", "pair", "metric", data.name, name === data.name ? `${name} (other)` : name, "difference"];
  shown.tHead.rows[0].append(...heads.map((text) => make("th", { scope: "col" }, make("button", { type: "button" }, text))));
  makeSortable(shown);
  place.replaceChildren(scrolling("Both suites", shown));
  place.firstChild.classList.add("tall");
});
