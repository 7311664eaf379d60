"""Copies of radiographs as other collections make them: the truth for the search for copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[Any]
Step = Callable[[Image, np.random.Generator], Image]


def resized(image: Image, rng: np.random.Generator) -> Image:
    """0.4 to 2 times the size."""
    scale = rng.uniform(0.4, 2)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=method))


def jpeg(image: Image, rng: np.random.Generator) -> Image:
    """JPEG of quality 50 to 90."""
    quality = int(rng.integers(50, 91))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def cropped(image: Image, _: np.random.Generator) -> Image:
    """2 % off at each side."""
    return _cut(image, 0.02, 0.02, 0.02, 0.02)


def cropped_unevenly(image: Image, rng: np.random.Generator) -> Image:
    """0 to 2 % off, differently at each side."""
    return _cut(image, *rng.uniform(0, 0.02, 4))


def cropped_off_centre(image: Image, rng: np.random.Generator) -> Image:
    """2 % off at one of the sides along each axis, nothing at the other."""
    down, right = rng.integers(0, 2, 2)
    return _cut(image, 0.02 * down, 0.02 * (1 - down), 0.02 * right, 0.02 * (1 - right))


def gamma(image: Image, rng: np.random.Generator) -> Image:
    """A power of 0.7 to 1.4."""
    return np.round(255 * (image / 255.0) ** rng.uniform(0.7, 1.4)).astype(np.uint8)


def sixteen_bits(image: Image, rng: np.random.Generator) -> Image:
    """What a detector may have measured: the lower eight bits are noise."""
    return np.clip(image * 257.0 + rng.uniform(-128, 128, image.shape), 0, 65535).astype(np.uint16)


def windowed(image: Image, rng: np.random.Generator) -> Image:
    """16 bits to 8, with up to 15 % of the range cut off at either end."""
    low, high = rng.uniform(0, 0.15) * 65535, rng.uniform(0.85, 1) * 65535
    wide = sixteen_bits(image, rng).astype(np.float64)
    return np.round(255 * np.clip((wide - low) / (high - low), 0, 1)).astype(np.uint8)


KINDS: dict[str, tuple[Step, ...]] = {
    "resized": (resized,),
    "JPEG": (jpeg,),
    "cropped at each side": (cropped,),
    "cropped unevenly": (cropped_unevenly,),
    "cropped off centre": (cropped_off_centre,),
    "gamma": (gamma,),
    "another window": (windowed,),
    "all, cropped at each side": (windowed, gamma, cropped, resized, jpeg),
    "all, cropped unevenly": (windowed, gamma, cropped_unevenly, resized, jpeg),
    "all, cropped off centre": (windowed, gamma, cropped_off_centre, resized, jpeg),
}


def planted(image: Image, kind: str, rng: np.random.Generator) -> Image:
    """Make a copy of a grey uint8 image."""
    for step in KINDS[kind]:
        image = step(image, rng)
    return image


def _cut(image: Image, top: float, bottom: float, left: float, right: float) -> Image:
    height, width = image.shape
    rows = slice(round(top * height), height - round(bottom * height))
    return image[rows, round(left * width) : width - round(right * width)]
