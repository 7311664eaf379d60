"""Content items of a structured report, encoded.

A report of 14 findings has 380 nested data sets; built and written by a library they take a worker
longer than the reading (`benchmarks/structured_report.py`).

References: PS3.3 C.17.3 (SR Document Content), C.18 (values), table 8.8-1 (codes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final, NamedTuple

from pydicom.sr.coding import Code

from chestxray.serving.dicom_writing import Value, encode

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


@lru_cache(4096)
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
    return encode(ReferencedSOPSequence=[reference]) + _named(relation, "IMAGE", name)


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
    """Make an item; its value stands behind its name, as all values but an image's do."""
    return _named(relation, kind, name) + encode(**value)


@lru_cache(4096)
def _named(relation: str, kind: str, name: Code) -> bytes:
    return encode(RelationshipType=relation, ValueType=kind, ConceptNameCodeSequence=[code(name)])
