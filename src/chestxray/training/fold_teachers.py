"""Distillation in cross-validation: a cross-validation teaches another one of the same folds.

A network must not learn from a model that has seen the images that it is measured on. In
cross-validation these are all images of the dataset, so that no model of it can teach all runs. The
folder of a cross-validation can: each run learns from its model of the same fold and seed, which
was trained on the same images. The seed is the same because it draws the validation images too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from chestxray.csv_cells import restored
from chestxray.errors import ArtifactError, RecipeError
from chestxray.training.recipe_checks import FOLDS, checked, is_study
from chestxray.training.recipe_keys import Recipe


def run_of(study: Path, fold: int, seed: int) -> Path:
    """Give the folder of a run in that of a cross-validation."""
    return study / "runs" / f"fold{fold}-seed{seed}"


def read_folds(study: Path) -> pd.DataFrame:
    """Read the folds of a cross-validation, as `dataset.folds.folds` gave them.

    Raises:
        ArtifactError: the file is no table.
    """
    text = dict.fromkeys(("image", "patient", "group"), str)
    try:
        there = pd.read_csv(study / FOLDS, dtype=text, keep_default_na=False)
    except ValueError as error:
        raise ArtifactError(
            f"{study / FOLDS} cannot be read as a table ({error}): give another folder, or copy "
            f"the file again"
        ) from error
    return there.assign(**{name: there[name].map(restored) for name in text if name in there})


def in_fold(recipe: Recipe, fold: int, seed: int) -> Recipe:
    """Give the recipe of a run; a cross-validation as teacher becomes its model of this run."""

    def own(keys: dict[str, Any]) -> dict[str, Any]:
        teacher = keys.get("teacher")
        if teacher is None or not is_study(teacher):
            return keys
        return {**keys, "teacher": str(run_of(Path(teacher), fold, seed) / "bundle")}

    changed = own({"teacher": recipe.teacher}) | {"seed": seed}
    return recipe.model_copy(update={**changed, "members": tuple(map(own, recipe.members))})


def check_teachers(
    recipe: Recipe, dealt: pd.DataFrame, seeds: Sequence[int], dataset: Path
) -> None:
    """Check that each cross-validation that teaches has these folds and a model for each run.

    Args:
        recipe: of all runs.
        dealt: the folds, see `dataset.folds.folds`.
        seeds: of the runs.
        dataset: its folder.

    Raises:
        RecipeError: it has other folds, it lacks a model, or one does not fit the dataset.
    """
    studies = sorted({of.teacher for of in recipe.networks if is_study(of.teacher)})
    runs = [(fold, seed) for seed in seeds for fold in range(1, dealt["fold"].max() + 1)]
    for study in studies:
        if difference := _difference(read_folds(Path(study)), dealt.reset_index(drop=True)):
            raise RecipeError(
                f"teacher = {study!r}: its models can teach the folds that they have not seen, so "
                f"its folds must be these; {difference}: give the same dataset, --folds and seed "
                f"as there (see its recipe.yaml), or cross-validate the teacher on these folds"
            )
        lacking = [
            f"fold {fold} with seed {seed}"
            for fold, seed in runs
            if not (run_of(Path(study), fold, seed) / "run.json").is_file()
        ]
        if lacking:
            raise RecipeError(
                f"teacher = {study!r}: each run learns from its model of the same fold and seed, "
                f"and it lacks {', '.join(lacking)}: finish it with --seeds {len(seeds)}, or give "
                f"fewer --seeds here"
            )
    if studies:
        for fold, seed in runs:
            checked(in_fold(recipe, fold, seed), (), dataset)


def _difference(theirs: pd.DataFrame, ours: pd.DataFrame) -> str:
    """Say how folds differ; empty where they do not."""
    if theirs.equals(ours):
        return ""
    if [*theirs] != [*ours]:
        return f"its {FOLDS} has other columns than {', '.join(map(str, ours))}"
    if len(theirs) != len(ours):
        return f"it has {len(theirs)} images, this one {len(ours)}"
    if others := len({*theirs["image"]} - {*ours["image"]}):
        return f"{others} of its {len(theirs)} images are not in this dataset"
    if theirs["fold"].max() != ours["fold"].max():
        return f"it has {theirs['fold'].max()} folds, this one {ours['fold'].max()}"
    other = int((theirs != ours).any(axis=1).sum())
    return f"{other} of {len(ours)} images have another fold, patient or place there"
