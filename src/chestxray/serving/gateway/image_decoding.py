"""An image is decoded in a process of its own, within limits of time, memory and size.

What comes back is small: the canonical image that the model reads, a picture for the secondary
capture, and the few attributes that results copy. So a hostile file costs the worker one attempt.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from chestxray.dataset.decoding import SECONDS_PER_FILE, Isolated
from chestxray.dataset.pixels import Canonical
from chestxray.dataset.radiograph import Radiograph
from chestxray.reading.judged_image import JudgedImage
from chestxray.serving.gateway import logs
from chestxray.serving.source_image import PICTURE_SIDE, SourceImage


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        source: what the result objects need of its header.
        judged: for the reader.
        picture: uint8 [`PICTURE_SIDE`, `PICTURE_SIDE`], canonical, bright = dense.
    """

    source: SourceImage
    judged: JudgedImage
    picture: Canonical


def decoder(size: int, lease: float, patience: float = 1.0) -> Isolated[DecodedImage]:
    """Make a decoder; it is called with a file's bytes and their SHA-256.

    Args:
        size: side of the canonical image for the model, pixels.
        lease: of the worker, seconds; decoding may take half of it, 60 s at most.
        patience: how many times as long it may take in a process that is behind all others.
    """
    seconds = patience * min(SECONDS_PER_FILE, lease / 2)
    return Isolated(partial(_decode_quietly, size), seconds)


def _decode_quietly(size: int, data: bytes, digest: str) -> DecodedImage:
    logs.set_up()  # else pydicom's complaints, which quote the file, would reach standard error
    return decode(size, data, digest)


def decode(size: int, data: bytes, digest: str) -> DecodedImage:
    """Decode a file.

    Raises:
        ImageError: not a readable radiograph, or results cannot refer to it.
    """
    radiograph = Radiograph.read(data)
    return DecodedImage(
        SourceImage.read(data, digest),
        JudgedImage.of(radiograph, size),
        radiograph.canonical(PICTURE_SIDE),
    )
