"""Numbers that may be negative, as sentences, pages and printed tables write them.

They have a true minus sign, as wide as a plus. Files that programs read keep the hyphen.
"""

from __future__ import annotations

from typing import Final

_MINUS: Final = "−"


def number(value: float, digits: int = 3) -> str:
    """Write a number; one that rounds to zero has no sign."""
    shown = f"{value:.{digits}f}"
    return shown.replace("-", _MINUS) if float(shown) else f"{0:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """Write a difference with its sign, such as +0.012 or −0.003, also where it rounds to zero."""
    return f"{value:+.{digits}f}".replace("-", _MINUS)
