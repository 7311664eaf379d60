"""The images on which a graph of lower precision is compared with float32.

Validation images come first, whose labels decide whether the ranking is harmed. Training images and
phantoms need none: they show how far a probability moves. All are drawn the same each time.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.dataset.pixels import canonical
from chestxray.dataset.store import Dataset
from chestxray.findings import Findings
from chestxray.model.engines import Images
from chestxray.model.parity import FEWEST_IMAGES, Trial
from chestxray.sources.phantom.population import population
from chestxray.sources.phantom.render import render

MOST: Final = (1024, 256)
"""Images of validation and of training, at most."""
_PHANTOM_PIXELS: Final = 256


def phantoms(count: int, size: int) -> Images:
    """Draw phantoms, the same each time, as canonical images uint8 [count, S, S]."""
    drawn = (
        canonical(render(exam, max(size, _PHANTOM_PIXELS)).image, size)
        for exam in islice(population(count, balanced=True), count)
    )
    return np.stack(list(drawn)) if count else np.empty((0, size, size), np.uint8)


def trial_of(
    dataset: Dataset, findings: Findings, most: tuple[int, int] = MOST, drawn: bool = True
) -> Trial:
    """Choose the images of a dataset on which a graph of lower precision is compared.

    Args:
        dataset: of the model's size, with a validation split.
        findings: K of the model; one that the dataset lacks has no labels.
        most: images of validation and of training, at most.
        drawn: whether phantoms make up for what is missing of `FEWEST_IMAGES`.

    Returns:
        Validation images with their labels, then training images, then phantoms.
    """
    splits = zip(("val", "train"), most, strict=True)
    val, train = (_some(dataset.rows(split), count) for split, count in splits)
    size = dataset.images.shape[1]
    missing = max(FEWEST_IMAGES - len(val) - len(train), 0) if drawn else 0
    labels = np.full((len(val), len(findings)), np.nan, np.float32)
    of = dataset.labels(val)
    for ours, theirs in findings.common(dataset.findings):
        labels[:, ours] = of[:, theirs]
    parts = [dataset.images[val], dataset.images[train], phantoms(missing, size)]
    name = f"{len(val)} validation and {len(train)} training images of {dataset.manifest.title}"
    if missing:
        name += f" and {missing} phantoms"
    patients = dataset.index["patient"].iloc[val].to_numpy()
    return Trial(name, np.concatenate(parts), labels, patients)


def _some(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Give at most so many rows, drawn at random, the same each time."""
    drawn = np.random.default_rng(0).permutation(rows)[:most]
    return np.sort(drawn)
