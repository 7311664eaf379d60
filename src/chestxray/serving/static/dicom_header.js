// Reads the patient and the study from a DICOM file in the browser, so that the server is never
// asked for them. Only the beginning of the file is read, up to group 0020.
//
// References: PS3.10 section 7.1 (file meta information), PS3.5 sections 7.1 (elements), 7.5
// (sequences), A.5 (deflated), 6.2.1.2 (person names).
// Not here: pixels, values within sequences, files without the preamble.

import { decodeText, latin } from "./character_sets.js";

const TAGS = {
  "0008,0005": "sets", "0008,0020": "studyDate", "0008,0030": "studyTime", "0008,0050": "accession",
  "0008,0060": "modality", "0008,0080": "institution", "0008,1030": "study", "0010,0010": "name",
  "0010,0020": "id", "0010,0021": "issuer", "0010,0030": "birthDate", "0010,0040": "sex",
  "0010,1010": "age", "0018,5101": "view",
};
const LAST_GROUP = 0x0020;
const HEADS = [2 ** 18, 2 ** 23]; // bytes of a file that are read: at first, and at most
const MOST_ELEMENTS = 20_000;
const DEEPEST = 16;
const UNDEFINED = 0xffffffff;
const LONG = new Set(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]);
const BIG_ENDIAN = "1.2.840.10008.1.2.2";
const IMPLICIT = "1.2.840.10008.1.2";
const DEFLATED = "1.2.840.10008.1.2.1.99";

export const isDicom = (bytes) => latin(bytes.subarray(128, 132)) === "DICM";

// Gives what the file says by the names of TAGS, as text; null where it is not a DICOM file, or
// breaks the Standard's rules.
//   blob: the file.
export async function readHeader(blob) {
  for (const size of HEADS) {
    const bytes = new Uint8Array(await blob.slice(0, size).arrayBuffer());
    if (!isDicom(bytes)) return null;
    try {
      return inWords(await values(bytes));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // the file's beginning is too short
      if (bytes.length < size) return null;
    }
  }
  return null;
}

async function values(bytes) {
  const found = {};
  const meta = new Walk(bytes, { explicit: true, little: true }, found);
  const end = meta.elements(132, 0x0002);
  const syntax = latin(found["0002,0010"] ?? new Uint8Array()).replace(/[\0 ]+$/, "");
  const rule = { explicit: syntax !== IMPLICIT, little: syntax !== BIG_ENDIAN };
  const rest = bytes.subarray(end);
  const data = syntax === DEFLATED ? await inflated(rest) : rest;
  new Walk(data, rule, found).elements(0, LAST_GROUP);
  return found;
}

// Inflates the beginning of a deflated data set.
async function inflated(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  for (let length = 0; length < HEADS[0]; ) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) break;
    parts.push(value);
    length += value.length;
  }
  reader.cancel().catch(() => {});
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Walks data elements; a read beyond the bytes is a RangeError.
class Walk {
  constructor(bytes, { explicit, little }, found) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.explicit = explicit;
    this.little = little;
    this.found = found;
    this.count = 0;
  }

  // Collects the elements from a place on until a group is passed; gives where that is.
  elements(at, lastGroup) {
    while (at < this.bytes.length) {
      const group = this.view.getUint16(at, this.little);
      if (group > lastGroup) return at;
      const { tag, vr, start, length } = this.element(at);
      if (length === UNDEFINED) {
        at = this.sequence(start, vr === "UN", 0);
        continue;
      }
      at = start + length;
      if (at > this.bytes.length) throw new RangeError("the value is cut off");
      if (tag in TAGS || tag === "0002,0010") this.found[tag] ??= this.bytes.subarray(start, at);
    }
    return at;
  }

  element(at) {
    if (++this.count > MOST_ELEMENTS) throw new RangeError("too many elements");
    const tag = [0, 2].map((by) => hex(this.view.getUint16(at + by, this.little))).join(",");
    if (!this.explicit || tag.startsWith("fffe")) {
      return { tag, vr: "", start: at + 8, length: this.view.getUint32(at + 4, this.little) };
    }
    const vr = latin(this.bytes.subarray(at + 4, at + 6));
    if (!LONG.has(vr)) {
      return { tag, vr, start: at + 8, length: this.view.getUint16(at + 6, this.little) };
    }
    return { tag, vr, start: at + 12, length: this.view.getUint32(at + 8, this.little) };
  }

  // Passes over a sequence of undefined length; one of unknown VR is implicit (PS3.5 6.2.2).
  sequence(at, implicit, depth) {
    if (depth > DEEPEST) throw new RangeError("sequences are nested too deeply");
    const explicit = this.explicit;
    if (implicit) this.explicit = false;
    for (;;) {
      const { tag, start, length } = this.element(at);
      at = start;
      if (tag === "fffe,e0dd") break;
      at = length === UNDEFINED ? this.item(start, depth) : start + length;
    }
    this.explicit = explicit;
    return at;
  }

  item(at, depth) {
    for (;;) {
      const { tag, vr, start, length } = this.element(at);
      if (tag === "fffe,e00d") return start;
      at = length === UNDEFINED ? this.sequence(start, vr === "UN", depth + 1) : start + length;
    }
  }
}

const hex = (number) => number.toString(16).padStart(4, "0");

function inWords(found) {
  const sets = latin(found["0008,0005"] ?? new Uint8Array()).split("\\").map((set) => set.trim());
  const header = {};
  for (const [tag, name] of Object.entries(TAGS)) {
    header[name] = tag in found ? decodeText(found[tag], sets) : "";
  }
  header.name = personName(header.name);
  header.studyDate = date(header.studyDate);
  header.birthDate = date(header.birthDate);
  return header;
}

// Writes a person's name: family name first, its representations side by side.
export function personName(text) {
  return text.split("=").map((group) => {
    const [family, given, middle, prefix, suffix] = group.split("^").map((part) => part.trim());
    const rest = [prefix, given, middle, suffix].filter(Boolean).join(" ");
    return [family, rest].filter(Boolean).join(", ");
  }).filter(Boolean).join(" · ");
}

// Writes a date (DA) as YYYY-MM-DD; what is none stays as it is.
export const date = (text) =>
  text.replace(/^(\d{4})[.-]?(\d{2})[.-]?(\d{2})$/, "$1-$2-$3");
