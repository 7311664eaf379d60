"""Leakage: may a model that is used in training have seen the images that it is measured on?

A bundle records the SHA-256 of its list of training images, not the list. So a model that was
trained on this dataset is recognised by the parts of its split. Of another split, or of a dataset
with other images of the same source, nothing can be told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Final, Literal

from chestxray.dataset.store import Dataset
from chestxray.errors import RecipeError
from chestxray.model import model_card
from chestxray.model.model_card import ModelCard, list_sha256

Overlap = Literal["none", "unknown", "certain"]

_PARTS: Final = ("train", "val", "test")
_WORSE: Final[tuple[Overlap, ...]] = ("none", "unknown", "certain")
_log = logging.getLogger(__name__)


def overlap(card: ModelCard, dataset: Dataset, parts: Iterable[str]) -> Overlap:
    """Tell whether a model was trained on images of some parts of a dataset.

    Args:
        card: of the model; of one with members, all are asked.
        dataset: with its split.
        parts: names of the parts.

    Returns:
        `none` where the lists say so, or no source is common to both; `certain` where the model was
        trained on whole parts and these are among them; else `unknown`.
    """
    names = {source.name for source in dataset.manifest.sources}
    wanted, found = {*parts}, set[Overlap]()
    for trained in card.trainings:
        whole = _parts_of(dataset, trained.training_list_sha256)
        if whole is not None:  # whatever the source is called: the folder names that of a table
            found.add("certain" if whole & wanted else "none")
        elif names & {*trained.policies}:
            found.add("unknown")
    return max(found, key=_WORSE.index, default="none")


def check_unseen(key: str, bundle: Path, dataset: Dataset) -> None:
    """Refuse a model that was trained on the images that a network is measured on.

    Warns where that cannot be told.

    Args:
        key: of the recipe, `teacher` or `weights`, that names the model.
        bundle: its folder.
        dataset: that the network is trained on.

    Raises:
        RecipeError: it was.
        BundleError: no bundle is there.
    """
    how = overlap(model_card.read(bundle).card, dataset, ("val", "test"))
    if how == "certain":
        raise RecipeError(
            f"{key} = {str(bundle)!r}: it was trained on validation or test images of "
            f"{dataset.folder}, so that all figures would be too good; give a model that was "
            f"trained on the training images of this split"
        )
    if how == "unknown":
        _log.warning(
            "%s = %s was trained on images of the same source with another split than that of %s: "
            "they may be among the validation and test images, so that all figures are too good",
            key,
            bundle,
            dataset.folder,
        )


def _parts_of(dataset: Dataset, listed: str) -> set[str] | None:
    """Give the parts whose images together are those of a list, by its SHA-256."""
    there = [part for part in _PARTS if len(dataset.rows(part))]
    unions = (of for count in range(len(there)) for of in combinations(there, count + 1))
    for parts in unions:
        images = dataset.index["image"][dataset.index["split"].isin(parts)]
        if list_sha256(images) == listed:
            return {*parts}
    return None
