"""What a file declares of itself in its first bytes: SOP class, instance, and some attributes.

No other element is interpreted, nothing is decoded, and what follows the last one that is asked for
is not looked at, so a hostile data set costs no more than an honest one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from typing import Final

from pydicom.uid import UID

from chestxray.serving.gateway.spool import BEGINNING

_FILE_META: Final = 132
_TRANSFER_SYNTAX: Final = 0x00020010
_CLASS: Final = 0x00080016
_INSTANCE: Final = 0x00080018
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VRS: Final = (
    b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV",
)  # fmt: skip


def sop_uids(beginning: bytes, syntax: UID) -> tuple[str, str]:
    """Give SOP class UID and SOP instance UID of a data set; empty text where one is not found.

    Args:
        beginning: first bytes of the data set as encoded.
        syntax: its transfer syntax.
    """
    found, _ = header_texts(beginning, syntax, (_CLASS, _INSTANCE))
    return found.get(_CLASS, ""), found.get(_INSTANCE, "")


def header_texts(
    beginning: bytes, syntax: UID, tags: Collection[int]
) -> tuple[dict[int, str], bool]:
    """Give the text of some elements of a data set, and whether all of them would be in it.

    Args:
        beginning: first bytes of the data set as encoded.
        syntax: its transfer syntax.
        tags: of the elements, outside of sequences; what is absent has no text.

    Returns:
        Tag → text without padding, of a sequence any text; and False where the data set is damaged,
        or the bytes end before an element that follows the last tag.
    """
    found: dict[int, str] = {}
    try:
        if syntax.is_deflated:
            beginning = zlib.decompressobj(-zlib.MAX_WBITS).decompress(beginning, BEGINNING)
        _read_into(found, beginning, syntax, tags)
    except (struct.error, zlib.error, ValueError):
        return found, False
    return found, True


def transfer_syntax(head: bytes) -> UID:
    """Give the transfer syntax of a file; an empty UID where it is not found.

    Args:
        head: preamble, prefix and file meta of the file (PS3.10 section 7.1).
    """
    at = _FILE_META
    try:
        while True:
            tag, length, at = _header(head, at, "<", implicit=False)
            if tag == _TRANSFER_SYNTAX:
                return UID(head[at : at + length].decode("ascii").rstrip("\0 "))
            at += length
    except (struct.error, ValueError):
        return UID("")


def _read_into(found: dict[int, str], data: bytes, syntax: UID, tags: Collection[int]) -> None:
    last = max(tags)
    order = "<" if syntax.is_little_endian else ">"
    at = depth = 0
    while True:
        tag, length, at = _header(data, at, order, implicit=syntax.is_implicit_VR)
        if tag == _SEQUENCE_END:
            depth -= 1
        elif tag in (_ITEM, _ITEM_END):
            at += 0 if length == _UNDEFINED else length
        elif depth == 0 and tag > last:
            return
        elif length == _UNDEFINED:
            if depth == 0 and tag in tags:
                found[tag] = ""
            depth += 1
        else:
            if depth == 0 and tag in tags:
                found[tag] = data[at : at + length].decode("ascii", "replace").strip("\0 ")
            at += length


def _header(data: bytes, at: int, order: str, *, implicit: bool) -> tuple[int, int, int]:
    """Give tag, length and start of the value of the element at an offset."""
    group, element = struct.unpack_from(order + "HH", data, at)
    if implicit or group == 0xFFFE:
        (length,) = struct.unpack_from(order + "I", data, at + 4)
        return group << 16 | element, length, at + 8
    if data[at + 4 : at + 6] in _LONG_VRS:
        (length,) = struct.unpack_from(order + "I", data, at + 8)
        return group << 16 | element, length, at + 12
    (length,) = struct.unpack_from(order + "H", data, at + 6)
    return group << 16 | element, length, at + 8
