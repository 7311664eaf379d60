// Decodes text of DICOM files by SpecificCharacterSet (PS3.3 C.12.1.1.2, PS3.5 section 6.1).
// Not here: JIS X 0212 outside of JIS escape sequences, which few names need.

// Defined terms of single-byte and multi-byte sets without code extensions → names of the Encoding
// Standard. The numbers are those of the registrations (ISO-IR).
const SETS = {
  6: "windows-1252", 13: "shift_jis", 100: "windows-1252", 101: "iso-8859-2", 109: "iso-8859-3",
  110: "iso-8859-4", 126: "iso-8859-7", 127: "iso-8859-6", 138: "iso-8859-8", 144: "iso-8859-5",
  148: "windows-1254", 166: "windows-874", 192: "utf-8", 203: "iso-8859-15",
};

// Escape sequences after ESC → how the bytes that follow are decoded. `high`: 7-bit codes of two
// bytes, which the decoder knows with their highest bits set.
const ESCAPES = {
  "(B": { name: "windows-1252" }, "(J": { name: "shift_jis" }, ")I": { name: "shift_jis" },
  "-A": { name: "windows-1252" }, "-B": { name: "iso-8859-2" }, "-C": { name: "iso-8859-3" },
  "-D": { name: "iso-8859-4" }, "-F": { name: "iso-8859-7" }, "-G": { name: "iso-8859-6" },
  "-H": { name: "iso-8859-8" }, "-L": { name: "iso-8859-5" }, "-M": { name: "windows-1254" },
  "-T": { name: "windows-874" }, "-b": { name: "iso-8859-15" },
  "$B": { name: "euc-jp", high: true }, "$(D": { name: "euc-jp", high: true, lead: 0x8f },
  "$)C": { name: "euc-kr" }, "$)A": { name: "gb18030" },
};
const ESCAPE = 0x1b;

// Gives the text of a value.
//   bytes: the value; sets: the values of SpecificCharacterSet.
export function decodeText(bytes, sets) {
  let kind = { name: initial(sets[0] ?? "") };
  let text = "";
  let start = 0;
  for (let at = 0; at <= bytes.length; at++) {
    if (at < bytes.length && bytes[at] !== ESCAPE) continue;
    text += decodePart(bytes.subarray(start, at), kind);
    const escape = [2, 3].map((count) => latin(bytes.subarray(at + 1, at + 1 + count)));
    const found = escape.find((each) => each in ESCAPES);
    if (found) kind = ESCAPES[found];
    start = at + 1 + (found?.length ?? 0);
    at = start - 1;
  }
  return text.replace(/[\0 ]+$/, "").trim();
}

// Gives the text of a value of ASCII or, in files that break the rule, Latin letters.
export const latin = (bytes) => new TextDecoder("windows-1252").decode(bytes);

function initial(term) {
  if (/^GB(K|18030)$/.test(term)) return "gb18030";
  return SETS[/(\d+)$/.exec(term)?.[1]] ?? "windows-1252";
}

function decodePart(bytes, { name, high, lead }) {
  if (!high) return new TextDecoder(name).decode(bytes);
  const codes = [];
  for (let i = 0; i + 1 < bytes.length; i += 2) {
    if (lead) codes.push(lead);
    codes.push(bytes[i] | 0x80, bytes[i + 1] | 0x80);
  }
  return new TextDecoder(name).decode(Uint8Array.from(codes));
}
