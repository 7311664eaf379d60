"""Whether a picture looks like a whole, upright, positive radiograph of the training's kind.

A picture is described by its edges: 8 × 8 cells, in each the strengths of 8 directions from dark to
bright (histograms of oriented gradients, Dalal and Triggs, CVPR 2005), so that neither brightness
nor contrast matters. One direction in that space (linear discriminant analysis, see Hariharan et
al., ECCV 2012) parts the training films from what can be made of them that is no such film: parts
of them, enlarged, and the films themselves turned or as negatives. Other pictures take no part in
the fit, and yet photographs, text and drawn radiographs of other body parts stand out; what does
not is a film's lower half, framed in black, and little less than the whole film. See docs/log.md.

Mirror images are fitted along: a film hung the wrong way round looks like a patient whose heart
lies on the right, so nothing here can tell the two apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]

# Turns by 0, 90, 180, 270 degrees against the clock, as they are and then as negatives.
STATES: Final = tuple(
    (degrees, negative) for negative in (False, True) for degrees in range(0, 360, 90)
)

_SIDE: Final = 32  # of the thumbnail: how sharp a picture is must not tell parts from films
_CELLS: Final = 8  # a side
_WAYS: Final = 8
_QUARTER: Final = _WAYS // 4
_BATCH: Final = 256  # described at a time
_PARTS: Final = len(STATES) - 1  # of each film, as many as it has other states
_PART: Final = (0.3, 0.75)  # side of a part, of the film's
_SHRINKAGE: Final = 0.5  # of the covariance towards a multiple of the identity


@dataclass(frozen=True)
class Template:
    """The fitted discriminant; D numbers describe a picture.

    Attributes:
        weights: float32 [D].
        bias: float32 [1].
    """

    weights: Floats
    bias: Floats

    @classmethod
    def fit(cls, images: Images) -> Self:
        """Fit on canonical images uint8 [N, S, S], N ≥ 1; the same images give the same fit."""
        films = _with_mirrored(_described(images))
        parts = _with_mirrored(_described(_parts(images)))
        # To undo a state is to put a film into another: all seven are there.
        turned = [_undone(films, *state) for state in STATES[1:]]
        typical, wanted = _moments(films)
        strange, unwanted = _moments(np.concatenate([parts, *turned]))
        spread = (wanted + unwanted) / 2
        middling = np.trace(spread) / len(spread) + 1e-9
        shrunk = (1 - _SHRINKAGE) * spread + _SHRINKAGE * middling * np.eye(len(spread))
        weights = np.linalg.solve(shrunk, strange - typical)
        weights /= max(float(weights @ (strange - typical)), 1e-9)
        return cls(weights.astype(np.float32), np.array([-typical @ weights], dtype=np.float32))

    def strangeness(self, images: Images) -> npt.NDArray[np.float64]:
        """Give how strange each image looks in each of `STATES`, [N, 8]: 0 is usual for films.

        1 is usual for parts of films and for films that lie wrong. Column i belongs to the image
        after `STATES[i]` has been undone, so column 0 to the image as it lies.

        Args:
            images: uint8 [N, S, S], canonical.
        """
        cells = _described(images)
        columns = [
            _undone(cells, *state).reshape(len(cells), -1) @ self.weights for state in STATES
        ]
        return np.asarray(np.stack(columns, axis=1) + self.bias, np.float64)


def held_out(images: Images) -> npt.NDArray[np.float64]:
    """Give how strange each of [N, S, S], N ≥ 2, looks to a template fitted on the other half.

    Where neighbours are of one patient, halves in their order share at most one.
    """
    halves = np.array_split(images, 2)
    fits = [Template.fit(half) for half in halves]
    looks = [fit.strangeness(half)[:, 0] for fit, half in zip(fits[::-1], halves, strict=True)]
    return np.concatenate(looks)


def _described(images: Images) -> Floats:
    """Give float32 [N, cells, cells, ways], each of length 1; a blank image is all 0."""
    small = np.stack(
        [cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for image in images]
    )
    return np.concatenate(
        [_edges(small[at : at + _BATCH].astype(np.float32)) for at in range(0, len(small), _BATCH)]
    )


def _edges(small: Floats) -> Floats:
    down, right = np.gradient(small, axis=(1, 2))
    way = np.arctan2(down, right) * (_WAYS / (2 * math.pi))
    whole = np.floor(way)
    after, strength = way - whole, np.hypot(down, right)
    row = np.arange(_SIDE) // (_SIDE // _CELLS)
    cell = np.arange(len(small))[:, None, None] * _CELLS**2 + row[:, None] * _CELLS + row
    cells = np.zeros((len(small), _CELLS, _CELLS, _WAYS))
    # An edge between two ways counts for both, by how near it is to each.
    for step, share in ((0, 1 - after), (1, after)):
        place = cell * _WAYS + (whole.astype(int) + step) % _WAYS
        counted = np.bincount(place.ravel(), (strength * share).ravel(), cells.size)
        cells += counted.reshape(cells.shape)
    length = np.sqrt(cells.sum(axis=(1, 2, 3), keepdims=True))
    return np.asarray(np.sqrt(cells) / np.maximum(length, 1e-3), np.float32)


def _undone(cells: Floats, degrees: int, negative: bool) -> Floats:
    """Give the description of pictures after a state has been undone."""
    quarters = degrees // 90
    ways = quarters * _QUARTER + (_WAYS // 2 if negative else 0)
    return np.roll(np.rot90(cells, -quarters, axes=(1, 2)), ways, axis=-1)


def _with_mirrored(cells: Floats) -> Floats:
    ways = (_WAYS // 2 - np.arange(_WAYS)) % _WAYS
    return np.concatenate([cells, cells[:, :, ::-1][..., ways]])


def _parts(images: Images) -> Images:
    """Cut squares out of each film, many of them along its edges, [N × parts, side, side]."""
    draws, size = np.random.default_rng(0), images.shape[1]
    parts = []
    for image, _ in product(images, range(_PARTS)):
        side = round(size * draws.uniform(*_PART))
        y, x = (np.clip(draws.uniform(-0.25, 1.25, 2), 0, 1) * (size - side)).round().astype(int)
        part = image[y : y + side, x : x + side]
        parts.append(cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
    return np.stack(parts)


def _moments(cells: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Give mean [D] and covariance [D, D]."""
    flat = cells.reshape(len(cells), -1)
    mean = flat.mean(axis=0, dtype=np.float64)
    off = flat - mean.astype(np.float32)
    return mean, np.asarray(off.T @ off, np.float64) / len(flat)
