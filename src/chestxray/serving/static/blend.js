// Blends a heatmap over a radiograph as reading/overlay.blend does: a faint veil below the middle of
// the scale, contours above it. Pixels without heat keep their grey. Window and inversion act on the
// grey values below.

import { INFERNO } from "./inferno.js";

const STEPS = 256; // levels of the veil, heat 0 to 1
const LEVELS = [0.5, 0.75, 1];
const BETWEEN = [0.625, 0.875]; // halfway from level to level
const VEIL = 0.3; // opacity at the middle of the scale, the highest
const INSIDE = 0.1; // opacity from the second contour on
const CASING = 0.6; // opacity of the dark edges of a contour
const LINE = 1 / 280; // width of a contour, in sides of the image
const THINNEST = 1.2; // pixels
const EDGE = 0.5; // width of each dark edge, in that of the contour
const FLAT = 1e-5; // heat a pixel: a flat map has no contours

// Gives the highest heat of a map, rows of numbers.
export const peakOf = (map) => Math.max(...map.flat());

// Scales a map to its own peak; one without heat stays so.
export function scaledToPeak(map) {
  const peak = peakOf(map);
  return peak > 0 ? map.map((row) => row.map((heat) => heat / peak)) : map;
}

// Gives the heat of each pixel of an image: the step of the veil, and the contour that crosses it.
//   map: rows of numbers over the square that the image lies in, centred; 1 is the scale's end.
export function smooth(map, width, height) {
  const side = Math.max(width, height);
  const across = weights(map[0].length, side, (side - width) >> 1, width);
  const down = weights(map.length, side, (side - height) >> 1, height);
  const line = Math.max(THINNEST, LINE * side);
  const reach = line / 2 + EDGE * line + 0.5;
  const made = {
    step: new Uint8Array(width * height),
    level: new Uint8Array(width * height), // 1 to 3: the nearest contour; 0: none is near
    line: new Float32Array(width * height),
    casing: new Float32Array(width * height),
  };
  for (let y = 0, i = 0; y < height; y++) {
    const above = map[down.first[y]];
    const below = map[down.second[y]];
    for (let x = 0; x < width; x++, i++) {
      const left = across.first[x];
      const right = across.second[x];
      const upper = above[left] + (above[right] - above[left]) * across.share[x];
      const under = below[left] + (below[right] - below[left]) * across.share[x];
      const heat = upper + (under - upper) * down.share[y];
      made.step[i] = Math.min(STEPS - 1, Math.max(0, Math.floor(heat * STEPS)));
      const top = above[right] - above[left];
      const bottom = below[right] - below[left];
      const slopeX = (top + (bottom - top) * down.share[y]) * across.slope[x];
      const slopeY = (under - upper) * down.slope[y];
      const squared = slopeX * slopeX + slopeY * slopeY;
      const level = (heat >= BETWEEN[0]) + (heat >= BETWEEN[1]);
      const off = Math.abs(heat - LEVELS[level]);
      if (squared <= FLAT * FLAT || off * off > reach * reach * squared) continue;
      const distance = off / Math.sqrt(squared);
      made.level[i] = level + 1;
      made.line[i] = clip(line / 2 + 0.5 - distance);
      made.casing[i] = CASING * clip(reach - distance);
    }
  }
  return made;
}

const clip = (value) => Math.min(1, Math.max(0, value));

// Gives the two cells around each pixel's centre, the weight of the second and its slope; edges are
// repeated. The weight follows 3 s² - 2 s³, so that contours are round.
function weights(cells, side, start, length) {
  const first = new Uint16Array(length);
  const second = new Uint16Array(length);
  const share = new Float32Array(length);
  const slope = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const place = ((start + i + 0.5) * cells) / side - 0.5;
    const cell = Math.floor(place);
    const s = place - cell;
    first[i] = Math.min(cells - 1, Math.max(0, cell));
    second[i] = Math.min(cells - 1, Math.max(0, cell + 1));
    share[i] = s * s * (3 - 2 * s);
    slope[i] = (6 * s * (1 - s) * cells) / side;
  }
  return { first, second, share, slope };
}

// Gives the opacity of the veil.
function veil(heat) {
  if (heat <= LEVELS[0]) return (VEIL * heat) / LEVELS[0];
  const beyond = Math.min(1, (heat - LEVELS[0]) / (LEVELS[1] - LEVELS[0]));
  return VEIL + (INSIDE - VEIL) * beyond;
}

// Gives the colour (32 bits, as in ImageData) of each step of heat over each grey value.
//   look: { width, level, invert, opacity, contours }; width 255 and level 127.5 leave the image
//   unchanged; opacity 1 draws the veil and the contours as reading/overlay.blend does; `contours`
//   leaves out the veil.
export function table(look) {
  const grey = Float32Array.from({ length: 256 }, (_, value) => {
    const shown = ((value - look.level) / look.width + 0.5) * 255;
    const clipped = Math.min(255, Math.max(0, shown));
    return look.invert ? 255 - clipped : clipped;
  });
  const colours = new Uint32Array(STEPS * 256);
  for (let step = 0, i = 0; step < STEPS; step++) {
    const opacity = look.contours ? 0 : look.opacity * veil(step / STEPS);
    const red = INFERNO[3 * step] * opacity + 0.5;
    const green = INFERNO[3 * step + 1] * opacity + 0.5;
    const blue = INFERNO[3 * step + 2] * opacity + 0.5;
    for (let value = 0; value < 256; value++, i++) {
      const rest = grey[value] * (1 - opacity);
      colours[i] =
        ((255 << 24) | ((rest + blue) << 16) | ((rest + green) << 8) | (rest + red)) >>> 0;
    }
  }
  return colours;
}

// Paints grey values, with the heat that `smooth` gives or null, into the pixels of an ImageData.
export function paint(pixels, grey, heat, look) {
  const colours = table(look);
  const out = new Uint32Array(pixels.buffer);
  if (!heat) {
    for (let i = 0; i < out.length; i++) out[i] = colours[grey[i]];
    return;
  }
  for (let i = 0; i < out.length; i++) {
    out[i] = colours[(heat.step[i] << 8) | grey[i]];
    if (heat.level[i]) drawContour(pixels, heat, i, look.opacity);
  }
}

// Draws the contour that crosses a pixel: a bright line with dark edges.
function drawContour(pixels, heat, i, opacity) {
  const colour = 3 * Math.min(STEPS - 1, LEVELS[heat.level[i] - 1] * STEPS);
  const line = heat.line[i] * opacity;
  const rest = (1 - heat.casing[i] * opacity) * (1 - line);
  for (let channel = 0; channel < 3; channel++) {
    const at = 4 * i + channel;
    pixels[at] = pixels[at] * rest + INFERNO[colour + channel] * line;
  }
}
