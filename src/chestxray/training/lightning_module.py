"""What Lightning runs: the module that trains a classifier by a recipe.

Lightning does the loop, precision, devices, restoring and timing; `callbacks` does what happens
between the steps. A training step on a GPU never waits for it: figures stay on the device until the
epoch ends.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningModule
from torch import Tensor, distributed, nn
from torch.nn.functional import interpolate
from torch.optim import Optimizer

from chestxray.errors import TrainingError
from chestxray.evaluation.metrics import mean_of_defined, value
from chestxray.model.network import Classifier, to_input
from chestxray.training.augmentation import (
    augmentation,
    augmented_with_masks,
    mixed,
)
from chestxray.training.auxiliary import AuxiliaryHead
from chestxray.training.data import Batch
from chestxray.training.losses import binary_cross_entropy, loss_of, teacher_loss
from chestxray.training.mask_supervision import mask_loss
from chestxray.training.optimisation import WeightAverage, optimiser_of
from chestxray.training.recipe import Recipe
from chestxray.training.sampling import Sampling, Sources

_Split = Literal["train", "val"]

_STATISTICS: Final = ("running_mean", "running_var")
_CHECKED_EVERY: Final = 100  # batches; asking for the loss waits for the device


class _Outputs:
    """Logits and labels of one pass over a part."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Keep a batch, on its device."""
        self._logits.append(logits.detach().float())
        self._labels.append(labels)

    def all(self) -> Batch:
        """Give logits and labels of all processes, each [N, K], on this one's device."""
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        return _gathered(logits), _gathered(labels)


def _gathered(own: Tensor) -> Tensor:
    """Give the rows of all processes, which may have different numbers of them."""
    if not distributed.is_initialized():
        return own
    of_all: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_all, own.cpu())
    return torch.cat(of_all).to(own.device)


def _gathered_order(count: int) -> npt.NDArray[np.int64]:
    """Give the row numbers of a part in the order of `_gathered`: one process after another."""
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    return np.concatenate([np.arange(count)[rank::processes] for rank in range(processes)])


