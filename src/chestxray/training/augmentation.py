"""Random changes to training images, made on their device, each image on its own.

Each class is one entry of `registry.AUGMENTATIONS`. Changes of place that follow each other are one
warp: their matrices are multiplied, so that an image is interpolated once. Nothing here waits for
the device. All draws come from torch's generator.

Shapes: images are float32 [B, 1, S, S] in [0, 1]. A matrix maps a point of the result, (x, y, 1)
with x and y from -1 to 1, to the point of the image that it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, conv2d, grid_sample

from chestxray.training.recipe_keys import Augment
from chestxray.training.registry import AUGMENTATIONS, loaded

_ASPECT: Final = 1.1  # largest ratio of the sides of a crop
_ERASED_ASPECT: Final = 2.0  # of an erased rectangle


class Ranged(nn.Module):
    """A change whose strength is drawn evenly from a range, for each image anew.

    Args:
        low, high: ends of the range.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def drawn(self, images: Tensor) -> Tensor:
        """Draw a strength for each image, [B]."""
        return torch.empty(len(images), device=images.device).uniform_(self.low, self.high)


class Warp(Ranged):
    """A change of place."""

    def matrices(self, images: Tensor) -> Tensor:
        """Draw a matrix for each image, [B, 3, 3]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Warp images; what lies outside them is black."""
        return _warped(images, self.matrices(images))


class _Warps(nn.Module):
    """Several changes of place as one."""

    def __init__(self, warps: Sequence[Warp]) -> None:
        super().__init__()
        self.warps = nn.ModuleList(warps)

    def matrices(self, images: Tensor) -> Tensor:
        matrices = torch.eye(3, device=images.device).expand(len(images), 3, 3)
        for warp in self.warps:
            matrices = matrices @ warp.matrices(images)  # type: ignore[operator]
        return matrices

    def forward(self, images: Tensor) -> Tensor:
        return _warped(images, self.matrices(images))


class Flip(nn.Module):
    """A left-right mirror of some images; the upper end of the range is its probability."""

    def __init__(self, _low: float, high: float) -> None:
        super().__init__()
        self.probability = high

    def drawn(self, images: Tensor) -> Tensor:
        """Draw which images are mirrored, bool [B]."""
        return torch.rand(len(images), device=images.device) < self.probability

    def forward(self, images: Tensor) -> Tensor:
        """Mirror each image with the probability."""
        return _mirrored(images, self.drawn(images))


class Crop(Warp):
    """A crop of random place, enlarged to the whole size; the range is its share of the area."""

    def matrices(self, images: Tensor) -> Tensor:
        """See `Warp.matrices`."""
        share = self.drawn(images)
        aspect = _log_uniform(images, _ASPECT)
        width, height = ((share * of).sqrt().clamp(max=1) for of in (aspect, 1 / aspect))
        right, down = ((1 - side) * _uniform(images, -1, 1) for side in (width, height))
        zero = torch.zeros_like(share)
        return _matrix([[width, zero, right], [zero, height, down]])


class Rotate(Warp):
    """A rotation about the centre; the range is in degrees."""

    def matrices(self, images: Tensor) -> Tensor:
        """See `Warp.matrices`."""
        angle = torch.deg2rad(self.drawn(images))
        sine, cosine, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
        return _matrix([[cosine, -sine, zero], [sine, cosine, zero]])


class Translate(Warp):
    """A shift along both sides; the range is a share of the side."""

    def matrices(self, images: Tensor) -> Tensor:
        """See `Warp.matrices`."""
        right, down = 2 * self.drawn(images), 2 * self.drawn(images)
        one, zero = torch.ones_like(right), torch.zeros_like(right)
        return _matrix([[one, zero, right], [zero, one, down]])


class Shear(Warp):
    """A shear along the rows; the range is in degrees."""

    def matrices(self, images: Tensor) -> Tensor:
        """See `Warp.matrices`."""
        slope = torch.deg2rad(self.drawn(images)).tan()
        one, zero = torch.ones_like(slope), torch.zeros_like(slope)
        return _matrix([[one, slope, zero], [zero, one, zero]])


class Gamma(Ranged):
    """Grey values to a random power."""

    def forward(self, images: Tensor) -> Tensor:
        """Give images to the power that is drawn."""
        return images.pow(_of_images(self.drawn(images)))


class Contrast(Ranged):
    """Grey values times a random factor, cut off at 1."""

    def forward(self, images: Tensor) -> Tensor:
        """Give images times the factor that is drawn."""
        return (images * _of_images(self.drawn(images))).clamp(max=1)


class Blur(Ranged):
    """A Gaussian blur; the range is of its standard deviation, as a share of the side."""

    def forward(self, images: Tensor) -> Tensor:
        """Blur each image on its own."""
        side = images.shape[-1]
        radius = min(max(1, math.ceil(3 * self.high * side)), side - 1)
        places = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
        deviations = (self.drawn(images) * side).clamp(min=1e-3)
        kernels = torch.exp(-0.5 * (places / deviations[:, None]) ** 2)
        kernels = (kernels / kernels.sum(1, keepdim=True))[:, None, None]  # [B, 1, 1, 2r + 1]
        wide = nn.functional.pad(images.transpose(0, 1), [radius] * 4, mode="replicate")
        rows = conv2d(wide, kernels, groups=len(images))
        return conv2d(rows, kernels.transpose(2, 3), groups=len(images)).transpose(0, 1)


