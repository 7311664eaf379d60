"""The drawing plane: a square grid measured in centimetres, and its few drawing operations.

x grows to the right of the image, which is the patient's left; x = 0 is the midline. y grows
downwards; y = 0 is the level of the lung apices. Planes are float32 [side, side].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

_Points = TypeVar("_Points", Points, npt.NDArray[np.int32])

_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Canvas:
    """A square grid.

    Attributes:
        side: pixels along each side.
        scale: pixels per centimetre.
        top: y of the upper edge in cm (negative: above the lung apices).
    """

    side: int
    scale: float
    top: float

    @cached_property
    def x(self) -> Plane:
        """Centimetres from the midline, [1, side]."""
        across = (np.arange(self.side, dtype=np.float32) + 0.5 - self.side / 2) / self.scale
        return np.asarray(across[None], np.float32)

    @cached_property
    def y(self) -> Plane:
        """Centimetres below the apices, [side, 1]."""
        down = (np.arange(self.side, dtype=np.float32) + 0.5) / self.scale + self.top
        return np.asarray(down[:, None], np.float32)

    def empty(self) -> Plane:
        """Give a plane of zeros."""
        return np.zeros((self.side, self.side), np.float32)

    def part(
        self,
        left: float = -np.inf,
        right: float = np.inf,
        top: float = -np.inf,
        low: float = np.inf,
    ) -> tuple[slice, slice]:
        """Give the rows and columns that cover a rectangle (cm), to draw small things there alone.

        The caller must be sure that there is nothing to draw outside the rectangle.
        """
        across = np.array([left, right]) * self.scale + self.side / 2
        down = (np.array([top, low]) - self.top) * self.scale
        first = np.clip(np.array([down[0], across[0]]) - 2, 0, self.side).astype(int)
        last = np.clip(np.array([down[1], across[1]]) + 2, 0, self.side).astype(int)
        return slice(first[0], last[0]), slice(first[1], last[1])

    def _fixed(self, points: Points) -> npt.NDArray[np.int32]:
        pixels = np.empty_like(points)
        pixels[..., 0] = points[..., 0] * self.scale + self.side / 2 - 0.5
        pixels[..., 1] = (points[..., 1] - self.top) * self.scale - 0.5
        return np.asarray(np.round(pixels * (1 << _SUBPIXEL_BITS)), np.int32)

    def polygons(self, outlines: Iterable[Points]) -> Plane:
        """Fill outlines [n, 2] in cm; gives the coverage of each pixel, 0 to 1."""
        plane = np.zeros((self.side, self.side), np.uint8)
        shapes = list(outlines)
        for points in _cut(self._fixed(np.concatenate(shapes)), map(len, shapes)):
            cv2.fillPoly(plane, [points], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return np.asarray(plane / np.float32(255), np.float32)

    def ribbons(self, curves: Sequence[Points], widths: Sequence[float]) -> Plane:
        """Fill bands of the given widths (cm) along open curves [n, 2]."""
        return self.polygons(ribbons(curves, widths))

    def strokes(self, curves: Sequence[Points] | Points, widths: Sequence[float] | Points) -> Plane:
        """Draw curves as round threads; gives the path through them in cm, narrow ones too.

        A thread thinner than a pixel is drawn one pixel wide and as much fainter. Where threads
        cross, the later one shows.
        """
        plane = np.zeros((self.side, self.side), np.uint8)
        if not len(curves):
            return self.empty()
        width = np.asarray(widths)
        unit = max(float(width.max()), 1e-6) / 255
        wide = width * self.scale
        value = (width * np.minimum(wide, 1.0) / unit).tolist()
        thick = np.maximum(1, (wide + 0.5).astype(int)).tolist()
        threads = _cut(self._fixed(np.concatenate(curves)), map(len, curves))
        for points, tone, line in zip(threads, value, thick, strict=True):
            cv2.polylines(plane, [points], False, tone, line, cv2.LINE_AA, _SUBPIXEL_BITS)
        return plane.astype(np.float32) * np.float32(unit)

    def blur(self, plane: Plane, cm: float) -> Plane:
        """Blur with a Gaussian whose standard deviation is `cm`; wide ones on a coarser grid."""
        sigma = cm * self.scale
        if sigma < 0.3:
            return plane
        step = int(sigma // 3)
        if step < 2:
            return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)
        coarse = cv2.resize(
            plane, (self.side // step, self.side // step), interpolation=cv2.INTER_AREA
        )
        coarse = cv2.GaussianBlur(coarse, (0, 0), sigma / step)
        return np.asarray(cv2.resize(coarse, (self.side, self.side)), np.float32)

    def domed(self, coverage: Plane, reach: float) -> Plane:
        """Give a flat shape the profile of a round body: 0 at its edge, 1 at `reach` cm inside."""
        inside = (coverage > 0.5).astype(np.uint8)
        away = cv2.distanceTransform(inside, cv2.DIST_L2, 5) / (reach * self.scale)
        part = 1 - np.minimum(away, 1)
        return np.asarray(coverage * np.sqrt(1 - part * part), np.float32)

    def ball(self, x: float, y: float, rx: float, ry: float | None = None) -> Plane:
        """Give the relative path through an ellipsoid, 1 at its centre (x, y)."""
        ry = rx if ry is None else ry
        plane = self.empty()
        rows, columns = self.part(x - rx, x + rx, y - ry, y + ry)
        square = ((self.x[:, columns] - x) / rx) ** 2 + ((self.y[rows] - y) / ry) ** 2
        plane[rows, columns] = np.sqrt(np.maximum(1 - square, 0))
        return plane

    def cloud(self, x: float, y: float, rx: float, ry: float | None = None) -> Plane:
        """Give a Gaussian blob, 1 at its centre (x, y), with standard deviations in cm."""
        ry = rx if ry is None else ry
        across = np.exp(-0.5 * ((self.x - x) / rx) ** 2)
        down = np.exp(-0.5 * ((self.y - y) / ry) ** 2)
        return np.asarray(across * down, np.float32)

    def noise(self, rng: np.random.Generator, cm: float, octaves: int = 1) -> Plane:
        """Give smooth noise of about unit variance whose grain is `cm`, halved each octave."""
        total, power = self.empty(), 0.0
        for octave in range(octaves):
            cells = max(4, round(self.side / (self.scale * cm / 2**octave)))
            grid = rng.standard_normal((min(cells, self.side),) * 2, np.float32)
            weight = 0.6**octave
            total += np.float32(weight) * cv2.resize(
                grid, (self.side, self.side), interpolation=cv2.INTER_CUBIC
            )
            power += weight**2
        return np.asarray(total / np.float32(np.sqrt(power)), np.float32)


def profile(
    at: npt.NDArray[np.floating[Any]],
    known: Sequence[float] | Points,
    values: Sequence[float] | Points,
) -> Plane:
    """Interpolate values between known places, as float32 so that planes stay so."""
    return np.asarray(np.interp(at, known, values), np.float32)


def ribbons(curves: Sequence[Points], widths: Sequence[float] | Points) -> list[Points]:
    """Give the outlines of bands along open curves, all at once: a chest has a hundred of them.

    Args:
        curves: each [n, 2], cm.
        widths: one per curve, or, for curves of equal length, one per point: [curves, n].
    """
    lengths = [len(curve) for curve in curves]
    points = np.concatenate(curves)
    last = np.cumsum(lengths) - 1
    first = last + 1 - lengths
    after, before = np.arange(len(points)) + 1, np.arange(len(points)) - 1
    after[last], before[first] = last, first
    along = points[after] - points[before]
    normal: Points = along[:, ::-1] * (-1.0, 1.0)
    wide = np.asarray(widths)
    width = np.repeat(wide, lengths) if wide.ndim == 1 else wide.ravel()
    normal = normal * (width / 2 / np.hypot(along[:, 0], along[:, 1]))[:, None]
    there, back = _cut(points + normal, lengths), _cut(points - normal, lengths)
    return [np.concatenate([out, home[::-1]]) for out, home in zip(there, back, strict=True)]


def _cut(points: _Points, lengths: Iterable[int]) -> Iterator[_Points]:
    """Cut points [n, 2] into runs of the given lengths."""
    end = 0
    for length in lengths:
        start, end = end, end + length
        yield points[start:end]


def bent(points: Sequence[tuple[float, float]], count: int = 24) -> Points:
    """Give a smooth open curve [count, 2] through a few points (Catmull-Rom)."""
    known = np.asarray(points, float)
    padded = np.concatenate([2 * known[:1] - known[1:2], known, 2 * known[-1:] - known[-2:-1]])
    return _catmull_rom(padded, count)


def closed(points: Sequence[tuple[float, float]], count: int = 72) -> Points:
    """Give a smooth outline [count, 2] through a few points (closed Catmull-Rom)."""
    known = np.asarray(points, float)
    return _catmull_rom(np.concatenate([known[-1:], known, known[:2]]), count)


def _catmull_rom(padded: Points, count: int) -> Points:
    place = np.linspace(0, len(padded) - 3 - 1e-9, count)
    part = place.astype(int)
    t = (place - part)[:, None]
    p0, p1, p2, p3 = (padded[part + offset] for offset in range(4))
    curve: Points = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return curve
