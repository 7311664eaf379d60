"""The data elements of a DICOM file, walked before anything in them is believed.

Every length is held against the bytes that are there; the number and the depth of elements are
limited; a deflated data set is inflated up to a limit. A value is converted when it is asked for,
by the type that the data dictionary gives its keyword, whatever VR the file claims. So a hostile
file costs no more than its own bytes, while pydicom makes an object of each element, inflates
without a limit and recurses as deep as the file wants. Identity (name, number) is never touched.

A file's header can be read without its pixels (`read_header`), and some elements can be taken as
the file encodes them (`Elements.encoded`), so that no other reader sees the whole file.

Not here: character sets (what is read is ASCII), writing.

References: PS3.5 sections 7.1 (elements), 7.5 (sequences), A.4 and A.5 (encapsulated, deflated);
PS3.10 section 7.1 (file meta information).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from chestxray.storage import opened

_ELEMENT_LIMIT: Final = 100_000
_DEPTH_LIMIT: Final = 16
# 80 million pixels of 16 bits and a generous header.
_INFLATED_LIMIT: Final = 176 * 2**20
# Bytes of a file that are read in search of its header: at first, and at most.
_HEAD: Final = 2**16
_HEADER_LIMIT: Final = 2**23
# No value that is read as text has more characters (PS3.5 table 6.2-1, of the short kinds).
_TEXT_LIMIT: Final = 1024

_ByteOrder = Literal["<", ">"]

_PREFIX_AT: Final = 128  # after the preamble (PS3.10 section 7.1)
_PREFIX: Final = b"DICM"
_META_AT: Final = _PREFIX_AT + len(_PREFIX)
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PIXEL_DATA: Final = 0x7FE00010
_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)


def is_dicom(data: bytes) -> bool:
    """Say whether a file's first 132 bytes are those of a DICOM file."""
    return data.startswith(_PREFIX, _PREFIX_AT)


class MalformedError(Exception):
    """The file breaks a rule of the Standard or of this reader; the message says which."""


@dataclass(frozen=True)
class _Span:
    """Where the value of one element lies.

    Attributes:
        vr: value representation, empty where the file does not say.
        start: first byte of the value.
        stop: byte after it; of a value of undefined length, after its delimiter.
        defined: whether the file gives the length.
    """

    vr: bytes
    start: int
    stop: int
    defined: bool


