// Blends a heatmap over a radiograph as reading/overlay.blend does: colour and opacity grow with the
// heat, so pixels without heat keep their grey. Window and inversion act on the grey values below.

import { INFERNO } from "./inferno.js";

export const OPACITY = 0.65; // of full heat
const STEPS = 1024; // levels of the square root of the heat

// Gives the square root of the interpolated heat, in steps, for each pixel of an image.
//   map: rows of numbers over the square that the image lies in, centred; 1 is full heat.
export function smooth(map, width, height) {
  const side = Math.max(width, height);
  const across = weights(map[0].length, side, (side - width) >> 1, width);
  const down = weights(map.length, side, (side - height) >> 1, height);
  const steps = new Uint16Array(width * height);
  for (let y = 0, i = 0; y < height; y++) {
    const above = map[down.first[y]];
    const below = map[down.second[y]];
    const lower = down.share[y];
    for (let x = 0; x < width; x++, i++) {
      const left = across.first[x];
      const right = across.second[x];
      const share = across.share[x];
      const upper = above[left] + (above[right] - above[left]) * share;
      const under = below[left] + (below[right] - below[left]) * share;
      const heat = Math.min(1, Math.max(0, upper + (under - upper) * lower));
      steps[i] = Math.round(Math.sqrt(heat) * (STEPS - 1));
    }
  }
  return steps;
}

// Gives the two cells around each pixel's centre and the weight of the second; edges are repeated.
function weights(cells, side, start, length) {
  const first = new Uint16Array(length);
  const second = new Uint16Array(length);
  const share = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const place = ((start + i + 0.5) * cells) / side - 0.5;
    const cell = Math.floor(place);
    first[i] = Math.min(cells - 1, Math.max(0, cell));
    second[i] = Math.min(cells - 1, Math.max(0, cell + 1));
    share[i] = place - cell;
  }
  return { first, second, share };
}

// Gives the colour (32 bits, as in ImageData) of each heat step over each grey value.
//   look: { width, level, invert, opacity }; width 255 and level 127.5 leave the image unchanged.
export function table(look) {
  const grey = Float32Array.from({ length: 256 }, (_, value) => {
    const shown = ((value - look.level) / look.width + 0.5) * 255;
    const clipped = Math.min(255, Math.max(0, shown));
    return look.invert ? 255 - clipped : clipped;
  });
  const colours = new Uint32Array(STEPS * 256);
  for (let step = 0, i = 0; step < STEPS; step++) {
    const root = step / (STEPS - 1);
    const opacity = look.opacity * root;
    const colour = 3 * Math.min(255, Math.floor(root * root * 256));
    const red = INFERNO[colour] * opacity + 0.5;
    const green = INFERNO[colour + 1] * opacity + 0.5;
    const blue = INFERNO[colour + 2] * opacity + 0.5;
    for (let value = 0; value < 256; value++, i++) {
      const rest = grey[value] * (1 - opacity);
      colours[i] =
        ((255 << 24) | ((rest + blue) << 16) | ((rest + green) << 8) | (rest + red)) >>> 0;
    }
  }
  return colours;
}

// Paints grey values, with heat steps or null, into the pixels of an ImageData.
export function paint(pixels, grey, steps, look) {
  const colours = table(look);
  const out = new Uint32Array(pixels.buffer);
  if (steps) {
    for (let i = 0; i < out.length; i++) out[i] = colours[(steps[i] << 8) | grey[i]];
  } else {
    for (let i = 0; i < out.length; i++) out[i] = colours[grey[i]];
  }
}
