"""What Lightning runs: the module that trains a classifier, and what happens between epochs.

Lightning does the loop, precision, devices, restoring and timing. The callbacks run in the order in
which `fit` lists them, at the end of each training epoch, after its validation. All state that a
resumed run needs is in the checkpoint.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from chestxray.artifacts import write_table
from chestxray.dataset.store import Dataset
from chestxray.errors import TrainingError
from chestxray.evaluation.metrics import mean_of_defined, value
from chestxray.model.network import Classifier, to_input
from chestxray.progress import Advance, progress
from chestxray.training.data import Batch, augmentation
from chestxray.training.losses import binary_cross_entropy, loss_of
from chestxray.training.recipe import Recipe
from chestxray.training.sampling import Sampling

BEST: Final = "best.safetensors"
LAST: Final = "last.safetensors"

_Split = Literal["train", "val"]


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
        """Give logits and labels, each [N, K]."""
        return torch.cat(self._logits), torch.cat(self._labels)


def _measures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Give the columns of the history that do not depend on the recipe, see `History`."""
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
    """

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        loss_weights: npt.NDArray[np.float64],
        sampling: Sampling,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.recipe = recipe
        self.sampling = sampling
        self.augment: nn.Module = augmentation(recipe.augment)
        self.loss = loss_of(recipe.loss, loss_weights)
        self.outputs: dict[_Split, _Outputs] = {"train": _Outputs(), "val": _Outputs()}

    def on_validation_epoch_start(self) -> None:
        """Drop the outputs of the last validation pass."""
        self.outputs["val"] = _Outputs()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment and classify; keep what the metrics need; give the loss."""
        if batch_idx == 0:
            self._begin_epoch()
        images, labels = batch
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            inputs = self.augment(to_input(images))
        loss = self._step("train", inputs, labels)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch}; the last "
                f"good checkpoint is kept: train again with a new --out and a lower learning rate, "
                f"such as --set learning_rate={self.recipe.learning_rate / 10:g}, or with --set "
                f"precision=float32"
            )
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Classify images without augmentation."""
        images, labels = batch
        self._step("val", to_input(images), labels)

    def measures(self, split: _Split) -> dict[str, float]:
        """Give the columns of the history for the last pass over a split, see `History`."""
        logits, labels = self.outputs[split].all()
        importance = None  # the training batches were drawn by it
        if split == "val":
            importance = torch.from_numpy(self.sampling.draws(labels.cpu().numpy())).to(labels)
        loss = float(self.loss(logits, labels, importance))
        return {"loss": loss, **_measures(logits, labels)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Give Adam and the schedule of its rate, which changes per epoch."""
        optimiser = torch.optim.Adam(self.classifier.parameters(), lr=self.recipe.learning_rate)
        if self.recipe.schedule == "constant":
            return optimiser
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.recipe.max_epochs)
        return {"optimizer": optimiser, "lr_scheduler": falling}

    def _begin_epoch(self) -> None:
        """Let an epoch's randomness depend on seed and epoch alone, so that it can be resumed.

        Called at the first batch: Lightning leaves out `on_train_epoch_start` in the first epoch of
        a resumed run.
        """
        torch.manual_seed(self.recipe.seed * 100_003 + self.current_epoch)
        self.outputs["train"] = _Outputs()

    def _step(self, split: _Split, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = self.classifier(inputs.contiguous(memory_format=torch.channels_last))
        loss: Tensor = self.loss(logits, labels)
        self.outputs[split].add(logits, labels)
        return loss


class History(Callback):
    """Writes `history.csv`, one row per epoch and split (train, val).

    Columns: `epoch` from 0; `loss`, the recipe's; `bce`, unweighted binary cross-entropy, nats;
    `accuracy`, the share of known labels on the right side of probability 0.5; `auroc`, the mean
    over the findings that are both present and absent. Training rows are measured on augmented
    batches while the weights change.

    The validation loss estimates the training objective on new patients: it is the recipe's loss,
    each image weighted by how often training draws one with its labels (importance sampling,
    self-normalised). Without these weights, class weights that were counted on balanced draws would
    meet natural prevalence, and low logits would look better than a good ranking. With natural
    sampling all weights are 1 and it is the plain mean.

    Lightning's CSVLogger starts its file again when a run is resumed, which loses the earlier
    epochs; this file is written whole, and its rows are part of the checkpoint.
    """

    def __init__(self, path: Path, monitor: Literal["loss", "auroc"]) -> None:
        self.path = path
        self.monitor = monitor
        self.rows: list[dict[str, Any]] = []

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest loss or highest AUROC on validation, -1 before any."""
        values = [row[self.monitor] for row in self.rows if row["split"] == "val"]
        best = min if self.monitor == "loss" else max
        return values.index(best(values)) if values else -1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's two rows."""
        epoch, task = trainer.current_epoch, _task(pl_module)
        of_splits = {split: task.measures(split) for split in task.outputs}
        _check_finite(of_splits["val"]["loss"], epoch)
        for split, measures in of_splits.items():
            self.rows.append({"epoch": epoch, "split": split, **measures})
            for logger in trainer.loggers:
                named = {f"{name}/{split}": value for name, value in measures.items()}
                logger.log_metrics(named, step=epoch)
        write_table(self.path, pd.DataFrame(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Give the rows to the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of a checkpoint; rows of later, unfinished epochs are dropped."""
        self.rows = list(state_dict["rows"])


class Checkpoints(Callback):
    """Keeps the best and the last state, and stops when validation no longer improves.

    Lightning's own callbacks keep less: ModelCheckpoint leaves out `last.ckpt` in epochs that do
    not improve, and forgets the best loss when the run's folder was moved; EarlyStopping trains on
    when a run that it stopped is resumed.

    Args:
        folder: gets `best.safetensors` and `last.safetensors`.
        history: tells which epoch is the best.
        patience: epochs without improvement before training stops.
    """

    def __init__(self, folder: Path, history: History, patience: int) -> None:
        self.folder = folder
        self.history = history
        self.patience = patience

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a run as it is that had stopped before it is resumed."""
        self._stop_when_exhausted(trainer, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, the best first: an epoch that is cut off here is repeated on resume."""
        if self.history.best_epoch == trainer.current_epoch:
            trainer.save_checkpoint(self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)
        self._stop_when_exhausted(trainer, trainer.current_epoch)

    def _stop_when_exhausted(self, trainer: Trainer, epoch: int) -> None:
        best = self.history.best_epoch
        if best >= 0 and epoch - best >= self.patience:
            trainer.should_stop = True


class ShardCheck(Callback):
    """Compares the content of some shards with their hashes before each epoch.

    A tenth of the shards, at least one, in an order drawn anew for each training, so that ten
    epochs check them all. Opening a dataset checks names, sizes and headers only: images that were
    altered or put in another order would give wrong labels without a sign of it. The draw does not
    depend on the recipe's seed and changes nothing in training.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._order = np.random.default_rng().permutation(len(dataset.manifest.shards))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Check the next shards at the epoch's first batch, as `Task` begins an epoch there."""
        if batch_idx == 0:
            count = -(-len(self._order) // 10)
            some, self._order = self._order[:count], np.roll(self._order, -count)
            self.dataset.check_shards([self.dataset.manifest.shards[place] for place in some])


class Show(Callback):
    """Shows progress within an epoch, and a line of figures after it, on standard error."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._open = ExitStack()
        self._advance: Advance

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Open the epoch's progress at its first batch."""
        if batch_idx == 0:
            label, total = f"epoch {trainer.current_epoch}", int(trainer.num_training_batches)
            self._advance = self._open.enter_context(progress(label, total, "batches"))

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401 - Lightning's arguments, unused
        """Count one batch."""
        self._advance()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the progress: validation follows the last batch."""
        self._open.close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        train, val = self.history.rows[-2:]
        best = " (best)" if self.history.best_epoch == trainer.current_epoch else ""
        print(
            f"epoch {trainer.current_epoch}: loss {train['loss']:.4f} train, {val['loss']:.4f} val"
            f"{best}; val AUROC {val['auroc']:.3f}, accuracy {val['accuracy']:.3f}",
            file=sys.stderr,
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the progress of an epoch that failed."""
        self._open.close()


def _task(module: LightningModule) -> Task:
    if not isinstance(module, Task):
        raise TypeError(f"these callbacks go with Task, not {type(module).__name__}")
    return module


def _check_finite(loss: float, epoch: int) -> None:
    if not loss < float("inf"):
        raise TrainingError(
            f"the validation loss became {loss} in epoch {epoch}; the last good checkpoint is "
            f"kept: train again with a new --out and a lower learning rate"
        )
