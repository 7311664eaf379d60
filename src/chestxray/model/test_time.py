"""Test-time augmentation: the model's output averaged over several views of an image.

A view is the image itself, its mirror image (`flip`), or a part of it (`crops`: four corners and
the centre), enlarged to the whole size; with both, each part is mirrored too. Logits and features
are plain averages. The class map of a view is put back where the view lies in the image, so that
the mean of the averaged map plus the bias is still the averaged logit exactly.

A part covers a share s² of the image. Its map is spread over that share of the result by the
overlap of the cells and divided by s², which keeps its mean.

Imported models may read `Crops` instead: parts of the image at their own size, so that the whole
image has more cells than the network's map. Of ten crops the *probabilities* are averaged, as the
authors of CheXNet's reimplementations do. The logit L is that of the mean probability, and the
crops' logits lᵢ are weighted by wᵢ ∝ (σ(lᵢ) - σ(L)) / (lᵢ - L), the slope of the secant of the
logistic function. From Σ (σ(lᵢ) - σ(L)) = 0 follows L = Σ wᵢ lᵢ / Σ wᵢ exactly, so the maps with
the same weights have a mean that with the bias is L: with the weights fixed at this image, the
average of probabilities is linear in the maps, as other layers are in `pooled_layers`. Where a crop
does not reach, its map is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, logsigmoid, softplus

from chestxray.model.origin import Crops

View = Literal["flip", "crops"]
Answer = tuple[Tensor, Tensor, Tensor]

_SIDE: Final = 7 / 8  # of a part, as a share of the image's side


@dataclass(frozen=True)
class _Part:
    """A square part of an image, in pixels."""

    top: int
    left: int
    side: int

    def of(self, images: Tensor) -> Tensor:
        """Cut the part out of images [B, 1, S, S] and enlarge it to S."""
        size = int(images.shape[-1])
        if self.side == size:
            return images
        part = self.cut(images)
        return interpolate(part, (size, size), mode="bilinear", align_corners=False)

    def cut(self, images: Tensor) -> Tensor:
        """Cut the part out of images [B, 1, S, S], at its own size."""
        rows = images[:, :, self.top : self.top + self.side]
        return rows[:, :, :, self.left : self.left + self.side]

    def back(self, maps: Tensor, size: int, grid: int | None = None) -> Tensor:
        """Put class maps [B, K, h, h] of the part back into the whole image.

        Args:
            maps: of the part.
            size: of the whole image, pixels.
            grid: cells of a side of the result; as many as the part's where None.
        """
        if self.side == size:
            return maps
        own = int(maps.shape[-1])
        down, right = (
            _overlap(grid or own, start / size, self.side / size, own).to(maps)
            for start in (self.top, self.left)
        )
        share = (self.side / size) ** 2
        return down @ maps @ right.T / share


def averaged(explain: Callable[[Tensor], Answer], images: Tensor, views: Sequence[View]) -> Answer:
    """Average a model's logits [B, K], class maps [B, K, h, w] and features [B, C] over views.

    Args:
        explain: gives the three for float images [B, 1, S, S].
        images: as `explain` takes them.
        views: that are added to the image itself; see the module.
    """
    size = int(images.shape[-1])  # int: while a graph is traced, a shape is a tensor
    found: list[Answer] = []
    for part in _parts(size, views):
        cut = part.of(images)
        for mirror in (False, True) if "flip" in views else (False,):
            logits, maps, features = explain(cut.flip(-1) if mirror else cut)
            found.append((logits, part.back(maps.flip(-1) if mirror else maps, size), features))
    logits, maps, features = (torch.stack(of).mean(0) for of in zip(*found, strict=True))
    return logits, maps, features


def read_crops(explain: Callable[[Tensor], Answer], images: Tensor, crops: Crops) -> Answer:
    """Read crops of images instead of the images; see the module.

    Args:
        explain: gives logits, class maps and features for float images [B, 1, side, side].
        images: float [B, 1, S, S].
        crops: which, of S or fewer pixels.

    Returns:
        Logits [B, K], class maps [B, K, H, H] over the whole images, and mean features [B, C].
    """
    size = int(images.shape[-1])
    found: list[Answer] = []
    for part in _crop_parts(size, crops):
        cut = part.cut(images)
        for mirror in (False, True) if crops.rule == "ten" else (False,):
            logits, maps, features = explain(cut.flip(-1) if mirror else cut)
            grid = round(int(maps.shape[-1]) * size / crops.side)
            placed = part.back(maps.flip(-1) if mirror else maps, size, grid)
            found.append((logits, placed, features))
    if len(found) == 1:
        return found[0]
    logits, maps, features = (torch.stack(of) for of in zip(*found, strict=True))
    joint = log_odds_of_mean(logits)
    weights = secant_weights(logits, joint)
    return joint, (weights[..., None, None] * maps).sum(0), features.mean(0)


def log_odds_of_mean(logits: Tensor) -> Tensor:
    """Give the log-odds [...] of the mean probability over the first axis of logits [V, ...]."""
    return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)


def secant_weights(logits: Tensor, joint: Tensor) -> Tensor:
    """Give weights [V, ...], adding up to 1, whose mean of logits [V, ...] is `joint` [...].

    With d = l - L, the slope of the secant is sinh(d/2) / (2 d cosh(l/2) cosh(L/2)); the factor of
    L is common to all. Logarithms keep it finite for large logits.
    """
    half = (logits - joint).abs() / 2
    # log(sinh(x) / x), by its series where the difference of the exponentials has no digits.
    wide = half.clamp(min=1e-2)
    log_sinhc = wide + torch.log((1 - torch.exp(-2 * wide)) / (2 * wide))
    log_sinhc = torch.where(half < 1e-2, half**2 / 6, log_sinhc)
    log_cosh = logits.abs() / 2 + softplus(-logits.abs())  # + log 2, which is common to all
    return (log_sinhc - log_cosh).softmax(0)


def _parts(size: int, views: Sequence[View]) -> list[_Part]:
    """Give the whole image, and with `crops` its corners and centre."""
    whole = _Part(0, 0, size)
    if "crops" not in views:
        return [whole]
    return [whole, *_five(size, round(size * _SIDE))]


def _five(size: int, side: int) -> list[_Part]:
    """Give the four corners and the centre."""
    end, middle = size - side, (size - side) // 2
    corners = [_Part(top, left, side) for top in (0, end) for left in (0, end)]
    return [*corners, _Part(middle, middle, side)]


def _crop_parts(size: int, crops: Crops) -> list[_Part]:
    parts = _five(size, crops.side)
    return parts if crops.rule == "ten" else parts[-1:]


def _overlap(cells: int, start: float, length: float, inside: int | None = None) -> Tensor:
    """Give the share [H, h] of each cell of a whole side that each cell of a part of it covers.

    Args:
        cells: H, of the whole side.
        start: of the part, as a share of the side.
        length: of the part, likewise.
        inside: h, of the part; as many as of the whole side where None.
    """
    parts = torch.arange((inside or cells) + 1, dtype=torch.float64) / (inside or cells)
    edges = torch.arange(cells + 1, dtype=torch.float64) / cells
    own, inner = edges[:, None], start + length * parts[None, :]
    shared = torch.minimum(own[1:], inner[:, 1:]) - torch.maximum(own[:-1], inner[:, :-1])
    return shared.clamp(min=0) * cells
