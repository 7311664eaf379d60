"""How often an epoch draws each image.

Balanced sampling draws a finding first, No Finding being one, and then one of its images, all with
equal chances. On NIH ChestX-ray14 that shows each of 141 radiographs with Hernia over 50 times an
epoch: the network learns them by heart. So no image is drawn more often than `max_draws`, and what
is over goes to all others in proportion. Sampling by sources does the same with the sources of a
dataset in place of the findings, so that the largest does not decide alone.

The expected number of draws depends on an image's labels, or its source, alone, so it is known for
validation images too. There it is the importance weight that turns a mean over the split into a
mean over what training draws, and so makes the validation loss an estimate of the training
objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from chestxray.training.recipe import Recipe

Labels = npt.NDArray[np.float32]
Sources = npt.NDArray[np.object_]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """Expected draws per epoch as a function of labels or of sources; K findings.

    Attributes:
        rates: what each class adds to an image's draws: [K + 1], the findings and No Finding, or
            [S], the sources; None where each image is shown once.
        most: largest number of draws of one image.
        sources: names of S sources where these are the classes.
    """

    rates: _Floats | None = None
    most: float = 1.0
    sources: tuple[str, ...] = ()

    @classmethod
    def fit(cls, recipe: Recipe, labels: Labels, sources: Sources | None = None) -> Self:
        """Make the sampling that a recipe chooses for the training split.

        Args:
            recipe: with `sampling` and `max_draws`.
            labels: [N, K] of 1, 0, NaN.
            sources: [N] names; needed for `sampling: sources`.
        """
        if recipe.sampling == "natural":
            return cls()
        by_source = recipe.sampling == "sources"
        names = tuple(sorted(set(_needed(sources).tolist()))) if by_source else ()
        classes = _of_sources(labels, _needed(sources), names) if by_source else _classes(labels)
        rates = 1 / np.maximum(classes.sum(axis=0), 1)
        weights = classes @ rates
        # Where many images have no label at all, the others must be drawn more often.
        most = max(recipe.max_draws, len(weights) / np.count_nonzero(weights))
        return cls(rates * _scale(weights, most), most, names)

    def draws(self, labels: Labels, sources: Sources | None = None) -> _Floats:
        """Give the expected draws per epoch of images with these labels, of these sources.

        Args:
            labels: [N, K] of 1, 0, NaN. An image without a positive and with a known label counts
                as No Finding; one without any known label is never drawn, as it teaches nothing.
            sources: [N] names, where sampling is by sources; an image of one that the training
                split lacks counts once.

        Returns:
            [N], at least 0; the mean over the training split is 1.
        """
        if self.rates is None:
            return np.ones(len(labels))
        if not self.sources:
            draws: _Floats = np.minimum(_classes(labels) @ self.rates, self.most)
            return draws
        given = _needed(sources)
        drawn = np.minimum(_of_sources(labels, given, self.sources) @ self.rates, self.most)
        return np.where([source in self.sources for source in given], drawn, 1.0)

    def summary(self, labels: Labels, sources: Sources | None = None) -> dict[str, Any]:
        """Describe an epoch over the training split, whose labels are [N, K].

        Returns:
            `images`, N; `effective_images`, Kish's effective sample size (sum of draws)² ÷ sum of
            squared draws; `distinct_share`, the expected share of images that an epoch shows;
            `largest_repetition`, the expected draws of the most frequent image.
        """
        draws = self.draws(labels, sources)
        return {
            "images": len(draws),
            "effective_images": round(float(draws.sum() ** 2 / (draws**2).sum()), 1),
            "distinct_share": round(float(np.minimum(draws, 1).mean()), 4),
            "largest_repetition": round(float(draws.max()), 2),
        }


def _classes(labels: Labels) -> _Floats:
    """Give the columns [N, K + 1] of the findings shown, and of No Finding."""
    shown = labels == 1
    nothing = ~shown.any(axis=1) & ~np.isnan(labels).all(axis=1)
    return np.column_stack([shown, nothing]).astype(np.float64)


def _needed(sources: Sources | None) -> Sources:
    if sources is None:
        raise ValueError("sampling by sources needs the source of each image")
    return sources


def _of_sources(labels: Labels, sources: Sources, names: tuple[str, ...]) -> _Floats:
    """Give the columns [N, S] of the sources; an image without any known label is in none."""
    there = np.array([[source == name for name in names] for source in sources], dtype=bool)
    known = ~np.isnan(labels).all(axis=1, keepdims=True)
    return np.asarray(there & known, dtype=np.float64)


def _scale(weights: _Floats, most: float) -> float:
    """Give the factor s for which the mean of min(s × weights, most) is 1."""
    capped = np.zeros(len(weights), dtype=bool)
    while True:
        left, of = len(weights) - most * capped.sum(), weights[~capped].sum()
        scale = float(left / of) if left > 0 and of > 0 else np.inf
        over = (scale * weights > most * (1 + 1e-9)) & ~capped & (weights > 0)
        if not over.any():
            break
        capped |= over
    # All at the limit: any factor that takes the smallest weight there.
    return scale if np.isfinite(scale) else float(most / weights[weights > 0].min())