class Elements:
    """The elements of a data set or of an item, by keyword; an absent or empty one gives ().

    Attributes:
        order: byte order of the numbers.
        implicit: whether the file leaves out value representations.
    """

    def __init__(
        self, data: bytes, order: _ByteOrder, *, implicit: bool, spans: dict[int, _Span]
    ) -> None:
        self.order = order
        self.implicit = implicit
        self._data = data
        self._spans = spans

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword) in self._spans

    def vr(self, keyword: str) -> bytes:
        """Give the VR that the file claims, b"" where it claims none."""
        return self._spans[_tag(keyword)].vr

    def value(self, keyword: str) -> bytes:
        """Give the bytes of a value."""
        span = self._spans.get(_tag(keyword))
        return b"" if span is None else self._data[span.start : span.stop]

    def encoded(self, keywords: Iterable[str], limit: int) -> bytes:
        """Give some elements as the file encodes them, in the order of their tags.

        Args:
            keywords: of the elements; what is absent is left out.
            limit: bytes that each may have.

        Raises:
            MalformedError: one is longer.
        """
        tags = {_tag(keyword): keyword for keyword in keywords}
        found = bytearray()
        for tag, span in sorted(self._spans.items()):
            if tag not in tags:
                continue
            if span.stop - span.start > limit:
                raise MalformedError(
                    f"{tags[tag]} has {span.stop - span.start} bytes: at most {limit} are read"
                )
            found += self._data[span.start - (12 if span.vr in _LONG_VRS else 8) : span.stop]
        return bytes(found)

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Give the values of a string, without padding."""
        text = self.value(keyword)[:_TEXT_LIMIT].decode("ascii", "replace").strip("\0 ")
        return tuple(part.strip("\0 ") for part in text.split("\\")) if text else ()

    def text(self, keyword: str) -> str:
        """Give the first value of a string, "" where there is none."""
        return next(iter(self.texts(keyword)), "")

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Give the values of a decimal or integer string."""
        try:
            values = tuple(float(text) for text in self.texts(keyword) if text)
        except ValueError:
            raise MalformedError(f"{keyword} has a value that is not a number") from None
        if not all(map(math.isfinite, values)):
            raise MalformedError(f"{keyword} is {values}: the values must be finite numbers")
        return values

    def words(self, keyword: str, *, signed: bool = False) -> tuple[int, ...]:
        """Give the values of 16-bit integers."""
        value = self.value(keyword)
        if len(value) % 2 or len(value) > _TEXT_LIMIT:
            raise MalformedError(f"{keyword} has {len(value)} bytes: it must hold 16-bit integers")
        return struct.unpack(f"{self.order}{len(value) // 2}{'h' if signed else 'H'}", value)

    def word(self, keyword: str, default: int | None = None) -> int:
        """Give the first value of unsigned 16-bit integers."""
        values = self.words(keyword)
        if values:
            return values[0]
        if default is None:
            raise MalformedError(f"{keyword} is missing")
        return default

    def array(self, keyword: str, dtype: str) -> npt.NDArray[np.generic]:
        """Give a value as array of "u1" or "u2", in this machine's byte order."""
        kind = np.dtype(dtype)
        value = self.value(keyword)
        whole = value[: len(value) - len(value) % kind.itemsize]
        return np.frombuffer(whole, kind.newbyteorder(self.order)).astype(kind, copy=False)

    def first(self, keyword: str) -> Elements | None:
        """Give the first item of a sequence, None where there is none."""
        span = self._spans.get(_tag(keyword))
        if span is None or span.stop - span.start < 8:
            return None
        implicit = self.implicit or span.vr == b"UN"
        walker = _Walker(self._data, self.order)
        tag, _, length, at = walker.header(span.start, span.stop, implicit=implicit)
        if tag != _ITEM:
            return None
        end = span.stop if length == _UNDEFINED else walker.past(at, length, span.stop, tag)
        spans, _ = walker.elements(at, end, implicit=implicit, in_item=length == _UNDEFINED)
        return Elements(self._data, self.order, implicit=implicit, spans=spans)

    def merged(self, other: Elements) -> Elements:
        """Give these elements and those of an item of the same file; the item's go first."""
        spans = {**self._spans, **other._spans}
        return Elements(self._data, self.order, implicit=self.implicit, spans=spans)

    def fragments(self) -> list[bytes]:
        """Give the fragments of encapsulated pixels, the offset table first (PS3.5 A.4)."""
        span = self._spans[_PIXEL_DATA]
        if span.defined:
            raise MalformedError(
                "the transfer syntax is a compressed one, but the pixels are not compressed"
            )
        walker, at, found = _Walker(self._data, self.order), span.start, list[bytes]()
        while True:
            tag, _, length, at = walker.header(at, span.stop, implicit=True)
            if tag == _SEQUENCE_END:
                return found
            end = walker.past(at, length, span.stop, tag)
            found.append(self._data[at:end])
            at = end


def parse(data: bytes) -> tuple[str, Elements]:
    """Walk a DICOM file up to its pixels.

    Args:
        data: the file, preamble included.

    Returns:
        The transfer syntax UID and the data set.

    Raises:
        MalformedError: truncated, damaged, or beyond a limit.
    """
    syntax, elements, _ = _parsed(data, None)
    return syntax, elements


def read_header(path: Path) -> Elements:
    """Read the elements of a DICOM file that come before its pixels.

    At most 8 MB of the file are read, mostly 64 kB.

    Raises:
        MalformedError: not DICOM, truncated, damaged, or beyond a limit.
        OSError: the file cannot be read.
    """
    with opened(path) as file:
        data, more = b"", file.read(_HEAD)
        if not is_dicom(more):
            raise MalformedError("the file is not DICOM")
        while True:
            data += more
            more = file.read(min(15 * len(data), _HEADER_LIMIT - len(data)))
            try:
                _, elements, complete = _parsed(data, _PIXEL_DATA)
            except MalformedError:
                if not more:
                    raise
            else:
                if complete or not more:
                    return elements


