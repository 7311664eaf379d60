"""The labels that predictions are evaluated against, and the pairing of both by name.

Labels come from a prepared dataset or from a label table alone. A dataset knows the split that each
image belongs to, and boxes. A label table has no boxes, and knows the splits where official lists
are beside it. Where they are known, only the test split is evaluated unless another is named.

Findings are matched by meaning, through the vocabulary. Images are matched by their full name; a
plain file name also matches the one label whose path ends in it.
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
from chestxray.evaluation.predictions import Predictions, counted
from chestxray.findings import Findings
from chestxray.sources.collection import Problem, ReadOptions

OFFICIAL: Final = "official"
"""The name of a split by a data set's own lists."""

_UNKNOWN_SPLIT: Final = "unknown"
_TEST: Final = "test"
_TRAIN_VAL: Final = "train_val"


@dataclass(frozen=True)
class Labels:
    """Labels by image name.

    Attributes:
        source: where they come from, for people.
        synthetic: whether any of the radiographs are drawn.
        release: of the data set; empty where unknown.
        findings: that are labelled.
        rows: indexed by image name: `patient`, `follow_up`, `age`, `sex`, `view`, `split`, and one
            float column per finding (1, 0, NaN = unknown). From a dataset also `width`, `height`.
            `split` is `train`, `val` or `test`; from a label table `train_val` or `test` by the
            official lists beside it, `unknown` without them.
        boxes: `image`, `finding`, and `x`, `y`, `w`, `h` as fractions; None from a label table.
        split_sha256: of the dataset's split; None from a label table.
        split_name: `official`, `patient`, or of the user's list; None where no split is known.
        problems: rows of a label table that could not be used; a dataset reports its own when it
            is prepared.
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
    def read(
        cls, path: str | Path, source: str | None = None, options: ReadOptions | None = None
    ) -> Labels:
        """Open a dataset folder, or read a label table and the official lists beside it.

        Args:
            path: a prepared dataset, a label table, or a raw tree.
            source: name of the source of a table or tree; recognised by its content when None.
            options: what is asked of the source.

        Raises:
            ArtifactError: a folder that is not a finished dataset.
            SourceError: not a label table, or lists that share an image or a patient.
        """
        path = Path(path)
        if (path / MANIFEST).exists() or (path / UNFINISHED).exists():
            return cls.of_dataset(Dataset.open(path))
        read = sources.read(path, source, options)
        rows = read.rows.set_index("image")
        rows = rows.assign(split=_parts(path, rows, read.official))
        return cls(
            source=path.name,
            synthetic=read.card.synthetic,
            release=read.release,
            findings=read.findings,
            rows=rows,
            boxes=None,
            split_name=OFFICIAL if (rows["split"] != _UNKNOWN_SPLIT).any() else None,
            problems=read.problems,
        )

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> Labels:
        """Take the labels of a prepared dataset."""
        about = dataset.manifest
        return cls(
            source=about.title,
            synthetic=about.synthetic,
            release=about.release,
            findings=about.findings,
            rows=dataset.index.set_index("image"),
            boxes=dataset.boxes,
            split_sha256=about.split.sha256,
            split_name=about.split.name,
        )

    @classmethod
    def of(cls, labels: Labels | Dataset | Path | str) -> Labels:
        """Take labels in any of the forms that `evaluate` accepts; see `read` for the errors."""
        if isinstance(labels, Labels):
            return labels
        return cls.of_dataset(labels) if isinstance(labels, Dataset) else cls.read(Path(labels))


def _parts(
    table: Path, rows: pd.DataFrame, official: Mapping[str, frozenset[str]]
) -> pd.Series[str]:
    """Give the split of each row by the data set's own lists; `unknown` without them."""
    parts = pd.Series(_UNKNOWN_SPLIT, index=rows.index, name="split")
    for part, names in official.items():
        here = rows.index.isin(list(names))
        both = here & (parts != _UNKNOWN_SPLIT).to_numpy()
        if both.any():
            raise SourceError(
                f"the official lists beside {table} share {counted(int(both.sum()), 'image')} "
                f"({predictions.examples(list(rows.index[both]))}): download the lists again"
            )
        parts[here] = part
    known = parts != _UNKNOWN_SPLIT
    check(rows[known], parts[known])
    return parts


