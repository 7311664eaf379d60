// Puts the viewer together: films, stage, findings, heatmap, keyboard.

import * as api from "./api.js";
import { showCard } from "./card.js";
import { by, element } from "./dom.js";
import { Films, greyOf } from "./films.js";
import { Findings, place } from "./findings.js";
import { INFERNO } from "./inferno.js";
import { counted, refusal, warning, warningsOf } from "./notices.js";
import { Stage } from "./stage.js";
import { withToken } from "./token.js";
import { label, summary } from "./words.js";

let card = null;
let asked = null;
let heatOn = true;
let shown = null; // the film whose picture and findings are seen
let staged = null; // its picture

const stage = new Stage(by("stage"), readout);
const findings = new Findings(by("findings"), showHeat);
const films = new Films(by("list"), read, announce, show);

async function read(open) {
  await known();
  return withToken(api.read)(await open());
}

// Asks what reads, until the server has said it once.
function known() {
  asked ??= withToken(api.model)().then(
    (model) => {
      card = model;
      showCard(card);
      by("trouble").hidden = true;
      showExamples();
    },
    (problem) => {
      asked = null;
      throw problem;
    },
  );
  return asked;
}

function trouble(problem) {
  by("trouble").hidden = false;
  by("trouble").firstElementChild.textContent = problem.message;
  by("status").textContent = problem.message;
}

const start = () => known().catch(trouble);

function readout(view) {
  by("readout").textContent = view
    ? `W ${Math.round(view.width)}  L ${Math.round(view.level)}  ${Math.round(100 * view.zoom)} %`
    : "";
}

// Shows the chosen film in whatever state it is: its picture and its findings at the same time.
async function show(film) {
  const picture = film?.picture ?? null;
  if (picture !== staged) {
    const grey = picture && (await greyOf(picture));
    if (film !== films.current || picture === staged) return; // overtaken
    stage.show(picture && { ...picture, grey });
    staged = picture;
    press("invert", false);
  }
  shown = film;
  by("empty").hidden = Boolean(film);
  by("size").textContent = film?.reading ? size(film.reading.image, picture) : "";
  by("busy").textContent = film && !picture && !film.problem ? state(film) : "";
  by("stage").setAttribute("aria-label", film ? `Radiograph ${film.name}` : "Radiograph");
  showReading(film);
  showHeat();
}

function size(file, picture) {
  const reduced = picture.reduced < 1 ? `, shown at ${picture.width} × ${picture.height}` : "";
  return `${file.width} × ${file.height}${reduced}`;
}

function showReading(film) {
  const reading = film?.reading;
  const failed = Boolean(film?.problem);
  by("result").hidden = !reading;
  by("waiting").hidden = Boolean(reading);
  by("waiting").textContent = state(film);
  by("refusal").hidden = !failed;
  by("frame").dataset.failed = failed;
  const warnings = warningsOf(reading);
  by("warnings").replaceChildren(...warnings.map(warning));
  by("flag").hidden = !warnings.length;
  by("flag").textContent = counted(warnings);
  if (reading) {
    findings.show(reading, card);
    const called = reading.findings.filter((row) => row.called).length;
    by("count").textContent = `${called} of ${reading.findings.length} called`;
  }
  if (failed) by("refusal").replaceChildren(...refusal(film.problem, () => films.again(film)));
}

function state(film) {
  if (!film) return "No film is chosen.";
  return film.problem
    ? `${film.name} is not read, so there are no findings.`
    : `${film.name} is being read …`;
}

function showHeat() {
  const reading = shown?.reading;
  const map = reading?.heatmaps.maps[findings.finding];
  stage.heat(heatOn && map ? map : null);
  by("heat").inert = !map;
  by("heat-of").textContent = map ? `Heatmap: ${label(findings.finding)}` : "Heatmap";
  const peak = map ? Math.max(...map.flat()) : 0;
  by("heat-note").textContent =
    (map ? `Peak ${peak.toFixed(2)}${peak < 0.05 ? ", next to nothing to see" : ""}. ` : "") +
    "Evidence × probability, one scale for all films and findings.";
}

function announce(film) {
  if (film.state === "read") {
    const warnings = warningsOf(film.reading);
    const told = warnings.length ? counted(warnings) : "";
    by("status").textContent = summary(film.name, film.reading, told);
  }
  if (film.problem) {
    by("status").textContent = `${film.name} is not read: ${film.problem.message}`;
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

function setOpacity(value) {
  const per = Math.min(100, Math.max(0, value));
  by("opacity").value = per;
  by("opacity-value").textContent = `${per} %`;
  stage.set({ opacity: per / 100 });
}

function setTool(tool) {
  stage.tool = tool;
  by("stage").dataset.tool = tool;
  press("tool-window", tool === "window");
  press("tool-pan", tool === "pan");
}

function invert() {
  stage.set({ invert: !stage.look.invert });
  press("invert", stage.look.invert);
}

function reset() {
  stage.reset();
  press("invert", false);
}

function addFiles(files) {
  for (const file of files) films.add(() => file, file.name);
  makeRoom();
}

// On a phone the examples stand above the film.
function makeRoom() {
  if (matchMedia("(max-width: 900px)").matches) by("examples").open = false;
}

const ACTIONS = {
  o: () => by("file").click(),
  "[": () => films.step(-1),
  "]": () => films.step(1),
  h: () => setHeat(!heatOn),
  ",": () => setOpacity(Number(by("opacity").value) - 5),
  ".": () => setOpacity(Number(by("opacity").value) + 5),
  w: () => setTool("window"),
  p: () => setTool("pan"),
  "+": () => stage.scale(1.25),
  "=": () => stage.scale(1.25),
  "-": () => stage.scale(0.8),
  f: () => stage.fit(),
  1: () => stage.actual(),
  i: invert,
  r: reset,
  "?": () => by("help").showModal(),
};
const BUTTONS = {
  open: "o", "heat-on": "h", "tool-window": "w", "tool-pan": "p", "zoom-in": "+", "zoom-out": "-",
  fit: "f", actual: "1", invert: "i", reset: "r", shortcuts: "?",
};

for (const [id, key] of Object.entries(BUTTONS)) by(id).addEventListener("click", ACTIONS[key]);
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=range])") || document.querySelector("dialog[open]");
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

// Single keys get in the way of those who speak to their computer (WCAG 2.2, 2.1.4).
by("keys").checked = localStorage.getItem("keys") !== "off";
by("keys").addEventListener("change", () => {
  localStorage.setItem("keys", by("keys").checked ? "on" : "off");
});
by("trouble").lastElementChild.addEventListener("click", start);

async function showExamples() {
  const all = await withToken(api.examples)().catch(() => []);
  by("examples").querySelector("div").replaceChildren(...all.map(({ name, findings: drawn }) => {
    const title = drawn.length ? drawn.map(label).join(", ") : "No finding";
    const button = element("button", "", title);
    button.type = "button";
    button.addEventListener("click", () => {
      films.choose(films.add(() => withToken(api.example)(name), `Phantom: ${title}`));
      makeRoom();
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
[...by("axis").children].forEach((tick, i) => (tick.style.left = `${place(ticks[i])}%`));
setTool("window");
by("heat").inert = true;
start();
