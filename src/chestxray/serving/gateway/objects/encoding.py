"""Attributes to bytes: explicit VR little endian, text in UTF-8, sequences with their lengths.

Only what content items are made of. A report has 380 data sets within each other; built and
written by a library they take a worker longer than the reading does.

References: PS3.5 6.2 (value representations), 7.1.2 (elements), 7.5 (sequences).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

Value = str | Sequence[float] | Sequence[bytes]

_ITEM: Final = b"\xfe\xff\x00\xe0"
_LONG: Final = frozenset({"SQ", "UT"})  # a length of 32 bits, after two bytes that are reserved
_TEXT: Final = frozenset({"CS", "DS", "LO", "SH", "UI", "UT"})
_NUMBERS: Final = {"FL": "f", "FD": "d"}


def encode(**attributes: Value) -> bytes:
    """Encode a data set.

    Args:
        attributes: keyword → text; numbers where the VR is FL or FD; encoded items where it is SQ.

    Raises:
        KeyError: a keyword that the Standard does not have.
        ValueError: one of a VR that content items do not need, or a text too long for its VR.
    """
    known = sorted((_known(keyword), value) for keyword, value in attributes.items())
    return b"".join(_element(tag, vr, value) for (tag, vr), value in known)


def sequence(items: Sequence[bytes]) -> bytes:
    """Encode the value of a sequence of encoded data sets."""
    return b"".join(_ITEM + struct.pack("<I", len(item)) + item for item in items)


@cache
def _known(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, dictionary_VR(tag)


def _element(tag: int, vr: str, value: Value) -> bytes:
    content = _content(vr, value)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in _LONG:
        return head + struct.pack("<xxI", len(content)) + content
    if len(content) > 0xFFFF:
        raise ValueError(f"{tag:08X}: {len(content)} bytes, {vr} holds at most 65535")
    return head + struct.pack("<H", len(content)) + content


def _content(vr: str, value: Value) -> bytes:
    if isinstance(value, str):
        if vr not in _TEXT:
            raise ValueError(f"text is not encoded as {vr}")
        text = value.encode()
        return text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)
    if vr == "SQ":
        return sequence(_items(value))
    return struct.pack(f"<{len(value)}{_NUMBERS[vr]}", *value)


def _items(value: Sequence[float] | Sequence[bytes]) -> Sequence[bytes]:
    items = [item for item in value if isinstance(item, bytes)]
    if len(items) != len(value):
        raise ValueError("a sequence holds encoded items")
    return items