def _measures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Give the columns of the history that do not depend on the recipe, see `History`.

    A mixed label counts as that of the image with the larger share.
    """
    labels = labels.round()
    probabilities = logits.double().sigmoid().cpu().numpy()
    columns = list(zip(labels.double().cpu().numpy().T, probabilities.T, strict=True))
    return {
        "bce": float(binary_cross_entropy(logits, labels)),
        "accuracy": mean_of_defined(value("accuracy", y, p, 0.5) for y, p in columns),
        "auroc": mean_of_defined(value("auroc", y, p) for y, p in columns),
    }


class Task(LightningModule):
    """Trains a classifier by a recipe.

    Args:
        classifier: the network.
        recipe: how to train it.
        loss_weights: [K, 2] weights of absent and present labels.
        sampling: of the training images.
        sources: [n] of the validation images, in row order; needed where sampling is by sources.

    Attributes:
        average: of the weights; None where the recipe wants none.
        auxiliary: reads view, sex and age from the features; None where the recipe leaves them out.
    """

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        loss_weights: npt.NDArray[np.float64],
        sampling: Sampling,
        sources: Sources | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.recipe = recipe
        self.sampling = sampling
        self._sources = sources
        self.average = WeightAverage(classifier, recipe.ema) if recipe.ema else None
        self.auxiliary = None
        if recipe.auxiliary_weight:
            self.auxiliary = AuxiliaryHead(classifier.head.in_features)
        self.augment = augmentation(recipe.augment)
        self.loss = loss_of(recipe.loss, loss_weights)
        self.outputs: dict[_Split, _Outputs] = {"train": _Outputs(), "val": _Outputs()}
        self._total = torch.zeros(())
        self._steps_before = 0

    @property
    def evaluated(self) -> Classifier:
        """The classifier that is validated and saved: the average of the weights, if there is."""
        return self.classifier if self.average is None else self.average.classifier

    def on_validation_epoch_start(self) -> None:
        """Drop the outputs of the last validation pass; agree on the statistics of the images.

        Each process has seen other images, so their normalisation layers have other means.
        """
        self.outputs["val"] = _Outputs()
        if distributed.is_initialized():
            for name, statistic in self.named_buffers():
                if name.endswith(_STATISTICS):
                    distributed.all_reduce(statistic)
                    statistic.div_(distributed.get_world_size())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment and classify; keep what the metrics need; give the loss."""
        if batch_idx == 0:
            self._begin_epoch()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            augmented = self._augmented(batch, batch_idx)
        loss = self._step("train", *augmented)
        self._total = self._total.to(loss.device) + loss.detach()
        if batch_idx % _CHECKED_EVERY == 0:
            self.check_finite()
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Remember the steps so far."""
        self._steps_before = self.global_step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401
        """Average the weights after each step of the optimiser."""
        if self.average is not None and self.global_step > self._steps_before:
            self.average.update(self.classifier, self.global_step)

    def validation_step(self, batch: Batch) -> None:
        """Classify images without augmentation."""
        images, labels = batch
        self._step("val", self._resized(to_input(images)), labels)

    def measures(self, split: _Split) -> dict[str, float]:
        """Give the columns of the history for the last pass over a split, see `History`."""
        logits, labels = self.outputs[split].all()
        importance = None  # the training batches were drawn by it
        if split == "val":
            sources = None if self._sources is None else self._sources[_gathered_order(len(labels))]
            drawn = self.sampling.draws(labels.cpu().numpy(), sources)
            importance = torch.from_numpy(drawn).to(labels)
        loss = float(self.loss(logits, labels, importance))
        return {"loss": loss, **_measures(logits, labels)}

    def check_finite(self) -> None:
        """Check the sum of the epoch's training losses.

        Raises:
            TrainingError: it is not finite.
        """
        if not torch.isfinite(self._total):
            raise TrainingError(
                f"the training loss became {self._total.item()} in epoch {self.current_epoch}; the "
                f"last good checkpoint is kept: train again with a new --out and a lower learning "
                f"rate, such as --set learning_rate={self.recipe.learning_rate / 10:g}, or with "
                f"--set precision=float32"
            )

    def configure_optimizers(self) -> Optimizer:
        """Give the optimiser; `callbacks.Rates` changes its rates."""
        return optimiser_of(self.classifier, self.recipe, self.auxiliary)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limit the norm of all gradients; Lightning's own refuses fused optimisers in bfloat16."""
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.recipe.clip)

    def _begin_epoch(self) -> None:
        """Let an epoch's randomness depend on seed and epoch alone, so that it can be resumed.

        Called at the first batch: Lightning leaves out `on_train_epoch_start` in the first epoch of
        a resumed run.
        """
        seed = self.recipe.seed * 100_003 + self.current_epoch
        torch.manual_seed(seed + 1_000_000_007 * self.global_rank)
        self.outputs["train"] = _Outputs()
        self._total = torch.zeros(())
        if self.recipe.freeze:
            learns = self.current_epoch >= self.recipe.freeze
            for frozen in (self.classifier.backbone, self.classifier.pooled_layers):
                frozen.requires_grad_(learns).train(learns)

    def _augmented(self, batch: Batch, batch_idx: int) -> Batch:
        """Give the batch with the network's input in place of its images."""
        images, labels, *more = batch
        inputs = self._resized(to_input(images))
        if self.recipe.mask_weight:
            inputs, more[-1] = augmented_with_masks(self.augment, inputs, more[-1])
        else:
            inputs = self.augment(inputs)
        if not self.recipe.mixup:
            return inputs, labels, *more
        seed = self.recipe.seed, self.current_epoch, batch_idx
        for place, of in enumerate(more):  # the same draws as for the images
            draw = np.random.default_rng(seed)
            more[place] = mixed(of, labels, self.recipe.mixup, draw)[0]
        draw = np.random.default_rng(seed)
        return *mixed(inputs, labels, self.recipe.mixup, draw), *more

    def _resized(self, images: Tensor) -> Tensor:
        """Give images the side of this epoch."""
        side = self.recipe.side(self.current_epoch)
        if side == images.shape[-1]:
            return images
        return interpolate(images, (side, side), mode="area")

    def _step(self, split: _Split, inputs: Tensor, labels: Tensor, *more: Tensor) -> Tensor:
        """Give the loss of a batch, which in training may have more targets, see `Batch`."""
        classifier = self.classifier if split == "train" else self.evaluated
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        if more and (self.recipe.mask_weight or self.recipe.auxiliary_weight):
            logits, *explained = classifier.explain(inputs)
        else:
            logits, explained = classifier(inputs), []
        loss: Tensor = self.loss(logits, labels)
        self.outputs[split].add(logits, labels)
        return self._with_targets(loss, logits, explained, labels, list(more)) if more else loss

    def _with_targets(
        self,
        loss: Tensor,
        logits: Tensor,
        explained: list[Tensor],
        labels: Tensor,
        more: list[Tensor],
    ) -> Tensor:
        """Add to the loss of the labels those of all other targets that the recipe learns.

        Args:
            loss: of the labels.
            logits: [B, K].
            explained: class maps and features, as `Classifier.explain` gives them, where needed.
            labels: [B, K].
            more: the targets, as in `Batch`.
        """
        recipe = self.recipe
        if recipe.taught:
            taught = recipe.teacher_weight * teacher_loss(logits, more.pop(0))
            loss = (1 - recipe.teacher_weight) * loss + taught
        if self.auxiliary is not None:
            loss = loss + recipe.auxiliary_weight * self.auxiliary.loss(explained[1], more.pop(0))
        if recipe.mask_weight:
            loss = loss + recipe.mask_weight * mask_loss(explained[0], more.pop(0), labels)
        return loss
