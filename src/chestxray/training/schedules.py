"""Schedules: the learning rate at every step, as a function of how far the training is.

A schedule is a function that gives the factor of the learning rate, from 0 to 1. It keeps no state:
all that it may depend on is in `Progress`, so that a resumed run has the same rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chestxray.training.recipe_keys import Recipe
from chestxray.training.registry import SCHEDULES, loaded

_RISE: Final = 0.3  # share of the epochs in which the rate of one cycle rises
_START: Final = 1 / 25  # of the highest rate, at the start of one cycle
_FALL: Final = 0.1  # factor on a plateau
_WAIT: Final = 2  # epochs without a better value before the rate falls


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        epochs: that have passed, with the part of the present one, such as 3.25.
        of: epochs in all.
        values: the monitored validation value of each finished epoch; lower is better.
    """

    epochs: float
    of: int
    values: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """The share of all epochs that has passed."""
        return self.epochs / self.of


Schedule = Callable[[Progress], float]


def schedule_of(recipe: Recipe) -> Schedule:
    """Give the schedule of a recipe, with its warm-up: a factor from 0 to 1 at each step.

    Raises:
        RecipeError: there is no schedule of this name.
    """
    chosen: Schedule = loaded(SCHEDULES[recipe.schedule])

    def warmed(progress: Progress) -> float:
        rise = min(1.0, progress.epochs / recipe.warmup) if recipe.warmup else 1.0
        return rise * chosen(progress)

    return warmed


def constant(_progress: Progress) -> float:
    """Give the full rate throughout."""
    return 1.0


def cosine(progress: Progress) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter, arXiv 1608.03983)."""
    return _half_cosine(progress.share)


def one_cycle(progress: Progress) -> float:
    """Rise for 30 % of the epochs, then fall to 0 (Smith and Topin, arXiv 1708.07120)."""
    if progress.share < _RISE:
        return _START + (1 - _START) * (1 - _half_cosine(progress.share / _RISE))
    return _half_cosine((progress.share - _RISE) / (1 - _RISE))


def plateau(progress: Progress) -> float:
    """Divide by 10 whenever two epochs in a row have not improved on the best value before them."""
    factor, best, waited = 1.0, math.inf, 0
    for value in progress.values:
        waited = 0 if value < best else waited + 1
        best = min(best, value)
        if waited == _WAIT:
            factor, waited = factor * _FALL, 0
    return factor


def _half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2
