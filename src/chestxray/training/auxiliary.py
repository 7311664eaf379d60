"""Auxiliary targets: view, sex and age, which a network may learn beside the findings.

Datasets state them for most radiographs, and phantoms for all. A linear layer of its own reads them
from the head's input in training; no bundle keeps it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from chestxray.dataset.store import Dataset
from chestxray.errors import RecipeError
from chestxray.training.recipe import Recipe

_BINARY: Final = {"view": {"PA": 0.0, "AP": 1.0}, "sex": {"M": 0.0, "F": 1.0}}
_YEARS: Final = 20.0  # about the standard deviation of age in public sets


def auxiliary_targets(index: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Give view, sex and age of the images of a dataset's index.

    Returns:
        [n, 3], NaN where one is not known: 1 for AP and 0 for PA, 1 for F and 0 for M, and the
        age's distance from 50 years in units of 20 years.
    """
    columns = [index[name].map(values) for name, values in _BINARY.items()]
    stacked = np.stack([*columns, (index["age"] - 50) / _YEARS], 1)
    return stacked.astype(np.float32)


def check_auxiliary(dataset: Dataset, recipe: Recipe) -> None:
    """Check that something is known of the training images where a recipe wants to learn it.

    Raises:
        RecipeError: neither view nor sex nor age is known of any.
    """
    if not recipe.auxiliary_weight:
        return
    targets = auxiliary_targets(dataset.index.iloc[dataset.rows("train")])
    if np.isnan(targets).all():
        raise RecipeError(
            f"auxiliary_weight = {recipe.auxiliary_weight:g}: {dataset.folder} states neither view "
            f"nor sex nor age of its training images; train with --set auxiliary_weight=0"
        )


class AuxiliaryHead(nn.Module):
    """Reads view, sex and age from the head's input.

    Args:
        channels: C of the head's input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, len(_BINARY) + 1)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Give the mean over the three of each one's loss on the images where it is known.

        Binary cross-entropy of view and sex, and half the squared error of age; one that is known
        of no image of the batch counts as 0.

        Args:
            features: the head's input [B, C].
            targets: [B, 3], as `auxiliary_targets` gives them; between 0 and 1 for mixed images.
        """
        found = self.linear(features)
        known = ~targets.isnan()
        wanted = targets.nan_to_num()
        binary = len(_BINARY)
        losses = torch.cat(
            [
                binary_cross_entropy_with_logits(
                    found[:, :binary], wanted[:, :binary], reduction="none"
                ),
                mse_loss(found[:, binary:], wanted[:, binary:], reduction="none") / 2,
            ],
            1,
        )
        mean: Tensor = ((losses * known).sum(0) / known.sum(0).clamp(min=1)).mean()
        return mean
