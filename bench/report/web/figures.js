// Figures: the page has them compressed; a click enlarges one.

const enlarged = document.getElementById("enlarged");
const pictures = [...document.querySelectorAll(".figures img")];

for (const image of pictures) {
  image.src = URL.createObjectURL(new Blob([data.figures[image.dataset.name]], { type: "image/svg+xml" }));
}

function enlarge(at) {
  const image = pictures.at(at % pictures.length);
  const [name, drawing] = [image.dataset.name, data.figures[image.dataset.name]];
  const svg = make("button", { type: "button" }, "Save as SVG");
  svg.addEventListener("click", () => save(`${name}.svg`, drawing));
  const link = image.closest("figure").querySelector("a")?.cloneNode(true);
  document.getElementById("enlarged-title").textContent = image.alt.replace("Figure: ", "");
  document.getElementById("enlarged-links").replaceChildren(...[svg, link].filter(Boolean));
  document.getElementById("enlarged-body").replaceChildren(make("img", { src: image.src, alt: image.alt, "data-at": pictures.indexOf(image) }));
  if (!enlarged.open) enlarged.showModal();
}

pictures.forEach((image, at) => image.closest("button").addEventListener("click", () => enlarge(at)));

enlarged?.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) enlarge(Number(enlarged.querySelector("img").dataset.at) + step);
});
