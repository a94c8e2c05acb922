// The curves of all pairs: a chart per pair, a line per method, which is the mean over its seeds.

const curves = document.getElementById("curves");
const drawnPairs = [];
const hiddenLines = new Set(); // labels

// returns the name under which runs record a number of the cell's network: a run may train two networks
function recordedName(cell, name) {
  return cell.series.startsWith("peer_") ? `peer_${name}` : name;
}

// returns the mean of curves at the epochs that all of them have
function meanOf(parts) {
  const sums = new Map();
  for (const [epochs, values] of parts) {
    epochs.forEach((epoch, at) => sums.set(epoch, [...(sums.get(epoch) ?? []), values[at]]));
  }
  const whole = [...sums].filter(([, values]) => values.length === parts.length).sort((a, b) => a[0] - b[0]);
  return [whole.map(([epoch]) => epoch), whole.map(([, values]) => values.reduce((a, b) => a + b) / values.length)];
}

function curveOf(cell, key) {
  const found = cell.runs.map((id) => runs[id].curves[key]).filter((curve) => curve?.[0].length);
  return found.length ? meanOf(found) : [[], []];
}

if (curves) {
  const labels = [...new Set(cells.map((cell) => cell.label))];
  const metrics = [...new Set(cells.map((cell) => cell.metric))];
  const quantity = document.getElementById("quantity");
  const isLog = document.getElementById("log");
  for (const metric of metrics) quantity.append(make("option", { value: metric }, `${metric} on the test split, percent`));
  quantity.append(make("option", { value: "" }, "training loss"));
  const legend = legendOf(labels.map((name, look) => ({ name, look })), (at, isOn) => {
    if (isOn) hiddenLines.delete(labels[at]);
    else hiddenLines.add(labels[at]);
    for (const { plot, lines } of drawnPairs) {
      const line = lines.findIndex((one) => one.name === labels[at]);
      if (line >= 0) plot.setSeries(line + 1, { show: isOn });
    }
  });
  document.getElementById("curve-lines").append(legend.element);

  const draw = () => {
    removeCharts(drawnPairs.splice(0));
    const metric = quantity.value || metrics[0];
    for (const pair of new Set(cells.map((cell) => cell.pair))) {
      const lines = cells
        .filter((cell) => cell.pair === pair && cell.metric === metric)
        .map((cell) => ({ name: cell.label, look: labels.indexOf(cell.label), curve: curveOf(cell, quantity.value ? cell.series : recordedName(cell, "loss")) }))
        .filter((line) => line.curve[0].length);
      if (!lines.length) continue;
      const shared = { items: lines.map((line) => legend.items[line.look]) };
      const drawn = chartOf(pairText(pair), quantity.selectedOptions[0].textContent, lines, shared, isLog.checked);
      lines.forEach((line, at) => hiddenLines.has(line.name) && drawn.plot.setSeries(at + 1, { show: false }));
      drawnPairs.push({ ...drawn, lines });
      document.getElementById("curve-charts").append(drawn.element);
    }
  };
  for (const input of [quantity, isLog]) input.addEventListener("change", draw);
  document.getElementById("curves-all").addEventListener("click", () => {
    const wanted = hiddenLines.size > 0 ? "false" : "true"; // shows all, or hides all
    for (const { button } of legend.items) if (button.getAttribute("aria-pressed") === wanted) button.click();
  });
  draw();
}
