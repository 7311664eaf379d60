"""Training with masks: class maps learn where findings are, from datasets that know it.

The head is linear on pooled feature maps, so a class map says where its logit comes from (see
`model.network`). Labels alone leave that place free: any map of the right mean will do. The mask
loss asks that the map be high where the finding is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from chestxray.dataset.store import Dataset
from chestxray.errors import RecipeError
from chestxray.training.data import Batch, Part
from chestxray.training.recipe import Recipe


class MaskedPart(Part):
    """One split of a dataset with masks; the last item of a batch are bool masks [B, K, g, g]."""

    def __getitem__(self, positions: list[int]) -> Batch:
        batch = super().__getitem__(positions)
        masks = self.dataset.masks
        if masks is None:
            raise TypeError("the dataset has no masks")
        return *batch, torch.from_numpy(masks[self.rows[positions]]).to(batch[0].device)


def check_masks(dataset: Dataset, recipe: Recipe) -> None:
    """Check that there are masks where a recipe wants them.

    Raises:
        RecipeError: the dataset has none.
    """
    if recipe.mask_weight and dataset.masks is None:
        raise RecipeError(
            f"mask_weight = {recipe.mask_weight:g}: {dataset.folder} has no masks; train with "
            f"--set mask_weight=0, or prepare a source with masks, such as phantoms"
        )


def mask_loss(maps: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Compare where class maps are high with where findings are, in nats.

    For each present finding with a mask it is the Kullback-Leibler divergence of the softmax over a
    map's cells from an even spread over the mask; the mean of all is given, 0 where there is none.
    A constant that is added to a map changes nothing, so the loss says where the evidence lies, not
    how much there is: the mean of a map, which is the logit, stays free for the label.

    Args:
        maps: class maps, [B, K, h, w], in logits.
        masks: share of each cell that a finding covers, [B, K, g, g] in [0, 1], on any grid over
            the same square; all 0 where there is no mask.
        labels: [B, K] of 1, 0, NaN.
    """
    height, width = maps.shape[-2:]
    covered = adaptive_avg_pool2d(masks.float(), (height, width)).flatten(2)
    total = covered.sum(2)
    counted = ((labels == 1) & (total > 0)).float()
    wanted = covered / total.clamp(min=torch.finfo(total.dtype).tiny)[:, :, None]
    found = maps.float().flatten(2).log_softmax(2)
    divergence = (torch.special.xlogy(wanted, wanted) - wanted * found).sum(2)
    loss: Tensor = (divergence * counted).sum() / counted.sum().clamp(min=1)
    return loss
