"""Do two fingerprints show the same radiograph? They are aligned, then correlated in the fine band.

A copy may have been cropped and stretched: four numbers, a scale and a shift along each axis, map
one fingerprint onto the other. They are found by Gauss-Newton steps on the coarse band (the inverse
compositional method: Baker and Matthews, Int. J. Computer Vision 56, 2004). The score is the
normalised cross-correlation of the fine band where both show something, 1 for equal images.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.dataset.fingerprints import COARSE, FINE, SIDE, Floats, Prints, band, cut_off

_STEPS: Final = 8
_FARTHEST: Final = 0.12  # of half a side: no copy that is looked for is moved or scaled by more
_BORDER: Final = 2  # pixels at the edges without a trustworthy gradient
_EDGE: Final = 3  # pixels at the edges that the score leaves out
_LEAST_SHOWN: Final = 0.15  # of all pixels: below this, a score says nothing
_CHUNK: Final = 256  # pairs at a time: 20 MB of intermediate values each hundred
_GRID: Final = np.linspace(-1, 1, SIDE, dtype=np.float32)
_HALF: Final = (SIDE - 1) / 2

_Bools = npt.NDArray[np.bool_]


def scores(a: Prints, b: Prints) -> Floats:
    """Score pairs of fingerprints.

    Args:
        a: uint8 [n, 64, 64].
        b: its partners, uint8 [n, 64, 64].

    Returns:
        float32 [n], at most 1; 0 where too little of both can be compared.
    """
    found = np.zeros(len(a), np.float32)
    for start in range(0, len(a), _CHUNK):
        some = slice(start, start + _CHUNK)
        found[some] = _scores(a[some], b[some])
    return found


def _scores(a: Prints, b: Prints) -> Floats:
    moves = _alignment(_standard(band(a, COARSE)), _standard(band(b, COARSE)))
    moved, inside = _moved(band(b, FINE), moves)
    cut, _ = _moved(cut_off(b).astype(np.float32), moves)
    shown = inside & (cut < 0.5) & ~cut_off(a)
    shown[:, :_EDGE] = shown[:, -_EDGE:] = False
    shown[:, :, :_EDGE] = shown[:, :, -_EDGE:] = False
    return _correlation(band(a, FINE), moved, shown)


def _alignment(a: Floats, b: Floats) -> Floats:
    """Find how to sample b so that it lies on a.

    Returns:
        float32 [n, 4]: change of scale and shift along y, then along x, in halves of a side.
    """
    down, right = np.gradient(a, axis=(1, 2))
    down, right = down * _HALF, right * _HALF
    slopes = np.stack([down * _GRID[:, None], down, right * _GRID, right], axis=1)
    slopes[:, :, :_BORDER] = slopes[:, :, -_BORDER:] = 0
    slopes[:, :, :, :_BORDER] = slopes[:, :, :, -_BORDER:] = 0
    slopes = slopes.reshape(len(a), 4, -1)
    normal = slopes @ slopes.transpose(0, 2, 1) + 1e-3 * np.eye(4, dtype=np.float32)
    moves = np.zeros((len(a), 4), np.float32)
    for _ in range(_STEPS):
        moved, _ = _moved(b, moves)
        error = (moved - a).reshape(len(a), -1, 1)
        step = np.linalg.solve(normal, slopes @ error)[..., 0]
        scale = (1 + moves[:, 0::2]) / (1 + np.clip(step[:, 0::2], -0.5, 0.5))
        moves[:, 1::2] -= scale * step[:, 1::2]
        moves[:, 0::2] = scale - 1
        np.clip(moves, -_FARTHEST, _FARTHEST, out=moves)
    return moves


def _moved(images: Floats, moves: Floats) -> tuple[Floats, _Bools]:
    """Sample images [n, 64, 64] at moved places, bilinearly; tells which places lie inside."""
    n = np.arange(len(images))[:, None]
    moved, inside = images, []
    for axis in (0, 1):
        scale, shift = moves[:, 2 * axis, None], moves[:, 2 * axis + 1, None]
        places = ((1 + scale) * _GRID + shift + 1) * _HALF
        first = np.floor(places).astype(np.int64)
        part = (places - first).astype(np.float32)[..., None]
        here, there = (np.clip(first + step, 0, SIDE - 1) for step in (0, 1))
        moved = moved[n, here] * (1 - part) + moved[n, there] * part
        moved = moved.transpose(0, 2, 1)
        inside.append((places >= 0) & (places <= SIDE - 1))
    return moved, inside[0][:, :, None] & inside[1][:, None, :]


def _correlation(a: Floats, b: Floats, shown: _Bools) -> Floats:
    weights = shown.astype(np.float32)
    count = np.maximum(weights.sum(axis=(1, 2), keepdims=True), 1)
    a, b = ((of - (of * weights).sum((1, 2), keepdims=True) / count) * weights for of in (a, b))
    lengths = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    enough = (shown.mean(axis=(1, 2)) >= _LEAST_SHOWN) & (lengths > 0)
    return np.where(enough, (a * b).sum(axis=(1, 2)) / np.where(enough, lengths, 1), 0)


def _standard(images: Floats) -> Floats:
    """Give images of mean 0 and standard deviation 1."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / (centred.std(axis=(1, 2), keepdims=True) + 1e-6))