@dataclass(frozen=True)
class Pairs:
    """Predictions with their labels, row by row; only images that have probabilities.

    Attributes:
        images: n names, as the labels have them.
        findings: the K that predictions and labels have in common, as the predictions name them
            and in their order.
        probabilities: float64 [n, K].
        labels: float64 [n, K], 1, 0, NaN = unknown.
        patients: int64 [n].
        split: which split all of them belong to.
        positions: int64 [n], the rows of the table of predictions.
        predicted: all findings of the table of predictions.
        left_out: each finding that only one side has, with the reason.
        failed: rows without probabilities, left out here.
        unpredicted: labelled images of the same split without a prediction.
        about: n rows: `age` float years and `follow_up` float, NaN where unknown; `sex` and `view`,
            empty where unknown.
        matched_by_file_name: images whose predicted name is only the last component of the label's
            path, or the reverse.
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
    matched_by_file_name: int = 0


def pair(source: Path | Predictions, truth: Labels, split: str | None = None) -> Pairs:
    """Read a table of predictions and pair it with the labels.

    Args:
        source: the table, or its file.
        truth: the labels.
        split: which split the predictions must be of, `test` by default. It names the split where
            `truth` does not know it; `train` and `val` are accepted within `train_val`.

    Raises:
        PredictionsError: a table that `predictions.read` refuses, images without labels or with
            ambiguous names, no finding in common, nothing to evaluate, several splits mixed, or
            another split than `split`.
    """
    name = "the table of predictions" if isinstance(source, Predictions) else str(source)
    read = (
        predictions.checked(source)
        if isinstance(source, Predictions)
        else (predictions.read(source))
    )
    table = read.rows
    common = read.findings.common(truth.findings)
    if not common:
        raise PredictionsError(
            f"{name} predicts {', '.join(read.findings)}, but the labels are of "
            f"{', '.join(truth.findings)}: they have no finding in common; give labels of the "
            f"same findings"
        )
    places, by_file_name = _places(name, table[predictions.IMAGE], truth.rows.index)
    positions = np.flatnonzero(table["status"].to_numpy() == predictions.OK)
    if not len(positions):
        raise PredictionsError(
            f"{name}: none of {counted(len(table), 'row')} has status ok, so there is nothing to "
            f"evaluate: "
            f"see their reasons and predict again"
        )
    rows = truth.rows.iloc[places[positions]]
    found = _one_split(name, rows["split"], split)
    same_part = (truth.rows["split"] == rows["split"].iloc[0]).to_numpy()
    ours, theirs = (list(of) for of in zip(*common, strict=True))
    labels = rows[[truth.findings[place] for place in theirs]]
    return Pairs(
        images=rows.index.to_numpy(dtype=object),
        findings=Findings(read.findings[place] for place in ours),
        probabilities=read.probabilities[positions][:, ours],
        labels=labels.to_numpy(dtype=np.float64),
        # Numbered over all labels, so that the patients of two tables can be compared.
        patients=np.unique(truth.rows["patient"], return_inverse=True)[1][places[positions]],
        split=found,
        positions=positions,
        predicted=read.findings,
        left_out=_left_out(read.findings, truth.findings),
        failed=len(table) - len(positions),
        unpredicted=int(same_part.sum()) - int(same_part[places].sum()),
        about=_about(rows),
        matched_by_file_name=by_file_name,
    )


def match_names(
    names: pd.Index[str], keys: pd.Index[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Find image names among keys by the whole name, else by file name where one has no path.

    A name that no key equals matches the key with the same last component, if the name or the key
    is that component alone and no other name or key has it.

    Args:
        names: n unique names.
        keys: unique names.

    Returns:
        Position of each name's key, int64 [n], -1 without a match; and whether a name has none
        because it is ambiguous, bool [n].
    """
    places = keys.get_indexer(names).astype(np.int64)
    ambiguous = np.zeros(len(names), dtype=np.bool_)
    rest = np.flatnonzero(places < 0)
    if not len(rest):
        return places, ambiguous
    plain_names, plain_keys = _last_components(names[rest]), _last_components(keys)
    order = pd.Series(np.arange(len(keys)), index=plain_keys)
    once = order[~plain_keys.duplicated(keep=False)]
    repeated = plain_names.duplicated(keep=False) | plain_names.isin(
        plain_keys[plain_keys.duplicated()]
    )
    found = once.reindex(plain_names).fillna(-1).to_numpy().astype(np.int64)
    plain = (plain_names == names[rest]) | plain_names.isin(keys[keys == plain_keys])
    taken = np.isin(found, places[places >= 0])
    ambiguous[rest] = plain & plain_names.isin(plain_keys) & (repeated | taken)
    places[rest] = np.where(plain & ~ambiguous[rest], found, -1)
    return places, ambiguous


