// Connects the viewer's parts: radiographs, viewport, findings, heatmap, keyboard.

import * as api from "./api.js";
import { peakOf, scaledToPeak } from "./blend.js";
import { by, element, sentence } from "./dom.js";
import { FindingList } from "./findings.js";
import { counted, position, summary } from "./formatting.js";
import { INFERNO } from "./inferno.js";
import { showModelCard } from "./model_card.js";
import { failure, warning, warningsOf } from "./notices.js";
import { RadiographList, greyOf } from "./radiographs.js";
import { withToken } from "./token.js";
import { Viewport } from "./viewport.js";

let card = null;
let cardRequest = null;
let heatOn = true;
let perImage = false; // whether a heatmap is scaled to its own peak
let shown = null; // the radiograph whose image and findings are on the page
let shownImage = null;

const viewport = new Viewport(by("viewport"), readout);
const findings = new FindingList(by("findings"), showHeat);
const radiographs = new RadiographList(by("list"), read, announce, show);

async function read(open) {
  await loadCard();
  return withToken(api.read)(await open());
}

// Loads the model card once; after a failure the next call tries again.
function loadCard() {
  cardRequest ??= withToken(api.model)().then(
    (model) => {
      card = model;
      showModelCard(card);
      by("trouble").hidden = true;
      showExamples();
    },
    (problem) => {
      cardRequest = null;
      throw problem;
    },
  );
  return cardRequest;
}

function trouble(problem) {
  by("trouble").hidden = false;
  by("trouble").firstElementChild.textContent = problem.message;
  by("status").textContent = problem.message;
}

const start = () => loadCard().catch(trouble);

function readout(view) {
  by("readout").textContent = view
    ? `W ${Math.round(view.width)}  L ${Math.round(view.level)}  ${Math.round(100 * view.zoom)} %`
    : "";
}

// Shows the selected radiograph in its state, image and findings at the same time.
async function show(radiograph) {
  const image = radiograph?.image ?? null;
  if (image !== shownImage) {
    const grey = image && (await greyOf(image));
    // By now another one may have been selected.
    if (radiograph !== radiographs.current || image === shownImage) return;
    viewport.show(image && { ...image, grey });
    shownImage = image;
    press("invert", false);
  }
  shown = radiograph;
  by("empty").hidden = Boolean(radiograph);
  by("size").textContent = radiograph?.reading ? size(radiograph.reading.image, image) : "";
  by("busy").textContent = radiograph && !image && !radiograph.problem ? state(radiograph) : "";
  const label = radiograph ? `Radiograph ${radiograph.name}` : "Radiograph";
  by("viewport").setAttribute("aria-label", label);
  showReading(radiograph);
  showHeat();
}

function size(file, image) {
  const reduced = image.reduction < 1 ? `, shown at ${image.width} × ${image.height}` : "";
  return `${file.width} × ${file.height}${reduced}`;
}

function showReading(radiograph) {
  const reading = radiograph?.reading;
  const failed = Boolean(radiograph?.problem);
  by("result").hidden = !reading;
  by("waiting").hidden = Boolean(reading);
  by("waiting").textContent = state(radiograph);
  by("failure").hidden = !failed;
  by("frame").dataset.failed = failed;
  const warnings = warningsOf(reading);
  by("warnings").replaceChildren(...warnings.map(warning));
  by("flag").hidden = !warnings.length;
  by("flag").textContent = counted(warnings.length, "warning");
  if (reading) {
    findings.show(reading, card);
    const called = reading.findings.filter((row) => row.called).length;
    const none = reading.findings.filter((row) => row.called === null).length;
    by("count").textContent =
      `${called} of ${reading.findings.length} called` + (none ? `, ${none} not assessed` : "");
  }
  if (failed) {
    const retry = () => radiographs.retry(radiograph);
    by("failure").replaceChildren(...failure(radiograph.problem, retry));
  }
}

function state(radiograph) {
  if (!radiograph) return "No radiograph is selected.";
  return radiograph.problem
    ? `${radiograph.name} was not read. There are no findings.`
    : `${radiograph.name} is being read …`;
}

function showHeat() {
  const reading = shown?.reading;
  const map = reading?.heatmaps.maps[findings.finding];
  const row = reading?.findings.find((each) => each.finding === findings.finding);
  viewport.heat(heatOn && map ? (perImage ? scaledToPeak(map) : map) : null);
  by("heat").inert = !map;
  by("heat-of").textContent = map ? `Heatmap: ${row.label}` : "Heatmap";
  by("scale-end").textContent = perImage ? "peak" : "≥ 1";
  by("no-place").textContent = row?.not_localised ? sentence(row.not_localised) : "";
  by("heat-note").textContent = (map ? `Peak ${peakOf(map).toFixed(2)}. ` : "") + scaleNote();
}

