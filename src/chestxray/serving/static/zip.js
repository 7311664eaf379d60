// Reads ZIP archives in the browser (APPNOTE 6.3.10, sections 4.3 to 4.5). Entries are inflated one
// at a time, when they are opened, and never become more than they declare. Names are only shown.
// Not here: encryption, ZIP64, archives of several parts, methods other than stored and deflated.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const END_BYTES = 22;
const COMMENT = 0xffff; // bytes, the longest
const MOST_ENTRIES = 20_000;
const MOST_DIRECTORY = 2 ** 24; // bytes
const MOST_BYTES = 2 ** 28; // of one file
const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

// Why an archive, or a file in one, cannot be read; the message is for people.
export class ZipError extends Error {}

// Gives the files of an archive, each { name, size, head, open }; folders are left out.
//   head: gives the file's first bytes, as many as asked for; open: gives it whole, as a Blob.
export async function readZip(blob) {
  const { count, size, offset } = await directoryOf(blob);
  const bytes = new Uint8Array(await blob.slice(offset, offset + size).arrayBuffer());
  const view = new DataView(bytes.buffer);
  const files = [];
  for (let at = 0, i = 0; i < count; i++) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== ENTRY) throw damaged();
    const [nameLength, extra, comment] = [28, 30, 32].map((by) => view.getUint16(at + by, true));
    const flags = view.getUint16(at + 8, true);
    const name = new TextDecoder(flags & 0x800 ? "utf-8" : "windows-1252")
      .decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const entry = {
      name,
      encrypted: Boolean(flags & 1),
      method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      at: view.getUint32(at + 42, true),
    };
    if (!name.endsWith("/")) files.push(fileOf(blob, entry));
    at += 46 + nameLength + extra + comment;
  }
  return files;
}

async function directoryOf(blob) {
  const start = Math.max(0, blob.size - END_BYTES - COMMENT);
  const view = new DataView(await blob.slice(start).arrayBuffer());
  for (let at = view.byteLength - END_BYTES; at >= 0; at--) {
    if (view.getUint32(at, true) !== END) continue;
    const [count, size, offset] = [view.getUint16(at + 10, true), view.getUint32(at + 12, true), view.getUint32(at + 16, true)];
    if (count === 0xffff || offset === 0xffffffff) {
      throw new ZipError("Archives in the ZIP64 format are not read. Unpack it and drop the folder.");
    }
    if (count > MOST_ENTRIES || size > MOST_DIRECTORY) {
      throw new ZipError(`The archive lists ${count} files; at most ${MOST_ENTRIES} are read.`);
    }
    if (offset + size > blob.size) throw damaged();
    return { count, size, offset };
  }
  throw new ZipError("The file is not a ZIP archive, or it is cut off.");
}

const damaged = () => new ZipError("The archive is damaged.");

function fileOf(blob, entry) {
  return {
    name: entry.name,
    size: entry.size,
    head: async (count) => {
      const parts = [];
      let length = 0;
      for await (const part of unpacked(blob, entry)) {
        parts.push(part);
        length += part.length;
        if (length >= count) break;
      }
      return new Uint8Array(await new Blob(parts).slice(0, count).arrayBuffer());
    },
    open: async () => {
      const parts = [];
      let crc = -1;
      let length = 0;
      for await (const part of unpacked(blob, entry)) {
        for (const byte of part) crc = CRC[(crc ^ byte) & 0xff] ^ (crc >>> 8);
        parts.push(part);
        length += part.length;
      }
      if (length !== entry.size || ~crc >>> 0 !== entry.crc) throw damaged();
      return new Blob(parts);
    },
  };
}

// Gives the bytes of an entry, part by part.
async function* unpacked(blob, entry) {
  if (entry.encrypted) throw new ZipError("The archive is encrypted. Unpack it with its password.");
  if (entry.method !== 0 && entry.method !== 8) {
    throw new ZipError(`Compression method ${entry.method} is not supported. Unpack the archive.`);
  }
  if (entry.size > MOST_BYTES) throw new ZipError("The file is larger than 256 MB.");
  const local = new DataView(await blob.slice(entry.at, entry.at + 30).arrayBuffer());
  if (local.byteLength < 30 || local.getUint32(0, true) !== LOCAL) throw damaged();
  const start = entry.at + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const packed = blob.slice(start, start + entry.packed).stream();
  const reader = (entry.method ? packed.pipeThrough(new DecompressionStream("deflate-raw")) : packed).getReader();
  try {
    for (let length = 0; ; ) {
      const { done, value } = await reader.read().catch(() => { throw damaged(); });
      if (done) return;
      length += value.length;
      if (length > entry.size) throw damaged();
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