def _last_components(names: pd.Index[str]) -> pd.Index[str]:
    return pd.Index([name.rsplit("/", 1)[-1] for name in names], dtype=object)


def _places(
    table: str, names: pd.Series[str], keys: pd.Index[str]
) -> tuple[npt.NDArray[np.int64], int]:
    """Find the labels of each image; also give how many were matched by their file name."""
    images = pd.Index(names)
    places, ambiguous = match_names(images, keys)
    if ambiguous.any():
        unclear = images[ambiguous]
        same = keys[_last_components(keys) == _last_components(unclear)[0]]
        raise PredictionsError(
            f"{table}: of {counted(len(images), 'image name')}, {len(unclear)} ambiguous "
            f"({unclear[0]} could be {predictions.examples(list(same))}): write the names as the "
            f"labels have them"
        )
    missing = images[places < 0]
    if len(missing):
        raise PredictionsError(
            f"{table}: no labels for {len(missing)} of {counted(len(images), 'image')} "
            f"({predictions.examples(list(missing))}; the labels name images like {keys[0]}): give "
            f"the labels of this data set"
        )
    return places, int((keys[places] != images).sum())


def _left_out(predicted: Findings, labelled: Findings) -> dict[str, str]:
    """Say of each finding that only one side has why it is not evaluated."""
    unlabelled = {name: "not labelled" for name in predicted if labelled.place(name) is None}
    return unlabelled | {
        name: "not predicted" for name in labelled if predicted.place(name) is None
    }


def _about(rows: pd.DataFrame) -> pd.DataFrame:
    """Give what subgroups are formed by; labels need not have it."""
    about = pd.DataFrame(
        {name: rows.get(name, np.nan) for name in ("age", "follow_up")}, rows.index
    )
    about = about.astype(np.float64)
    for name in ("sex", "view"):
        about[name] = rows.get(name, "")
    return about.reset_index(drop=True)


def _one_split(table: str, splits: pd.Series[str], wanted: str | None) -> str:
    counts = splits.value_counts()
    if len(counts) > 1:
        mixed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise PredictionsError(
            f"{table} mixes the splits of the labels ({mixed}): evaluate one split at a time"
        )
    found = str(counts.index[0])
    if found == _UNKNOWN_SPLIT:
        return wanted or _UNKNOWN_SPLIT
    if wanted is None and found != _TEST:
        raise PredictionsError(
            f"{table} contains predictions of the split {found!r}, not of 'test': if this is "
            f"intended, give --split {found}"
        )
    within = {found, "train", "val"} if found == _TRAIN_VAL else {found}
    if wanted is not None and wanted not in within:
        raise PredictionsError(
            f"{table} contains predictions of the split {found!r}, not of {wanted!r}: give the "
            f"predictions of {wanted!r}, or --split {found}"
        )
    return wanted or found
