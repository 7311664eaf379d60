"""Arrays that callers hand in: what would turn black, wrap around or be misread is refused."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.errors import ImageError

_UNSCALED: Final = 2**14


def checked_film(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give a grey array [H, W] of uint8 or uint16.

    Raises:
        ImageError: it is of another shape or type, or 16 bits that were not scaled to their range.
    """
    wrong = _shape(array) or _values(array)
    if wrong:
        raise ImageError("array", wrong)
    return array


def checked_batch(images: object, size: int) -> npt.NDArray[np.uint8]:
    """Give canonical images uint8 [B, size, size].

    Raises:
        ImageError: they are something else.
    """
    if not isinstance(images, np.ndarray):
        found = f"a {type(images).__name__}"
    else:
        found = f"{images.dtype} {list(images.shape)}"
        if images.dtype == np.uint8 and images.shape[1:] == (size, size) and len(images):
            return images
    raise ImageError(
        "batch",
        f"must be canonical images, uint8 [B, {size}, {size}], such as a prepared dataset holds, "
        f"this is {found}: give films of any other kind to `read`, one at a time",
    )


def _shape(array: npt.NDArray[Any]) -> str:
    rule = f"must be grey [height, width], this is {list(array.shape)}"
    if not array.size:
        return f"{rule}, which holds no pixels: see how it was cut out"
    if array.ndim == 2:
        return ""
    if array.ndim == 3 and array.shape[2] == 1:
        return f"{rule}: give array[:, :, 0]"
    if array.ndim == 3 and array.shape[2] in (3, 4):
        return f"{rule}, which looks like colours: turn it to grey first"
    return f"{rule}: read one film at a time"


def _values(array: npt.NDArray[Any]) -> str:
    if array.dtype not in (np.uint8, np.uint16):
        return (
            f"must be of uint8 or uint16, this is {array.dtype}: scale it to 0 to 255 or 0 to "
            f"65535 first"
        )
    # A film in the lowest quarter of 16 bits is one of 14 bits or fewer, far more often than dark.
    if array.dtype == np.uint16 and array.min() < array.max() < _UNSCALED:
        return (
            f"must use the full range of 16 bits, the brightest pixel here is {array.max()}, as of "
            f"14 bits or fewer: scale it to 0 to 65535 first (12 bits: array * 16)"
        )
    return ""
