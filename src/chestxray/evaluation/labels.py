"""The truth that predictions are held against: a prepared dataset, or a bare NIH label table.

A dataset knows which part each image belongs to, and boxes. A bare table has no boxes, and knows
the parts where the official lists lie beside it. Where the parts are known, the test part alone is
evaluated unless another is asked for by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.dataset.split import check
from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError, SourceError
from chestxray.evaluation import predictions
from chestxray.findings import FINDINGS
from chestxray.sources import nih
from chestxray.sources.collection import Problem, problem
from chestxray.sources.tables import lines, stem

UNKNOWN_SPLIT: Final = "unknown"
TEST: Final = "test"
TRAIN_VAL: Final = "train_val"
OFFICIAL: Final = "official"

_LISTS: Final = {TRAIN_VAL: "train_val_list.txt", TEST: "test_list.txt"}


@dataclass(frozen=True)
class Labels:
    """Labels by image name.

    Attributes:
        source: where they come from, for people.
        generation: of the label table.
        rows: indexed by image name: `patient`, `follow_up`, `age`, `sex`, `view`, `split`, and a
            float column a finding (1, 0, NaN = unknown). From a dataset also `width`, `height`.
            `split` is `train`, `val` or `test`; from a bare table `train_val` or `test` by the
            official lists beside it, `unknown` without them.
        boxes: `image`, `finding`, and `x`, `y`, `w`, `h` as fractions; None from a bare table.
        split_sha256: of the dataset's split; None from a bare table.
        split_name: `official`, `patient`, or of the user's list; None where no parts are known.
        problems: what did not fit in a bare table; a dataset told its own when it was prepared.
    """

    source: str
    generation: str
    rows: pd.DataFrame
    boxes: pd.DataFrame | None
    split_sha256: str | None = None
    split_name: str | None = None
    problems: tuple[Problem, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Open a dataset folder, or read a label table and the official lists beside it.

        Raises:
            ArtifactError: a folder that is no finished dataset.
            SourceError: a file that is no label table, or lists that share an image or a patient.
        """
        if path.is_dir():
            dataset = Dataset.open(path)
            about, rows = dataset.manifest, dataset.index.set_index("image")
            split = about.split
            return cls(
                about.source, about.generation, rows, dataset.boxes, split.sha256, split.name
            )
        table = nih.read_labels(path)
        rows = table.rows.set_index("image")
        parts, problems = _parts(path, rows)
        name = OFFICIAL if (parts != UNKNOWN_SPLIT).any() else None
        problems = [*table.problems, *problems]
        rows = rows.assign(split=parts)
        return cls(
            path.name, table.generation, rows, None, split_name=name, problems=tuple(problems)
        )


def _parts(table: Path, rows: pd.DataFrame) -> tuple[pd.Series[str], list[Problem]]:
    """Give the part of each row by the lists beside the table; without both, none is known."""
    beside = {
        part: path
        for part, name in _LISTS.items()
        for path in (table.with_name(name), table.with_name(f"{name}.gz"))
        if path.exists()
    }
    parts = pd.Series(UNKNOWN_SPLIT, index=rows.index, name="split")
    if len(beside) < len(_LISTS):
        sentence = "the other official list does not lie beside it: the parts stay unknown"
        return parts, problem("one-official-list", beside.values(), sentence, loses=False)
    images = [stem(image) for image in rows.index]
    listed = {}
    for part, path in beside.items():
        names = {stem(name) for name in lines(path)}
        listed[part] = np.array([image in names for image in images])
    both = listed[TEST] & listed[TRAIN_VAL]
    if both.any():
        raise SourceError(
            f"{int(both.sum())} images stand in both official lists beside {table} "
            f"({predictions.examples(list(rows.index[both]))}): fetch the lists again"
        )
    known = listed[TEST] | listed[TRAIN_VAL]
    told = np.where(listed[TEST], TEST, np.where(known, TRAIN_VAL, UNKNOWN_SPLIT))
    parts = pd.Series(told.tolist(), index=rows.index, name="split")
    check(rows[known], parts[known])
    sentence = "the image stands in neither official list: its part is unknown"
    return parts, problem("not-in-lists", rows.index[~known], sentence, loses=False)


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
        about: n rows: `age` float years and `follow_up` float, NaN where unknown; `sex` and `view`,
            empty where unknown.
    """

    images: npt.NDArray[np.object_]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]
    split: str
    positions: npt.NDArray[np.int64]
    failed: int
    unpredicted: int
    about: pd.DataFrame


def pair(path: Path, truth: Labels, split: str | None = None) -> Pairs:
    """Read a table of predictions and lay the labels beside it.

    Args:
        path: the table.
        truth: the labels.
        split: the part that the predictions must be of, `test` where None. It names the part where
            `truth` does not know it; `train` and `val` are believed within `train_val`.

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
        about=_about(rows),
    )


def _about(rows: pd.DataFrame) -> pd.DataFrame:
    """Give what subgroups are told by; labels need not have it."""
    about = pd.DataFrame(
        {name: rows.get(name, np.nan) for name in ("age", "follow_up")}, rows.index
    )
    about = about.astype(np.float64)
    for name in ("sex", "view"):
        about[name] = rows.get(name, "")
    return about.reset_index(drop=True)


def _one_split(path: Path, splits: pd.Series, wanted: str | None) -> str:
    counts = splits.value_counts()
    if len(counts) > 1:
        mixed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise PredictionsError(
            f"{path} mixes the parts of the labels ({mixed}): evaluate one part at a time"
        )
    found = str(counts.index[0])
    if found == UNKNOWN_SPLIT:
        return wanted or UNKNOWN_SPLIT
    if wanted is None and found != TEST:
        raise PredictionsError(
            f"{path} holds predictions of part {found!r}, not of 'test': if this is meant, "
            f"type --split {found}"
        )
    within = {found, "train", "val"} if found == TRAIN_VAL else {found}
    if wanted is not None and wanted not in within:
        raise PredictionsError(f"{path} holds predictions of part {found!r}, not of {wanted!r}")
    return wanted or found
