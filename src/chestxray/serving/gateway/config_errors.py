"""What is wrong with `gateway.toml`, in words: which key, and which rule it breaks."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from pydantic_core import ErrorDetails

_BROKEN_RULES: Final = {
    "missing": "is missing",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
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
    "list_type": "must be a list in [ ]",
    "dict_type": "must be a table of keys and values",
    "model_type": "must be a table of keys and values",
    "model_attributes_type": "must be a table of keys and values",
    "union_tag_not_found": "kind is missing, it must be 'dicom' or 'stow'",
    "union_tag_invalid": "kind must be 'dicom' or 'stow', not '{tag}'",
    "value_error": "{error}",
}
_UNQUOTED: Final = ("int_type", "float_type", "bool_type")


def described(detail: ErrorDetails, keys: Collection[str]) -> str:
    """Say which key is wrong and which rule it breaks.

    Args:
        detail: one error as pydantic reports it.
        keys: all valid keys, to suggest the nearest one for an unknown key.
    """
    kind, where = detail["type"], _place(detail["loc"])
    if kind == "extra_forbidden":
        message = _unknown_key(str(detail["loc"][-1]), keys)
    elif kind.startswith("date_"):
        message = "must be a date such as 2026-01-31"
    elif kind in _BROKEN_RULES:
        message = _BROKEN_RULES[kind].format(**detail.get("ctx", {}))
    else:
        message = detail["msg"]
    if kind in _UNQUOTED and isinstance(detail["input"], str):
        message += ", without quotes"
    return f"{where}: {message}" if where else message


def did_you_mean(name: str, names: Collection[str]) -> str:
    """Suggest the nearest name, ignoring case; give empty text where none is near."""
    by_case = {one.casefold(): one for one in sorted(names)}
    near = difflib.get_close_matches(name.casefold(), list(by_case), n=1)
    return f", did you mean {by_case[near[0]]}?" if near else ""


def _unknown_key(key: str, keys: Collection[str]) -> str:
    if key in keys:
        return "is not a key of this table"
    return "unknown key" + did_you_mean(key, keys)


def _place(location: tuple[int | str, ...]) -> str:
    """Write `destinations[0].url`; pydantic puts the kind of a destination between the two."""
    if location[:1] == ("destinations",):
        location = location[:2] + location[3:]
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")
