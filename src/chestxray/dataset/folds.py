"""Folds of a prepared dataset for cross-validation: every image is tested once.

Patients are dealt into folds of about equal size, so that every finding is distributed as the
patients are (`split.draw`). Each fold is the test part once; an eighth of the other patients, drawn
likewise, is its validation part. The split that the dataset was prepared with plays no role.

The index does not record which patients of several sources are the same person. Patients who share
a radiograph, equal or altered, are found by their packed images and stay in one fold, as `prepare`
keeps them in one part.
"""

from __future__ import annotations

import hashlib
from typing import Final

import pandas as pd

from chestxray.dataset.combine import duplicates
from chestxray.dataset.copies import within_dataset
from chestxray.dataset.split import draw
from chestxray.dataset.store import Dataset
from chestxray.errors import TrainingError

_REST: Final = {"train": 0.875, "val": 0.125}


def folds(dataset: Dataset, count: int, seed: int = 0) -> pd.DataFrame:
    """Deal the patients of a dataset into folds.

    Args:
        dataset: all of its images.
        count: of folds, at least 2.
        seed: of the draw.

    Returns:
        One row per image, over the index of `dataset.index`: `image`, `patient`, `group` (equal for
        patients who share a radiograph) and `fold`, from 1 to `count`.

    Raises:
        TrainingError: fewer than 2 folds, or fewer groups of patients than folds.
    """
    rows = dataset.index
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in dataset.images]
    altered = within_dataset(dataset)
    groups = duplicates(rows, hashes, rows["source"].unique(), altered).groups
    if not 2 <= count <= groups.nunique():
        raise TrainingError(
            f"{dataset.folder} has {groups.nunique()} patients, who cannot be dealt into {count} "
            f"folds: give at least 2 folds and at most as many as patients"
        )
    shares = {str(fold): 1 / count for fold in range(1, count + 1)}
    fold = draw(rows.assign(patient=groups), dataset.findings, shares, seed).astype(int)
    return rows[["image", "patient"]].assign(group=groups, fold=fold)


def fold_of(dataset: Dataset, dealt: pd.DataFrame, fold: int, seed: int) -> Dataset:
    """Give the dataset whose test part is one fold.

    Args:
        dataset: that the folds were dealt from.
        dealt: by `folds`.
        fold: from 1 to their number.
        seed: draws the validation part from the other folds.
    """
    parts = pd.Series("test", index=dealt.index, name="split")
    rest = dealt["fold"] != fold
    rows = dataset.index.assign(patient=dealt["group"])[rest]
    parts[rest] = draw(rows, dataset.findings, _REST, seed)
    return dataset.with_split(parts, f"fold {fold} of {dealt['fold'].max()}", seed)
