"""Test-time augmentation: the model's output averaged over several views of an image.

A view is the image itself, its mirror image (`flip`), or a part of it (`crops`: four corners and
the centre), enlarged to the whole size; with both, each part is mirrored too. Logits and features
are plain averages. The class map of a view is put back where the view lies in the image, so that
the mean of the averaged map plus the bias is still the averaged logit exactly.

A part covers a share s² of the image. Its map is spread over that share of the result by the
overlap of the cells and divided by s², which keeps its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

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
        rows = images[:, :, self.top : self.top + self.side]
        part = rows[:, :, :, self.left : self.left + self.side]
        return interpolate(part, (size, size), mode="bilinear", align_corners=False)

    def back(self, maps: Tensor, size: int) -> Tensor:
        """Put class maps [B, K, h, w] of the part back into the whole image, same shape."""
        if self.side == size:
            return maps
        down = _overlap(int(maps.shape[-2]), self.top / size, self.side / size).to(maps)
        right = _overlap(int(maps.shape[-1]), self.left / size, self.side / size).to(maps)
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


def _parts(size: int, views: Sequence[View]) -> list[_Part]:
    """Give the whole image, and with `crops` its corners and centre."""
    whole = _Part(0, 0, size)
    if "crops" not in views:
        return [whole]
    side = round(size * _SIDE)
    end, middle = size - side, (size - side) // 2
    corners = [_Part(top, left, side) for top in (0, end) for left in (0, end)]
    return [whole, *corners, _Part(middle, middle, side)]


def _overlap(cells: int, start: float, length: float) -> Tensor:
    """Give the share [h, h] of each cell of a whole side that each cell of a part of it covers.

    Args:
        cells: h, of the whole side and of the part alike.
        start: of the part, as a share of the side.
        length: of the part, likewise.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) / cells
    own, inner = edges[:, None], start + length * edges[None, :]
    shared = torch.minimum(own[1:], inner[:, 1:]) - torch.maximum(own[:-1], inner[:, :-1])
    return shared.clamp(min=0) * cells
