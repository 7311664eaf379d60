"""Cross-validation: a dataset and a recipe in, K × S runs and one pooled figure out.

out/
  recipe.yaml         as run, with every key
  folds.csv           the fold of each image
  runs/fold1-seed0/   an ordinary run folder each, with predictions.csv of its fold
  predictions.csv     all predictions, with columns fold and seed
  crossval.json       the figures, written last

A seed changes all that is drawn after the folds: the validation patients, weights, order,
augmentation and dropout. An interrupted cross-validation resumes with the runs that are missing,
and one with more seeds keeps the runs of the others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray import hub
from chestxray.artifacts import write_table
from chestxray.dataset.folds import fold_of
from chestxray.dataset.folds import folds as folds_of
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, RecipeError, TrainingError
from chestxray.evaluation import predictions as tables
from chestxray.evaluation.bootstrap import LEVEL, RESAMPLES
from chestxray.evaluation.cross_validation import (
    CrossValidation,
    Folded,
    method,
    pool,
    runs,
)
from chestxray.evaluation.predictions import Predictions
from chestxray.evaluation.result_details import ResampleSettings
from chestxray.model import bundle as bundles
from chestxray.training import recipe as recipes
from chestxray.training.finalize import predicted
from chestxray.training.fit import Run, train
from chestxray.training.fold_teachers import check_teachers, in_fold, read_folds, run_of
from chestxray.training.leakage import check_unseen, warn_of_public
from chestxray.training.recipe import Overrides, Recipe
from chestxray.training.recipe_checks import FOLDS, checked, is_study
from chestxray.training.recipe_keys import WORDS
from chestxray.version import __version__

_FOLDS: Final = 5
_PREDICTIONS: Final = "predictions.csv"
_MODELS: Final = ("teacher", "weights")  # keys that name another model


def crossval(
    dataset: Dataset | str | Path,
    recipe: str | Path | Recipe | None = None,
    out: str | Path = "crossval",
    *,
    folds: int = _FOLDS,
    seeds: int = 1,
    overrides: Overrides | None = None,
    resamples: int = RESAMPLES,
) -> CrossValidation:
    """Train and test a recipe on every fold of a dataset, or finish what was interrupted.

    Args:
        dataset: or its folder; its own split is not used, and its images are not copied.
        recipe: a shipped recipe's name, a YAML file or a recipe; by default `baseline`.
        out: the folder to write; may hold an unfinished cross-validation of the same kind.
        folds: K, at least 2; dealt by patient with the recipe's seed.
        seeds: S, repetitions with the recipe's seed and the next S - 1.
        overrides: as for `train`.
        resamples: of patients, for the intervals.

    Returns:
        The figures of each run and of all together.

    Raises:
        RecipeError: the recipe has errors or does not fit the dataset, or `out` has another one;
            there are several seeds and a member has one of its own; or a teacher or initial weights
            have seen the images, or a cross-validation that teaches has other folds.
        ArtifactError: no such dataset, or `out` holds other folds or something else.
        TrainingError: too few patients, fewer than 1 seed, or what `train` raises.
    """
    if seeds < 1:
        raise TrainingError(f"{seeds} seeds: give at least 1")
    folder = dataset.folder if isinstance(dataset, Dataset) else Path(dataset)
    recipe = "baseline" if recipe is None else recipe
    chosen = checked(recipe, overrides or (), folder, in_folds=True)
    _check_seeds(chosen, seeds)
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(folder)
    for key, value in {(key, getattr(of, key)) for of in chosen.networks for key in _MODELS}:
        bundle = None if value in WORDS or is_study(value) else hub.bundle_in(value)
        if bundle:
            check_unseen(key, bundle, dataset, everywhere=True)
    for network in chosen.networks:
        warn_of_public(network, dataset, everywhere=True)
    dealt = folds_of(dataset, folds, chosen.seed)
    study = _Study(dataset, chosen, Path(out), dealt, seeds)
    check_teachers(chosen, dealt, study.seeds, folder)
    _begin(study)
    return study.finish(resamples)


def _check_seeds(recipe: Recipe, seeds: int) -> None:
    """Refuse a member that each repetition would draw alike, so that they differ too little."""
    fixed = [str(number) for number, of in enumerate(recipe.members, 1) if "seed" in of]
    if seeds > 1 and fixed:
        raise RecipeError(
            f"members: network {', '.join(fixed)} has a seed of its own, which {seeds} seeds would "
            f"not change: leave it out, or give --seeds 1"
        )


@dataclass(frozen=True)
class _Study:
    """A cross-validation in its folder.

    Attributes:
        dataset: all images.
        recipe: of the first seed.
        out: the folder.
        dealt: the folds, see `dataset.folds.folds`.
        repetitions: S.
    """

    dataset: Dataset
    recipe: Recipe
    out: Path
    dealt: pd.DataFrame
    repetitions: int

    @property
    def seeds(self) -> range:
        """The seed of each repetition."""
        return range(self.recipe.seed, self.recipe.seed + self.repetitions)

    @property
    def folds(self) -> int:
        """How many folds there are."""
        return int(self.dealt["fold"].max())

    def finish(self, resamples: int) -> CrossValidation:
        """Train and predict what is missing, and measure everything."""
        models = np.empty((self.folds, self.repetitions), dtype=object)
        parts = []
        for s, seed in enumerate(self.seeds):
            for fold in range(1, self.folds + 1):
                models[fold - 1, s], table = self._run(fold, seed)
                parts.append(table.rows.assign(fold=fold, seed=seed))
        columns = [tables.IMAGE, "fold", "seed"]
        columns += tables.probability_columns(self.dataset.findings)
        whole = pd.concat(parts, ignore_index=True)[columns]
        write_table(self.out / _PREDICTIONS, whole)
        result = self._measured(self._folded(whole), models, resamples)
        result.write(self.out)
        return result

    def _run(self, fold: int, seed: int) -> tuple[str, Predictions]:
        """Give a run's model and its predictions of the fold; train and predict where missing."""
        folder = run_of(self.out, fold, seed)
        table = folder / _PREDICTIONS
        if not table.exists():
            data = fold_of(self.dataset, self.dealt, fold, seed)
            if not (folder / "run.json").exists():
                print(f"crossval: fold {fold} of {self.folds}, seed {seed}", file=sys.stderr)
                recipe = in_fold(self.recipe, fold, seed)
                train(data, recipe, folder, resume=(folder / "recipe.yaml").exists())
            tables.write(table, predicted(bundles.load(Run.open(folder).bundle), data, "test"))
        return Run.open(folder).model, tables.read(table)

    def _folded(self, whole: pd.DataFrame) -> Folded:
        """Order all predictions as the dataset is."""
        images = self.dataset.index["image"]
        columns = list(tables.probability_columns(self.dataset.findings))
        of_seed = {seed: rows.set_index(tables.IMAGE) for seed, rows in whole.groupby("seed")}
        return Folded(
            findings=self.dataset.findings,
            labels=self.dataset.labels(np.arange(len(images))),
            patients=self.dealt["group"].to_numpy(dtype=object),
            fold=self.dealt["fold"].to_numpy(dtype=np.int64),
            probabilities=np.stack(
                [of_seed[seed].loc[images, columns].to_numpy() for seed in self.seeds]
            ),
        )

    def _measured(
        self, folded: Folded, models: npt.NDArray[np.object_], resamples: int
    ) -> CrossValidation:
        pooled = pool(folded, resamples)
        return CrossValidation(
            source=self.dataset.manifest.title,
            recipe=self.recipe.name,
            folds=self.folds,
            seeds=list(self.seeds),
            images=len(self.dealt),
            patients=int(self.dealt["patient"].nunique()),
            intervals=ResampleSettings(level=LEVEL, resamples=resamples, seed=0),
            method=method(self.repetitions),
            runs=runs(folded, pooled, self.seeds, models),
            findings=pooled.findings,
            mean=pooled.mean,
            package_version=__version__,
        )


def _begin(study: _Study) -> None:
    """Write folds and recipe, or check that the folder was started with the same ones."""
    out, own = study.out, study.out / "recipe.yaml"
    if not own.exists():
        write_table(out / FOLDS, study.dealt)
        recipes.save(own, study.recipe)
        return
    if not (out / FOLDS).exists():
        raise ArtifactError(f"{out} holds a run, not a cross-validation: choose another --out")
    if recipes.load(own) != study.recipe:
        raise RecipeError(
            f"{out} was started with another recipe, see {own}: give the same --recipe and --set, "
            f"or choose another --out"
        )
    if not read_folds(out).equals(study.dealt.reset_index(drop=True)):
        raise ArtifactError(
            f"{out} was started with other folds or on another dataset: give the same --folds and "
            f"dataset, or choose another --out"
        )
