// Connects the viewer's parts: radiographs, viewport, findings, heatmap, comparison, keyboard.

import * as api from "./api.js";
import { Comparison } from "./comparison.js";
import { by, element, press } from "./dom.js";
import { collect, dropped } from "./file_collection.js";
import { FindingList } from "./findings.js";
import { counted, position, summary } from "./formatting.js";
import { HeatControls } from "./heat_controls.js";
import { greyOf } from "./images.js";
import { listen } from "./keyboard.js";
import { showModelCard } from "./model_card.js";
import { failure, warning, warningsOf } from "./notices.js";
import { PatientHeader, identityOf } from "./patient.js";
import { showPrintout } from "./printout.js";
import { Progress } from "./progress.js";
import { RadiographList } from "./radiographs.js";
import { lengthNote } from "./ruler.js";
import { withToken } from "./token.js";
import { Viewport } from "./viewport.js";

const TOOLS = ["window", "pan", "ruler"];
let card = null;
let cardRequest = null;
let shown = null; // the radiograph whose image and findings are on the page
let shownImage = null;

const say = (text) => (by("status").textContent = text);
const viewport = new Viewport(by("viewport"), (view) => {
  readout(by("readout"), view);
  showLengthNote();
  comparison.follow(viewport, comparison.viewport);
}, say);
const heat = new HeatControls(viewport);
const findings = new FindingList(by("findings"), showHeat);
const radiographs = new RadiographList(by("list"), read, changed, show);
const progress = new Progress(radiographs);
const patient = new PatientHeader();
const comparison = new Comparison(viewport, radiographs, readout, say);

async function read(radiograph) {
  await loadCard();
  const file = await radiograph.open().catch((error) => {
    throw error instanceof api.Problem ? error : new api.Problem(0, { code: "file", detail: error.message });
  });
  radiograph.identity ??= await identityOf(file);
  return withToken(api.read)(file, radiograph.force);
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
  say(problem.message);
}

const start = () => loadCard().catch(trouble);

function readout(output, view) {
  output.textContent = view
    ? `W ${Math.round(view.width)}  L ${Math.round(view.level)}  ${Math.round(100 * view.zoom)} %`
    : "";
}

function showLengthNote() {
  const { image } = viewport;
  const asked = image && (viewport.tool === "ruler" || image.measures.length);
  by("length-note").textContent = by("length-note").title = asked ? lengthNote(image) : "";
}

// Shows the selected radiograph in its state, image and findings at the same time.
async function show(radiograph) {
  const image = radiograph?.image ?? null;
  if (image !== shownImage) {
    const grey = image && (await greyOf(image));
    // By now another one may have been selected, or this one read again.
    if (radiograph !== radiographs.current || image === shownImage) return;
    if (image !== (radiograph?.image ?? null)) return;
    viewport.show(image && { ...image, grey });
    shownImage = image;
    press("invert", false);
  }
  shown = radiograph;
  by("empty").hidden = Boolean(radiograph);
  by("name").textContent = radiograph?.name ?? "";
  by("date").textContent = radiograph?.identity?.studyDate ?? "";
  by("size").textContent = radiograph?.reading ? size(radiograph.reading.image, image) : "";
  by("busy").textContent = radiograph && !image && !radiograph.problem ? state(radiograph) : "";
  const label = radiograph ? `Radiograph ${radiograph.name}` : "Radiograph";
  by("viewport").setAttribute("aria-label", label);
  showReading(radiograph);
  showHeat();
  patient.update(radiograph);
  comparison.update();
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
  by("forced").hidden = !reading?.refused;
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
    const force = () => radiographs.retry(radiograph, true);
    by("failure").replaceChildren(...failure(radiograph.problem, retry, force));
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
  const row = reading?.findings.find((each) => each.finding === findings.finding);
  heat.show(reading?.heatmaps.maps[findings.finding], row);
}

