"""The feature maps of a timm model: [B, C, h, w] at its last stride, and at finer ones.

timm's models end in maps [B, C, h, w], in maps [B, h, w, C] (Swin, MambaOut), or in tokens
[B, N, C], of which the first may stand for no place (ViT's class token). Tokens of square images
are a map, row by row. Finer maps are those of the model's own stages (`forward_intermediates`).

`spread` brings coarse class maps onto the finest grid without changing their mean, so that the mean
of their sum is the sum of their means.

Shapes: B images of S × S pixels, C channels, h × w cells.
"""

from __future__ import annotations

from functools import cache
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FINER: Final = (8, 16)
"""The strides of the multi-scale head's finer maps, in pixels; the last map is the coarsest."""


class NoFeatureMapError(TypeError):
    """A timm model does not give the feature maps that are asked of it."""


def finer_stages(model: Any) -> tuple[int, ...]:  # noqa: ANN401 - timm's models have no common type
    """Give the indices of a timm model's stages at the strides `FINER`.

    Raises:
        NoFeatureMapError: it has none at one of them.
    """
    strides = [stage["reduction"] for stage in getattr(model, "feature_info", ())]
    missing = [stride for stride in FINER if stride not in strides]
    if missing or not hasattr(model, "forward_intermediates"):
        known = ", ".join(map(str, sorted(set(strides)))) or "none that are known"
        raise NoFeatureMapError(f"its feature maps have the strides {known}")
    return tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in FINER)


def feature_maps(model: Any, images: Tensor, finer: tuple[int, ...] = ()) -> list[Tensor]:  # noqa: ANN401
    """Give the feature maps [B, C, h, w] of normalised images, the finest first, the last map last.

    Args:
        model: a timm model without pooling and classifier.
        images: [B, 1, S, S].
        finer: indices of the stages whose maps come before the last one.

    Raises:
        NoFeatureMapError: the model ends in something else.
    """
    if not finer:
        return [_as_map(model, model(images))]
    last, maps = model.forward_intermediates(images, indices=list(finer), output_fmt="NCHW")
    return [*maps, _as_map(model, model.forward_head(last))]


def _as_map(model: Any, features: Tensor) -> Tensor:  # noqa: ANN401
    if features.ndim == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if last else features
    if features.ndim != 3:
        raise NoFeatureMapError(f"it gives {tuple(features.shape)}")
    count = int(features.shape[1])
    prefix = int(getattr(model, "num_prefix_tokens", count - isqrt(count) ** 2))
    side = isqrt(count - prefix)
    if side**2 != count - prefix or side == 0:
        raise NoFeatureMapError(f"it gives {tuple(features.shape)}, which is no square of tokens")
    return features[:, prefix:].transpose(1, 2).reshape(-1, features.shape[2], side, side)


def spread(maps: Tensor, side: int) -> Tensor:
    """Enlarge square maps [B, K, h, h] to [B, K, side, side], keeping their means.

    Between the centres of the cells the value changes linearly, beyond the outer centres it stays;
    each new cell is the exact average of its own area. So the mean stays for any two sizes, which
    interpolation at the centres of the new cells does not grant.
    """
    if maps.shape[-1] == side:
        return maps
    weights = torch.from_numpy(spread_weights(int(maps.shape[-1]), side)).to(maps)
    return weights @ maps @ weights.T


@cache
def spread_weights(cells: int, side: int) -> npt.NDArray[np.float64]:
    """Give the share of each of `cells` in each of `side` cells along one side, [side, cells].

    Each row adds up to 1, each column to side / cells.
    """
    edges = np.linspace(0, cells, side + 1)[:, None]
    # One more cell on each side continues the outer ones.
    offsets = (edges - (np.arange(-1, cells + 1) + 0.5)).clip(-1, 1)
    areas = np.where(offsets < 0, (offsets + 1) ** 2, 2 - (1 - offsets) ** 2) / 2
    shares = np.diff(areas, axis=0) * side / cells
    inner = shares[:, 1:-1].copy()
    inner[:, 0] += shares[:, 0]
    inner[:, -1] += shares[:, -1]
    return inner