class Noise(Ranged):
    """Gaussian noise where an image is not black; the range is of its standard deviation."""

    def forward(self, images: Tensor) -> Tensor:
        """Add noise to each image."""
        noise = torch.randn_like(images) * _of_images(self.drawn(images))
        return (images + noise * (images > 0)).clamp(0, 1)


class Erasing(Ranged):
    """A rectangle filled with the image's mean; the range is its share of the area."""

    def forward(self, images: Tensor) -> Tensor:
        """Erase a rectangle of random place and shape in each image."""
        share, aspect = self.drawn(images), _log_uniform(images, _ERASED_ASPECT)
        inside = torch.ones_like(images, dtype=torch.bool)
        for axis, ratio in ((-1, aspect), (-2, 1 / aspect)):
            side = (share * ratio).sqrt().clamp(max=1)
            start = (1 - side) * _uniform(images, 0, 1)
            places = _places(images, axis)
            inside = inside & (places >= _of_images(start)) & (places < _of_images(start + side))
        return torch.where(inside, images.mean((1, 2, 3), keepdim=True), images)


class Collimation(Ranged):
    """A black border, each side of its own width; the range is a share of the side."""

    def forward(self, images: Tensor) -> Tensor:
        """Blacken the borders of each image."""
        seen = torch.ones_like(images, dtype=torch.bool)
        for axis in (-1, -2):
            places = _places(images, axis)
            first, last = self.drawn(images), 1 - self.drawn(images)
            seen = seen & (places >= _of_images(first)) & (places < _of_images(last))
        return images * seen


def augmentation(augment: Augment) -> nn.Sequential:
    """Build the module that makes all changes of a recipe, in the order of the registry.

    Raises:
        RecipeError: an augmentation of another package cannot be loaded.
    """
    each = [
        loaded(AUGMENTATIONS[name].make)(low, high)
        for name, (low, high) in augment.ranges().items()
    ]
    steps: list[nn.Module] = []
    for warps, group in groupby(each, lambda step: isinstance(step, Warp)):
        of_kind = list(group)
        steps += [_Warps(of_kind)] if warps else of_kind
    return nn.Sequential(*steps)


def augmented_with_masks(
    steps: nn.Sequential, images: Tensor, masks: Tensor
) -> tuple[Tensor, Tensor]:
    """Augment images; their masks move with them.

    Only a `Flip` and a `Warp` move masks, so a change of place must be one of them.

    Args:
        steps: as `augmentation` gives them.
        images: [B, 1, S, S].
        masks: [B, K, g, g], over the same square.
    """
    masks = masks.float()
    for step in steps:
        if isinstance(step, Flip):
            chosen = step.drawn(images)
            images, masks = _mirrored(images, chosen), _mirrored(masks, chosen)
        elif isinstance(step, _Warps):
            matrices = step.matrices(images)
            images, masks = _warped(images, matrices), _warped(masks, matrices)
        else:
            images = step(images)
    return images, masks


def mixed(
    images: Tensor, labels: Tensor, alpha: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image and its labels with those of another of the batch (arXiv 1710.09412).

    A label that is unknown in one of the two is unknown.

    Args:
        images: float [B, 1, S, S].
        labels: [B, K] of 1, 0, NaN.
        alpha: of the beta distribution of the share; greater than 0.
        generator: of the share and the partners.
    """
    share = float(generator.beta(alpha, alpha))
    partners = torch.from_numpy(generator.permutation(len(images))).to(images.device)
    return torch.lerp(images[partners], images, share), torch.lerp(labels[partners], labels, share)


def _mirrored(images: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def _warped(images: Tensor, matrices: Tensor) -> Tensor:
    grid = affine_grid(matrices[:, :2], list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """Give matrices [B, 3, 3] of two rows of entries [B]."""
    upper = torch.stack([torch.stack(row, -1) for row in rows], -2)
    last = torch.zeros_like(upper[:, :1])
    last[..., 2] = 1
    return torch.cat([upper, last], 1)


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(images), device=images.device).uniform_(low, high)


def _log_uniform(images: Tensor, most: float) -> Tensor:
    """Draw ratios between 1 / most and most, [B]."""
    return _uniform(images, -math.log(most), math.log(most)).exp()


def _of_images(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _places(images: Tensor, axis: int) -> Tensor:
    """Give the centres of rows (axis -2) or columns (axis -1), from 0 to 1, [S, 1] or [1, S]."""
    side = images.shape[axis]
    centres = (torch.arange(side, device=images.device) + 0.5) / side
    return centres[:, None] if axis == -2 else centres[None, :]
