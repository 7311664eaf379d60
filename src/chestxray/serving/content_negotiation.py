"""Which form an answer has: what a client accepts, and what is offered (RFC 9110, section 12.5.1).

DICOM in several parts is asked for as DICOMweb does it (PS3.18, section 8.7.5):
`multipart/related; type="application/dicom"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from chestxray.serving.http_errors import ProblemError

JSON: Final = "application/json"
JSON_LINES: Final = "application/x-ndjson"
FHIR: Final = "application/fhir+json"
DICOM: Final = "application/dicom"
DICOM_PARTS: Final = f'multipart/related; type="{DICOM}"'
EXPLICIT_VR: Final = "1.2.840.10008.1.2.1"
"""The transfer syntax of all result objects: Explicit VR Little Endian."""

_MOST_CHARACTERS: Final = 1024  # since its parsing takes time by the square of its length
_RELATED: Final = "multipart/related"
_ELEMENT: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


class _Range(NamedTuple):
    """A media range that a client accepts; `quality` is its weight, from 0 to 1."""

    kind: str
    parameters: dict[bytes, bytes]
    quality: float


def accepted(headers: Headers) -> str:
    """Give what a client accepts: the header `Accept`, which may come in several lines."""
    return ", ".join(headers.getlist("accept"))


def chosen(accept: str, offered: Sequence[str]) -> str:
    """Choose the form that a client prefers; where it has no preference, the first.

    Args:
        accept: the header `Accept`; empty accepts everything.
        offered: media types, the default first.

    Raises:
        ProblemError: it accepts none of them, or is too long to be parsed (406).
    """
    if len(accept) > _MOST_CHARACTERS:
        raise ProblemError(
            406, "not-acceptable", f"Send an Accept of at most {_MOST_CHARACTERS} characters."
        )
    ranges = list(_ranges(accept)) or [_Range("*/*", {}, 1.0)]
    ranked = [(*_preference(form, ranges), -place) for place, form in enumerate(offered)]
    quality, _, place = max(ranked)
    if quality <= 0:
        raise ProblemError(
            406, "not-acceptable", f"Accept one of the answers offered: {', '.join(offered)}."
        )
    return offered[-place]


def _ranges(accept: str) -> Iterator[_Range]:
    for element in _ELEMENT.findall(accept):
        kind, parameters = parse_options_header(element.strip())
        yield _Range(kind.decode("latin-1"), parameters, _quality(parameters.get(b"q", b"1")))


def _quality(text: bytes) -> float:
    return float(text) if re.fullmatch(rb"[01](\.\d{0,3})?", text) else 0.0


def _preference(form: str, ranges: Sequence[_Range]) -> tuple[float, int]:
    """Give the weight of a form, from the range that names it most exactly, and how exactly."""
    named = [(_exactness(form, each), each.quality) for each in ranges]
    exactness, quality = max(named)
    return (quality, exactness) if exactness else (0.0, 0)


def _exactness(form: str, each: _Range) -> int:
    """Say how exactly a range names a form: 0 not at all, 3 by its type and subtype."""
    kind = _RELATED if form == DICOM_PARTS else form
    if each.kind == "*/*":
        return 1
    if each.kind == f"{kind.partition('/')[0]}/*":
        return 2
    return 3 if each.kind == kind and _parameters_hold(form, each.parameters) else 0


def _parameters_hold(form: str, parameters: dict[bytes, bytes]) -> bool:
    if form not in (DICOM, DICOM_PARTS):
        return True
    syntax = parameters.get(b"transfer-syntax", b"*")
    part = parameters.get(b"type", DICOM.encode())
    return syntax in (b"*", EXPLICIT_VR.encode()) and part == DICOM.encode()
