"""Content items of a structured report, encoded as they are made.

References: PS3.3 C.17.3 (SR Document Content), C.18 (values); PS3.3 table 8.8-1 (codes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from pydicom.sr.coding import Code

from chestxray.serving.gateway.objects.encoding import Value, encode

CONTAINS: Final = "CONTAINS"
CONTEXT: Final = "HAS OBS CONTEXT"
MODIFIER: Final = "HAS CONCEPT MOD"
SELECTED: Final = "SELECTED FROM"


class Instance(NamedTuple):
    """An image that is spoken of: its SOP class UID and SOP instance UID."""

    sop_class: str
    uid: str


@cache
def code(concept: Code) -> bytes:
    """Encode a code, the one item of a code sequence."""
    return encode(
        CodeValue=concept.value,
        CodingSchemeDesignator=concept.scheme_designator,
        CodeMeaning=concept.meaning,
    )


def text(relation: str, name: Code, value: str) -> bytes:
    """Say something in words."""
    return _item(relation, "TEXT", name, TextValue=value)


def coded(relation: str, name: Code, value: Code) -> bytes:
    """Say something by a code."""
    return _item(relation, "CODE", name, ConceptCodeSequence=[code(value)])


def uid(relation: str, name: Code, value: str) -> bytes:
    """Say a UID."""
    return _item(relation, "UIDREF", name, UID=value)


def number(name: Code, value: float, unit: Code) -> bytes:
    """Say a number: in six digits for people, and as it is (PS3.3 C.18.1).

    Raises:
        ValueError: it is infinite or none, which a decimal string cannot say (PS3.5 6.2).
    """
    if not math.isfinite(value):
        raise ValueError(f"{name.meaning}: {value} is no number that a report can hold")
    measured = encode(
        NumericValue=f"{value:.6g}",
        FloatingPointValue=[value],
        MeasurementUnitsCodeSequence=[code(unit)],
    )
    return _item(CONTAINS, "NUM", name, MeasuredValueSequence=[measured])


def image(relation: str, name: Code, shown: Instance) -> bytes:
    """Point to an image."""
    reference = encode(ReferencedSOPClassUID=shown.sop_class, ReferencedSOPInstanceUID=shown.uid)
    return _item(relation, "IMAGE", name, ReferencedSOPSequence=[reference])


def outline(name: Code, corners: Sequence[float], source: bytes) -> bytes:
    """Outline a region of an image.

    Args:
        name: of the region.
        corners: column, row, column, row …; the first corner closes it.
        source: the image, as an item that this one is selected from.
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
    """Gather items under a heading, by a template of PS3.16 where one is named."""
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
