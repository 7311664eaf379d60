"""Augmentation of training images, on their device, a batch at a time.

What happens with one batch: augmentation, loss, optimiser, and what is kept for the metrics.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from kornia.augmentation import (
    ImageSequential,
    RandomBrightness,
    RandomHorizontalFlip,
    RandomRotation,
)
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from chestxray.errors import TrainingError
from chestxray.model.losses import FindingsLoss, binary_cross_entropy
from chestxray.model.network import Classifier, to_input
from chestxray.training.data import Batch
from chestxray.training.recipe import Augment, Recipe


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


Split = Literal["train", "val"]


class Seen:
    """Logits, labels and losses of one pass over a part."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.losses: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Keep a batch, on its device."""
        self.logits.append(logits.detach().float())
        self.labels.append(labels)
        self.losses.append(loss.detach() * (~torch.isnan(labels)).sum())

    @property
    def loss(self) -> float:
        """Mean loss over known labels."""
        known = (~torch.isnan(torch.cat(self.labels))).sum()
        return float(torch.stack(self.losses).sum() / known)

    @property
    def cross_entropy(self) -> float:
        """Mean binary cross-entropy over known labels, unweighted, nats."""
        return float(binary_cross_entropy(torch.cat(self.logits), torch.cat(self.labels)))

    def arrays(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Probabilities and labels, [N, K] each."""
        probabilities = torch.cat(self.logits).double().sigmoid()
        return probabilities.cpu().numpy(), torch.cat(self.labels).double().cpu().numpy()


class Task(LightningModule):
    """Trains a classifier by a recipe.

    Args:
        classifier: the network.
        recipe: how.
        loss_weights: [K, 2] weights of absent and present labels.
    """

    def __init__(
        self, classifier: Classifier, recipe: Recipe, loss_weights: npt.NDArray[np.float64]
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.recipe = recipe
        self.augment: nn.Module = augmentation(recipe.augment)
        gamma = recipe.loss.gamma if recipe.loss.kind == "focal" else 0.0
        self.loss = FindingsLoss(torch.from_numpy(loss_weights), gamma)
        self.seen: dict[Split, Seen] = {"train": Seen(), "val": Seen()}

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation pass."""
        self.seen["val"] = Seen()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment, classify, keep what the metrics need, return the loss."""
        if batch_idx == 0:
            self._begin_epoch()
        images, labels = batch
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            inputs = self.augment(to_input(images))
        loss = self._step("train", inputs, labels)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}: the last good "
                f"checkpoint is kept; train into another --out with a lower rate, such as --set "
                f"learning_rate={self.recipe.learning_rate / 10:g}, or with --set precision=float32"
            )
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Classify images as they are."""
        images, labels = batch
        self._step("val", to_input(images), labels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, as the published recipe has it; its rate may fall epoch by epoch."""
        optimiser = torch.optim.Adam(self.classifier.parameters(), lr=self.recipe.learning_rate)
        if self.recipe.schedule == "constant":
            return optimiser
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.recipe.max_epochs)
        return {"optimizer": optimiser, "lr_scheduler": falling}

    def _begin_epoch(self) -> None:
        """Let an epoch's randomness depend on seed and epoch alone, so that it can be resumed.

        At the first batch and not in `on_train_epoch_start`, which lightning leaves out in a
        resumed run's first epoch.
        """
        torch.manual_seed(self.recipe.seed * 100_003 + self.current_epoch)
        self.seen["train"] = Seen()

    def _step(self, split: Split, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = self.classifier(inputs.contiguous(memory_format=torch.channels_last))
        loss: Tensor = self.loss(logits, labels)
        self.seen[split].add(logits, labels, loss)
        return loss
