"""Multi-label losses that leave out unknown labels.

Each is the mean of `MultiLabelLoss.cost` over the known labels of a batch; each finding has one
weight for absent and one for present labels. Labels may lie between 0 and 1, as mixing and
smoothing make them. Nothing here waits for the device: unknown labels are multiplied by zero, not
selected.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from chestxray.evaluation.focal_link import FocalLink
from chestxray.training.recipe_keys import Loss
from chestxray.training.registry import LOSSES, loaded

_LEAST: Final = 1e-12


class MultiLabelLoss(nn.Module):
    """The mean cost of known labels; a loss is a subclass with its `cost`.

    Args:
        weights: [K, 2], the weight of an absent and of a present finding.
        smoothing: in [0, 1): label 0 becomes half of it, label 1 becomes 1 minus half of it.
    """

    def __init__(self, weights: Tensor, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights.float(), persistent=False)
        self.weights: Tensor
        self.smoothing = smoothing

    @property
    def link(self) -> FocalLink:
        """The link from the logits that minimise the loss to log-odds."""
        return FocalLink()

    def cost(self, log_present: Tensor, log_absent: Tensor) -> tuple[Tensor, Tensor]:
        """Give the cost of a present and of an absent finding, at least 0.

        Args:
            log_present: float32 [B, K], logarithm of the predicted probability of the finding.
            log_absent: of its absence.
        """
        raise NotImplementedError

    def forward(self, logits: Tensor, labels: Tensor, importance: Tensor | None = None) -> Tensor:
        """Give the mean loss over known labels, 0 where none is known.

        Args:
            logits: [B, K].
            labels: [B, K] of 1, 0, NaN, or between 0 and 1 where labels are mixed.
            importance: [B], weights of the images in the mean; None where all are equal.
        """
        unknown = torch.isnan(labels)
        truth = labels.masked_fill(unknown, 0.0) * (1 - self.smoothing) + self.smoothing / 2
        logits = logits.float()
        present, absent = self.cost(logsigmoid(logits), logsigmoid(-logits))
        weighted = truth * self.weights[:, 1] * present + (1 - truth) * self.weights[:, 0] * absent
        share = (~unknown).float()
        if importance is not None:
            share = share * importance.float()[:, None]
        return (weighted * share).sum() / share.sum().clamp(min=torch.finfo(share.dtype).tiny)


class FocalLoss(MultiLabelLoss):
    """Focal loss (Lin et al., arXiv 1708.02002); with `gamma` 0 it is binary cross-entropy.

    The cost of a label of predicted probability p is `(1 - p)^gamma × -log p`.

    Args:
        weights: [K, 2], the weight of an absent and of a present finding.
        gamma: focusing, at least 0.
        smoothing: of labels.
    """

    def __init__(self, weights: Tensor, gamma: float, smoothing: float = 0.0) -> None:
        super().__init__(weights, smoothing)
        self.gamma = gamma

    @property
    def link(self) -> FocalLink:
        """See `MultiLabelLoss.link`; class weights only shift the log-odds."""
        return FocalLink(gamma=self.gamma)

    def cost(self, log_present: Tensor, log_absent: Tensor) -> tuple[Tensor, Tensor]:
        """See `MultiLabelLoss.cost`."""
        present, absent = _focused(log_present, self.gamma), _focused(log_absent, self.gamma)
        return present, absent


class AsymmetricLoss(MultiLabelLoss):
    """Asymmetric loss (Ridnik et al., arXiv 2009.14119, equations 4 to 6).

    A present finding costs as in focal loss with its own focusing. An absent one costs as if the
    predicted probability were lower by `margin`, and nothing below it.

    Args:
        weights: [K, 2], the weight of an absent and of a present finding.
        focusing: gamma of absent and of present findings.
        margin: in [0, 1).
        smoothing: of labels.
    """

    def __init__(
        self, weights: Tensor, focusing: tuple[float, float], margin: float, smoothing: float = 0.0
    ) -> None:
        super().__init__(weights, smoothing)
        self.focusing = focusing
        self.margin = margin

    def cost(self, log_present: Tensor, log_absent: Tensor) -> tuple[Tensor, Tensor]:
        """See `MultiLabelLoss.cost`."""
        of_absent, of_present = self.focusing
        present = _focused(log_present, of_present)
        if not self.margin:
            return present, _focused(log_absent, of_absent)
        shifted = (log_absent.exp() + self.margin).clamp(max=1)  # 1 - p_m of the paper
        return present, _focused(shifted.log(), of_absent)


def _focused(log_truth: Tensor, gamma: float) -> Tensor:
    """Give (1 - p)^gamma × -log p for log p."""
    if gamma == 0:
        return -log_truth
    # Never 0: there the slope of a power below 1 is infinite.
    return -((-torch.expm1(log_truth)).clamp(min=_LEAST) ** gamma) * log_truth


def bce(choice: Loss, weights: Tensor) -> MultiLabelLoss:
    """Make binary cross-entropy."""
    return FocalLoss(weights, 0.0, choice.smoothing)


def focal(choice: Loss, weights: Tensor) -> MultiLabelLoss:
    """Make focal loss."""
    return FocalLoss(weights, choice.gamma, choice.smoothing)


def asymmetric(choice: Loss, weights: Tensor) -> MultiLabelLoss:
    """Make asymmetric loss."""
    focusing = (choice.gamma, choice.gamma_present)
    return AsymmetricLoss(weights, focusing, choice.margin, choice.smoothing)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over known labels, in nats, unweighted.

    Args:
        logits: [B, K].
        labels: [B, K] of 1, 0, or NaN where unknown.
    """
    loss: Tensor = FocalLoss(torch.ones(labels.shape[1], 2), 0.0).to(logits.device)(logits, labels)
    return loss


def teacher_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Give the mean cross-entropy, in nats, of predictions to a teacher's probabilities.

    Args:
        logits: [B, K].
        targets: [B, K] in [0, 1].
    """
    return binary_cross_entropy_with_logits(logits.float(), targets)


def loss_of(choice: Loss, weights: npt.NDArray[np.float64]) -> MultiLabelLoss:
    """Make the loss that a recipe chooses by `loss.kind`.

    Args:
        choice: the recipe's `loss`.
        weights: [K, 2], the weight of an absent and of a present finding.

    Raises:
        RecipeError: no loss of this kind.
    """
    made: MultiLabelLoss = loaded(LOSSES[choice.kind])(choice, torch.from_numpy(weights))
    return made


def link_of(choice: Loss) -> FocalLink:
    """Give the link from logits to log-odds of the loss that a recipe chooses.

    Class weights are not part of it: they only shift the log-odds.
    """
    return loss_of(choice, np.ones((1, 2))).link


def label_weights(
    choice: Loss, labels: npt.NDArray[np.float32], draws: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Give the weights [K, 2] of absent and present labels that a recipe's `loss` chooses.

    Args:
        choice: the recipe's `loss`.
        labels: [N, K] of 1, 0, NaN: the training split.
        draws: [N], expected draws per epoch; None where all are equal.
    """
    weights = np.ones((labels.shape[1], 2))
    if choice.class_weights:
        weights = class_weights(labels, draws)
    if choice.class_weights == "opposite":
        # Balanced weights are 1 / (2 × share); a share times the other's is common to both.
        shares = 1 / (2 * weights)
        weights *= 2 * shares.prod(axis=1, keepdims=True)
    weights[:, 1] *= choice.pos_weight
    return weights


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
