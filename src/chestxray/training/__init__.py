"""A dataset and a recipe in, a run out.

Names are loaded when they are first used: recipes are read and checked without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.training.cross_validation import crossval
    from chestxray.training.ensembling import ensemble
    from chestxray.training.fit import Run, check_recipe, train
    from chestxray.training.loop import Processes
    from chestxray.training.pretraining import pretrain
    from chestxray.training.recipe import Recipe

__all__ = [
    "Processes",
    "Recipe",
    "Run",
    "check_recipe",
    "crossval",
    "ensemble",
    "pretrain",
    "train",
]

__getattr__ = exports(
    __name__,
    {
        "cross_validation": ("crossval",),
        "ensembling": ("ensemble",),
        "fit": (
            "Run",
            "check_recipe",
            "train",
        ),
        "loop": ("Processes",),
        "pretraining": ("pretrain",),
        "recipe": ("Recipe",),
    },
)
