"""A film on its way to the model: its canonical image, and what the gate says without the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.dataset import pixels
from chestxray.dataset.dicom import Header
from chestxray.dataset.radiograph import Source, contents
from chestxray.dataset.raster import chroma
from chestxray.errors import Notice
from chestxray.reading.gate import header as headers
from chestxray.reading.gate import pixel_checks as picture

Placement = tuple[float, float, float, float]

WHOLE: Final[Placement] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class JudgedImage:
    """One radiograph.

    Attributes:
        image: uint8 [S, S], canonical.
        notices: on its header and pixels.
        placement: x, y, w, h of the radiograph in the canonical square, as fractions of its side;
            the rest is black.
    """

    image: npt.NDArray[np.uint8]
    notices: tuple[Notice, ...]
    placement: Placement = WHOLE


def load(source: Source, size: int) -> JudgedImage:
    """Decode a PNG, JPEG or DICOM file and judge it; raises `ImageError` where it cannot be read.

    Args:
        source: the file's path, its bytes, or a binary file open at its beginning.
        size: side of the canonical image, pixels.
    """
    if not isinstance(source, str | Path | bytes):
        source = contents(source)[1]  # a stream can be read but once
    image, header = pixels.read(source)
    return developed(image, size, header, chroma(source) if header is None else 0.0)


def developed(
    image: pixels.Grey, size: int, header: Header | None = None, colour: float = 0.0
) -> JudgedImage:
    """Make a film of decoded pixels.

    Args:
        image: grey uint8 or uint16 [h, w].
        size: side of the canonical image, pixels.
        header: of a DICOM file.
        colour: that the file had, as `dataset.colour.chroma` gives it.
    """
    of_header = () if header is None else headers.judge(header)
    notices = of_header + picture.judge(image, size, colour)
    height, width = image.shape
    return JudgedImage(pixels.canonical(image, size), notices, pixels.placement(width, height))
