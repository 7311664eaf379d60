"""Training: a dataset and a recipe in, a run folder out.

run/
  recipe.yaml            as run, with every key
  dataset.json           the manifest of the dataset it was trained on
  initial_weights.json   what the network started from, see `initial_weights.origin`
  history.csv            one row per epoch and split
  checkpoints/           best.safetensors and last.safetensors: plain tensors and JSON
  teacher.safetensors    of a recipe with a teacher: its probabilities of the training images
  validation.csv         the best epoch's predictions on the validation split
  source_probe.json      of a dataset of several sources: can they be told from the features?
  bundle/                the model, complete
  run.json               what was done, written last

A recipe with several `members` leaves other files, see `members`.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import torch

from chestxray import hub
from chestxray.artifacts import is_locked, lock, read_json, require, write_json
from chestxray.dataset.manifest import Manifest
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, RecipeError, TrainingError
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.seen_images import Seen
from chestxray.execution import carry
from chestxray.findings import Findings
from chestxray.model.torch_engine import device
from chestxray.storage import ObjectFolder, fetched, is_url, path_of, shown, staged_folder
from chestxray.storage.publication import UNFINISHED
from chestxray.training import (
    checkpoint_files,
    initial_weights,
    phantom_weights,
    threads,
    tracking,
)
from chestxray.training import recipe as recipes
from chestxray.training.auxiliary import check_auxiliary
from chestxray.training.callbacks import BEST, LAST
from chestxray.training.distillation import keep_targets, origin_of
from chestxray.training.distributed import check as check_processes
from chestxray.training.distributed import (
    check_shares,
    is_first,
    launched,
    resumes_itself,
    run_as_one,
    run_in_processes,
)
from chestxray.training.finalize import finish
from chestxray.training.head_training import fit_head
from chestxray.training.leakage import check_unseen, warn_of_public
from chestxray.training.lightning_module import Task
from chestxray.training.loop import (
    Outcome,
    Processes,
    classifier_of,
    run_epochs,
    task_of,
)
from chestxray.training.mask_supervision import check_masks
from chestxray.training.members import begin, join, train_members, waiting
from chestxray.training.precision import lightning_precision, precision_of
from chestxray.training.recipe import Overrides, Recipe
from chestxray.training.recipe_checks import ORIGIN, TARGETS, check_folder, for_run, keeps
from chestxray.training.recipe_keys import PHANTOMS, WORDS
from chestxray.version import __version__

_MADE_BY: Final = "chestxray train"
_LOCK: Final = "checkpoints/.lock"
_SECONDS_TO_BEGIN: Final = 600.0  # that others wait for the first machine to lock the run
_SECONDS_AFTER: Final = 60.0  # that they wait once it does no more: shared folders lag behind
_SECONDS_TO_LOOK: Final = 1.0  # between two looks


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: it lies in.
        history: `history.csv`, one row per epoch and split, see `callbacks.History`; with several
            members a column `member`.
        summary: `run.json`: data, recipe, best epoch, time, machine, versions.
    """

    folder: Path
    history: pd.DataFrame
    summary: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open the folder of a finished run.

        Raises:
            ArtifactError: there is none, or training has not finished.
        """
        folder = fetched(folder)
        summary = read_json(folder / "run.json", _MADE_BY)
        require(folder / "history.csv", _MADE_BY)
        return cls(folder, pd.read_csv(folder / "history.csv"), summary)

    def __repr__(self) -> str:
        """Show the folder and the model."""
        return f"Run({str(self.folder)!r}: {self.model})"

    @property
    def bundle(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "bundle"

    @property
    def validation(self) -> Path:
        """The table of the best epoch's predictions on the validation split."""
        return self.folder / "validation.csv"

    @property
    def model(self) -> str:
        """Identity of the trained weights."""
        return str(self.summary["model"])


