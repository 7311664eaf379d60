// Puts the viewer together: films, stage, findings, heatmap, keyboard.

import * as api from "./api.js";
import { showCard } from "./card.js";
import { by, element } from "./dom.js";
import { Films, greyOf } from "./films.js";
import { Findings, place } from "./findings.js";
import { INFERNO } from "./inferno.js";
import { refusal, warning } from "./notices.js";
import { Stage } from "./stage.js";
import { withToken } from "./token.js";
import { label, summary } from "./words.js";

let card = null;
let heatOn = true;
let shown = null; // the film whose picture is on the stage

const stage = new Stage(by("stage"), readout);
const findings = new Findings(by("findings"), showHeat);
const loaded = withToken(api.model)();
const films = new Films(by("list"), read, announce, show);

async function read(file) {
  await loaded;
  return withToken(api.read)(file);
}

function readout({ width, level, zoom }) {
  by("readout").textContent = stage.film
    ? `W ${Math.round(width)}  L ${Math.round(level)}  ${Math.round(100 * zoom)} %`
    : "";
}

// Shows the chosen film in whatever state it is.
async function show(film) {
  by("empty").hidden = Boolean(film);
  showReading(film);
  if (film?.picture !== shown) {
    shown = film?.picture ?? null;
    const picture = shown;
    const grey = picture && (await greyOf(picture));
    if (picture !== shown) return; // another film was chosen meanwhile
    stage.show(picture && { grey, width: picture.width, height: picture.height });
    press("invert", false);
  }
  by("stage").setAttribute("aria-label", film ? `Radiograph ${film.name}` : "Radiograph");
  showHeat();
}

function showReading(film) {
  const reading = film?.reading;
  const failed = Boolean(film?.problem);
  by("result").hidden = !reading;
  by("waiting").hidden = Boolean(reading);
  by("waiting").textContent = state(film);
  by("refusal").hidden = !failed;
  by("frame").dataset.failed = failed;
  const warnings = (reading?.warnings ?? []).filter(ofFilm);
  by("warnings").replaceChildren(...warnings.map(warning));
  by("flag").hidden = !warnings.length;
  by("flag").textContent = `${warnings.length} ${warnings.length === 1 ? "warning" : "warnings"}`;
  if (reading) {
    findings.show(reading, card);
    const called = reading.findings.filter((row) => row.called).length;
    by("count").textContent = `${called} of ${reading.findings.length} called`;
  }
  if (failed) by("refusal").replaceChildren(...refusal(film.problem));
}

function state(film) {
  if (!film) return "No film is chosen.";
  return film.problem
    ? `${film.name} is not read, so there are no findings.`
    : `${film.name} is being read …`;
}

// What is not calibrated is told with each finding.
const ofFilm = (notice) => notice.code !== "not-calibrated";

function showHeat() {
  const reading = films.current?.reading;
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
  if (film.state === "read") by("status").textContent = summary(film.name, film.reading);
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
  for (const file of files) films.add(file, file.name);
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
  1: () => stage.film && stage.scale(1 / stage.zoom),
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
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
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

async function showExamples() {
  const all = await withToken(api.examples)();
  by("examples").querySelector("div").replaceChildren(...all.map(({ name, findings: drawn }) => {
    const title = drawn.length ? drawn.map(label).join(", ") : "No finding";
    const button = element("button", "", title);
    button.type = "button";
    button.addEventListener("click", async () => {
      films.choose(films.add(await withToken(api.example)(name), `Phantom: ${title}`));
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
card = await loaded;
showCard(card);
await showExamples();
