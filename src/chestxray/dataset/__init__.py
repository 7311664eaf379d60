"""Radiographs and labels as a prepared dataset: split by patient, decoded once, packed in shards.

`prepare` makes a dataset from raw trees, `verify` checks a raw tree or a dataset, and
`Dataset.open` opens one. Names are loaded when they are first used: the processes that only decode
files start without pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.dataset.copies import SharedImages, overlap
    from chestxray.dataset.label_counts import LabelCount, label_counts
    from chestxray.dataset.manifest import Manifest
    from chestxray.dataset.masks import Masks
    from chestxray.dataset.preparation import prepare
    from chestxray.dataset.radiograph import Radiograph
    from chestxray.dataset.store import Dataset
    from chestxray.dataset.verification import DatasetVerdict, Verdict, verify

__all__ = [
    "Dataset",
    "DatasetVerdict",
    "LabelCount",
    "Manifest",
    "Masks",
    "Radiograph",
    "SharedImages",
    "Verdict",
    "label_counts",
    "overlap",
    "prepare",
    "verify",
]

__getattr__ = exports(
    __name__,
    {
        "copies": ("SharedImages", "overlap"),
        "label_counts": ("LabelCount", "label_counts"),
        "manifest": ("Manifest",),
        "masks": ("Masks",),
        "preparation": ("prepare",),
        "radiograph": ("Radiograph",),
        "store": ("Dataset",),
        "verification": ("DatasetVerdict", "Verdict", "verify"),
    },
)
