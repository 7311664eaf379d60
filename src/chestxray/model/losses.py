"""Losses for findings that are not exclusive, with unknown labels left out.

Each is a mean over the known labels of a batch. Weights and focusing follow `focal loss`
(Lin et al., arXiv 1708.02002), with the two sides of each finding weighted apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over known labels, in nats, unweighted.

    Args:
        logits: [B, K].
        labels: [B, K] of 1, 0, or NaN where unknown.
    """
    known = ~torch.isnan(labels)
    return binary_cross_entropy_with_logits(logits[known], labels[known])


class FindingsLoss(nn.Module):
    """Focal loss with class weights; `gamma` 0 and weights of 1 make it binary cross-entropy.

    A label y of a finding k, with p the probability given to what is true, costs
    `weights[k, y] × (1 - p)^gamma × -log p`.

    Args:
        weights: [K, 2], the weight of an absent and of a present finding.
        gamma: focusing, at least 0.
    """

    def __init__(self, weights: Tensor, gamma: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights.float(), persistent=False)
        self.weights: Tensor
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the mean loss over known labels, 0 without any; logits and labels are [B, K]."""
        known = ~torch.isnan(labels)
        present = labels == 1
        log_truth = logsigmoid(torch.where(present, logits, -logits).float())
        weight = torch.where(present, self.weights[:, 1], self.weights[:, 0])
        cost = -weight * (1 - log_truth.exp()) ** self.gamma * log_truth
        return cost[known].sum() / known.sum().clamp(min=1)


def class_weights(
    labels: npt.NDArray[np.float32], chances: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Balance each finding's two sides with scikit-learn's `balanced` class weights.

    Counted is what training sees: where sampling draws rare findings more often, they need less
    weight. Counting them as they lie in the table would balance twice, and every finding would be
    called present.

    Args:
        labels: [N, K] of 1, 0, NaN: the training part.
        chances: [N], how often each image is drawn; None for all alike.

    Returns:
        [K, 2], weights of absent and present: known / (2 × count).
    """
    weights = np.ones((labels.shape[1], 2))
    for finding, column in enumerate(labels.T):
        known = ~np.isnan(column)
        if len(np.unique(column[known])) == 2:
            weights[finding] = compute_class_weight(
                "balanced",
                classes=np.array([0, 1]),
                y=column[known],
                sample_weight=None if chances is None else chances[known],
            )
    return weights


def one_sided(labels: npt.NDArray[np.float32], findings: tuple[str, ...]) -> list[str]:
    """Name the findings that are never present, or never absent, among known labels [N, K]."""
    return [
        finding
        for finding, column in zip(findings, labels.T, strict=True)
        if not ((column == 1).any() and (column == 0).any())
    ]
