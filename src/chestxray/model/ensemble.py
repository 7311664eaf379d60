"""Several classifiers as one: the mean of their calibrated logits, and of their class maps.

Each member's calibration is a straight line from logit to log-odds, which is folded into its linear
head. So the logits of all members are on one scale, and for each member the mean of a class map
plus the bias of its head is its logit. Both sides are averaged: maps are first spread over the
finest member's grid, which keeps their means (see `feature_maps`). Averaged probabilities would
have no such map, since the mean of sigmoids is not linear in the members' maps.

Members may differ in backbone, head, views and size. Images have the largest member's size; the
others get the exact averages of the pixels that each of theirs covers.

Shapes: B images of S × S pixels, K findings, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from chestxray.model.backbones import bytes_of
from chestxray.model.feature_maps import spread
from chestxray.model.model_card import ENSEMBLE, Member, ModelCard
from chestxray.model.network import Classifier
from chestxray.model.origin import channels_of


class Ensemble(nn.Module):
    """Canonical grey images in, the mean of the members' logits out.

    Args:
        members: M of the same findings in the same order, their calibration in their heads.
        size: S, the side of the images in pixels; no member's is larger.
    """

    def __init__(self, members: Sequence[Classifier], size: int) -> None:
        super().__init__()
        self.findings = members[0].findings
        self.size = size
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, float32 [B, K], for float images [B, 1, S, S] in [0, 1]."""
        return torch.stack([member(reduced(images, side)) for member, side in self._each()]).mean(0)

    def explain(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give logits [B, K], class maps [B, K, h, w] and features [B, C], in float32.

        The maps are in logits: `maps.mean((2, 3)) + bias == logits`. The features are those of the
        members one after the other, each of length 1, so that a cosine distance is the mean of the
        members' distances.
        """
        found = [member.explain(reduced(images, side)) for member, side in self._each()]
        logits, maps, features = zip(*found, strict=True)
        grid = max(int(of.shape[-1]) for of in maps)  # tensors while the graph is traced
        return (
            torch.stack(logits).mean(0),
            torch.stack([spread(of, grid) for of in maps]).mean(0),
            torch.cat([normalize(of) for of in features], 1),
        )

    @property
    def bias(self) -> Tensor:
        """What a logit is where its class map is 0, [K]."""
        return torch.stack([member.head.bias for member in members_of(self)]).mean(0)

    def _each(self) -> list[tuple[Classifier, int]]:
        return [(member, member.size) for member in members_of(self)]


Network = Classifier | Ensemble


def members_of(network: Network) -> list[Classifier]:
    """Give the members of an ensemble, or the classifier itself."""
    if isinstance(network, Classifier):
        return [network]
    return [member for member in network.members if isinstance(member, Classifier)]


def network_of(card: ModelCard) -> Network:
    """Make the network that a card describes, with random weights.

    Raises:
        RecipeError: as `Classifier` says.
    """
    if card.backbone != ENSEMBLE:
        return _classifier(card, card.findings)
    return Ensemble([_classifier(of, card.findings) for of in card.members], card.size)


def backbone_bytes(card: ModelCard) -> int:
    """Give the bytes that the backbones of a card's network take, without making them.

    Raises:
        RecipeError: as `Classifier` says of a backbone's name and images.
    """
    networks: Sequence[Member | ModelCard] = card.members if card.is_ensemble else (card,)
    return sum(
        bytes_of(
            of.backbone,
            of.crops.side if of.crops else of.size,
            channels_of(of.mean),
            of.backbone_options,
        )
        for of in networks
    )


def _classifier(of: ModelCard | Member, findings: Sequence[str]) -> Classifier:
    return Classifier(
        of.backbone,
        findings,
        of.size,
        tta=of.tta,
        head=of.head,
        channels=channels_of(of.mean),
        crops=of.crops,
        final_activation=of.final_activation,
        options=of.backbone_options,
    )


def fold_lines(
    classifier: Classifier, slopes: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64]
) -> None:
    """Let a classifier give slope × logit + offset of each finding, in place.

    Of ten crops the probabilities of the new logits are averaged, which is near to the line only.

    Args:
        classifier: to change.
        slopes: float64 [K].
        offsets: float64 [K].
    """
    head = classifier.head
    scale, shift = torch.from_numpy(slopes).to(head.bias), torch.from_numpy(offsets).to(head.bias)
    with torch.no_grad():
        head.weight.mul_(scale[:, None])
        head.bias.mul_(scale).add_(shift)


def reorder_findings(classifier: Classifier, names: Sequence[str], places: Sequence[int]) -> None:
    """Put the findings of a classifier into another order, under the names of others, in place.

    Args:
        classifier: to change.
        names: of the K findings, in the new order.
        places: where each stands now.
    """
    head, order = classifier.head, list(places)
    with torch.no_grad():
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])
    classifier.findings = tuple(names)


def reduced(images: Tensor, side: int) -> Tensor:
    """Reduce images [B, 1, S, S] to [B, 1, side, side]; each pixel is the average of its area."""
    size = int(images.shape[-1])
    if size == side:
        return images
    weights = torch.from_numpy(_areas(size, side)).to(images)
    return weights @ images @ weights.T


@cache
def _areas(size: int, side: int) -> npt.NDArray[np.float64]:
    """Give the share of each of `side` pixels that each of `size` covers, [side, size]."""
    edges = np.arange(side + 1)[:, None] * size / side
    inside = np.clip(edges - np.arange(size)[None, :], 0, 1)
    return np.asarray(np.diff(inside, axis=0) * side / size, np.float64)
