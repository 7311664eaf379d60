"""A heatmap laid over its radiograph: a faint veil below the middle of the scale, contours above.

The lung must stay visible where the evidence is: the veil takes at most 0.3 of the radiograph's
contrast, and it fades above the middle of the scale, where contours at 0.5, 0.75 and 1 show the
heat instead. The viewer draws the same in `serving/static/blend.js`; a test compares the two pixel
by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.pixels import Canonical, Placement

COLOURS: Final = "inferno"
"""The colour map, by its name in matplotlib."""

LEVELS: Final = (0.5, 0.75, 1.0)
"""The heat of the contours."""

_Floats = npt.NDArray[np.float32]
_RGB = npt.NDArray[np.uint8]

# The colours of heat 0 to 1, uint8 [256, 3] RGB.
_PALETTE: Final = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[
    :, 0, ::-1
]
_STEPS: Final = 256  # of heat from 0 to 1
# The level of the nearest contour, for each step; 0.625 and 0.875 are halfway from level to level.
_NEAREST: Final = np.array(LEVELS, np.float32)[np.digitize(np.arange(256) / 256, (0.625, 0.875))]
_VEIL: Final = 0.3  # opacity at the middle of the scale, the highest
_INSIDE: Final = 0.1  # opacity from the second contour on
_CASING: Final = 0.6  # opacity of the dark edges of a contour
_LINE: Final = 1 / 280  # width of a contour, in sides of the image
_THINNEST: Final = 1.2  # pixels
_EDGE: Final = 0.5  # width of each dark edge, in that of the contour
_ROWS_AT_ONCE: Final = 256
_FLAT: Final = 1e-5  # heat a pixel: a flat map has no contours
_NO_FRACTIONS: Final = np.empty(0, dtype=np.uint16)  # positions in the table are whole numbers


def blend(image: _RGB, heat: npt.NDArray[np.floating], *, per_image: bool = False) -> _RGB:
    """Lay a heatmap over a radiograph.

    The radiograph is unchanged where there is no heat.

    Args:
        image: uint8 [S, S].
        heat: [h, w], at least 0; 1 is the end of the scale.
        per_image: scale the heat to its own peak, so that every map has a bright place, however
            weak its evidence. Such a picture must be labelled so.

    Returns:
        RGB uint8 [S, S, 3].
    """
    shown = (scaled_to_peak(heat) if per_image else heat).astype(np.float32)
    across, down = _side(heat.shape[1], image.shape[1]), _side(heat.shape[0], image.shape[0])
    wide, steep = across.smooth(shown.T).T.copy(), across.slopes(shown.T).T.copy()
    smooth = down.smooth(wide)
    step = np.clip(smooth * _STEPS, 0, _STEPS - 1).astype(np.uint8)
    place = cv2.merge((image, step)).astype(np.int16)
    drawn = np.asarray(cv2.remap(_table(), place, _NO_FRACTIONS, cv2.INTER_NEAREST), np.uint8)
    slope = cv2.magnitude(down.smooth(steep), down.slopes(wide))
    _draw_contours(drawn, smooth, step, np.asarray(slope, np.float32))
    return drawn


def outlined(
    heat: npt.NDArray[np.floating], placement: Placement, size: tuple[int, int]
) -> Iterator[npt.NDArray[np.bool_]]:
    """Give the pixels of a radiograph that the first contour of a heatmap encloses.

    Args:
        heat: [h, w], over the canonical square.
        placement: x, y, w, h of the radiograph in the square, as fractions of its side.
        size: width and height of the radiograph, pixels.

    Yields:
        bool [n, width], of the next n rows, so that the memory is small whatever the size.
    """
    (left, top, wide, high), (width, height) = placement, size
    across = _between(heat.shape[1], width, left, wide)
    down = _between(heat.shape[0], height, top, high)
    columns = across.smooth(heat.astype(np.float32).T).T.copy()
    for first in range(0, height, _ROWS_AT_ONCE):
        yield down.part(first, first + _ROWS_AT_ONCE).smooth(columns) >= LEVELS[0]


def scaled_to_peak(heat: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Scale a heatmap to its own peak; one without heat stays so."""
    peak = heat.max()
    return heat / peak if peak > 0 else heat


