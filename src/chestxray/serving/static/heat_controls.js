// The heatmap's controls: off at first, contours, or colours; its scale; its opacity; what it means.

import { peakOf, scaledToPeak } from "./blend.js";
import { by, press, sentence } from "./dom.js";
import { INFERNO } from "./inferno.js";

const MODES = ["off", "contours", "colours"];
const SCALES = {
  finding:
    "The scale is the same for all radiographs: a typical true call of this finding peaks at 0.8.",
  image:
    "Scaled to this radiograph only: its peak is always bright, however weak the evidence. Not " +
    "comparable with other radiographs.",
};

export class HeatControls {
  constructor(viewport) {
    this.viewport = viewport;
    this.mode = "off";
    this.scale = "finding";
    this.map = this.row = null;
    for (const mode of MODES) by(`heat-${mode}`).addEventListener("click", () => this.setMode(mode));
    for (const scale of Object.keys(SCALES)) {
      by(`scale-${scale}`).addEventListener("click", () => this.setScale(scale));
    }
    by("opacity").addEventListener("input", (event) => this.setOpacity(Number(event.target.value)));
    const stops = Array.from({ length: 17 }, (_, i) => {
      const at = Math.min(255, i * 16);
      return `rgb(${INFERNO.slice(3 * at, 3 * at + 3).join(" ")})`;
    });
    by("bar").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    this.draw();
  }

  // map: of the selected finding, rows of numbers, or null for none; row: its result.
  show(map, row) {
    this.map = map ?? null;
    this.row = row ?? null;
    this.draw();
  }

  // The map as it is shown; null where it is off.
  get shown() {
    if (!this.map || this.mode === "off") return null;
    return this.scale === "image" ? scaledToPeak(this.map) : this.map;
  }

  // Says what the scale means, with the peak of the map.
  get note() {
    return (this.map ? `Peak ${peakOf(this.map).toFixed(2)}. ` : "") + SCALES[this.scale];
  }

  cycle() {
    this.setMode(MODES[(MODES.indexOf(this.mode) + 1) % MODES.length]);
  }

  setMode(mode) {
    this.mode = mode;
    this.viewport.set({ contours: mode === "contours" });
    this.draw();
  }

  swapScale() {
    this.setScale(this.scale === "image" ? "finding" : "image");
  }

  setScale(scale) {
    this.scale = scale;
    this.draw();
  }

  setOpacity(value) {
    const share = Math.min(100, Math.max(0, value));
    by("opacity").value = share;
    by("opacity-value").textContent = `${share} %`;
    this.viewport.set({ opacity: share / 100 });
  }

  draw() {
    this.viewport.heat(this.shown);
    const off = !this.shown;
    for (const mode of MODES) press(`heat-${mode}`, mode === this.mode);
    for (const scale of Object.keys(SCALES)) press(`scale-${scale}`, scale === this.scale);
    by("heat").inert = !this.map;
    by("heat-look").inert = by("heat-key").inert = off;
    by("heat-of").textContent = this.map ? `Heatmap: ${this.row.label}` : "Heatmap";
    by("scale-end").textContent = this.scale === "image" ? "peak" : "≥ 1";
    const nowhere = off ? "" : this.row.not_localised;
    by("no-place").textContent = nowhere ? sentence(nowhere) : "";
    by("heat-note").textContent = off
      ? "The heatmap is off. H switches to contours, then to colours."
      : this.note;
  }
}
