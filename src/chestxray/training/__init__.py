"""Training: a dataset and a recipe in, a run out.

`train` and what else needs torch is imported when it is first used, so that recipes can be read
and checked without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chestxray.training.recipe import Recipe

if TYPE_CHECKING:
    from chestxray.training.fit import Run, check_recipe, train

__all__ = ["Recipe", "Run", "check_recipe", "train"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute
    if name in __all__:
        return getattr(import_module(f"{__name__}.fit"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
