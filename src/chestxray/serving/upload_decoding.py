"""Decoding of uploads, in processes of their own.

A file that crashes or hangs its decoder process affects no other upload.
"""

from __future__ import annotations

import logging
import warnings
from functools import partial
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.decoding import Isolated
from chestxray.dataset.dicom import Spacing
from chestxray.dataset.pixels import Canonical, Grey
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import ImageError
from chestxray.reading.judged_image import JudgedImage
from chestxray.serving.fair_pool import FairPool
from chestxray.serving.source_image import PICTURE_SIDE, SourceImage

SQUARE_SIDE: Final = 512  # pixels

_DISPLAY_SIDE: Final = 2048  # pixels
_NAME: Final = "upload"


class Decoded(NamedTuple):
    """A decoded upload.

    Attributes:
        radiograph: for the reader.
        width: of the radiograph, pixels.
        height: of the radiograph, pixels.
        stored: width and height in the file, where pixels may not be square.
        spacing: of its pixels; None where the file does not give it.
        square: where asked for, uint8 [`SQUARE_SIDE`, `SQUARE_SIDE`], canonical, to draw heatmaps
            on.
        display: PNG of 8 bits, no side longer than 2048 pixels; empty where not asked for.
        source: where asked for, what results copy from the header; else why there is none.
        picture: where asked for, uint8 [`PICTURE_SIDE`, `PICTURE_SIDE`], canonical.
    """

    radiograph: JudgedImage
    width: int
    height: int
    stored: tuple[int, int]
    spacing: Spacing | None
    square: Canonical | None
    display: bytes
    source: SourceImage | str = ""
    picture: Canonical | None = None


class Extras(NamedTuple):
    """What a decoder makes besides.

    Attributes:
        square: to draw heatmaps on.
        display: for the screen.
        source: for result objects.
    """

    square: bool = False
    display: bool = False
    source: bool = False


class DecoderPool:
    """A few decoder processes for many threads.

    Args:
        count: processes.
        size: side of the canonical image, pixels.
        seconds: timeout per file, and for the wait until a process is free.
    """

    def __init__(self, count: int, size: int, seconds: float) -> None:
        work = partial(_decode, size)
        self._all = [Isolated(work, seconds) for _ in range(count)]
        self._fair = FairPool(self._all)
        self._seconds = seconds

    def start(self) -> None:
        """Start all processes now rather than with the first uploads."""
        for decoder in self._all:
            decoder.start()

    def decode(self, client: str, data: bytes, extras: Extras) -> Decoded:
        """Decode a file's bytes; waits for a free process, which the clients get in turn.

        Raises:
            ImageError: the file is not a readable radiograph.
            WorkerError: no process can be started.
            TimeoutError: none was free in time.
        """
        with self._fair.lent(client, self._seconds) as decoder:
            return decoder.call(_NAME, data, extras)

    def kill(self) -> None:
        """End the processes from another thread than those that start or use them."""
        for decoder in self._all:
            decoder.kill()

    def close(self) -> None:
        """End the processes, also those at work."""
        for decoder in self._all:
            decoder.close()


def _decode(size: int, data: bytes, extras: Extras) -> Decoded:
    """Decode a file, in a decoder process."""
    radiograph = Radiograph.read(data)
    height, width = radiograph.pixels.shape
    header = radiograph.header
    return Decoded(
        JudgedImage.of(radiograph, size),
        width,
        height,
        (width, height) if header is None else (header.columns, header.rows),
        None if header is None else header.spacing,
        radiograph.canonical(SQUARE_SIDE) if extras.square else None,
        _png(radiograph.pixels) if extras.display else b"",
        _source(radiograph) if extras.source else "",
        radiograph.canonical(PICTURE_SIDE) if extras.source else None,
    )


def _source(radiograph: Radiograph) -> SourceImage | str:
    if radiograph.header is None:
        return f"a {radiograph.kind} file has no patient, study or image to refer to"
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its records quote the file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # likewise
        try:
            return SourceImage.read(radiograph.data, radiograph.sha256)
        except ImageError as error:
            return error.reason


def _png(radiograph: Grey) -> bytes:
    """Encode a radiograph for a screen: reduced if it is large, 8 bits by the nominal range."""
    image: npt.NDArray[Any] = radiograph
    height, width = image.shape
    scale = min(1.0, _DISPLAY_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    _, png = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return bytes(png)