// The state of a radiograph, or the list, changed: says so, one by one only where there are few.
function changed(radiograph) {
  const all = progress.update();
  if (shown) comparison.update();
  if (!radiograph) return;
  if (all) say(all);
  if (radiograph !== radiographs.current) return;
  if (radiograph.state === "read") {
    const warnings = warningsOf(radiograph.reading);
    const count = warnings.length ? counted(warnings.length, "warning") : "";
    say(summary(radiograph.name, radiograph.reading, count));
  }
  if (radiograph.problem) say(`${radiograph.name} was not read: ${radiograph.problem.message}`);
}

function setTool(tool) {
  for (const each of [viewport, comparison.viewport]) {
    each.tool = tool;
    each.canvas.dataset.tool = tool;
  }
  for (const each of TOOLS) press(`tool-${each}`, tool === each);
  showLengthNote();
}

function invert() {
  viewport.set({ invert: !viewport.look.invert });
  press("invert", viewport.look.invert);
}

function reset() {
  viewport.reset();
  comparison.viewport.reset();
  press("invert", false);
}

async function addFrom(source) {
  by("added").textContent = "Looking for radiographs …";
  const { found, skipped, problems } = await collect(source);
  for (const { open, name } of found) radiographs.add(open, name);
  const parts = [`${counted(found.length, "radiograph")} added`];
  if (skipped) parts.push(`${counted(skipped, "other file")} skipped`);
  const told = skipped || problems.length || !found.length;
  by("added").textContent = told ? [`${parts.join(", ")}.`, ...problems].join(" ") : "";
  progress.update();
  foldExamples();
}

// On a narrow screen, and beside many radiographs, the examples would be in the way.
function foldExamples() {
  const narrow = matchMedia("(max-width: 900px)").matches;
  if (narrow || radiographs.all.length > 4) by("examples").open = false;
}

function printout() {
  const list = by("patient").querySelectorAll("dd");
  const known = patient.open && by("patient").dataset.known === "true";
  const text = known ? [...list].map((each) => each.textContent).join(" · ") : "";
  showPrintout({ radiograph: shown, card, heat, viewport, patient: text });
}

const ACTIONS = {
  o: () => by("file").click(),
  "[": () => radiographs.step(-1),
  "]": () => radiographs.step(1),
  h: () => heat.cycle(),
  s: () => heat.swapScale(),
  ",": () => heat.setOpacity(Number(by("opacity").value) - 5),
  ".": () => heat.setOpacity(Number(by("opacity").value) + 5),
  w: () => setTool("window"),
  p: () => setTool("pan"),
  m: () => setTool("ruler"),
  "+": () => viewport.scale(1.25),
  "=": () => viewport.scale(1.25),
  "-": () => viewport.scale(0.8),
  f: () => viewport.fit(),
  1: () => viewport.actual(),
  i: invert,
  r: reset,
  c: () => comparison.toggle(),
  d: () => patient.toggle(),
  "?": () => by("help").showModal(),
};
const BUTTONS = {
  open: "o", "tool-window": "w", "tool-pan": "p", "tool-ruler": "m", "zoom-in": "+", "zoom-out": "-", fit: "f",
  actual: "1", invert: "i", reset: "r", compare: "c", "patient-show": "d", shortcuts: "?",
};

for (const [id, key] of Object.entries(BUTTONS)) by(id).addEventListener("click", ACTIONS[key]);
listen(ACTIONS, () => viewport.ruler.clear() || comparison.viewport.ruler.clear() || patient.close());
by("flag").addEventListener("click", () => {
  by("warnings").scrollIntoView({ block: "center" });
  by("warnings").focus({ preventScroll: true });
});
by("file").addEventListener("change", (event) => {
  addFrom({ files: [...event.target.files] });
  event.target.value = "";
});
by("open-folder").addEventListener("click", () => by("folder").click());
by("folder").addEventListener("change", (event) => {
  addFrom({ folder: [...event.target.files] });
  event.target.value = "";
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.dataset.drop = kind === "dragenter" || kind === "dragover";
    if (kind === "drop") addFrom(dropped(event.dataTransfer));
  });
}
by("print-show").addEventListener("click", () => window.print());
addEventListener("beforeprint", printout);
addEventListener("afterprint", () => by("print").replaceChildren());
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

const ticks = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1];
[...by("axis").children].forEach((tick, i) => (tick.style.left = `${position(ticks[i])}%`));
setTool("window");
start();
