// The summary on one page of A4 or Letter: the radiograph as it is shown, the chosen heatmap as
// contours, all findings, the notices, the model. Made when the browser is about to print.

import { paint, smooth } from "./blend.js";
import { burn } from "./burned_warning.js";
import { by, element, sentence } from "./dom.js";
import { figures, sorted, verdict } from "./formatting.js";
import { reasonOf, warningsOf } from "./notices.js";
import { drawLength, lengthNote, lengthText } from "./ruler.js";

const MOST_ROWS = 45; // findings
const MOST_NOTICES = 8;
const LETTERS = 1 / 52; // height of a length's text, in widths of the picture

// page: { radiograph, card, heat, viewport, patient } - heat: the HeatControls; patient: the rows of
// the patient's header where it is shown on the screen, else none.
export function showPrintout(page) {
  by("print").replaceChildren(...(page.radiograph ? contents(page) : [nothing()]));
}

function contents({ radiograph, card, heat, viewport, patient }) {
  const { reading, problem } = radiograph;
  const parts = [heading(radiograph, patient)];
  if (reading?.refused) parts.push(element("p", "alarm", by("forced").textContent));
  parts.push(picture(heat, viewport));
  if (reading) parts.push(table(reading));
  if (problem) parts.push(element("p", "alarm", `Not read: ${reasonOf(problem)} There are no probabilities.`));
  parts.push(notices(reading), footer(reading, card));
  return parts;
}

const nothing = () => element("p", "", "No radiograph is selected.");

function heading({ name, identity }, patient) {
  const made = element("div", "head", "");
  const title = element("div", "", "");
  title.append(element("h1", "", "Reading of a chest radiograph"));
  title.append(element("p", "", [name, identity?.studyDate].filter(Boolean).join(" · ")));
  if (patient) title.append(element("p", "", patient));
  made.append(title, element("p", "research", "Research use only · not a medical device"));
  return made;
}

// The radiograph as a figure: window and inversion of the screen, contours, lengths, what is burned.
function picture(heat, viewport) {
  const made = element("figure", "", "");
  const { image, look } = viewport;
  if (!image) return made;
  const canvas = element("canvas", "", "");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Radiograph");
  Object.assign(canvas, { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  const pixels = new ImageData(image.width, image.height);
  const map = heat.shown && smooth(heat.shown, image.width, image.height);
  paint(pixels.data, image.grey, map, { ...look, contours: true });
  context.putImageData(pixels, 0, 0);
  const size = LETTERS * image.width;
  for (const { a, b } of image.measures) drawLength(context, a, b, lengthText(a, b, image), image, size);
  if (image.burned) burn(context, image.width, image.height);
  made.append(canvas, element("figcaption", "", caption(heat, image)));
  return made;
}

function caption(heat, image) {
  const parts = heat.shown
    ? [`Contours: heatmap of ${heat.row.label}, at half, three quarters and the end of its scale.`, heat.note]
    : ["No heatmap is drawn."];
  if (heat.shown && heat.row.not_localised) parts.push(sentence(heat.row.not_localised));
  if (image.measures.length) parts.push(`Lengths: ${lengthNote(image).replace(/^[A-Z]/, (letter) => letter.toLowerCase())}`);
  return parts.join(" ");
}

function table(reading) {
  const rows = sorted(reading.findings);
  const made = element("div", "findings", "");
  for (const row of rows.slice(0, MOST_ROWS)) {
    const [figure, threshold] = figures(row);
    const item = element("p", row.called ? "called" : "", "");
    const call = row.called ? "CALLED" : verdict(row);
    const limit = threshold === null ? "" : ` (threshold ${threshold})`;
    item.append(element("span", "name", row.label), element("span", "figure", figure));
    item.append(element("span", "call", `${call}${limit}${row.calibrated ? "" : ", uncalibrated"}`));
    made.append(item);
  }
  const left = rows.slice(MOST_ROWS);
  if (left.length) {
    const called = left.filter((row) => row.called).length;
    made.append(element("p", "", `… and ${left.length} more findings, ${called || "none"} of them called.`));
  }
  return made;
}

function notices(reading) {
  const made = element("ul", "", "");
  const all = warningsOf(reading);
  for (const notice of all.slice(0, MOST_NOTICES)) {
    const word = notice.refuses ? "Reason for refusal" : "Warning";
    made.append(element("li", "", `${word}: ${sentence(notice.sentence)}`));
  }
  if (all.length > MOST_NOTICES) made.append(element("li", "", `… and ${all.length - MOST_NOTICES} more warnings.`));
  return made;
}

function footer(reading, card) {
  const made = element("div", "foot", "");
  const model = [`Model ${reading?.model ?? card?.identity ?? "unknown"}`];
  if (card) {
    const data = card.trained_on.source ?? "data that are not recorded";
    model.push(`trained on ${data}`, `operating point “${card.operating_point}”`);
  }
  made.append(element("p", "", `${model.join(", ")}. Printed ${new Date().toLocaleString("sv").slice(0, 16)}.`));
  made.append(element("p", "", "A finding is called if its probability reaches its threshold. For research use, not a medical device: not for diagnosis."));
  return made;
}
