"""RLE Lossless (PS3.5 annex G): smaller pictures for little time, read by every archive and viewer.

A picture of a reading is mostly flat, so that it shrinks to less than half; JPEG-LS and JPEG 2000
shrink it further, but take longer than they save. A frame has a segment for each colour, in which
each row is packed by itself.
"""

from __future__ import annotations

import struct
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt

_HEADER: Final = struct.Struct("<16L")  # number of segments, 15 offsets


def rle_frame(picture: npt.NDArray[np.uint8]) -> bytes:
    """Encode a picture, RGB uint8 [h, w, 3], as one frame."""
    segments = [_even(_packed(plane)) for plane in np.moveaxis(picture, -1, 0)]
    ends = np.cumsum([_HEADER.size, *map(len, segments)]).tolist()
    offsets = [*ends[:-1], *[0] * (15 - len(segments))]
    return b"".join([_HEADER.pack(len(segments), *offsets), *segments])


def rle_pixels(frame: bytes, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Decode a frame that `rle_frame` made into uint8 [h, w, 3].

    Raises:
        ValueError: it does not have that many pixels.
    """
    count, *offsets = _HEADER.unpack_from(frame)
    ends = [*offsets[1:count], len(frame)]
    height, width, _ = shape
    planes = [
        np.frombuffer(imagecodecs.packbits_decode(frame[start:end]), np.uint8)[: height * width]
        for start, end in zip(offsets[:count], ends, strict=True)
    ]
    return np.stack([plane.reshape(height, width) for plane in planes], axis=-1)


def _packed(plane: npt.NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.packbits_encode(plane.copy(order="C"), axis=-1))


def _even(segment: bytes) -> bytes:
    return segment + b"\0" * (len(segment) % 2)
