"""An image is read, hashed and decoded in a process of its own, within limits of time and memory.

What comes back is small: the canonical image that the model reads, a picture for the secondary
capture, and the few attributes that results copy. So a hostile file costs the worker one attempt.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from chestxray.dataset.decoding import SECONDS_PER_FILE, Isolated
from chestxray.dataset.pixels import Canonical
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import DecodingTimeError, ImageError
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


Decoder = Isolated[DecodedImage | OSError]
"""Gives the error where a file cannot be read."""


def decoder(size: int, lease: float, patience: float = 1.0) -> Decoder:
    """Make a decoder for `decoded`.

    Args:
        size: side of the canonical image for the model, pixels.
        lease: of the worker, seconds; decoding may take half of it, 60 s at most.
        patience: how many times as long it may take in a process that is behind all others.
    """
    seconds = patience * min(SECONDS_PER_FILE, lease / 2)
    return Isolated(partial(_decode_quietly, size), seconds)


def decoded(decoder: Decoder, uid: str, path: Path, digest: str) -> DecodedImage:
    """Have a file decoded.

    Args:
        decoder: see there.
        uid: of the image, for errors.
        path: of the file.
        digest: SHA-256 that it had when it was received, hexadecimal.

    Raises:
        OSError: the file cannot be read, such as one that is missing.
        ImageError: it was altered, or as `Isolated.call` and `decode` say.
    """
    try:
        outcome = decoder.call(uid, path, digest)
    except DecodingTimeError:
        path.read_bytes()  # a disk that hung may have failed by now
        raise
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _decode_quietly(size: int, path: Path, digest: str) -> DecodedImage | OSError:
    """Decode a file; an error of the disk is given, since it is not the image's fault."""
    logs.set_up()  # else pydicom's complaints, which quote the file, would reach standard error
    try:
        data = path.read_bytes()
    except OSError as error:
        return error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ImageError(path, "the file was altered on the disk after it was received")
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
