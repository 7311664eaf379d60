"""Which arithmetic a machine trains fastest in.

Training: a dataset and a recipe in, a run folder out.

run/
  recipe.yaml        as run, overrides included
  dataset.json       the manifest of the dataset it was trained on
  history.csv        a row an epoch and split
  checkpoints/       best.ckpt and last.ckpt
  validation.csv     the best epoch's predictions on the validation part
  bundle/            the model, complete
  run.json           what was done, written last
"""

from __future__ import annotations

import logging
import platform
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from chestxray.artifacts import read_json, write_json
from chestxray.dataset.store import Dataset, Manifest
from chestxray.errors import ArtifactError, MissingExtraError, RecipeError, TrainingError
from chestxray.findings import Findings
from chestxray.model.bundle import Bundle
from chestxray.model.losses import class_weights, one_sided
from chestxray.model.network import Classifier
from chestxray.model.torch_engine import device
from chestxray.training import recipe as recipes
from chestxray.training.callbacks import BEST, LAST, Checkpoints, History, Show
from chestxray.training.data import EpochBatches, Part, balanced_weights, in_order, loader
from chestxray.training.finalize import finish
from chestxray.training.lightning_module import Task
from chestxray.training.recipe import Recipe
from chestxray.version import __version__

Precision = Literal["float32", "bfloat16"]


