// The warning that is burned into the picture of a radiograph that was read although it is refused.
// It stands in the middle of the upper and the lower edge: the corners have the side markers.

const TEXT = "REFUSED BY THE GATE · READ ANYWAY · DO NOT RELY ON THIS READING";
const WIDEST = 0.62; // of the picture's width
const HEIGHT = 0.034; // of the picture's width, of the letters

export function burn(context, width, height) {
  let size = HEIGHT * width;
  const font = () => (context.font = `700 ${size}px system-ui, sans-serif`);
  font();
  size *= Math.min(1, (WIDEST * width) / context.measureText(TEXT).width);
  font();
  context.textAlign = "center";
  context.textBaseline = "middle";
  const wide = context.measureText(TEXT).width + 1.4 * size;
  for (const y of [1.6 * size, height - 1.6 * size]) {
    context.fillStyle = "#7c0a0a";
    context.fillRect((width - wide) / 2, y - size, wide, 2 * size);
    context.fillStyle = "#fff";
    context.fillText(TEXT, width / 2, y);
  }
  context.textAlign = "start";
}
