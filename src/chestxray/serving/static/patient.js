// The patient's and the study's data in the header of a file: shown on demand, read in the browser.
// The server is not asked, nothing is written anywhere, and the text is gone when it is closed.

import { readHeader } from "./dicom_header.js";
import { by, element, press } from "./dom.js";

const SEXES = { M: "male", F: "female", O: "other" };
const ROWS = {
  Name: (of) => of.name,
  "Patient ID": (of) => [of.id, of.issuer && `(${of.issuer})`].filter(Boolean).join(" "),
  Born: (of) => of.birthDate,
  Age: (of) => age(of.age),
  Sex: (of) => SEXES[of.sex] ?? of.sex,
  Study: (of) => [of.studyDate, time(of.studyTime), of.study].filter(Boolean).join(" · "),
  Accession: (of) => of.accession,
  Institution: (of) => of.institution,
  View: (of) => [of.modality, of.view].filter(Boolean).join(" · "),
};
const NOTHING = "This file has no patient header.";

// What is kept of a file to find prior radiographs of the same patient; null where it says nothing.
export async function identityOf(file) {
  const header = await readHeader(file).catch(() => null);
  if (!header) return null;
  const { id, issuer, birthDate, sex, studyDate, studyTime } = header;
  return { id, issuer, birthDate, sex: sex.toUpperCase(), names: spellings(header.name), studyDate, studyTime };
}

// Gives the representations of a name without case, accents and punctuation, in which files differ.
function spellings(name) {
  const plain = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toUpperCase();
  const words = (text) => plain(text).replace(/[^\p{L}\p{M}\p{N}]+/gu, " ").trim();
  return name.split(" · ").map(words).filter(Boolean);
}

export class PatientHeader {
  constructor() {
    this.open = false;
    this.radiograph = null;
    by("patient-close").addEventListener("click", () => this.close());
  }

  toggle() {
    if (this.open) return this.close();
    this.open = true;
    this.draw();
  }

  // Gives whether it was open.
  close() {
    const was = this.open;
    this.open = false;
    this.draw();
    return was;
  }

  // Another radiograph is selected, or its state changed.
  update(radiograph) {
    if (radiograph === this.radiograph) return;
    this.radiograph = radiograph;
    this.draw();
  }

  async draw() {
    press("patient-show", this.open);
    by("patient").hidden = !this.open;
    const list = by("patient").querySelector("dl");
    list.replaceChildren();
    const { radiograph } = this;
    if (!this.open || !radiograph) return;
    const header = await Promise.resolve(radiograph.open()).then(readHeader).catch(() => null);
    if (!this.open || radiograph !== this.radiograph) return; // by now
    const rows = Object.entries(ROWS).map(([name, text]) => [name, header && text(header)]);
    const known = rows.filter(([, text]) => text);
    by("patient").dataset.known = known.length > 0;
    list.replaceChildren(...(known.length ? known : [["Patient", NOTHING]]).map(([name, text]) => {
      const row = document.createElement("div");
      row.append(element("dt", "", name), element("dd", "", text));
      return row;
    }));
  }
}

// Writes an age (AS), such as 054Y.
function age(text) {
  const units = { Y: "years", M: "months", W: "weeks", D: "days" };
  return text.replace(/^0*(\d+)([YMWD])$/, (_, count, unit) => `${count} ${units[unit]}`);
}

// Writes a time (TM) as HH:MM.
const time = (text) => text.replace(/^(\d{2}):?(\d{2}).*$/, "$1:$2");
