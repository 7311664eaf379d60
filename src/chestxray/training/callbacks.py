"""What happens between epochs: the history, the checkpoints, when to stop, what is shown.

They run in the order in which `fit` lists them, at the end of each training epoch, after its
validation. All state that a resumed run needs travels in the checkpoint.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pandas as pd
from lightning import Callback, LightningModule, Trainer

from chestxray.artifacts import write_table, written
from chestxray.errors import TrainingError
from chestxray.evaluation.metrics import mean_of_defined, value
from chestxray.progress import Advance, progress
from chestxray.training.data import Batch
from chestxray.training.lightning_module import Seen, Task

BEST: Final = "best.ckpt"
LAST: Final = "last.ckpt"

_KEPT: Final = ("best_epoch", "best_loss", "seconds")


class History(Callback):
    """Writes `history.csv`: a row an epoch and split (train, val).

    Columns: `epoch` from 0; `loss`, the recipe's; `bce`, unweighted binary cross-entropy, nats;
    `accuracy`, the share of known labels on the right side of probability 0.5; `auroc`, the mean
    over the findings that have both sides. Training rows are measured on augmented batches while
    the weights move.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's two rows."""
        task = _task(pl_module)
        for split, seen in task.seen.items():
            measures = _measures(seen)
            self.rows.append({"epoch": trainer.current_epoch, "split": split, **measures})
            for logger in trainer.loggers:
                named = {f"{name}/{split}": value for name, value in measures.items()}
                logger.log_metrics(named, step=trainer.current_epoch)
        write_table(self.path, pd.DataFrame(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Give the rows to the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint; rows of later, unfinished epochs are gone."""
        self.rows = list(state_dict["rows"])


class Checkpoints(Callback):
    """Keeps the best and the last state, and stops when validation loss no longer improves.

    Args:
        folder: gets `best.ckpt` and `last.ckpt`, each whole at any moment.
        patience: epochs without improvement before training stops.
    """

    def __init__(self, folder: Path, patience: int) -> None:
        self.folder = folder
        self.patience = patience
        self.best_epoch = -1
        self.best_loss = float("inf")
        self.seconds = 0.0  # of training, over all the processes that worked on the run
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not go on with a run that had stopped."""
        self._since = time.monotonic()
        self._stop_when_exhausted(trainer, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, best first: whatever is cut off here is done again, the same, on resume."""
        epoch, loss = trainer.current_epoch, _task(pl_module).seen["val"].loss
        if not loss < float("inf"):
            raise TrainingError(
                f"validation loss became {loss} in epoch {epoch}: the last good checkpoint is kept "
                f"in {self.folder}; lower learning_rate"
            )
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        improved = loss < self.best_loss
        if improved:
            self.best_epoch, self.best_loss = epoch, loss
            self._save(trainer, BEST)
        self._save(trainer, LAST)
        self._stop_when_exhausted(trainer, epoch)

    def state_dict(self) -> dict[str, Any]:
        """Give the best so far, and the time it took, to the checkpoint."""
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best so far."""
        for name in _KEPT:
            setattr(self, name, state_dict[name])

    def _stop_when_exhausted(self, trainer: Trainer, epoch: int) -> None:
        if self.best_epoch >= 0 and epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True

    def _save(self, trainer: Trainer, name: str) -> None:
        with written(self.folder / name) as temporary:
            trainer.save_checkpoint(temporary)


class Show(Callback):
    """Progress within an epoch, and a line of figures after it, on standard error."""

    def __init__(self, history: History, checkpoints: Checkpoints) -> None:
        self.history = history
        self.checkpoints = checkpoints
        self._open = ExitStack()
        self._advance: Advance

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Open the epoch's progress at its first batch."""
        if batch_idx == 0:
            label, total = f"epoch {trainer.current_epoch}", int(trainer.num_training_batches)
            self._advance = self._open.enter_context(progress(label, total, "batches"))

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401 - lightning's arguments, unused
        """One batch further."""
        self._advance()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the progress: validation follows the last batch."""
        self._open.close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        train, val = self.history.rows[-2:]
        best = " (best)" if self.checkpoints.best_epoch == trainer.current_epoch else ""
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


def _measures(seen: Seen) -> dict[str, float]:
    probabilities, labels = seen.arrays()
    columns = list(zip(labels.T, probabilities.T, strict=True))
    return {
        "loss": seen.loss,
        "bce": seen.cross_entropy,
        "accuracy": mean_of_defined(value("accuracy", y, p, 0.5) for y, p in columns),
        "auroc": mean_of_defined(value("auroc", y, p) for y, p in columns),
    }
