"""Augmentation of training images, on their device, a batch at a time."""

from __future__ import annotations

from kornia.augmentation import (
    ImageSequential,
    RandomBrightness,
    RandomHorizontalFlip,
    RandomRotation,
)
from torch import nn

from chestxray.training.recipe import Augment


def augmentation(augment: Augment) -> nn.Module:
    """Build the module that changes float images [B, 1, S, S] in [0, 1], each in its own way.

    What a rotation uncovers is black, as beyond the collimator. Values stay in [0, 1].
    """
    steps: list[nn.Module] = [RandomHorizontalFlip(p=augment.flip)]
    if augment.rotate:
        steps.append(RandomRotation(degrees=augment.rotate, p=1.0))
    if augment.brightness:
        span = (1 - augment.brightness, 1 + augment.brightness)
        steps.append(RandomBrightness(brightness=span, p=1.0))
    module: nn.Module = ImageSequential(*steps)
    return module
