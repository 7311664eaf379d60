"""What happens between the steps and epochs of a training: rates, history, checkpoints, progress.

The callbacks run in the order in which `fit` lists them, at the end of each training epoch, after
its validation. All state that a resumed run needs is in the checkpoint.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer

from chestxray.artifacts import write_table
from chestxray.dataset.store import Dataset
from chestxray.errors import TrainingError
from chestxray.progress import Advance, progress
from chestxray.training import tracking
from chestxray.training.data import Batch
from chestxray.training.lightning_module import Task
from chestxray.training.optimisation import RATE
from chestxray.training.schedules import Progress, schedule_of

BEST: Final = "best.safetensors"
LAST: Final = "last.safetensors"


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

    Args:
        path: of the file.
        monitor: the column that chooses the best epoch.
        first: the first epoch that may be the best.
    """

    def __init__(self, path: Path, monitor: Literal["loss", "auroc"], first: int = 0) -> None:
        self.path = path
        self.monitor = monitor
        self.first = first
        self.rows: list[dict[str, Any]] = []

    @property
    def values(self) -> tuple[float, ...]:
        """The monitored value of each epoch on validation, its sign such that lower is better."""
        sign = 1 if self.monitor == "loss" else -1
        return tuple(sign * row[self.monitor] for row in self.rows if row["split"] == "val")

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest loss or highest AUROC on validation, -1 before any."""
        values = self.values[self.first :]
        return self.first + values.index(min(values)) if values else -1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's two rows."""
        epoch, task = trainer.current_epoch, _task(pl_module)
        task.check_finite()
        of_splits = {split: task.measures(split) for split in task.outputs}
        _check_finite(of_splits["val"]["loss"], epoch)
        for split, measures in of_splits.items():
            self.rows.append({"epoch": epoch, "split": split, **measures})
            named = {f"{name}/{split}": value for name, value in measures.items()}
            tracking.log(trainer.loggers, named, epoch)
        if trainer.is_global_zero:
            write_table(self.path, pd.DataFrame(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Give the rows to the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of a checkpoint; rows of later, unfinished epochs are dropped."""
        self.rows = list(state_dict["rows"])


class Rates(Callback):
    """Sets the learning rates before each step, by the recipe's schedule.

    Args:
        history: has the validation values that a schedule may depend on.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Set the rates of the next step."""
        recipe = _task(pl_module).recipe
        passed = trainer.current_epoch + batch_idx / trainer.num_training_batches
        factor = schedule_of(recipe)(Progress(passed, recipe.max_epochs, self.history.values))
        for optimiser in trainer.optimizers:
            for group in optimiser.param_groups:
                group["lr"] = group[RATE] * factor


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


class Threads(Callback):
    """Keeps the number of processor threads, since another number adds in another order."""

    def state_dict(self) -> dict[str, Any]:
        """Give the number to the checkpoint."""
        return {"threads": torch.get_num_threads()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the number of a checkpoint."""
        torch.set_num_threads(state_dict["threads"])


class Show(Callback):
    """Shows progress within an epoch, and a line of figures after it, on standard error.

    Of several processes, the first shows its own progress and the figures of all.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self._open = ExitStack()
        self._advance: Advance
        self._speed = _Speed()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Open the epoch's progress at its first batch."""
        if not trainer.is_global_zero:
            return
        if batch_idx == 0:
            label, total = f"epoch {trainer.current_epoch}", int(trainer.num_training_batches)
            self._advance = self._open.enter_context(progress(label, total, "batches"))
            self._speed = _Speed()
        self._speed.loaded(len(batch[1]) * trainer.world_size)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401 - unused
        """Count one batch."""
        if trainer.is_global_zero:
            self._advance()
            self._speed.stepped()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the progress: validation follows the last batch."""
        self._open.close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        if not trainer.is_global_zero:
            return
        train, val = self.history.rows[-2:]
        best = " (best)" if self.history.best_epoch == trainer.current_epoch else ""
        print(
            f"epoch {trainer.current_epoch}: loss {train['loss']:.4f} train, {val['loss']:.4f} val"
            f"{best}; val AUROC {val['auroc']:.3f}, accuracy {val['accuracy']:.3f}; {self._speed}",
            file=sys.stderr,
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the progress of an epoch that failed."""
        self._open.close()


class _Speed:
    """Images per second of an epoch, and the share of its time that went into loading them."""

    def __init__(self) -> None:
        self._images = 0
        self._loading = self._stepping = 0.0
        self._last = time.perf_counter()

    def loaded(self, images: int) -> None:
        """Note that a batch is there."""
        self._loading += self._lap()
        self._images += images

    def stepped(self) -> None:
        """Note that a step is done."""
        self._stepping += self._lap()

    def __str__(self) -> str:
        whole = self._loading + self._stepping
        return f"{self._images / whole:.1f} images/s, {self._loading / whole:.0%} of it loading"

    def _lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last


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
