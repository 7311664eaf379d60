"""A builder of a small tree for each layout of each shipped source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import label_set_trees
import public_trees
import small_trees
from public_trees import Film

Builder = Callable[[Path, Sequence[Film]], Path]


def _with_regions(root: Path, made: Sequence[Film]) -> Path:
    return label_set_trees.chexlocalize(public_trees.chexpert(root, made), made)


BUILDERS: Final[dict[str, Builder]] = {
    "nih": label_set_trees.nih,
    "chexpert": public_trees.chexpert,
    "chexpert/CheXlocalize": _with_regions,
    "mimic": public_trees.mimic,
    "padchest": public_trees.padchest,
    "rsna": public_trees.rsna,
    "rsna/RSNA": label_set_trees.rsna_release,
    "siim": public_trees.siim,
    "vindr": public_trees.vindr,
    "vindr/Kaggle": public_trees.vindr_kaggle,
    "nih-google": label_set_trees.google,
    "nih-lt": label_set_trees.nih_lt,
    "nih-lt/2022": label_set_trees.nih_lt_2022,
    "mimic-lt": label_set_trees.mimic_lt,
    "mimic-lt/CXR-LT 2023": partial(label_set_trees.cxr_lt, year=2023),
    "mimic-lt/CXR-LT 2024": label_set_trees.cxr_lt,
    "brax": label_set_trees.brax,
    "brax/DICOM": partial(label_set_trees.brax, form="dcm"),
    "chexpert-plus": label_set_trees.chexpert_plus,
    "chexpert-plus/DICOM": partial(label_set_trees.chexpert_plus, form="dcm"),
    "shenzhen": small_trees.shenzhen,
    "montgomery": small_trees.montgomery,
    "chestxdet": small_trees.chestxdet,
    "chestxdet10": small_trees.chestxdet10,
    "openi": small_trees.openi,
    "openi/DICOM": partial(small_trees.openi, as_dicom=True),
    "openi/Kaggle": small_trees.openi_kaggle,
    "jsrt": small_trees.jsrt,
    "table": public_trees.own_table,
}
"""By the name of the source, or that and the layout."""