def resolve(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Turn `auto` into bfloat16 where the device computes in it, float32 elsewhere.

    A processor without bfloat16 instructions emulates them, about ten times slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def train(
    dataset: Dataset, run: Path, recipe: Recipe, resume: bool = False, tensorboard: bool = False
) -> Bundle:
    """Train a classifier, or go on with a run that was cut off.

    On one CPU, training is repeatable: epoch n depends on the recipe's seed alone, so a run that
    was killed and resumed ends with the same figures as one that was not. On a GPU the order of
    sums is not fixed, and figures differ in their last digits.

    Args:
        dataset: with parts `train` and `val`; `test` is not looked at.
        run: the folder to write; must not hold a run unless `resume`.
        recipe: how.
        resume: go on from the last finished epoch; dataset and recipe must be the same.
        tensorboard: write TensorBoard logs into `run/tensorboard`.

    Raises:
        RecipeError: the dataset does not fit the recipe, or resuming with another recipe.
        ArtifactError: the run exists already, or was trained on another dataset.
        TrainingError: nothing to learn from, or the loss is no longer finite.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    _check(dataset, recipe)
    _check_begun(run, dataset.manifest, recipe, resume)
    torch.manual_seed(recipe.seed)
    train_part = Part(dataset, "train")
    last = run / "checkpoints" / LAST
    task = Task(
        _classifier(recipe, dataset.findings, last.exists()),
        recipe,
        _loss_weights(recipe, train_part),
    )
    checkpoints = Checkpoints(run / "checkpoints", recipe.patience)
    trainer = _trainer(run, recipe, checkpoints, tensorboard)
    # Laid only now: a recipe that cannot be begun leaves nothing behind.
    write_json(run / "dataset.json", dataset.manifest.model_dump(mode="json"))
    recipes.save(run / "recipe.yaml", recipe)
    _fit(trainer, task, dataset, last)
    _load_best(task.classifier, run / "checkpoints" / BEST)
    bundle = finish(run, dataset, recipe, task.classifier.to(device()))
    write_json(run / "run.json", _summary(dataset, recipe, checkpoints, trainer))
    return bundle


def _check(dataset: Dataset, recipe: Recipe) -> None:
    if dataset.manifest.size != recipe.size:
        raise RecipeError(
            f"recipe {recipe.name} wants images of {recipe.size} px, {dataset.folder} holds "
            f"{dataset.manifest.size} px: prepare with --size {recipe.size}, or train with "
            f"--set size={dataset.manifest.size}"
        )
    for split in ("train", "val"):
        if not len(dataset.rows(split)):
            raise TrainingError(f"{dataset.folder} has no images in part {split!r}")
    labels = dataset.labels(dataset.rows("train"))
    if len(one_sided(labels, dataset.findings)) == len(dataset.findings):
        raise TrainingError(
            f"{dataset.folder}: no finding is both present and absent in the training part"
        )


def _fit(trainer: Trainer, task: Task, dataset: Dataset, last: Path) -> None:
    """Run the epochs that are still to be run."""
    recipe, part = task.recipe, Part(dataset, "train")
    batches = EpochBatches(_chances(recipe, part), len(part), recipe.batch_size, recipe.seed)
    with warnings.catch_warnings():
        # Worker processes would cost more than indexing a memory map does; see `data`.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
        try:
            trainer.fit(
                task,
                loader(part, batches),
                in_order(Part(dataset, "val"), recipe.batch_size),
                ckpt_path=str(last) if last.exists() else None,
                weights_only=False,  # our own checkpoint, which holds optimiser state
            )
        except SystemExit as error:  # what lightning makes of Ctrl-C
            raise TrainingError("interrupted: go on with the same command and --resume") from error


def _check_begun(run: Path, manifest: Manifest, recipe: Recipe, resume: bool) -> None:
    """See that the run folder is free, or was begun with the same things."""
    begun = (run / "recipe.yaml").exists()
    if begun and not resume:
        raise ArtifactError(f"{run} holds a run: go on with --resume, or choose another --out")
    if not begun:
        return
    if recipes.load(str(run / "recipe.yaml")) != recipe:
        raise RecipeError(f"{run} was begun with another recipe: leave out --recipe and --set")
    if read_json(run / "dataset.json", "chestxray train") != manifest.model_dump(mode="json"):
        raise ArtifactError(f"{run} was begun on another dataset: give that one to --resume")


def _classifier(recipe: Recipe, findings: Findings, resumed: bool) -> Classifier:
    classifier = Classifier(recipe.backbone, findings, recipe.size, recipe.dropout)
    if recipe.weights != "none" and not resumed:
        classifier.load_pretrained(recipe.weights, recipe.backbone)
    return classifier.to(memory_format=torch.channels_last)


def _chances(recipe: Recipe, part: Part) -> npt.NDArray[np.float64] | None:
    return balanced_weights(part.labels) if recipe.sampling == "balanced" else None


def _loss_weights(recipe: Recipe, part: Part) -> npt.NDArray[np.float64]:
    if not recipe.loss.class_weights:
        return np.ones((part.labels.shape[1], 2))
    return class_weights(part.labels, _chances(recipe, part))


def _trainer(run: Path, recipe: Recipe, checkpoints: Checkpoints, tensorboard: bool) -> Trainer:
    bfloat16 = resolve(recipe.precision, device()) == "bfloat16"
    history = History(run / "history.csv")
    return Trainer(
        accelerator=device().type,
        devices=1,
        precision="bf16-mixed" if bfloat16 else "32-true",
        max_epochs=recipe.max_epochs,
        callbacks=[history, checkpoints, Show(history, checkpoints)],
        logger=_tensorboard(run) if tensorboard else False,
        default_root_dir=run,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )


def _tensorboard(run: Path) -> Logger:
    try:
        return TensorBoardLogger(run, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise MissingExtraError("tensorboard", "track") from error


def _load_best(classifier: Classifier, path: Path) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "classifier."
    weights = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    classifier.load_state_dict(weights, strict=True)


def _summary(
    dataset: Dataset, recipe: Recipe, checkpoints: Checkpoints, trainer: Trainer
) -> dict[str, Any]:
    manifest = dataset.manifest
    return {
        "source": manifest.title,
        "release": manifest.release,
        "synthetic": manifest.synthetic,
        "findings": list(manifest.findings),
        "split": {"name": manifest.split.name, "sha256": manifest.split.sha256},
        "size": manifest.size,
        "counts": manifest.counts,
        "recipe": recipe.name,
        "backbone": recipe.backbone,
        "weights": recipe.weights,
        "precision": str(trainer.precision),
        "best_epoch": checkpoints.best_epoch,
        "epochs": trainer.current_epoch,
        "seconds": round(checkpoints.seconds),
        "machine": _machine(),
        "torch": torch.__version__,
        "seed": recipe.seed,
        "package_version": __version__,
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