def train(
    dataset: Dataset | str | Path,
    recipe: str | Path | Recipe | None = None,
    out: str | Path = "run",
    overrides: Overrides | None = None,
    resume: bool = False,
    trackers: Sequence[str] = (),
    processes: Processes | None = None,
) -> Run:
    """Train a classifier, or resume an interrupted run.

    A network that starts from `weights: phantoms` is pretrained first where it is not in the cache,
    see `phantom_weights`; an interrupted pretraining is resumed.

    On one CPU, training is repeatable: epoch n depends on the recipe's seed alone, so a run that
    was killed and resumed ends with the same figures as one that was not. On a GPU the order of
    sums is not fixed, and figures differ in their last digits; so do those of several processes.

    Args:
        dataset: with the splits `train` and `val`, or its path or URL; `test` is not looked at.
        recipe: a shipped recipe's name, a YAML file or a recipe; by default `baseline`, or on
            `resume` the run's own.
        out: path or URL of the folder to write; must not hold a run unless `resume`. For a URL the
            run is in the cache of this machine until it is finished, and then published.
        overrides: keys of the recipe to change, such as `{"size": 320, "loss.gamma": 1}`, or texts
            such as `loss.gamma=1`.
        resume: continue after the last finished epoch; dataset and recipe must be the same.
        trackers: that are given the run too, see `tracking`: `tensorboard`, `mlflow`, `wandb`. A
            resumed run goes on with those that it has.
        processes: that train together, see `distributed`; one where None. Under torchrun, those
            that it started; they resume by themselves when it starts them again.

    Returns:
        The finished run.

    Raises:
        RecipeError: all that is wrong with the recipe, or the run has another one.
        ArtifactError: no such dataset, the run exists already, there is none to resume, it was
            trained on another dataset, its checkpoint is not one that this version wrote,
            images of the dataset were altered, or another training works in the folder.
        TrainingError: nothing to learn from, the loss is no longer finite, one of several
            processes died, several were asked for where the head alone is fitted, or a tracker
            does not answer.
        StorageError: a URL is refused, or a store does not answer.
        MissingExtraError: a tracker is not installed.
        KeyboardInterrupt: it was interrupted; the last epoch that ended is kept.
    """
    processes = processes or Processes()
    _check_out(out, resume, processes)
    # The number that one network trains fastest with is no limit for what comes after it.
    with staged_folder(out, "train") as run, threads.restored():
        finished = _train(dataset, recipe, run, overrides, resume, trackers, processes)
    return replace(finished, folder=path_of(out))


def _check_out(out: str | Path, resume: bool, processes: Processes) -> None:
    """Refuse a URL that holds other files, or that several commands would have to share."""
    if not is_url(out):
        return
    if processes.nodes > 1 or launched():
        who = (
            "torchrun: its processes" if launched() else f"--nodes {processes.nodes}: the machines"
        )
        raise TrainingError(
            f"{who} share the run folder while they train, and {shown(path_of(out))} is a URL: "
            f"give a folder that all of them see"
        )
    there = ObjectFolder(out).versions()
    if there and not (resume and UNFINISHED in there):
        raise ArtifactError(
            f"{shown(path_of(out))} holds a run or other files: choose another --out"
            + ("" if resume else ", or resume an interrupted run of this machine with --resume")
        )


