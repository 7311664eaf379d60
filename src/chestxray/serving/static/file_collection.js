// Finds the radiographs in what was dropped or chosen: files, folders and ZIP archives. Files that
// were chosen one by one are all taken; in folders and archives, what is neither DICOM, PNG nor JPEG
// is skipped and counted. Names of files are only shown, never sent.

import { latin } from "./character_sets.js";
import { isDicom } from "./dicom_header.js";
import { readZip } from "./zip.js";

const MOST_FILES = 1000; // radiographs that are added at once
const DEEPEST = 16; // folders
const HEAD = 512; // bytes
const DICOMDIR = "1.2.840.10008.1.3.10";
const SIGNATURES = [[0x89, 0x50, 0x4e, 0x47], [0xff, 0xd8, 0xff]];
const ZIP = [0x50, 0x4b, 0x03, 0x04];

// Remembers what was dropped: a DataTransfer is empty after its event.
export function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.some((entry) => entry.isDirectory)) return { entries };
  return { files: [...transfer.files] };
}

// Gives { found: [{ name, open }], skipped, problems }.
//   source: { files } or { entries } as `dropped` gives, or { folder: files of a folder }.
export async function collect(source) {
  const made = { found: [], skipped: 0, left: 0, problems: [] };
  for (const file of source.files ?? []) {
    const bytes = await head(file);
    if (starts(bytes, ZIP)) await addZip(made, file);
    else add(made, file.name, async () => file);
  }
  const chosen = (source.folder ?? []).map((file) => ({ name: file.webkitRelativePath, file }));
  const inFolders = chosen.concat(await filesOf(source.entries ?? [], made));
  for (const { name, file } of byName(inFolders)) {
    const bytes = await head(file);
    if (starts(bytes, ZIP)) await addZip(made, file);
    else if (isRadiograph(bytes)) add(made, name, async () => file);
    else made.skipped++;
  }
  if (made.left) made.problems.push(`At most ${MOST_FILES} are added at once; ${made.left} were left out.`);
  return made;
}

function add(made, name, open) {
  if (made.found.length < MOST_FILES) made.found.push({ name: shownName(name), open });
  else made.left++;
}

async function addZip(made, file) {
  try {
    for (const entry of byName(await readZip(file))) {
      await addEntry(made, entry);
    }
  } catch (error) {
    made.problems.push(`${shownName(file.name)}: ${error.message}`);
  }
}

// An entry that cannot be unpacked is taken where its name is that of a radiograph: reading it fails
// with the reason.
async function addEntry(made, entry) {
  const bytes = await entry.head(HEAD).catch(() => null);
  const taken = bytes ? isRadiograph(bytes) : /\.(dcm|png|jpe?g)$/i.test(entry.name);
  if (taken) add(made, entry.name, entry.open);
  else made.skipped++;
}

const byName = (files) =>
  [...files].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));

// The list of a medium's files (PS3.10 section 8) is a DICOM file too, but has no pixels.
function isRadiograph(bytes) {
  if (SIGNATURES.some((signature) => starts(bytes, signature))) return true;
  return isDicom(bytes) && !latin(bytes).includes(DICOMDIR);
}

const starts = (bytes, signature) => signature.every((byte, i) => bytes[i] === byte);

const head = async (file) =>
  new Uint8Array(await file.slice(0, HEAD).arrayBuffer().catch(() => new ArrayBuffer(0)));

// Gives the files of entries and of the folders among them, each { name, file }.
async function filesOf(entries, made, depth = 0) {
  const files = [];
  for (const entry of entries) {
    if (files.length > 20 * MOST_FILES || depth > DEEPEST) break;
    if (entry.isFile) {
      const file = await new Promise((done) => entry.file(done, () => done(null)));
      if (file) files.push({ name: entry.fullPath, file });
      else made.problems.push(`${shownName(entry.name)} cannot be opened.`);
    } else {
      files.push(...(await filesOf(await children(entry), made, depth + 1)));
    }
  }
  return files;
}

// Gives the entries of a folder, which the browser hands out in portions.
async function children(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((done) => reader.readEntries(done, () => done([])));
    if (!some.length) return all;
    all.push(...some);
  }
}

// Gives the end of a path, file and folder. Control characters, and marks that change the direction
// of text, could make a name look like another one.
export function shownName(path) {
  const end = path.split(/[\\/]/).filter(Boolean).slice(-2).join("/");
  return end.replace(/[\p{Cc}\p{Cf}]/gu, "·").slice(0, 200) || "unnamed";
}
