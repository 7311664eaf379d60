// Decodes the pictures of radiographs that the server sends.

// Decodes a grey PNG in base64, or null where there is none.
//   file: { width, height, spacing } of the radiograph as the server read it; null if it did not.
// Gives { blob, width, height, reduction, file, measures }: `reduction` is the picture's width by
// the file's, `measures` what the ruler measured in it.
export async function decode(base64, file = null) {
  if (!base64) return null;
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/png" });
  const { width, height } = await createImageBitmap(blob);
  const reduction = width / (file?.width ?? width);
  return { blob, width, height, reduction, file, measures: [] };
}

// Gives the grey values of a decoded picture, one byte per pixel.
export async function greyOf({ blob, width, height }) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
  return grey;
}

export async function thumbnail(canvas, { blob, width, height }) {
  const scale = canvas.width / Math.min(width, height);
  const bitmap = await createImageBitmap(blob, {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
    resizeQuality: "medium",
  });
  const at = (length) => (canvas.width - length) / 2;
  canvas.getContext("2d").drawImage(bitmap, at(bitmap.width), at(bitmap.height));
}
