"""How often an epoch draws each image.

Balanced sampling draws a finding first, No Finding being one, and then one of its images, all with
equal chances. On NIH ChestX-ray14 that shows each of 141 radiographs with Hernia over 50 times an
epoch: the network learns them by heart. So no image is drawn more often than `max_draws`, and what
is over goes to all others in proportion.

The expected number of draws depends on an image's labels alone, so it is known for validation
images too. There it is the importance weight that turns a mean over the split into a mean over what
training draws, and so makes the validation loss an estimate of the training objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chestxray.training.recipe import Recipe

Labels = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """Expected draws per epoch as a function of labels; K findings.

    Attributes:
        rates: [K + 1], what each finding, and No Finding, adds to an image's draws; None where each
            image is shown once.
        most: largest number of draws of one image.
    """

    rates: _Floats | None = None
    most: float = 1.0

    @classmethod
    def fit(cls, recipe: Recipe, labels: Labels) -> Sampling:
        """Make the sampling that a recipe chooses, for the labels [N, K] of the training split."""
        if recipe.sampling == "natural":
            return cls()
        classes = _classes(labels)
        rates = 1 / np.maximum(classes.sum(axis=0), 1)
        weights = classes @ rates
        # Where many images have no label at all, the others must be drawn more often.
        most = max(recipe.max_draws, len(weights) / np.count_nonzero(weights))
        return cls(rates * _scale(weights, most), most)

    def draws(self, labels: Labels) -> _Floats:
        """Give the expected draws per epoch of images with these labels.

        Args:
            labels: [N, K] of 1, 0, NaN. An image without a positive and with a known label counts
                as No Finding; one without any known label is never drawn, as it teaches nothing.

        Returns:
            [N], at least 0; the mean over the training split is 1.
        """
        if self.rates is None:
            return np.ones(len(labels))
        draws: _Floats = np.minimum(_classes(labels) @ self.rates, self.most)
        return draws

    def summary(self, labels: Labels) -> dict[str, Any]:
        """Describe an epoch over the labels [N, K] of the training split.

        Returns:
            `images`, N; `effective_images`, Kish's effective sample size (sum of draws)² ÷ sum of
            squared draws; `distinct_share`, the expected share of images that an epoch shows;
            `largest_repetition`, the expected draws of the most frequent image.
        """
        draws = self.draws(labels)
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
