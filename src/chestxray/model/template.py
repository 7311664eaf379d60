"""What upright, positive training images look like when small, as a probabilistic PCA.

A thumbnail is weighed towards its middle, freed of brightness and contrast, and has length 1. The
model is a mean, a few principal axes and one variance for all other directions (Tipping and Bishop,
J. R. Stat. Soc. B 61, 1999). Mirror images are fitted along: a film hung the wrong way round looks
like a patient whose heart lies on the right, so nothing here can tell the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]

SIDE: Final = 32
AXES: Final = 16
# Turns by 0, 90, 180, 270 degrees against the clock, as they are and then as negatives.
STATES: Final = tuple(
    (degrees, negative) for negative in (False, True) for degrees in range(0, 360, 90)
)

_EDGE: Final = 3  # cells that the window lies outside the thumbnail, so that edges count a little


@dataclass(frozen=True)
class Template:
    """The fitted model; D = `SIDE` squared, P axes.

    Attributes:
        mean: float32 [D].
        axes: float32 [P, D], orthonormal.
        variances: float32 [P], along the axes.
        rest: float32 [1], the variance in all other directions together.
    """

    mean: Floats
    axes: Floats
    variances: Floats
    rest: Floats

    @classmethod
    def fit(cls, images: Images) -> Self:
        """Fit on canonical images uint8 [N, S, S], N ≥ 1."""
        upright = thumbnails(images)
        both = np.concatenate([upright, upright[:, :, ::-1]]).reshape(-1, SIDE * SIDE)
        mean = both.mean(axis=0)
        off = (both - mean).astype(np.float64)
        ascending, vectors = np.linalg.eigh(off.T @ off / len(both))
        variances, axes = np.maximum(ascending[::-1], 0), vectors.T[::-1]
        kept = min(AXES, int((variances > variances[0] * 1e-6).sum()))
        return cls(
            mean,
            np.ascontiguousarray(axes[:kept], dtype=np.float32),
            (variances[:kept] + 1e-9).astype(np.float32),
            np.array([variances[kept:].sum() + 1e-6], dtype=np.float32),
        )

    def distance(self, images: Images) -> npt.NDArray[np.float64]:
        """Give how unlike the training images each of uint8 [N, S, S] looks; about 2 is usual."""
        off = thumbnails(images).reshape(-1, SIDE * SIDE) - self.mean
        along = np.asarray(off @ self.axes.T, np.float32)
        inside = (along**2 / self.variances).mean(axis=1)
        return np.asarray(inside + self._outside(off, along) / self.rest, np.float64)

    def misfits(self, images: Images) -> npt.NDArray[np.float64]:
        """Give what the axes do not explain of each image in each of `STATES`, [N, 8].

        Column i belongs to the image after `STATES[i]` has been undone.
        """
        upright = thumbnails(images)
        columns = []
        for degrees, negative in STATES:
            turned = np.rot90(upright, -(degrees // 90), axes=(1, 2))
            off = (-turned if negative else turned).reshape(-1, SIDE * SIDE) - self.mean
            along = np.asarray(off @ self.axes.T, np.float32)
            columns.append(self._outside(off, along))
        return np.asarray(np.stack(columns, axis=1), np.float64)

    @staticmethod
    def _outside(off: Floats, along: Floats) -> Floats:
        # Axes are orthonormal, so what lies along them is subtracted by Pythagoras.
        outside: Floats = np.maximum((off**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return outside


def thumbnails(images: Images) -> Floats:
    """Give float32 [N, `SIDE`, `SIDE`] of canonical images; a blank one is all 0."""
    small = np.stack(
        [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images]
    ).astype(np.float32)
    window = np.hanning(SIDE + 2 * _EDGE)[_EDGE:-_EDGE]
    weight = np.outer(window, window).astype(np.float32)
    mean = (small * weight).sum(axis=(1, 2), keepdims=True) / weight.sum()
    weighed = (small - mean) * weight
    length = np.linalg.norm(weighed, axis=(1, 2), keepdims=True)
    return np.asarray(weighed / np.maximum(length, 1e-3), np.float32)
