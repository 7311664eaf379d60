"""The epochs of a training, as one process runs them: alone, or as one of several.

Everything that is left for the bundle is in the checkpoints: weights, history, time.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from chestxray.artifacts import write_json
from chestxray.dataset.store import Dataset
from chestxray.execution import carry
from chestxray.findings import Findings
from chestxray.model.backbone_options import NO_OPTIONS
from chestxray.model.network import Classifier, to_input
from chestxray.model.torch_engine import device
from chestxray.process_limits import freed_memory_kept
from chestxray.training import checkpoint_files, initial_weights, threads, tracking
from chestxray.training import recipe as recipes
from chestxray.training.auxiliary import auxiliary_targets
from chestxray.training.callbacks import (
    LAST,
    Checkpoints,
    History,
    Rates,
    ShardCheck,
    Show,
    Threads,
)
from chestxray.training.checkpoint_files import CheckpointFiles
from chestxray.training.data import EpochBatches, EpochShards, Part, Share, in_order, loader
from chestxray.training.distillation import targets_of
from chestxray.training.lightning_module import Task
from chestxray.training.losses import label_weights
from chestxray.training.mask_supervision import MaskedPart
from chestxray.training.precision import depthwise_in_float32, lightning_precision, precision_of
from chestxray.training.probe import start_head
from chestxray.training.recipe import Recipe
from chestxray.training.sampling import Sampling

_TIMED_IMAGES: Final = 8


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        devices: processes of this machine, one for each GPU or for a share of the processor.
        nodes: machines.
    """

    devices: int = 1
    nodes: int = 1

    @property
    def count(self) -> int:
        """Give the number of all processes."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class Outcome:
    """What the epochs of a run left in its last checkpoint.

    Attributes:
        best_epoch: whose weights are in the best checkpoint.
        epochs: that were trained.
        seconds: that they took.
        threads: of the processor, in each process.
    """

    best_epoch: int
    epochs: int
    seconds: float
    threads: int

    @classmethod
    def read(cls, run: Path, recipe: Recipe) -> Self:
        """Read it from the last checkpoint of a run."""
        state = checkpoint_files.load(run / "checkpoints" / LAST)["callbacks"]
        history = History(run / "history.csv", recipe.monitor, recipe.first_full_epoch)
        history.load_state_dict(state["History"])
        seconds = state["Timer"]["time_elapsed"]["train"]
        epochs = len(history.values)
        return cls(history.best_epoch, epochs, seconds, state["Threads"]["threads"])


def run_epochs(
    dataset: Dataset,
    task: Task,
    run: Path,
    processes: Processes | None = None,
) -> None:
    """Train until the last epoch, from the last checkpoint where there is one.

    The first process writes `dataset.json`, `recipe.yaml`, `history.csv` and `checkpoints/`.

    Args:
        dataset: with the splits `train` and `val`.
        task: that `task_of` made.
        run: the folder of the run.
        processes: of which this is one; None where it is alone.

    Raises:
        TrainingError: the loss is no longer finite.
        KeyboardInterrupt: it was interrupted.
    """
    last, recipe = run / "checkpoints" / LAST, task.recipe
    kind = MaskedPart if recipe.mask_weight else Part
    targets = _targets(dataset, recipe, run)
    part, val = kind(dataset, "train", device(), targets), Part(dataset, "val", device())
    trainer = _trainer(recipe, run, dataset, processes)
    if trainer.is_global_zero:
        write_json(run / "dataset.json", dataset.manifest.model_dump(mode="json"))
        carry(dataset.folder, run)
        recipes.save(run / "recipe.yaml", recipe)
    share = Share(trainer.global_rank, trainer.world_size)
    draws = task.sampling.draws(part.labels, part.sources)
    if recipe.order == "shards":
        batches: EpochBatches | EpochShards = EpochShards(
            draws, part.shards, recipe.batch_size, recipe.seed, share
        )
    else:
        batches = EpochBatches(draws, recipe.batch_size, recipe.seed, share)
    fast = depthwise_in_float32(task.classifier)
    with freed_memory_kept(), fast, warnings.catch_warnings():
        if not last.exists():
            threads.choose(recipe.threads, _TimedStep(task, part))
        # Worker processes would cost more than indexing a memory map does; see `data`.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The average of the weights and a frozen backbone are in evaluation mode on purpose.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
        try:
            trainer.fit(
                task,
                loader(part, batches),
                in_order(val, recipe.batch_size, share),
                ckpt_path=str(last) if last.exists() else None,
            )
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt(
                "interrupted: resume with the same command and --resume"
            ) from error


def _targets(dataset: Dataset, recipe: Recipe, run: Path) -> list[Tensor]:
    """Give what else than labels a recipe learns of the training images, but for their masks."""
    taught = [targets_of(dataset, run)] if recipe.taught else []
    if not recipe.auxiliary_weight:
        return taught
    index = dataset.index.iloc[dataset.rows("train")]
    return [*taught, torch.from_numpy(auxiliary_targets(index))]


def task_of(dataset: Dataset, recipe: Recipe, resumed: bool) -> Task:
    """Make what is trained.

    Args:
        dataset: to train on.
        recipe: to train by.
        resumed: whether a checkpoint will replace the weights, so that initial ones are not needed.
    """
    torch.manual_seed(recipe.seed)
    classifier = classifier_of(recipe, dataset.findings, resumed)
    if recipe.initial_head != "weights" and not resumed:
        start_head(classifier, dataset, recipe.initial_head, recipe.seed)
    rows = dataset.rows("train")
    labels, sources = dataset.labels(rows), dataset.sources(rows)
    sampling = Sampling.fit(recipe, labels, sources)
    weights = label_weights(recipe.loss, labels, sampling.draws(labels, sources))
    return Task(classifier, recipe, weights, sampling, dataset.sources(dataset.rows("val")))


def classifier_of(recipe: Recipe, findings: Findings, resumed: bool) -> Classifier:
    """Make the network of a recipe, with its initial weights unless it is resumed.

    Raises:
        RecipeError: as `Classifier`, `Classifier.check_side` and `initial_weights.load` say.
    """
    given = initial_weights.foundation_of(recipe)
    classifier = Classifier(
        given.backbone if given else recipe.backbone,
        findings,
        recipe.size,
        recipe.dropout,
        recipe.drop_path,
        recipe.tta,
        recipe.head,
        channels=given.channels if given else 1,
        options=given.options if given else NO_OPTIONS,
    )
    if given:
        classifier.normalise_by(*given.normalisation)
    for side, _ in recipe.smaller:
        classifier.check_side(side)
    if not resumed:
        initial_weights.load(classifier, recipe)
    return classifier.to(memory_format=torch.channels_last)


def _trainer(
    recipe: Recipe,
    run: Path,
    dataset: Dataset,
    processes: Processes | None,
) -> Trainer:
    history = History(run / "history.csv", recipe.monitor, recipe.first_full_epoch)
    checkpoints = Checkpoints(run / "checkpoints", history, recipe.patience)
    return Trainer(
        accelerator=device().type,
        devices=processes.devices if processes else 1,
        num_nodes=processes.nodes if processes else 1,
        strategy=_together(recipe) if processes else "auto",
        sync_batchnorm=processes is not None and device().type == "cuda",
        precision=lightning_precision(recipe),
        max_epochs=recipe.max_epochs,
        accumulate_grad_batches=recipe.accumulate,
        callbacks=[
            history, Timer(), Threads(), checkpoints, ShardCheck(dataset), Rates(history),
            Show(history),
        ],
        plugins=[CheckpointFiles()],
        logger=tracking.loggers(run) or False,
        default_root_dir=run,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )  # fmt: skip


def _together(recipe: Recipe) -> DDPStrategy:
    # Statistics of normalisation are averaged once an epoch, see `Task`. Sent with each pass, they
    # would need the same number of validation batches in each process.
    backend = "nccl" if device().type == "cuda" else "gloo"
    return DDPStrategy(
        process_group_backend=backend,
        broadcast_buffers=False,
        find_unused_parameters=recipe.freeze > 0,
    )


class _TimedStep:
    """A training step whose time is measured: on a copy of the network, with few images."""

    def __init__(self, task: Task, part: Part) -> None:
        self._task = task
        self._part = part
        self._network: Classifier | None = None

    def __call__(self) -> None:
        if self._network is None:
            self._network = copy.deepcopy(self._task.classifier).train()
        images, labels, *_ = self._part[list(range(min(_TIMED_IMAGES, len(self._part))))]
        inputs = to_input(images).contiguous(memory_format=torch.channels_last)
        bfloat16 = precision_of(self._task.recipe) == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss: Tensor = self._task.loss(self._network(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