function scaleNote() {
  return perImage
    ? "Scaled to this image: its peak is always bright, however weak the evidence. Not comparable with other radiographs."
    : "On the finding’s own scale, the same for all radiographs: a typical true call peaks at 0.8.";
}

function announce(radiograph) {
  if (radiograph.state === "read") {
    const warnings = warningsOf(radiograph.reading);
    const count = warnings.length ? counted(warnings.length, "warning") : "";
    by("status").textContent = summary(radiograph.name, radiograph.reading, count);
  }
  if (radiograph.problem) {
    by("status").textContent = `${radiograph.name} was not read: ${radiograph.problem.message}`;
  }
}

function press(id, on) {
  by(id).setAttribute("aria-pressed", on);
}

function setHeat(on) {
  heatOn = on;
  press("heat-on", on);
  showHeat();
}

function setPerImage(on) {
  perImage = on;
  press("per-image", on);
  showHeat();
}

function setOpacity(value) {
  const share = Math.min(100, Math.max(0, value));
  by("opacity").value = share;
  by("opacity-value").textContent = `${share} %`;
  viewport.set({ opacity: share / 100 });
}

function setTool(tool) {
  viewport.tool = tool;
  by("viewport").dataset.tool = tool;
  press("tool-window", tool === "window");
  press("tool-pan", tool === "pan");
}

function invert() {
  viewport.set({ invert: !viewport.look.invert });
  press("invert", viewport.look.invert);
}

function reset() {
  viewport.reset();
  press("invert", false);
}

function addFiles(files) {
  for (const file of files) radiographs.add(() => file, file.name);
  foldExamples();
}

// On a narrow screen the examples would push the image down.
function foldExamples() {
  if (matchMedia("(max-width: 900px)").matches) by("examples").open = false;
}

const ACTIONS = {
  o: () => by("file").click(),
  "[": () => radiographs.step(-1),
  "]": () => radiographs.step(1),
  h: () => setHeat(!heatOn),
  s: () => setPerImage(!perImage),
  ",": () => setOpacity(Number(by("opacity").value) - 5),
  ".": () => setOpacity(Number(by("opacity").value) + 5),
  w: () => setTool("window"),
  p: () => setTool("pan"),
  "+": () => viewport.scale(1.25),
  "=": () => viewport.scale(1.25),
  "-": () => viewport.scale(0.8),
  f: () => viewport.fit(),
  1: () => viewport.actual(),
  i: invert,
  r: reset,
  "?": () => by("help").showModal(),
};
const BUTTONS = {
  open: "o", "heat-on": "h", "per-image": "s", "tool-window": "w", "tool-pan": "p", "zoom-in": "+", "zoom-out": "-",
  fit: "f", actual: "1", invert: "i", reset: "r", shortcuts: "?",
};

for (const [id, key] of Object.entries(BUTTONS)) by(id).addEventListener("click", ACTIONS[key]);
document.addEventListener("keydown", (event) => {
  const dialog = document.querySelector("dialog[open]");
  const typing = dialog || event.target.matches("input:not([type=range])");
  if (typing || !by("keys").checked || event.ctrlKey || event.metaKey || event.altKey) return;
  ACTIONS[event.key.toLowerCase()]?.();
});
by("flag").addEventListener("click", () => {
  by("warnings").scrollIntoView({ block: "center" });
  by("warnings").focus({ preventScroll: true });
});
by("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
by("file").addEventListener("change", (event) => {
  addFiles(event.target.files);
  event.target.value = "";
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.dataset.drop = kind === "dragenter" || kind === "dragover";
    if (kind === "drop") addFiles(event.dataTransfer.files);
  });
}

// Single-key shortcuts interfere with speech input (WCAG 2.2, 2.1.4).
by("keys").checked = localStorage.getItem("keys") !== "off";
by("keys").addEventListener("change", () => {
  localStorage.setItem("keys", by("keys").checked ? "on" : "off");
});
by("trouble").lastElementChild.addEventListener("click", start);

async function showExamples() {
  const all = await withToken(api.examples)().catch(() => []);
  by("examples").querySelector("div").replaceChildren(...all.map(({ name, title }) => {
    const button = element("button", "", title);
    button.type = "button";
    button.addEventListener("click", () => {
      radiographs.select(radiographs.add(() => withToken(api.example)(name), `Phantom: ${title}`));
      foldExamples();
    });
    return button;
  }));
}

const stops = Array.from({ length: 17 }, (_, i) => {
  const at = Math.min(255, i * 16);
  return `rgb(${INFERNO.slice(3 * at, 3 * at + 3).join(" ")})`;
});
by("bar").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
const ticks = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1];
[...by("axis").children].forEach((tick, i) => (tick.style.left = `${position(ticks[i])}%`));
setTool("window");
by("heat").inert = true;
start();
