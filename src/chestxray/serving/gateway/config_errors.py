"""What is wrong in `gateway.toml`, said in its own words: the key, the rule, the next step.

A value is not repeated, since it may be a token; only a `kind` is, which is none.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from pydantic_core import ErrorDetails

_RULES: Final = {
    "missing": "is missing",
    "too_short": "must not be empty",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "list_type": "must be a list, in [ ]",
    "dict_type": "must be a table of keys and values",
    "model_type": "must be a table of keys and values",
    "model_attributes_type": "must be a table of keys and values",
    "union_tag_not_found": "kind is missing, it must be 'dicom' or 'stow'",
    "union_tag_invalid": "kind must be 'dicom' or 'stow', '{tag}' is neither",
    "value_error": "{error}",
}
_UNQUOTED: Final = ("int_type", "float_type", "bool_type")


def sentence(detail: ErrorDetails, keys: Collection[str]) -> str:
    """Say which key is wrong and how.

    Args:
        detail: of one mistake, as pydantic found it.
        keys: that there are, for the nearest right name of an unknown one.
    """
    kind, where = detail["type"], _where(detail["loc"])
    if kind == "extra_forbidden":
        said = _unknown(str(detail["loc"][-1]), keys)
    elif kind.startswith("date_"):
        said = "must be a date such as 2026-01-31"
    elif kind in _RULES:
        said = _RULES[kind].format(**detail.get("ctx", {}))
    else:
        said = detail["msg"]
    if kind in _UNQUOTED and isinstance(detail["input"], str):
        said += ", without quotes"
    return f"{where}: {said}" if where else said


def did_you_mean(name: str, names: Collection[str]) -> str:
    """Name the nearest right name, upper and lower case being one; nothing where none is near."""
    by_case = {one.casefold(): one for one in sorted(names)}
    near = difflib.get_close_matches(name.casefold(), list(by_case), n=1)
    return f", did you mean {by_case[near[0]]}?" if near else ""


def _unknown(key: str, keys: Collection[str]) -> str:
    if key in keys:  # of another table
        return "is no key of this table"
    return "unknown key" + did_you_mean(key, keys)


def _where(location: tuple[int | str, ...]) -> str:
    """Write `destinations[0].url`; pydantic puts the kind of a destination between the two."""
    if location[:1] == ("destinations",):
        location = location[:2] + location[3:]
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")
