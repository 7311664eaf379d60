"""The truth that predictions are held against: a prepared dataset, or a bare NIH label table.

A dataset knows which part each image belongs to, and boxes; a bare table knows neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError
from chestxray.evaluation import predictions
from chestxray.findings import FINDINGS
from chestxray.sources import nih
from chestxray.sources.collection import Problem

UNKNOWN_SPLIT: Final = "unknown"


@dataclass(frozen=True)
class Labels:
    """Labels by image name.

    Attributes:
        source: where they come from, for people.
        generation: of the label table.
        rows: indexed by image name: `patient`, `split` (`unknown` from a bare table), and a float
            column a finding (1, 0, NaN = unknown). From a dataset also `width` and `height`.
        boxes: `image`, `finding`, and `x`, `y`, `w`, `h` as fractions; None from a bare table.
        split_sha256: of the dataset's split; None from a bare table.
        problems: what did not fit in a bare table; a dataset told its own when it was prepared.
    """

    source: str
    generation: str
    rows: pd.DataFrame
    boxes: pd.DataFrame | None
    split_sha256: str | None = None
    problems: tuple[Problem, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Open a dataset folder, or read a label table.

        Raises:
            ArtifactError: a folder that is no finished dataset.
            SourceError: a file that is no label table.
        """
        if path.is_dir():
            dataset = Dataset.open(path)
            rows = dataset.index.set_index("image")
            about = dataset.manifest
            return cls(about.source, about.generation, rows, dataset.boxes, about.split.sha256)
        table = nih.read_labels(path)
        rows = table.rows.set_index("image").assign(split=UNKNOWN_SPLIT)
        return cls(path.name, table.generation, rows, None, problems=table.problems)


@dataclass(frozen=True)
class Pairs:
    """Predictions beside their labels, row by row; only images that were read.

    Attributes:
        images: n names.
        probabilities: float64 [n, 14], columns as `FINDINGS`.
        labels: float64 [n, 14], 1, 0, NaN = unknown.
        patients: int64 [n].
        split: the part all of them belong to.
        positions: int64 [n], the rows of the table of predictions.
        failed: rows that gave no probabilities, left out here.
        unpredicted: labelled images of the same part without a prediction.
    """

    images: npt.NDArray[np.object_]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]
    split: str
    positions: npt.NDArray[np.int64]
    failed: int
    unpredicted: int


def pair(path: Path, truth: Labels, split: str | None = None) -> Pairs:
    """Read a table of predictions and lay the labels beside it.

    Args:
        path: the table.
        truth: the labels.
        split: the part that the predictions must be of; names it where `truth` does not know it.

    Raises:
        PredictionsError: a table that `predictions.read` refuses, images without labels, nothing
            to evaluate, several parts mixed, or another part than `split`.
    """
    table = predictions.read(path)
    places = truth.rows.index.get_indexer(pd.Index(table[predictions.IMAGE]))
    unlabelled = table[predictions.IMAGE][places < 0]
    if len(unlabelled):
        raise PredictionsError(
            f"{path}: {len(unlabelled)} of {len(table)} images have no labels "
            f"({predictions.examples(unlabelled)}): give the labels of this data set to --labels"
        )
    positions = np.flatnonzero(table["status"].to_numpy() == predictions.OK)
    if not len(positions):
        raise PredictionsError(f"{path}: none of {len(table)} rows has status ok")
    ok, rows = table.iloc[positions], truth.rows.iloc[places[positions]]
    found = _one_split(path, rows["split"], split)
    same_part = (truth.rows["split"] == rows["split"].iloc[0]).to_numpy()
    return Pairs(
        images=ok[predictions.IMAGE].to_numpy(dtype=object),
        probabilities=predictions.probabilities(ok),
        labels=rows[list(FINDINGS)].to_numpy(dtype=np.float64),
        patients=rows["patient"].to_numpy(dtype=np.int64),
        split=found,
        positions=positions,
        failed=len(table) - len(ok),
        unpredicted=int(same_part.sum()) - int(same_part[places].sum()),
    )


def _one_split(path: Path, splits: pd.Series, wanted: str | None) -> str:
    counts = splits.value_counts()
    if len(counts) > 1:
        mixed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise PredictionsError(
            f"{path} mixes the parts of the dataset ({mixed}): predict one part with --split"
        )
    found = str(counts.index[0])
    if found == UNKNOWN_SPLIT:
        return wanted or UNKNOWN_SPLIT
    if wanted not in {None, found}:
        raise PredictionsError(f"{path} holds predictions of part {found!r}, not of {wanted!r}")
    return found
