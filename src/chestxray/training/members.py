"""Several networks by one recipe, as one model; see its key `members`.

run/
  recipe.yaml, dataset.json   as of every run
  members/1/ …                a run of each network, complete
  history.csv                 those of the members, with a column `member`
  validation.csv              predictions of all together
  source_probe.json           of a dataset of several sources: can they be told from the features?
  bundle/                     their ensemble, see `ensembling`
  run.json                    written last

Nothing here trains: `fit.train` is handed over, since it trains members by this module itself.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from chestxray.artifacts import read_json, write_json, write_table
from chestxray.dataset.store import Dataset
from chestxray.evaluation import predictions
from chestxray.execution import carry
from chestxray.model.torch_engine import batches, device
from chestxray.training import recipe as recipes
from chestxray.training.data import Part
from chestxray.training.ensembling import ensemble
from chestxray.training.finalize import predicted, probe_sources
from chestxray.training.recipe import Recipe
from chestxray.training.recipe_checks import MEMBERS

_MADE_BY: Final = "chestxray train"
_OWN: Final = ("best_epoch", "epochs", "seconds", "model", "seed")

Json = dict[str, Any]
Train = Callable[[Recipe, Path, bool], object]
"""Trains a recipe in a folder; whether to resume what is there."""


def train_members(recipe: Recipe, run: Path, train: Train) -> list[Json]:
    """Train the members of a recipe that are not finished, one after the other.

    Args:
        recipe: with several members.
        run: the folder of the run.
        train: of one member.

    Returns:
        `run.json` of each.
    """
    found = []
    each = zip(recipe.networks, _folders(recipe, run), strict=True)
    for number, (network, folder) in enumerate(each, 1):
        if not (folder / "run.json").exists():
            print(f"network {number} of {len(recipe.members)}", file=sys.stderr)
            train(network, folder, (folder / "recipe.yaml").exists())
        found.append(read_json(folder / "run.json", _MADE_BY))
    return found


def waiting(recipe: Recipe, run: Path) -> list[Recipe]:
    """Give the recipes of the members whose training has not begun."""
    each = zip(recipe.networks, _folders(recipe, run), strict=True)
    return [network for network, folder in each if not (folder / "recipe.yaml").exists()]


def _folders(recipe: Recipe, run: Path) -> list[Path]:
    return [run / MEMBERS / str(number) for number in range(1, len(recipe.members) + 1)]


def begin(dataset: Dataset, recipe: Recipe, run: Path) -> None:
    """Write what a run says of itself before its members are trained."""
    write_json(run / "dataset.json", dataset.manifest.model_dump(mode="json"))
    carry(dataset.folder, run)
    recipes.save(run / "recipe.yaml", recipe)


def join(dataset: Dataset, recipe: Recipe, run: Path, members: Sequence[Json]) -> None:
    """Write the ensemble of finished members and all that a run has of it, `run.json` last.

    A run that is finished stays as it is. `run.json` says what the members have in common; where
    they differ, such as in their teacher or sampling, it is None, and each member's entry under
    `members` says its own.

    Args:
        dataset: that they were trained on.
        recipe: with several members.
        run: the folder of the run.
        members: what `train_members` gave.
    """
    if (run / "run.json").exists():
        return
    folders = _folders(recipe, run)
    shutil.rmtree(run / "bundle", ignore_errors=True)  # of an interruption
    bundle = ensemble([folder / "bundle" for folder in folders], dataset, run / "bundle")
    predictions.write(run / "validation.csv", predicted(bundle, dataset, "val"))
    val = Part(dataset, "val")
    if len({*val.sources}) > 1:
        answers = batches(bundle.classifier.to(device()), val.images)
        probe_sources(run, val, np.concatenate([of.features for of in answers]), recipe.seed)
    histories = [
        pd.read_csv(folder / "history.csv").assign(member=number)
        for number, folder in enumerate(folders, 1)
    ]
    write_table(run / "history.csv", pd.concat(histories, ignore_index=True))
    write_json(run / "run.json", summary_of(members, bundle.identity, recipe.seed))


def summary_of(members: Sequence[Json], model: str, seed: int) -> Json:
    """Give `run.json` of several networks.

    Args:
        members: that of each.
        model: identity of all together.
        seed: of the recipe.
    """
    first, *others = members
    differing = [key for key in first if any(of[key] != first[key] for of in others)]
    return {
        **first,
        **dict.fromkeys(differing),
        "model": model,
        "size": max(of["size"] for of in members),
        "seed": seed,
        "best_epoch": None,
        "epochs": sum(of["epochs"] for of in members),
        "seconds": sum(of["seconds"] for of in members),
        "members": [{key: of[key] for key in dict.fromkeys((*_OWN, *differing))} for of in members],
    }
