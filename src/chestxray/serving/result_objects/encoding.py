"""Encodes result objects: the content of a structured report item by item, and whole files.

Explicit VR little endian, text in UTF-8, sequences with their lengths; only the value
representations that results have. A report of 14 findings has 380 nested data sets; built and
written by a library they take a worker longer than the reading (`benchmarks/structured_report.py`).
What is left for the library to build, the head of each object, it takes five times as long to write
as `file` does, which writes the same bytes.

References: PS3.5 6.2 (value representations), 7.1.2 (elements), 7.5 (sequences); PS3.10 7.1 (file
meta information); PS3.3 C.17.3 (SR Document Content), C.18 (values), table 8.8-1 (codes).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from pydicom import DataElement, Dataset, __version_info__
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

Value = str | Sequence[float] | Sequence[bytes]

_ITEM: Final = b"\xfe\xff\x00\xe0"
_LONG: Final = frozenset({"OB", "SQ", "UT"})  # two reserved bytes, then a length of 32 bits
_LONGEST: Final = 0xFFFF  # bytes of all others
_TEXT: Final = frozenset({"CS", "DA", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "UT"})
_NUMBERS: Final = {"FL": "f", "FD": "d", "US": "H"}
_UTF_8: Final = "utf-8"
_IMPLEMENTATION: Final = f"PYDICOM {'.'.join(__version_info__)}"


def encode(**attributes: Value) -> bytes:
    """Encode a data set.

    Args:
        attributes: keyword → text; numbers where the VR is FL, FD or US; encoded items where it is
            SQ.

    Raises:
        KeyError: the Standard does not have a keyword.
        ValueError: a VR is not supported, or a text is too long for its VR.
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
    return _with_head(tag, vr, _content(vr, value))


def _with_head(tag: int, vr: str, content: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in _LONG:
        return head + struct.pack("<xxI", len(content)) + content
    if len(content) > _LONGEST:
        raise ValueError(f"{tag:08X}: {len(content)} bytes, {vr} holds at most {_LONGEST}")
    return head + struct.pack("<H", len(content)) + content


def _content(vr: str, value: Value) -> bytes:
    if isinstance(value, str):
        if vr not in _TEXT:
            raise ValueError(f"text cannot be encoded as {vr}")
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


CONTAINS: Final = "CONTAINS"
CONTEXT: Final = "HAS OBS CONTEXT"
MODIFIER: Final = "HAS CONCEPT MOD"
SELECTED: Final = "SELECTED FROM"


class ImageReference(NamedTuple):
    """A referenced image: its SOP class UID and SOP instance UID."""

    sop_class: str
    uid: str


@cache
def code(concept: Code) -> bytes:
    """Encode a code as the only item of a code sequence."""
    return encode(
        CodeValue=concept.value,
        CodingSchemeDesignator=concept.scheme_designator,
        CodeMeaning=concept.meaning,
    )


def text(relation: str, name: Code, value: str) -> bytes:
    """Make a TEXT item."""
    return _item(relation, "TEXT", name, TextValue=value)


def coded(relation: str, name: Code, value: Code) -> bytes:
    """Make a CODE item."""
    return _item(relation, "CODE", name, ConceptCodeSequence=[code(value)])


def uid(relation: str, name: Code, value: str) -> bytes:
    """Make a UIDREF item."""
    return _item(relation, "UIDREF", name, UID=value)


def number(name: Code, value: float, unit: Code) -> bytes:
    """Make a NUM item, with six digits as text and the exact value (PS3.3 C.18.1).

    Raises:
        ValueError: it is not finite, which a decimal string cannot express (PS3.5 6.2).
    """
    if not math.isfinite(value):
        raise ValueError(f"{name.meaning}: {value} is not a finite number")
    measured = encode(
        NumericValue=f"{value:.6g}",
        FloatingPointValue=[value],
        MeasurementUnitsCodeSequence=[code(unit)],
    )
    return _item(CONTAINS, "NUM", name, MeasuredValueSequence=[measured])


def image(relation: str, name: Code, shown: ImageReference) -> bytes:
    """Make an IMAGE item."""
    reference = encode(ReferencedSOPClassUID=shown.sop_class, ReferencedSOPInstanceUID=shown.uid)
    return _item(relation, "IMAGE", name, ReferencedSOPSequence=[reference])


def outline(name: Code, corners: Sequence[float], source: bytes) -> bytes:
    """Make an SCOORD item that outlines a region.

    Args:
        name: of the region.
        corners: column, row, column, row …; the first corner closes it.
        source: the image, as the item that this one is selected from.
    """
    return _item(
        CONTAINS,
        "SCOORD",
        name,
        GraphicData=corners,
        GraphicType="POLYLINE",
        ContentSequence=[source],
    )


def container(name: Code, items: Sequence[bytes], template: str = "") -> bytes:
    """Make a CONTAINER item, of a template of PS3.16 where one is named."""
    more: dict[str, Value] = {}
    if template:
        more["ContentTemplateSequence"] = [
            encode(MappingResource="DCMR", TemplateIdentifier=template)
        ]
    return _item(
        CONTAINS,
        "CONTAINER",
        name,
        ContinuityOfContent="CONTINUOUS",
        ContentSequence=items,
        **more,
    )


def _item(relation: str, kind: str, name: Code, **value: Value) -> bytes:
    return encode(
        RelationshipType=relation, ValueType=kind, ConceptNameCodeSequence=[code(name)], **value
    )


def file(result: Dataset) -> bytes:
    """Encode a data set as a DICOM file.

    Args:
        result: a result object with its transfer syntax in `file_meta`; text is in UTF-8.
    """
    meta = b"".join(
        _with_head(0x00020000 + number, vr, value)
        for number, vr, value in (
            (0x01, "OB", b"\0\1"),
            (0x02, "UI", _content("UI", result.SOPClassUID)),
            (0x03, "UI", _content("UI", result.SOPInstanceUID)),
            (0x10, "UI", _content("UI", result.file_meta.TransferSyntaxUID)),
            (0x12, "UI", _content("UI", PYDICOM_IMPLEMENTATION_UID)),
            (0x13, "SH", _content("SH", _IMPLEMENTATION)),
        )
    )
    length = _with_head(0x00020000, "UL", struct.pack("<L", len(meta)))
    return b"".join((b"\0" * 128, b"DICM", length, meta, _data_set(result)))


def _data_set(elements: Dataset) -> bytes:
    return b"".join(_encoded(elements.get_item(tag)) for tag in sorted(elements.keys()))


def _written(value: object) -> str:
    """Give a value as text; a number as it was read."""
    read = getattr(value, "original_string", None)
    return read if isinstance(read, str) else str(value)


def _encoded(element: DataElement | RawDataElement) -> bytes:
    """Encode an element; the library does what results rarely have, such as pixels.

    A text of an image may be too long for its VR in UTF-8: the library writes it as UN.
    """
    if isinstance(element, DataElement):
        tag, vr, value = element.tag, element.VR, element.value
        if vr in _TEXT:
            values = value if isinstance(value, MultiValue) else [value]
            text = "" if element.is_empty else "\\".join(map(_written, values))
            content = _content(vr, text)
            if vr in _LONG or len(content) <= _LONGEST:
                return _with_head(tag, vr, content)
        if vr == "SQ" and not element.is_undefined_length:
            return _with_head(tag, vr, sequence([_data_set(item) for item in value]))
        if vr == "US" and isinstance(value, int):
            return _with_head(tag, vr, _content(vr, [value]))
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, _UTF_8)
    return buffer.getvalue()