class _Between(NamedTuple):
    """Between which cells the pixels of one side lie: the one before and the one behind, [2, n].

    A product with a matrix of weights would say the same, but most of it is zeros, and NumPy's `@`
    and OpenCV's `gemm` wake the threads of OpenBLAS, which then burn the other cores for 30 ms.

    Attributes:
        cells: of each pixel, intp.
        weights: of these cells, float32.
        changes: of the weights from pixel to pixel, float32.
    """

    cells: npt.NDArray[np.intp]
    weights: _Floats
    changes: _Floats

    def smooth(self, values: _Floats) -> _Floats:
        """Interpolate values of cells, float32 [cells, m], over the pixels, [n, m]."""
        return _mixed(values, self.cells, self.weights)

    def slopes(self, values: _Floats) -> _Floats:
        """Give the slopes of what `smooth` gives, a pixel."""
        return _mixed(values, self.cells, self.changes)

    def part(self, first: int, last: int) -> _Between:
        """Give some of the pixels."""
        some = np.s_[:, first:last]
        return _Between(self.cells[some], self.weights[some], self.changes[some])


@cache
def _side(cells: int, pixels: int) -> _Between:
    """Interpolate over the pixels of the whole side."""
    return _between(cells, pixels, 0.0, 1.0)


def _between(cells: int, pixels: int, start: float, extent: float) -> _Between:
    """Interpolate between the centres of cells; edges are repeated.

    The weight of the nearer cell follows 3 s² - 2 s³, which keeps the values at the centres, never
    exceeds them, and has no creases, so that contours are round.

    Args:
        cells: along the side.
        pixels: in `extent` of it.
        start: where the first pixel begins, as a fraction of the side.
        extent: of all pixels, as a fraction of the side.
    """
    step = extent * cells / pixels
    place = start * cells + (np.arange(pixels) + 0.5) * step - 0.5
    first = np.floor(place).astype(np.intp)
    share = place - first
    share, change = share**2 * (3 - 2 * share), 6 * share * (1 - share) * step
    return _Between(
        np.stack((first.clip(0), (first + 1).clip(max=cells - 1))),
        np.stack((1 - share, share)).astype(np.float32),
        np.stack((-change, change)).astype(np.float32),
    )


def _mixed(values: _Floats, cells: npt.NDArray[np.intp], weights: _Floats) -> _Floats:
    mixed: _Floats = values[cells[0]]
    behind: _Floats = values[cells[1]]
    mixed *= weights[0, :, None]
    behind *= weights[1, :, None]
    mixed += behind
    return mixed


def _opacity(heat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give the opacity of the veil."""
    return np.interp(heat, (0, LEVELS[0], LEVELS[1], 1), (0, _VEIL, _INSIDE, _INSIDE))


@cache
def _table() -> _RGB:
    """Give the veil over each grey value, RGB uint8 [256, 256, 3]: step of heat × grey value."""
    steps = np.arange(_STEPS)
    opacity = _opacity(steps / _STEPS)[:, None, None]
    grey = np.arange(256.0)[None, :, None]
    return np.rint((1 - opacity) * grey + opacity * _PALETTE[:, None]).astype(np.uint8)


def _draw_contours(drawn: _RGB, smooth: _Floats, step: Canonical, slope: _Floats) -> None:
    """Draw the contours into the picture, bright lines with dark edges.

    The distance of a pixel from a contour is taken as the difference in heat over its slope.

    Args:
        drawn: the picture, RGB uint8 [S, S, 3].
        smooth: heat of its pixels, [S, S].
        step: the same in steps, uint8.
        slope: of the heat, a pixel.
    """
    width = max(_THINNEST, _LINE * max(drawn.shape[:2]))
    reach = width / 2 + _EDGE * width + 0.5
    nearest = cv2.LUT(step, _NEAREST)
    off = cv2.absdiff(smooth, nearest)
    near = np.flatnonzero((slope > _FLAT) & (off <= reach * slope))
    distance = (off.ravel()[near] / slope.ravel()[near])[:, None]
    casing = _CASING * np.clip(reach - distance, 0, 1)
    line = np.clip(width / 2 + 0.5 - distance, 0, 1)
    level = np.minimum(nearest.ravel()[near] * _STEPS, _STEPS - 1).astype(np.intp)
    pixels = drawn.reshape(-1, 3)
    under = pixels[near] * (1 - casing) * (1 - line)
    pixels[near] = np.rint(under + _PALETTE[level] * line).astype(np.uint8)
