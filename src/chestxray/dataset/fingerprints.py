"""Fingerprints: a small picture of a radiograph that survives resizing, windowing and compression.

A fingerprint is the radiograph at 64 × 64 pixels, each replaced by its rank among them. Ranks do
not change under any increasing change of grey values: gamma, another window, 16 bits to 8. Where a
window cut grey values off, no rank is left: such pixels have the values 0 and 255, and comparisons
leave them out.

Radiographs of the chest look alike, also by rank. What tells them apart is in differences of
Gaussian blurs of the ranks (band passes): the coarse band finds candidates, the fine one, where
ribs and vessels are, decides (`dataset.alignment`).

Source of the rank transform as an invariant: Zabih and Woodfill, ECCV 1994.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.pixels import Grey

SIDE: Final = 64
"""Pixels of a side of a fingerprint."""
SMALLEST: Final = 48
"""Pixels of a shorter side below which an image has no detail to be recognised by."""
_CUT: Final = 2 / 255  # of the range: what lies so near to its ends may have been cut off
_DESCRIPTOR_SIDE: Final = 16
_CROP: Final = 0.02  # of each side, of the second descriptor
COARSE: Final = (1.5, 6.0)  # standard deviations of the two blurs, pixels of a fingerprint
FINE: Final = (0.5, 1.5)
_LEAST_INSIDE: Final = 0.05  # of the pixels, between the ends of the grey range
_CHUNK: Final = 512  # images at a time: 8 MB for each intermediate

Prints = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def fingerprint(image: Grey) -> Prints:
    """Make the fingerprint of a radiograph.

    Args:
        image: grey uint8 or uint16 [h, w].

    Returns:
        uint8 [64, 64]: 1 to 254 by rank, 0 and 255 at the ends of the grey range; all 0 where the
        image has a single grey value, else all 255 where its shorter side is below `SMALLEST`.
    """
    if min(image.shape) < SMALLEST:
        return np.full((SIDE, SIDE), 255 if image.min() < image.max() else 0, np.uint8)
    method = cv2.INTER_AREA if min(image.shape) >= SIDE else cv2.INTER_LINEAR
    small = cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=method)
    low, high = float(small.min()), float(small.max())
    margin = _CUT * (high - low)
    ranks = np.empty(SIDE * SIDE, np.float32)
    ranks[np.argsort(small, axis=None, kind="stable")] = np.arange(SIDE * SIDE, dtype=np.float32)
    print_ = (1 + ranks * (253 / (SIDE * SIDE - 1)) + 0.5).astype(np.uint8).reshape(SIDE, SIDE)
    print_[small >= high - margin] = 255
    print_[small <= low + margin] = 0
    return np.asarray(print_)


def is_flat(prints: Prints) -> npt.NDArray[np.bool_]:
    """Tell which fingerprints [n, 64, 64] show nothing that a copy could be recognised by."""
    inside = np.array([np.count_nonzero((each > 0) & (each < 255)) for each in prints], np.int64)
    return np.asarray(inside < _LEAST_INSIDE * SIDE**2)


def cut_off(prints: Prints) -> npt.NDArray[np.bool_]:
    """Tell which pixels of fingerprints [n, 64, 64] are, or touch, an end of the grey range."""
    ends = ((prints == 0) | (prints == 255)).astype(np.uint8)
    around = np.ones((3, 3), np.uint8)
    return np.stack([cv2.dilate(each, around) for each in ends]).astype(bool)


def band(prints: Prints, blurs: tuple[float, float]) -> Floats:
    """Give a band pass of the ranks, float32 [n, 64, 64].

    Args:
        prints: fingerprints, uint8 [n, 64, 64].
        blurs: standard deviations of the narrow and the wide Gaussian, pixels.
    """
    narrow, wide = blurs
    ranks = _ranks(prints)
    result = np.empty_like(ranks)
    for row, each in enumerate(ranks):
        result[row] = cv2.GaussianBlur(each, (0, 0), narrow) - cv2.GaussianBlur(each, (0, 0), wide)
    return result


def descriptors(prints: Prints) -> tuple[Floats, Floats]:
    """Give compact descriptors: of the whole image, and of the image less 2 % at each side.

    The product of two is the correlation of two images. That of the whole of one and of the smaller
    part of the other finds an image that was cropped.

    Args:
        prints: fingerprints, uint8 [n, 64, 64].

    Returns:
        Twice float32 [n, 256], of mean 0 and length 1; all 0 of an image that shows nothing.
    """
    side = _DESCRIPTOR_SIDE**2
    whole, inner = (np.empty((len(prints), side), np.float32) for _ in range(2))
    for start in range(0, len(prints), _CHUNK):
        some = slice(start, start + _CHUNK)
        coarse = band(prints[some], COARSE)
        shown = ~is_flat(prints[some])[:, None]
        whole[some] = _compact(coarse) * shown
        inner[some] = _compact(_cropped(coarse)) * shown
    return whole, inner


def _cropped(images: Floats) -> Floats:
    """Cut 2 % off at each side and stretch the rest."""
    scale = 1 - 2 * _CROP
    shift = (SIDE - 1) / 2 * (1 - scale)
    move = np.array([[scale, 0, shift], [0, scale, shift]], np.float32)
    result = np.empty_like(images)
    for row, each in enumerate(images):
        result[row] = cv2.warpAffine(
            each,
            move,
            (SIDE, SIDE),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return result


def _ranks(prints: Prints) -> Floats:
    """Give ranks from 0 to 1; the pixels at an end of the range have the middle of their ranks."""
    low = (prints == 0).mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    high = (prints == 255).mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    ranks = prints.astype(np.float32) / 255
    ranks = np.where(prints == 0, low / 2, ranks)
    return np.asarray(np.where(prints == 255, 1 - high / 2, ranks), dtype=np.float32)


def _compact(images: Floats) -> Floats:
    size = (_DESCRIPTOR_SIDE, _DESCRIPTOR_SIDE)
    small = np.stack([cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in images])
    flat = small.reshape(len(small), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.sqrt((flat**2).sum(axis=1, keepdims=True))
    return np.asarray(flat / np.maximum(length, 1e-9), dtype=np.float32)
