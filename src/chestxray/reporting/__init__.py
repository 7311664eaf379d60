"""One HTML page with figures about a run or an evaluation. Reads artefacts, computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.reporting.page import report

__all__ = [
    "report",
]

__getattr__ = exports(
    __name__,
    {
        "page": ("report",),
    },
)
