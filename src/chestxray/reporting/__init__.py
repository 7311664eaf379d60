"""One HTML page about a run, an evaluation or an external validation: reads, computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.reporting.page import report
    from chestxray.reporting.readme import model_card
    from chestxray.reporting.validation_page import validation_page

__all__ = [
    "model_card",
    "report",
    "validation_page",
]

__getattr__ = exports(
    __name__,
    {
        "page": ("report",),
        "readme": ("model_card",),
        "validation_page": ("validation_page",),
    },
)
