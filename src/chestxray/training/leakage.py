"""Leakage: may a model that is used in training have seen the images that it is measured on?

What a model has seen is read from its card, through its initial weights and its teacher too; see
`evaluation.seen_images` for what can be told from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pandas as pd

from chestxray.dataset.store import Dataset
from chestxray.errors import RecipeError
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.seen_images import (
    Evaluated,
    Overlap,
    Seen,
    SeenImages,
    Through,
    public_seen,
    seen_images,
    verdict,
)
from chestxray.hub import BACKBONE, NAME
from chestxray.model import model_card
from chestxray.model.model_card import Facts, ModelCard
from chestxray.training.recipe import Recipe

_PARTS: Final = ("train", "val", "test")
_HOW: Final = {
    "training": "it was",
    "weights": "the network that it started from was",
    "teacher": "the teacher that it learned from was",
}
_log = logging.getLogger(__name__)


def overlap(card: ModelCard, dataset: Dataset, parts: Iterable[str]) -> Overlap:
    """Tell whether a model was trained on images of some parts of a dataset.

    Args:
        card: of the model; of one with members, all are asked.
        dataset: with its split.
        parts: names of the parts.

    Returns:
        `none` where the lists say so, or no source of the dataset is, or shares radiographs with,
        one that the model learned from; `certain` where it was trained on whole parts and these are
        among them; else `unknown`.
    """
    return verdict(found_seen(card, dataset, parts))


def found_seen(
    card: ModelCard, dataset: Dataset, parts: Iterable[str], *, calibration: bool = False
) -> tuple[SeenImages, ...]:
    """Tell which images of some parts of a dataset a model may have seen, and how.

    Args:
        card: of the model.
        dataset: with its split.
        parts: names of the parts.
        calibration: also those that it was chosen by or calibrated on, from which its weights
            learned nothing.
    """
    seen = (*card.seen, *(card.calibrated_on if calibration else ()))
    return seen_images(seen, evaluated(dataset, dataset.index["split"].isin(list(parts))))


def evaluated(dataset: Dataset, measured: pd.Series[bool]) -> Evaluated:
    """Take some rows of a dataset as the images that a model is measured on.

    Args:
        dataset: with its split.
        measured: for each row of its index, whether it is measured.
    """
    return Labels.of_dataset(dataset).evaluated(dataset.index["image"][measured])


def seen_through(through: Through, facts: Facts) -> tuple[Seen, ...]:
    """Give what a network learns to know through a model that it starts or learns from.

    Args:
        through: `weights` or `teacher`.
        facts: of the model.
    """
    found = tuple(
        of.model_copy(update={"through": through, "model": of.model or facts.identity})
        for of in facts.card.seen
    )
    if not unrecorded(facts.card) or any(not of.sources for of in found):
        return found
    blank = Seen(
        through=through,
        model=facts.identity,
        sources=(),
        synthetic=False,
        training_list_sha256="",
    )
    return (*found, blank)


def unrecorded(card: ModelCard) -> tuple[str, ...]:
    """Say of which weights behind a model it is not recorded which images they were trained on.

    Random weights, ImageNet's, and those of phantoms have seen no patient.
    """
    found: dict[str, None] = {}
    for of in card.trainings:
        initial = of.initial_weights
        recorded = any(seen.through == "weights" for seen in of.seen)
        if initial is None:
            found["The card does not say which weights the training started from"] = None
        elif initial.kind in {"file", "hub"} and not recorded:
            what = initial.repository or f"a file of SHA-256 {(initial.sha256 or '')[:12]}"
            found[f"The network started from {what}, whose training images are not recorded"] = None
        elif initial.kind == "bundle" and not recorded:
            found[f"The network started from {initial.model}, whose data sets are not recorded"] = (
                None
            )
        found |= {
            f"Of the weights behind {seen.model} the training images are not recorded": None
            for seen in of.seen
            if not seen.sources
        }
    advice = "images that are measured here may be among them (`chestxray overlap` finds copies)."
    return tuple(f"{what}: {advice}" for what in found)


def check_unseen(key: str, bundle: Path, dataset: Dataset, *, everywhere: bool = False) -> None:
    """Refuse a model that was trained on the images that a network is measured on.

    Warns where that cannot be told. Radiographs that are drawn anew for each model are nobody's:
    one that learned from them alone may start any.

    Args:
        key: of the recipe, `teacher` or `weights`, that names the model.
        bundle: its folder.
        dataset: that the network is trained on.
        everywhere: all images are measured on, as in cross-validation, not validation and test
            alone. Then a model of the same data set is refused also where its list is another one.

    Raises:
        RecipeError: it was.
        BundleError: no bundle is there.
    """
    card = model_card.read(bundle).card
    found = found_seen(card, dataset, _PARTS if everywhere else ("val", "test"))
    real = {source for of in card.seen if not of.drawn for source in of.sources}
    certain = any(of.certain for of in found)
    if certain or (everywhere and real and any(of.same_source for of in found)):
        what = (
            f"{card.trained_on.title}, whose images are tested in the folds"
            if everywhere
            else f"validation or test images of {dataset.folder}"
        )
        data = "other data" if everywhere else "the training images of this split"
        raise RecipeError(
            f"{key} = {str(bundle)!r}: {_HOW[_first(found).through]} trained on {what}, so that "
            f"all figures would be too good; give a model that was trained on {data}"
        )
    if everywhere and not real:
        return
    for of in found:
        _log.warning("%s = %s: %s", key, bundle, of.sentence)
    if everywhere and not found:
        _log.warning(
            "%s = %s was trained on radiographs of %s: if these are among those of %s, all figures "
            "are too good",
            key,
            bundle,
            " + ".join(sorted(real)),
            dataset.folder,
        )


def warn_of_public(recipe: Recipe, dataset: Dataset, *, everywhere: bool = False) -> None:
    """Warn where weights or a backbone of the hub have seen images that a network is measured on.

    Of a model that the registry does not know, nothing is said here.

    Args:
        recipe: of the network.
        dataset: that it is trained on.
        everywhere: as of `check_unseen`.
    """
    measured = dataset.index["split"].isin(_PARTS if everywhere else ("val", "test"))
    for key, pattern in (("weights", NAME), ("backbone", BACKBONE)):
        if on_hub := pattern.fullmatch(getattr(recipe, key)):
            seen = public_seen(on_hub[1], "weights")
            for of in seen_images(seen, evaluated(dataset, measured)):
                _log.warning("%s = %s: %s", key, on_hub[1], of.sentence)


def _first(found: Iterable[SeenImages]) -> SeenImages:
    """Give the worst of what was found."""
    return max(found, key=lambda of: (of.certain, of.same_source))
