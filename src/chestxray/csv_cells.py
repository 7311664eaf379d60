"""Cells of CSV tables that no spreadsheet takes for a formula.

A spreadsheet runs a cell that begins with `=`, `+`, `-`, `@`, a tab or a line break, such as an
image that is named `=HYPERLINK(...)`. As OWASP advises ("CSV Injection"), such a text is written
with an apostrophe before it, which spreadsheets do not show. Reading takes one apostrophe away, so
every text comes back as it was; numbers such as -7 stay as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # whoever writes no table needs no pandas
    import pandas as pd

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def escaped(cell: object) -> object:
    """Give a cell as it is written: a text that would be a formula gets an apostrophe."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def restored(cell: str) -> str:
    """Undo `escaped`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table whose texts are `escaped`; its column names stay."""
    texts = table.select_dtypes(exclude=["number", "bool"])
    return table.assign(**{str(name): texts[name].map(escaped) for name in texts})
