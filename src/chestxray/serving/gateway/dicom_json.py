"""DICOM JSON (PS3.18 annex F) from services that are not trusted.

A text of some mebibytes may stand for a hundred times as much memory, or exhaust Python's stack by
its depth, so depth and number of values are checked before values are made of it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from chestxray.serving.gateway.http_client import AnswerError

_DEEPEST: Final = 32  # levels; each nested sequence takes three
_MOST_VALUES: Final = 300_000  # 500 studies of 20 attributes have 40,000
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")

Attributes = dict[str, Any]
"""A data set: tag as eight hexadecimal digits → attribute."""


def data_sets(content: bytes) -> list[Attributes]:
    """Read an answer of several data sets.

    Raises:
        AnswerError: it is no JSON array of objects, or exceeds the limits.
    """
    found = _parsed(content)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise AnswerError("the answer is no array of data sets")
    return found


def data_set(content: bytes) -> Attributes:
    """Read an answer of one data set.

    Raises:
        AnswerError: it is no JSON object, or exceeds the limits.
    """
    found = _parsed(content)
    if not isinstance(found, dict):
        raise AnswerError("the answer is no data set")
    return found


def values(attributes: Attributes, tag: str) -> list[Any]:
    """Give all values of an attribute; none where it is missing or is no attribute."""
    attribute = attributes.get(tag)
    found = attribute.get("Value") if isinstance(attribute, dict) else None
    return found if isinstance(found, list) else []


def text(attributes: Attributes, tag: str) -> str:
    """Give the first value of an attribute; empty text where it is neither text nor number."""
    first = next(iter(values(attributes, tag)), "")
    return str(first) if isinstance(first, str | int) else ""


def items(attributes: Attributes, tag: str) -> list[Attributes]:
    """Give the items of a sequence."""
    return [item for item in values(attributes, tag) if isinstance(item, dict)]


def _parsed(content: bytes) -> Any:  # noqa: ANN401 (whatever JSON holds)
    _check_size(content)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise AnswerError("the answer is not valid JSON") from error


def _check_size(content: bytes) -> None:
    """Check the number of values and their depth.

    Raises:
        AnswerError: there are too many, or they are too deep.
    """
    structure = _STRING.sub(b"", content)  # a bracket in a text is none
    count = sum(structure.count(mark) for mark in (b",", b"[", b"{"))
    if count > _MOST_VALUES:
        raise AnswerError(f"the answer has more than {_MOST_VALUES} values")
    depth = 0
    for bracket in _BRACKET.finditer(structure):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > _DEEPEST:
            raise AnswerError(f"the answer has more than {_DEEPEST} levels")
