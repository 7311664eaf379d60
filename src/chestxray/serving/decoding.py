"""Decodes uploads in processes of their own: a file that kills or hangs one harms no other upload.

What comes back is the film for the reader and the same for a screen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset import pixels
from chestxray.dataset.colour import chroma
from chestxray.dataset.pixels import Grey
from chestxray.reading import film as films
from chestxray.reading.decoding import Isolated
from chestxray.reading.film import Film

DISPLAY_SIDE: Final = 2048
SQUARE_SIDE: Final = 512
_NAME: Final = "upload"


class Decoded(NamedTuple):
    """A decoded upload.

    Attributes:
        film: for the reader.
        width: of the radiograph, pixels.
        height: of the radiograph, pixels.
        square: uint8 [`SQUARE_SIDE`, `SQUARE_SIDE`], canonical, for pictures of heatmaps.
        display: PNG of 8 bits, no side longer than `DISPLAY_SIDE`; empty where not asked for.
    """

    film: Film
    width: int
    height: int
    square: npt.NDArray[np.uint8]
    display: bytes


class Decoders:
    """A few decoder processes for many threads.

    Args:
        count: processes.
        size: side of the canonical image, pixels.
        seconds: a file may take.
    """

    def __init__(self, count: int, size: int, seconds: float) -> None:
        work = partial(_decoded, size)
        self._all = [Isolated(work, seconds) for _ in range(count)]
        self._free: SimpleQueue[Isolated[Decoded]] = SimpleQueue()
        for decoder in self._all:
            self._free.put(decoder)

    def start(self) -> None:
        """Start all processes now rather than with the first uploads."""
        for decoder in self._all:
            decoder.start()

    def decode(self, data: bytes, display: bool) -> Decoded:
        """Decode a file's bytes; waits for a free process.

        Raises:
            ImageError: it does not become a radiograph.
            WorkerError: no process can be started.
        """
        with self._one() as decoder:
            return decoder.call(_NAME, data, display)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for decoder in self._all:
            decoder.close()

    @contextmanager
    def _one(self) -> Iterator[Isolated[Decoded]]:
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)


def _decoded(size: int, data: bytes, display: bool) -> Decoded:
    image, header = pixels.read(data)
    height, width = image.shape
    film = films.developed(image, size, header, chroma(data) if header is None else 0.0)
    square = pixels.canonical(image, SQUARE_SIDE)
    return Decoded(film, width, height, square, _png(image) if display else b"")


def _png(radiograph: Grey) -> bytes:
    """Make the picture for a screen: smaller where need be, 8 bits by the nominal range."""
    image: npt.NDArray[Any] = radiograph
    height, width = image.shape
    shrink = min(1.0, DISPLAY_SIDE / max(height, width))
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    _, png = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return bytes(png)
