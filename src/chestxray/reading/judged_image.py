"""A radiograph on its way to the model: its canonical image, and what the gate says without one.

Also the checks of arrays that callers give instead of files: what would turn black, wrap around or
be misread is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from chestxray.dataset.pixels import Canonical, Grey, Placement, Source, canonical, placement
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import ImageError, Notice
from chestxray.reading.gate import checks

WHOLE: Final[Placement] = (0.0, 0.0, 1.0, 1.0)
_UNSCALED: Final = 2**14


@dataclass(frozen=True)
class JudgedImage:
    """One radiograph, ready for the model.

    Attributes:
        image: uint8 [S, S], canonical.
        notices: of the gate, on its header and pixels.
        placement: x, y, w, h of the radiograph in the canonical square, as fractions of its side;
            the rest is black.
    """

    image: Canonical
    notices: tuple[Notice, ...]
    placement: Placement = WHOLE

    @classmethod
    def of(cls, radiograph: Radiograph, size: int) -> Self:
        """Judge a decoded file; `size` is the side of the canonical image, pixels."""
        of_header = () if radiograph.header is None else checks.header(radiograph.header)
        of_pixels = checks.pixels(radiograph.pixels, size, radiograph.chroma)
        return cls(radiograph.canonical(size), of_header + of_pixels, radiograph.placement)

    @classmethod
    def of_array(cls, array: Grey, size: int) -> Self:
        """Judge grey pixels [h, w] of uint8 or uint16, 16 bits scaled to their full range.

        Raises:
            ImageError: the array has another shape or type, or 16 bits that are not scaled.
        """
        image = _checked(array)
        height, width = image.shape
        notices = checks.pixels(image, size)
        return cls(canonical(image, size), notices, placement(width, height))


def load(source: Source, size: int) -> JudgedImage:
    """Decode a PNG, JPEG or DICOM file and judge it.

    Args:
        source: the file's path, its bytes, or a binary file open at its beginning.
        size: side of the canonical image, pixels.

    Raises:
        ImageError: the file cannot be read.
    """
    return JudgedImage.of(Radiograph.read(source), size)


def load_with_display(source: Source, size: int, display: int) -> tuple[JudgedImage, Canonical]:
    """Decode a file once: for the model, and as a larger square image for a picture.

    Args:
        source: as for `load`.
        size: side of the canonical image for the model, pixels.
        display: side of the square image for a picture, pixels.

    Raises:
        ImageError: the file cannot be read.
    """
    radiograph = Radiograph.read(source)
    return JudgedImage.of(radiograph, size), radiograph.canonical(display)


def checked_batch(images: object, size: int) -> Canonical:
    """Give canonical images uint8 [B, size, size] as they are.

    Raises:
        ImageError: they are anything else.
    """
    if not isinstance(images, np.ndarray):
        found = f"a {type(images).__name__}"
    else:
        found = f"{images.dtype} {list(images.shape)}"
        if images.dtype == np.uint8 and images.shape[1:] == (size, size) and len(images):
            return images
    raise ImageError(
        "batch",
        f"a batch must be canonical images, uint8 [B, {size}, {size}], such as a prepared dataset "
        f"holds, but this is {found}: give other radiographs to `read`, one at a time",
    )


def _checked(array: npt.NDArray[Any]) -> Grey:
    wrong = _wrong_shape(array) or _wrong_values(array)
    if wrong:
        raise ImageError("array", wrong)
    return array


def _wrong_shape(array: npt.NDArray[Any]) -> str:
    rule = f"an array must be grey [height, width], but this is {list(array.shape)}"
    if not array.size:
        return f"{rule}, without pixels: check how it was cropped"
    if array.ndim == 2:
        return ""
    if array.ndim == 3 and array.shape[2] == 1:
        return f"{rule}: give array[:, :, 0]"
    if array.ndim == 3 and array.shape[2] in (3, 4):
        return f"{rule}, apparently in colour: convert it to grey first"
    return f"{rule}: read one radiograph at a time"


def _wrong_values(array: npt.NDArray[Any]) -> str:
    if array.dtype not in (np.uint8, np.uint16):
        return (
            f"an array must be uint8 or uint16, but this is {array.dtype}: scale it to 0 to 255 or "
            f"0 to 65535 first"
        )
    # Values in the lowest quarter of 16 bits mean 14 bits or fewer far more often than darkness.
    if array.dtype == np.uint16 and array.min() < array.max() < _UNSCALED:
        return (
            f"an array of uint16 must use the full range of 16 bits, but the brightest pixel here "
            f"is {array.max()}, as of 14 bits or fewer: scale it to 0 to 65535 first (12 bits: "
            f"array * 16)"
        )
    return ""
