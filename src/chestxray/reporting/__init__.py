"""One HTML page about a run, an evaluation, a validation or a comparison: computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.reporting.comparison_page import comparison_page
    from chestxray.reporting.page import report
    from chestxray.reporting.readme import model_card
    from chestxray.reporting.validation_page import validation_page

__all__ = [
    "comparison_page",
    "model_card",
    "report",
    "validation_page",
]

__getattr__ = exports(
    __name__,
    {
        "comparison_page": ("comparison_page",),
        "page": ("report",),
        "readme": ("model_card",),
        "validation_page": ("validation_page",),
    },
)