def _train(
    dataset: Dataset | str | Path,
    recipe: str | Path | Recipe | None,
    run: Path,
    overrides: Overrides | None,
    resume: bool,
    trackers: Sequence[str],
    processes: Processes,
) -> Run:
    """Train in a folder of this machine; see `train`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    processes = launched() or processes
    resume |= resumes_itself(run)
    check_processes(processes)
    first = is_first(processes)
    folder = dataset.folder if isinstance(dataset, Dataset) else path_of(dataset)
    size = dataset.images.shape[1] if isinstance(dataset, Dataset) else None
    chosen = for_run(run, recipe, overrides or (), resume, folder, first, size)
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(folder)
    _check_networks(run, dataset, chosen, resume, processes)
    tracking.check(trackers)
    if first and resume:
        _check_same(run, dataset.manifest, chosen)
    if chosen.members:
        return _train_members(dataset, chosen, run, first, resume, trackers, processes)
    under_way = resume and (run / "checkpoints" / LAST).exists()
    if chosen.weights == PHANTOMS and not under_way:
        resume |= _pretrain(dataset, chosen, run if first else None, resume)
    if not first:
        if chosen.taught:
            _await(run, TARGETS, f"the first machine has not asked the teacher of {run}")
        _run_together(dataset, chosen, run, processes)
        return _awaited(run)
    # Made before anything is written: a recipe that cannot be started leaves nothing behind.
    task = task_of(dataset, chosen, under_way)
    with _alone(run, resume):
        _record_origin(run, dataset, chosen, under_way)
        tracking.start(run, trackers, chosen)
        if chosen.method != "gradient":
            return _finished(run, dataset, task, fit_head(dataset, task, run))
        if chosen.taught:
            keep_targets(dataset, chosen, run)
        if processes.count > 1:
            _run_together(dataset, chosen, run, processes)
        else:
            run_epochs(dataset, task, run)
        _load_best(task, run / "checkpoints" / BEST)
        return _finished(run, dataset, task, Outcome.read(run, chosen))


def _run_together(dataset: Dataset, recipe: Recipe, run: Path, processes: Processes) -> None:
    """Train in several processes, which torchrun has started or this machine starts."""
    work = run_as_one if launched() else run_in_processes
    work(dataset, recipe, run, processes)


def _train_members(
    dataset: Dataset,
    recipe: Recipe,
    run: Path,
    first: bool,
    resume: bool,
    trackers: Sequence[str],
    processes: Processes,
) -> Run:
    """Train the members of a recipe, and let the first machine join them."""

    def member(recipe: Recipe, folder: Path, resume: bool) -> Run:
        seen = dataset.reduced(recipe.size)
        return train(seen, recipe, folder, (), resume, trackers, processes)

    for network in waiting(recipe, run):
        if network.weights == PHANTOMS:
            _check_made(network)
    if not first:
        train_members(recipe, run, member)
        return _awaited(run)
    for network in waiting(recipe, run):
        check_recipe(network)
    with _alone(run, resume):
        tracking.start(run, trackers, recipe)  # where it fails, nothing is begun
        begin(dataset, recipe, run)
        join(dataset, recipe, run, train_members(recipe, run, member))
        tracking.finish(run)
        return Run.open(run)


def check_recipe(recipe: Recipe) -> None:
    """Check what can be checked of a recipe before a dataset is prepared; downloads nothing.

    Raises:
        RecipeError: timm has no such backbone, it takes no images of this size or has no feature
            map, or the weights are not there, not readable or not of this backbone, or those of
            phantoms cannot be kept, or this machine does not train in the precision; of any member.
    """
    for network in recipe.networks:
        precision_of(network)
        classifier = classifier_of(network, Findings(("Finding",)), resumed=True)
        initial_weights.check(classifier, network)


def _pretrain(dataset: Dataset, recipe: Recipe, run: Path | None, resume: bool) -> bool:
    """Make the weights of phantoms that a recipe starts from, unless they are in the cache.

    Args:
        dataset: of the run.
        recipe: of the run, which is checked before the minutes that this takes.
        run: its folder; None where another machine writes it.
        resume: whether it has begun.

    Returns:
        Whether the run has begun: `resume` continues it from here on.
    """
    if phantom_weights.bundle_of(recipe) is not None:
        phantom_weights.tell_origin(recipe)
        return resume
    _check_made(recipe)
    check_recipe(recipe)
    with ExitStack() as stack:
        if run:
            stack.enter_context(_alone(run, resume))
            write_json(run / "dataset.json", dataset.manifest.model_dump(mode="json"))
            carry(dataset.folder, run)
            recipes.save(run / "recipe.yaml", recipe)
        phantom_weights.provide(recipe, train)
    return run is not None


def _check_made(recipe: Recipe) -> None:
    """Refuse to make the weights of phantoms in each of the processes that torchrun started."""
    if launched() and phantom_weights.bundle_of(recipe) is None:
        raise TrainingError(
            "the weights of phantoms that this recipe starts from are not in the cache, and "
            "torchrun would make them in each process: train without torchrun once, or give "
            "--set weights=BUNDLE"
        )


def _record_origin(run: Path, dataset: Dataset, recipe: Recipe, under_way: bool) -> None:
    """Write what a run starts from, once: when it is resumed, that may not be there any more."""
    if not under_way or not (run / ORIGIN).exists():
        write_json(run / ORIGIN, initial_weights.origin(recipe, dataset.findings))


def _check_networks(
    run: Path, dataset: Dataset, recipe: Recipe, resume: bool, processes: Processes
) -> None:
    """Check all networks of a recipe before the training of the first has taken its hours.

    Raises:
        RecipeError, TrainingError: one cannot be trained on this dataset or machine, or in these
            processes.
    """
    for number, network in enumerate(recipe.networks, 1):
        _check_dataset(dataset, network)
        precision_of(network)
        _check_processes(dataset, network, processes)
        kept = keeps(run if resume else None, number if recipe.members else None)
        _check_models(dataset, network, kept)


def _check_dataset(dataset: Dataset, recipe: Recipe) -> None:
    check_masks(dataset, recipe)
    check_auxiliary(dataset, recipe)
    for split in ("train", "val"):
        labels = dataset.labels(dataset.rows(split))
        if split == "train" and len(labels) and recipe.taught and recipe.sampling == "natural":
            continue  # the teacher says enough of images without labels
        if np.isnan(labels).all():
            what = "known labels" if len(labels) else "images"
            raise TrainingError(
                f"{dataset.folder} has no {what} in the {split} split: prepare with another --split"
            )
        ranked = split == "train" or recipe.monitor == "auroc"
        if ranked and all(one_sided(column) for column in labels.T):
            raise TrainingError(
                f"{dataset.folder}: no finding is both present and absent in the {split} split"
            )


def _check_models(dataset: Dataset, recipe: Recipe, kept: Collection[str]) -> None:
    """Check what a training learns from or starts from, unless the run keeps that already."""
    if recipe.taught and "teacher" not in kept:
        check_unseen("teacher", hub.local(recipe.teacher), dataset)
    if "weights" in kept:
        return
    start = None if recipe.weights in WORDS else hub.bundle_in(recipe.weights)
    if start:
        check_unseen("weights", start, dataset)
    else:
        warn_of_public(recipe, dataset)


def _check_processes(dataset: Dataset, recipe: Recipe, processes: Processes) -> None:
    if processes.count > 1:
        if recipe.method != "gradient":
            raise TrainingError(
                f"method = {recipe.method} fits the head in one process: leave out --devices and "
                f"--nodes"
            )
        check_shares(dataset, recipe, processes)


def _check_same(run: Path, manifest: Manifest, recipe: Recipe) -> None:
    """Check that a run to resume was started with the same recipe and dataset."""
    if recipes.load(run / "recipe.yaml") != recipe:
        raise RecipeError(f"{run} was started with another recipe: leave out --recipe and --set")
    if read_json(run / "dataset.json", _MADE_BY) != manifest.model_dump(mode="json"):
        raise ArtifactError(f"{run} was started on another dataset: resume it with that one")


@contextmanager
def _alone(run: Path, resume: bool) -> Iterator[None]:
    """Keep other trainings out of a run's folder.

    Raises:
        ArtifactError: another training works there, or came first.
    """
    path = run / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"another training is running in {run}: wait until it ends, or choose another --out"
    with lock(path, ArtifactError(refusal)):
        check_folder(run, resume)
        yield


def _awaited(run: Path) -> Run:
    """Wait until the first machine has written the run."""
    _await(run, "run.json", f"the first machine has not finished {run}")
    return Run.open(run)


def _await(run: Path, name: str, otherwise: str) -> None:
    """Wait for a file of the first machine, however long that works on the run.

    Where its lock cannot be seen from here, it has `_SECONDS_TO_BEGIN`.

    Raises:
        TrainingError: it does not work on the run (any more), and has not written the file.
    """
    end = time.monotonic() + _SECONDS_TO_BEGIN
    while not (run / name).exists():
        if is_locked(run / _LOCK):
            end = time.monotonic() + _SECONDS_AFTER
        elif time.monotonic() > end:
            raise TrainingError(f"{otherwise}: see its messages")
        time.sleep(_SECONDS_TO_LOOK)


def _finished(run: Path, dataset: Dataset, task: Task, outcome: Outcome) -> Run:
    """Write all that follows from the final weights, `run.json` last."""
    recipe, rows = task.recipe, dataset.rows("train")
    drawn = task.sampling.summary(dataset.labels(rows), dataset.sources(rows))
    origin = read_json(run / ORIGIN, _MADE_BY)
    teacher = origin_of(run) if recipe.taught else None
    seen = [Seen.model_validate(of) for by in (origin, teacher or {}) for of in by.pop("seen", ())]
    bundle = finish(run, dataset, recipe, task.evaluated.to(device()), origin, seen)
    facts = {
        "model": bundle.identity,
        "teacher": teacher,
        "precision": lightning_precision(recipe),
        "sampling": {"name": recipe.sampling, **drawn},
        "monitor": recipe.monitor,
        "best_epoch": outcome.best_epoch,
        "epochs": outcome.epochs,
        "seconds": round(outcome.seconds),
        "threads": outcome.threads,
    }
    summary = {**_summary(dataset.manifest, recipe), "initial_weights": origin}
    write_json(run / "run.json", {**summary, **facts})
    tracking.finish(run)
    return Run.open(run)


def _load_best(task: Task, path: Path) -> None:
    state = checkpoint_files.load(path)["state_dict"]
    prefix = "classifier." if task.average is None else "average.classifier."
    weights = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    task.evaluated.load_state_dict(weights, strict=True)


def _summary(manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    return {
        "source": manifest.title,
        "release": manifest.release,
        "synthetic": manifest.synthetic,
        "sources": [source.model_dump(mode="json") for source in manifest.sources],
        "findings": list(manifest.findings),
        "split": {"name": manifest.split.name, "sha256": manifest.split.sha256},
        "size": recipe.size,
        "counts": manifest.counts,
        "recipe": recipe.name,
        "backbone": recipe.backbone,
        "weights": recipe.weights,
        "machine": _machine(),
        "torch": torch.__version__,
        "seed": recipe.seed,
        "package_version": __version__,
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    count = torch.get_num_threads()
    return f"{platform.machine()} CPU, {count} thread{'s' if count != 1 else ''}"
