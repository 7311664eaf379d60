"""The truth that predictions are held against: a prepared dataset, or a bare NIH label table.

A dataset knows which part each image belongs to, and boxes. A bare table has no boxes, and knows
the parts where the official lists lie beside it. Where the parts are known, the test part alone is
evaluated unless another is asked for by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray import sources
from chestxray.dataset.split import check
from chestxray.dataset.store import MANIFEST, UNFINISHED, Dataset
from chestxray.errors import PredictionsError, SourceError
from chestxray.evaluation import predictions
from chestxray.findings import Findings
from chestxray.sources.collection import Problem

UNKNOWN_SPLIT: Final = "unknown"
TEST: Final = "test"
TRAIN_VAL: Final = "train_val"
OFFICIAL: Final = "official"


@dataclass(frozen=True)
class Labels:
    """Labels by image name.

    Attributes:
        source: where they come from, for people.
        synthetic: whether any of the radiographs are drawn.
        release: of the data set; empty where it is not known.
        findings: that the labels speak of.
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
    synthetic: bool
    release: str
    findings: Findings
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
        if (path / MANIFEST).exists() or (path / UNFINISHED).exists():
            dataset = Dataset.open(path)
            about, rows = dataset.manifest, dataset.index.set_index("image")
            return cls(
                source=about.title,
                synthetic=about.synthetic,
                release=about.release,
                findings=about.findings,
                rows=rows,
                boxes=dataset.boxes,
                split_sha256=about.split.sha256,
                split_name=about.split.name,
            )
        read = sources.read(path)
        rows = read.rows.set_index("image")
        rows = rows.assign(split=_parts(path, rows, read.official))
        return cls(
            source=path.name,
            synthetic=read.card.synthetic,
            release=read.release,
            findings=read.findings,
            rows=rows,
            boxes=None,
            split_name=OFFICIAL if (rows["split"] != UNKNOWN_SPLIT).any() else None,
            problems=read.problems,
        )


def _parts(
    table: Path, rows: pd.DataFrame, official: Mapping[str, frozenset[str]]
) -> pd.Series[str]:
    """Give the part of each row by the data set's own lists; without them, none is known."""
    parts = pd.Series(UNKNOWN_SPLIT, index=rows.index, name="split")
    for part, names in official.items():
        here = rows.index.isin(list(names))
        both = here & (parts != UNKNOWN_SPLIT).to_numpy()
        if both.any():
            raise SourceError(
                f"{int(both.sum())} images stand in both official lists beside {table} "
                f"({predictions.examples(list(rows.index[both]))}): fetch the lists again"
            )
        parts[here] = part
    known = parts != UNKNOWN_SPLIT
    check(rows[known], parts[known])
    return parts


@dataclass(frozen=True)
class Pairs:
    """Predictions beside their labels, row by row; only images that were read.

    Attributes:
        images: n names.
        findings: the K that predictions and labels have in common, as the predictions name them
            and in their order.
        probabilities: float64 [n, K].
        labels: float64 [n, K], 1, 0, NaN = unknown.
        patients: int64 [n].
        split: the part all of them belong to.
        positions: int64 [n], the rows of the table of predictions.
        predicted: all findings of the table of predictions.
        left_out: each finding that only one side has, with the reason.
        failed: rows that gave no probabilities, left out here.
        unpredicted: labelled images of the same part without a prediction.
        about: n rows: `age` float years and `follow_up` float, NaN where unknown; `sex` and `view`,
            empty where unknown.
    """

    images: npt.NDArray[np.object_]
    findings: Findings
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]
    split: str
    positions: npt.NDArray[np.int64]
    predicted: Findings
    left_out: dict[str, str]
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
    read = predictions.read(path)
    table = read.rows
    common = read.findings.common(truth.findings)
    if not common:
        raise PredictionsError(
            f"{path} predicts {', '.join(read.findings)}, the labels speak of "
            f"{', '.join(truth.findings)}: no finding in common, give the labels that belong to it"
        )
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
    ours, theirs = zip(*common, strict=True)
    labels = rows[[truth.findings[place] for place in theirs]]
    return Pairs(
        images=ok[predictions.IMAGE].to_numpy(dtype=object),
        findings=Findings(read.findings[place] for place in ours),
        probabilities=read.probabilities[positions][:, list(ours)],
        labels=labels.to_numpy(dtype=np.float64),
        # Numbered over all labels, so that the patients of two tables can be compared.
        patients=np.unique(truth.rows["patient"], return_inverse=True)[1][places[positions]],
        split=found,
        positions=positions,
        predicted=read.findings,
        left_out=_left_out(read.findings, truth.findings),
        failed=len(table) - len(ok),
        unpredicted=int(same_part.sum()) - int(same_part[places].sum()),
        about=_about(rows),
    )


def _left_out(predicted: Findings, labelled: Findings) -> dict[str, str]:
    """Say of each finding that only one side has why it is not evaluated."""
    return {
        **{
            name: "the labels do not speak of it"
            for name in predicted
            if labelled.place(name) is None
        },
        **{name: "it is not predicted" for name in labelled if predicted.place(name) is None},
    }


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
