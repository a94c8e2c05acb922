// What the page knows about cells, runs and figures: JSON, compressed and as base64.

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const data = await unpacked(document.getElementById("data").textContent);
const { cells, runs, made, files } = data;

function pairText(pair) {
  return pair.replaceAll("->", " → ");
}

// saves a text as a file
function save(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", {}); // where the clipboard is refused
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => save(button.dataset.save, files[button.dataset.save]));
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await copy(files[button.dataset.copy]);
    document.getElementById("copied").textContent = `${button.dataset.copy} is on the clipboard`;
  });
}
