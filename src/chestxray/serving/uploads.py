"""Uploads: image files out of a multipart body.

A body is parsed in memory and never kept beyond the limit; Starlette's own parser would write large
parts to temporary files. File names, and fields other than `file`, are ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from chestxray.serving.http_errors import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD: Final = "file"
"""The form field of the image file."""


_GRACE_SECONDS: Final = 5.0
_MOST_PARTS: Final = 100  # of a form: each costs more than its bytes
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


class BodyLimits(NamedTuple):
    """What a body may have.

    Attributes:
        body_bytes: its size.
        file_bytes: size of a file in it.
        files: how many.
    """

    body_bytes: int
    file_bytes: int
    files: int = 1


async def receive_files(
    request: Request, limits: BodyLimits, patience: Patience, reserve: Callable[[int], None]
) -> list[bytes]:
    """Receive the files in the body of a request, in their order.

    Args:
        request: whose body has not been read.
        limits: of the body.
        patience: how long it may take.
        reserve: called with the number of bytes that have arrived, before they are kept; may raise
            `ProblemError`. What a client only announces is not reserved.

    Raises:
        ProblemError: not a multipart body (415), an invalid one (400), no file or too many (422),
            too large (413), or too slow (408).
    """
    form = _form(request, limits)
    try:
        await _receive(form, request, limits.body_bytes, patience, reserve)
        return form.files()
    finally:
        form.clear()


def upload_of(data: bytes) -> Upload:
    """Tell the format of a file.

    Raises:
        ProblemError: neither PNG, JPEG nor DICOM (415).
    """
    for offset, signature, kind in _SIGNATURES:
        if data.startswith(signature, offset):
            return Upload(data, kind)
    raise ProblemError(415, "unsupported-format", "The file is neither PNG, JPEG nor DICOM.")


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


def _form(request: Request, limits: BodyLimits) -> _Form:
    boundary = _boundary(request)
    try:
        return _Form(boundary, limits)
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
            raise _too_large(max_bytes)

    check(int(request.headers.get("content-length", 0)))
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        check(length)
        arrived(length)
        form.parser.write(chunk)
    form.parser.finalize()


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError(413, "too-large", f"The upload is larger than {max_bytes / 2**20:g} MB.")


def _invalid(detail: str) -> ProblemError:
    return ProblemError(400, "invalid-multipart", detail)


class _Form:
    """Keeps the parts whose field is `file`."""

    def __init__(self, boundary: bytes, limits: BodyLimits) -> None:
        self._files: list[bytearray] = []
        self._limits = limits
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

    def files(self) -> list[bytes]:
        """Give the files once; each is copied while those after it are still held."""
        if not self._complete:
            raise _invalid("The multipart body is incomplete.")
        if not self._files:
            raise self._file_count("none")
        found = []
        for place, file in enumerate(self._files):
            found.append(bytes(file))
            self._files[place] = bytearray()
        return found

    def clear(self) -> None:
        """Drop the files: the form and its parser keep each other alive until collected."""
        self._files = []

    def _file_count(self, found: str) -> ProblemError:
        most = self._limits.files
        rule = "exactly one image" if most == 1 else f"1 to {most} images"
        return ProblemError(422, "file-count", f"Send {rule} in the field {FIELD!r}, not {found}.")

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
            if self._wanted and len(self._files) == self._limits.files:
                raise self._file_count("several" if self._limits.files == 1 else "more")
            if self._wanted:
                self._files.append(bytearray())
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._wanted:
            return
        file = self._files[-1]
        if len(file) + end - start > self._limits.file_bytes:
            raise _too_large(self._limits.file_bytes)
        file += data[start:end]

    def _end(self) -> None:
        self._complete = True
