"""One image out of a multipart body, in memory alone and never more of it than is allowed.

Starlette's own parser would write larger parts to temporary files. Names of files, and fields other
than `file`, are not even looked at.

Decodes uploads in processes of their own: a file that kills or hangs one harms no other upload.

What comes back is the film for the reader and the same for a screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from chestxray.dataset.decoding import Isolated
from chestxray.dataset.pixels import Grey
from chestxray.dataset.radiograph import Radiograph
from chestxray.reading.judged_image import JudgedImage
from chestxray.serving.http_errors import ProblemError
from chestxray.serving.settings import Limits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD: Final = "file"
_KINDS: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (128, b"DICM", "DICOM"),
)


async def upload(
    request: Request, limits: Limits, hold: Callable[[int], None]
) -> tuple[bytes, str]:
    """Read the body of a request.

    Args:
        request: whose body has not been touched.
        limits: of size and time.
        hold: told how many bytes the body will take or has taken, before they are kept; may raise
            `ProblemError`.

    Returns:
        The image file's bytes, and its format: PNG, JPEG or DICOM.

    Raises:
        ProblemError: no multipart body (415), a broken one (400), none or several files (422),
            too large (413), too slow (408), or neither PNG, JPEG nor DICOM (415).
    """
    form = _form(request)
    try:
        await _receive(form, request, limits, hold)
        data = form.file()
    finally:
        form.clear()
    return data, _kind(data)


async def _receive(
    form: _Form, request: Request, limits: Limits, hold: Callable[[int], None]
) -> None:
    try:
        async with asyncio.timeout(limits.upload_seconds):
            await _feed(form, request, limits.upload_bytes, hold)
    except TimeoutError as error:
        raise ProblemError(
            408, "slow", f"The upload took more than {limits.upload_seconds:g} s."
        ) from error
    except FormParserError as error:
        raise _broken() from error
    except ClientDisconnect as error:
        raise ProblemError(
            400, "gone", "The client left before the upload was complete."
        ) from error


def _form(request: Request) -> _Form:
    boundary = _boundary(request)
    try:
        return _Form(boundary)
    except FormParserError as error:  # the boundary is too long
        raise _broken() from error


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise ProblemError(
            415,
            "not-a-form",
            f"Send multipart/form-data with the image in the field {FIELD!r}, such as "
            f"`curl -F {FIELD}=@film.dcm`.",
        )
    return boundary


async def _feed(form: _Form, request: Request, most: int, hold: Callable[[int], None]) -> None:
    def expect(length: int) -> None:
        if length > most:
            raise ProblemError(413, "too-large", f"More than {most / 2**20:g} MB are not read.")
        hold(length)

    expect(int(request.headers.get("content-length", 0)))
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        expect(length)
        form.parser.write(chunk)
    form.parser.finalize()


def _kind(data: bytes) -> str:
    for offset, magic, kind in _KINDS:
        if data.startswith(magic, offset):
            return kind
    raise ProblemError(415, "kind", "The file is neither PNG, JPEG nor DICOM.")


def _broken() -> ProblemError:
    return ProblemError(400, "broken-form", "The multipart body is broken.")


def _one_file(found: str) -> ProblemError:
    return ProblemError(422, "one-file", f"Send one image in the field {FIELD!r}, not {found}.")


class _Form:
    """Keeps the one part whose field is `file`."""

    def __init__(self, boundary: bytes) -> None:
        self._file: bytearray | None = None
        self._name = self._value = b""
        self._wanted = False
        self._whole = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }
        self.parser = MultipartParser(boundary, callbacks)

    def file(self) -> bytes:
        """Give the one file."""
        if not self._whole:
            raise ProblemError(400, "broken-form", "The multipart body ends too early.")
        if self._file is None:
            raise _one_file("none")
        return bytes(self._file)

    def clear(self) -> None:
        """Forget the file: this and its parser hold each other, until the garbage is collected."""
        self._file = None

    def _begin(self) -> None:
        self._wanted = False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._wanted = options.get(b"name") == FIELD.encode()
            if self._wanted and self._file is not None:
                raise _one_file("several")
            if self._wanted:
                self._file = bytearray()
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self._file is not None:
            self._file += data[start:end]

    def _end(self) -> None:
        self._whole = True


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

    film: JudgedImage
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
    radiograph = Radiograph.read(data)
    height, width = radiograph.pixels.shape
    film = JudgedImage.of(radiograph, size)
    square = radiograph.canonical(SQUARE_SIDE)
    return Decoded(film, width, height, square, _png(radiograph.pixels) if display else b"")


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
