// Curves by epoch, drawn by uPlot. A line is {name, curve: [epochs, values], look}; its swatch gives it its colour.

const GOLDEN = 137.508; // degrees between the hues of neighbouring lines: no two of 26 are alike
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]]; // pixels
const charts = new Set(); // on the page now

function swatchOf(look) {
  const hue = (look * GOLDEN + 205) % 360;
  const line = make("path", { d: "M0 5H26", "stroke-dasharray": DASHES[look % DASHES.length].join(" ") || "none" });
  line.style.stroke = `light-dark(hsl(${hue} 75% 34%), hsl(${hue} 70% 68%))`;
  const swatch = make("svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" });
  swatch.append(line);
  return swatch;
}

// returns the list of lines: buttons that hide and show them, and their values at the pointer
function legendOf(lines, toggled) {
  const items = lines.map((line, at) => {
    const swatch = swatchOf(line.look);
    const value = make("output", {});
    const button = make("button", { type: "button", "aria-pressed": "true" }, swatch, line.name, " ", value);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
      toggled(at, button.getAttribute("aria-pressed") === "true");
    });
    return { button, swatch: swatch.firstChild, value };
  });
  return { items, element: make("div", { class: "lines" }, ...items.map((item) => item.button)) };
}

function shownNumber(value) {
  const size = Math.abs(value);
  return size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

// returns a chart of lines whose swatches are those of `legend`, at equal places; `name` is the title of its axis
function chartOf(title, name, lines, legend, isLog = false) {
  const box = make("div", { class: "chart", tabindex: "0", role: "img" });
  const ends = lines.map((line) => `${line.name} ends at ${shownNumber(line.curve[1].at(-1))}`).join(", ");
  box.setAttribute("aria-label", `${title} by epoch: ${ends}`);
  const [style, soft] = [getComputedStyle(document.body), () => getComputedStyle(box).color];
  const font = `11px ${style.fontFamily}`;
  const axis = { stroke: soft, font, labelFont: font, grid: { stroke: () => getComputedStyle(box).borderTopColor, width: 1 }, ticks: { show: false } };
  const text = (plot, ticks) => ticks.map((tick) => (tick === null ? "" : shownNumber(tick)));
  const settings = {
    width: 360,
    height: 230,
    legend: { show: false },
    focus: { alpha: 0.25 },
    cursor: { focus: { prox: 24 }, drag: { x: true, y: false }, points: { size: 6 } },
    scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
    axes: [
      { ...axis, label: "epoch", labelSize: 16, size: 24, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
      { ...axis, label: name, labelSize: 16, size: 52, values: text },
    ],
    series: [
      {},
      ...lines.map((line, at) => ({
        stroke: () => getComputedStyle(legend.items[at].swatch).stroke,
        dash: DASHES[line.look % DASHES.length],
        width: 1.5,
        spanGaps: true,
        points: { show: line.curve[0].length === 1 }, // a run with one epoch is a point
      })),
    ],
    hooks: { setCursor: [(plot) => tell(plot)] },
  };
  function tell(plot) {
    const at = plot.cursor.idx;
    legend.items.forEach((item, line) => {
      const value = at === null ? null : plot.data[line + 1]?.[at];
      item.value.textContent = value === null || value === undefined ? "" : shownNumber(value);
    });
    caption.textContent = at === null || at === undefined ? title : `${title}, epoch ${plot.data[0][at]}`;
  }
  const caption = make("figcaption", {}, title);
  const plot = new uPlot(settings, uPlot.join(lines.map((line) => line.curve)), box);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = Math.min(Math.max((plot.cursor.idx ?? -1) + step, 0), plot.data[0].length - 1);
    plot.setCursor({ left: plot.valToPos(plot.data[0][at], "x"), top: plot.over.clientHeight / 2 });
  });
  new ResizeObserver(() => box.clientWidth && plot.setSize({ width: box.clientWidth, height: settings.height })).observe(box);
  charts.add(plot);
  return { plot, element: make("figure", {}, box, caption) };
}

function removeCharts(drawn) {
  for (const { plot, element } of drawn) {
    charts.delete(plot);
    plot.destroy();
    element.remove();
  }
}

for (const scheme of ["(prefers-color-scheme: dark)", "print"]) {
  matchMedia(scheme).addEventListener("change", () => charts.forEach((plot) => plot.redraw(false)));
}
