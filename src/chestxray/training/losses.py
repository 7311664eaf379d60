"""Multi-label losses that leave out unknown labels.

Each is a mean over the known labels of a batch. Focusing follows focal loss (Lin et al.,
arXiv 1708.02002); each finding has one weight for absent and one for present labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    binary_cross_entropy_with_logits,
    logsigmoid,
)

from chestxray.errors import RecipeError
from chestxray.evaluation.focal_link import FocalLink
from chestxray.training.recipe import Loss


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over known labels, in nats, unweighted.

    Args:
        logits: [B, K].
        labels: [B, K] of 1, 0, or NaN where unknown.
    """
    known = ~torch.isnan(labels)
    return binary_cross_entropy_with_logits(logits[known], labels[known])


class FocalLoss(nn.Module):
    """Focal loss with class weights; `gamma` 0 and weights of 1 make it binary cross-entropy.

    The loss of a label y of finding k is `weights[k, y] × (1 - p)^gamma × -log p`, where p is the
    predicted probability of y.

    Args:
        weights: [K, 2], the weight of an absent and of a present finding.
        gamma: focusing, at least 0.
    """

    def __init__(self, weights: Tensor, gamma: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights.float(), persistent=False)
        self.weights: Tensor
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, importance: Tensor | None = None) -> Tensor:
        """Give the mean loss over known labels, 0 where none is known.

        Args:
            logits: [B, K].
            labels: [B, K] of 1, 0, NaN.
            importance: [B], weights of the images in the mean; None where all are equal.
        """
        known = ~torch.isnan(labels)
        present = labels == 1
        log_truth = logsigmoid(torch.where(present, logits, -logits).float())
        weight = torch.where(present, self.weights[:, 1], self.weights[:, 0])
        cost = -weight * (1 - log_truth.exp()) ** self.gamma * log_truth
        if importance is None:
            return cost[known].sum() / known.sum().clamp(min=1)
        share = importance.float()[:, None].expand_as(cost)[known]
        return (cost[known] * share).sum() / share.sum().clamp(min=torch.finfo(share.dtype).tiny)


def loss_of(choice: Loss, weights: npt.NDArray[np.float64]) -> nn.Module:
    """Make the loss that a recipe chooses by `loss.kind`.

    Args:
        choice: the recipe's `loss`.
        weights: [K, 2], the weight of an absent and of a present finding.

    Raises:
        RecipeError: no loss of this kind.
    """
    tensor = torch.from_numpy(weights)
    makers: dict[str, Callable[[], nn.Module]] = {
        "focal": lambda: FocalLoss(tensor, choice.gamma),
        "bce": lambda: FocalLoss(tensor, 0.0),
    }
    if choice.kind not in makers:
        raise RecipeError(f"unknown loss {choice.kind!r}: choose one of {', '.join(makers)}")
    return makers[choice.kind]()


def link_of(choice: Loss) -> FocalLink:
    """Give the link from logits to log-odds of the loss that a recipe chooses.

    Class weights are not part of it: they only shift the log-odds.
    """
    return FocalLink(gamma=choice.gamma if choice.kind == "focal" else 0.0)


def class_weights(
    labels: npt.NDArray[np.float32], draws: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Balance absent and present labels of each finding by scikit-learn's `balanced` rule.

    The counts are those that training sees: where sampling draws rare findings more often, they
    need less weight. Counts of the table would balance twice, and every finding would be called.

    Args:
        labels: [N, K] of 1, 0, NaN: the training split.
        draws: [N], expected draws per epoch; None where all are equal.

    Returns:
        [K, 2], weights of absent and present: known / (2 × count); 1 for a finding that is never
        present or never absent.
    """
    weights = np.ones((labels.shape[1], 2))
    for finding, column in enumerate(labels.T):
        known = ~np.isnan(column)
        if len(np.unique(column[known])) == 2:
            weights[finding] = compute_class_weight(
                "balanced",
                classes=np.array([0, 1]),
                y=column[known],
                sample_weight=None if draws is None else draws[known],
            )
    return weights


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
    covered = adaptive_avg_pool2d(masks.float(), maps.shape[-2:]).flatten(2)
    total = covered.sum(2)
    counted = ((labels == 1) & (total > 0)).float()
    wanted = covered / total.clamp(min=torch.finfo(total.dtype).tiny)[:, :, None]
    found = maps.float().flatten(2).log_softmax(2)
    divergence = (torch.special.xlogy(wanted, wanted) - wanted * found).sum(2)
    return (divergence * counted).sum() / counted.sum().clamp(min=1)