def _parsed(data: bytes, stop: int | None) -> tuple[str, Elements, bool]:
    """Walk a file to its pixels, or to a tag; also tells whether that tag was reached."""
    spans, at = _Walker(data, "<").elements(_META_AT, len(data), implicit=False, group=0x0002)
    meta = Elements(data, "<", implicit=False, spans=spans)
    syntax = meta.text("TransferSyntaxUID")
    if not syntax:
        raise MalformedError("truncated or damaged: the file meta header has no TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        data, at = (_inflated if stop is None else _inflated_head)(data[at:]), 0
    order: _ByteOrder = ">" if syntax == ExplicitVRBigEndian else "<"
    # Files lie about this; the first element's VR does not (a length of 16 kB would look like one).
    implicit = not _is_vr(data[at + 4 : at + 6])
    spans, at = _Walker(data, order).elements(at, len(data), implicit=implicit, stop=stop)
    return syntax, Elements(data, order, implicit=implicit, spans=spans), at < len(data)


class _Walker:
    """Steps from element to element, within the limits."""

    def __init__(self, data: bytes, order: _ByteOrder) -> None:
        self.data = data
        self.order = order
        self.left = _ELEMENT_LIMIT

    def elements(
        self,
        at: int,
        end: int,
        *,
        implicit: bool,
        in_item: bool = False,
        group: int | None = None,
        stop: int | None = None,
        depth: int = 0,
    ) -> tuple[dict[int, _Span], int]:
        """Walk a data set to its pixels, its delimiter, its end or a tag; or one group of it."""
        spans: dict[int, _Span] = {}
        while at < end:
            tag, vr, length, start = self.header(at, end, implicit=implicit)
            if (group is not None and tag >> 16 != group) or tag == stop:
                return spans, at
            if tag == _ITEM_END and in_item:
                return spans, start
            if length == _UNDEFINED:
                at = self._after_items(start, end, implicit=implicit or vr == b"UN", depth=depth)
            else:
                at = self.past(start, length, end, tag)
            spans[tag] = _Span(vr, start, at, length != _UNDEFINED)
            if tag == _PIXEL_DATA and not in_item:
                break
        if in_item:
            raise MalformedError("truncated: the file ends within an item of a sequence")
        return spans, at

    def header(self, at: int, end: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
        """Give tag, VR and length of an element, and where its value starts."""
        self.left -= 1
        if self.left < 0:
            raise MalformedError(f"the file has more than {_ELEMENT_LIMIT} data elements")
        if end - at < 8:
            raise MalformedError("truncated: the file ends within a data element")
        group, element = struct.unpack_from(f"{self.order}HH", self.data, at)
        vr = self.data[at + 4 : at + 6]
        if group == 0xFFFE or implicit or not _is_vr(vr):
            (length,) = struct.unpack_from(f"{self.order}I", self.data, at + 4)
            return group << 16 | element, b"", length, at + 8
        if vr not in _LONG_VRS:
            (length,) = struct.unpack_from(f"{self.order}H", self.data, at + 6)
            return group << 16 | element, vr, length, at + 8
        if end - at < 12:
            raise MalformedError("truncated: the file ends within a data element")
        (length,) = struct.unpack_from(f"{self.order}I", self.data, at + 8)
        return group << 16 | element, vr, length, at + 12

    def past(self, start: int, length: int, end: int, tag: int) -> int:
        """Give the byte after a value of a defined length."""
        if length > end - start:
            raise MalformedError(
                f"truncated: ({tag >> 16:04X},{tag & 0xFFFF:04X}) claims {length} bytes, "
                f"the file has {end - start}"
            )
        return start + length

    def _after_items(self, at: int, end: int, *, implicit: bool, depth: int) -> int:
        """Give the byte after a sequence of undefined length."""
        if depth >= _DEPTH_LIMIT:
            raise MalformedError(f"sequences are nested more than {_DEPTH_LIMIT} deep")
        while True:
            tag, _, length, at = self.header(at, end, implicit=True)
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise MalformedError("damaged: a sequence holds something other than items")
            if length == _UNDEFINED:
                _, at = self.elements(at, end, implicit=implicit, in_item=True, depth=depth + 1)
            else:
                at = self.past(at, length, end, tag)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _is_vr(letters: bytes) -> bool:
    return letters.isalpha() and letters.isupper()


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, _INFLATED_LIMIT)
    except zlib.error as error:
        raise MalformedError(f"the deflated data set is damaged: {error}") from error
    if inflater.unconsumed_tail:
        raise MalformedError(
            f"the data set inflates to more than {_INFLATED_LIMIT // 2**20} MB (possible "
            f"decompression bomb)"
        )
    if not inflater.eof:
        raise MalformedError("truncated: the deflated data set has no end")
    return plain


def _inflated_head(data: bytes) -> bytes:
    """Inflate what the header of a file may take, whether the rest is there or not."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _HEADER_LIMIT)
    except zlib.error as error:
        raise MalformedError(f"the deflated data set is damaged: {error}") from error
