"""Uploads: one image file out of a multipart body, decoded in processes of their own.

A body is parsed in memory and never kept beyond the limit; Starlette's own parser would write large
parts to temporary files. File names, and fields other than `file`, are ignored.

A file that crashes or hangs its decoder process affects no other upload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from chestxray.dataset.decoding import Isolated
from chestxray.dataset.dicom import Spacing
from chestxray.dataset.pixels import Grey
from chestxray.dataset.radiograph import Radiograph
from chestxray.reading.judged_image import JudgedImage
from chestxray.serving.fair_pool import FairPool
from chestxray.serving.http_errors import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD: Final = "file"
"""The form field of the image file."""

SQUARE_SIDE: Final = 512  # pixels

_DISPLAY_SIDE: Final = 2048  # pixels
_GRACE_SECONDS: Final = 5.0
_MOST_PARTS: Final = 100  # of a form: each costs more than its bytes
_NAME: Final = "upload"
_SIGNATURES: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (128, b"DICM", "DICOM"),
)


class Upload(NamedTuple):
    """An uploaded image file.

    Attributes:
        data: the file's bytes.
        kind: its format: PNG, JPEG or DICOM.
    """

    data: bytes
    kind: str


class Decoded(NamedTuple):
    """A decoded upload.

    Attributes:
        radiograph: for the reader.
        width: of the radiograph, pixels.
        height: of the radiograph, pixels.
        spacing: of its pixels; None where the file does not give it.
        square: uint8 [`SQUARE_SIDE`, `SQUARE_SIDE`], canonical, to draw heatmaps on.
        display: PNG of 8 bits, no side longer than 2048 pixels; empty where not asked for.
    """

    radiograph: JudgedImage
    width: int
    height: int
    spacing: Spacing | None
    square: npt.NDArray[np.uint8]
    display: bytes


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

    def decode(self, client: str, data: bytes, display: bool) -> Decoded:
        """Decode a file's bytes; waits for a free process, which the clients get in turn.

        Raises:
            ImageError: the file is not a readable radiograph.
            WorkerError: no process can be started.
            TimeoutError: none was free in time.
        """
        with self._fair.lent(client, self._seconds) as decoder:
            return decoder.call(_NAME, data, display)

    def kill(self) -> None:
        """End the processes from another thread than those that start or use them."""
        for decoder in self._all:
            decoder.kill()

    def close(self) -> None:
        """End the processes, also those at work."""
        for decoder in self._all:
            decoder.close()


class Patience(NamedTuple):
    """How long a body may take.

    Attributes:
        seconds: in all.
        bytes_per_second: that must arrive on average, after a grace period.
    """

    seconds: float
    bytes_per_second: float

    def until(self, length: int) -> float:
        """Give the seconds after which a body of which so much has arrived is too slow."""
        return min(self.seconds, _GRACE_SECONDS + length / self.bytes_per_second)


async def receive_upload(
    request: Request, max_bytes: int, patience: Patience, reserve: Callable[[int], None]
) -> Upload:
    """Receive the image file in the body of a request.

    Args:
        request: whose body has not been read.
        max_bytes: largest body that is accepted.
        patience: how long the body may take.
        reserve: called with the number of bytes that have arrived, before they are kept; may raise
            `ProblemError`. What a client only announces is not reserved.

    Raises:
        ProblemError: not a multipart body (415), an invalid one (400), no file or several (422),
            too large (413), too slow (408), or neither PNG, JPEG nor DICOM (415).
    """
    form = _form(request)
    try:
        await _receive(form, request, max_bytes, patience, reserve)
        data = form.file()
    finally:
        form.clear()
    return Upload(data, _kind(data))


async def _receive(
    form: _Form,
    request: Request,
    max_bytes: int,
    patience: Patience,
    reserve: Callable[[int], None],
) -> None:
    start = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(start + patience.until(0)) as deadline:

            def arrived(length: int) -> None:
                reserve(length)
                deadline.reschedule(start + patience.until(length))

            await _feed(form, request, max_bytes, arrived)
    except TimeoutError as error:
        raise ProblemError(
            408,
            "upload-timeout",
            f"The upload took longer than {patience.seconds:g} s, or was slower than "
            f"{patience.bytes_per_second / 2**10:g} kB/s.",
        ) from error
    except FormParserError as error:
        raise _invalid("The multipart body is invalid.") from error
    except ClientDisconnect as error:
        raise ProblemError(
            400, "disconnected", "The client disconnected before the upload was complete."
        ) from error


def _form(request: Request) -> _Form:
    boundary = _boundary(request)
    try:
        return _Form(boundary)
    except FormParserError as error:  # the boundary is too long
        raise _invalid("The multipart boundary is invalid.") from error


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise ProblemError(
            415,
            "not-multipart",
            f"Send multipart/form-data with the image in the field {FIELD!r}, such as "
            f"`curl -F {FIELD}=@radiograph.dcm`.",
        )
    return boundary


async def _feed(
    form: _Form, request: Request, max_bytes: int, arrived: Callable[[int], None]
) -> None:
    def check(length: int) -> None:
        if length > max_bytes:
            raise ProblemError(
                413, "too-large", f"The upload is larger than {max_bytes / 2**20:g} MB."
            )

    check(int(request.headers.get("content-length", 0)))
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        check(length)
        arrived(length)
        form.parser.write(chunk)
    form.parser.finalize()


def _kind(data: bytes) -> str:
    for offset, signature, kind in _SIGNATURES:
        if data.startswith(signature, offset):
            return kind
    raise ProblemError(415, "unsupported-format", "The file is neither PNG, JPEG nor DICOM.")


def _invalid(detail: str) -> ProblemError:
    return ProblemError(400, "invalid-multipart", detail)


def _file_count(found: str) -> ProblemError:
    return ProblemError(
        422, "file-count", f"Send exactly one image in the field {FIELD!r}, not {found}."
    )


class _Form:
    """Keeps the one part whose field is `file`."""

    def __init__(self, boundary: bytes) -> None:
        self._file: bytearray | None = None
        self._name = self._value = b""
        self._wanted = False
        self._complete = False
        self._parts = 0
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
        if not self._complete:
            raise _invalid("The multipart body is incomplete.")
        if self._file is None:
            raise _file_count("none")
        return bytes(self._file)

    def clear(self) -> None:
        """Drop the file: the form and its parser keep each other alive until garbage collection."""
        self._file = None

    def _begin(self) -> None:
        self._wanted = False
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _invalid(f"The multipart body has more than {_MOST_PARTS} parts.")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._wanted = options.get(b"name") == FIELD.encode()
            if self._wanted and self._file is not None:
                raise _file_count("several")
            if self._wanted:
                self._file = bytearray()
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self._file is not None:
            self._file += data[start:end]

    def _end(self) -> None:
        self._complete = True


def _decode(size: int, data: bytes, display: bool) -> Decoded:
    """Decode a file, in a decoder process."""
    radiograph = Radiograph.read(data)
    height, width = radiograph.pixels.shape
    judged = JudgedImage.of(radiograph, size)
    square = radiograph.canonical(SQUARE_SIDE)
    spacing = None if radiograph.header is None else radiograph.header.spacing
    picture = _png(radiograph.pixels) if display else b""
    return Decoded(judged, width, height, spacing, square, picture)


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
