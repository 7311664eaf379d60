"""The labels that predictions are evaluated against, and the pairing of both by name.

Labels come from a prepared dataset or from a label table alone. A dataset knows the split that each
image belongs to, and boxes. A label table has no boxes, and knows the splits where official lists
are beside it. Where they are known, only the test split is evaluated unless another is named.

Findings are matched by meaning, through the vocabulary. Images are matched by their full name, else
by the end of their path where one name alone ends so (`match_names`). Predictions without labels
are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from chestxray import sources
from chestxray.dataset.remote import is_dataset
from chestxray.dataset.shards import Shards
from chestxray.dataset.split import check
from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError, SourceError
from chestxray.evaluation import predictions
from chestxray.evaluation.prediction_columns import column_store
from chestxray.evaluation.predictions import Predictions, counted, probability_columns
from chestxray.evaluation.seen_images import Evaluated
from chestxray.findings import Findings
from chestxray.sources.collection import Problem, ReadOptions
from chestxray.storage import mirrored, path_of

OFFICIAL: Final = "official"
"""The name of a split by a data set's own lists."""

_UNKNOWN_SPLIT: Final = "unknown"
_TEST: Final = "test"
_TRAIN_VAL: Final = "train_val"
_ABOUT: Final = ("age", "follow_up", "sex", "view", "source")
_NONE: Final = -1  # no key
_SEVERAL: Final = -2  # keys, and no way to tell which


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
        images: packed, image i of row i; None from a label table.
        sources: names of the data sets.
        patients_of: of each data set whose patients are those of another one, that one.
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
    images: Shards | None = None
    sources: tuple[str, ...] = ()
    patients_of: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls, path: str | Path, source: str | None = None, options: ReadOptions | None = None
    ) -> Labels:
        """Open a dataset folder, or read a label table and the official lists beside it.

        Args:
            path: path or URL of a prepared dataset, a label table, or a raw tree.
            source: name of the source of a table or tree; recognised by its content when None.
            options: what is asked of the source.

        Raises:
            ArtifactError: a folder that is not a finished dataset.
            SourceError: not a label table, lists that share an image or a patient, or a source or
                options for a dataset.
        """
        path = path_of(path)
        if is_dataset(path):
            if source is not None or (options or ReadOptions()) != ReadOptions():
                raise SourceError(
                    f"{path} is a prepared dataset: --source and the reading options apply to "
                    f"label tables, not to a prepared dataset; leave them out"
                )
            return cls.of_dataset(Dataset.open(path))
        path = mirrored(path)
        read = sources.read(path, source, options)
        rows = read.rows.set_index("image")
        rows = rows.assign(split=_parts(path, rows, read.official))
        return cls(
            source=read.card.title,
            synthetic=read.card.synthetic,
            release=read.release,
            findings=read.findings,
            rows=rows,
            boxes=None,
            split_name=OFFICIAL if (rows["split"] != _UNKNOWN_SPLIT).any() else None,
            problems=read.problems,
            sources=(read.name,),
            patients_of={read.name: read.patients_of} if read.patients_of else {},
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
            images=dataset.images,
            sources=tuple(dict.fromkeys(source.name for source in about.sources)),
            patients_of={of.name: of.patients_of for of in about.sources if of.patients_of},
        )

    @classmethod
    def of(cls, labels: Labels | Dataset | Path | str) -> Labels:
        """Take labels in any of the forms that `evaluate` accepts; see `read` for the errors."""
        if isinstance(labels, Labels):
            return labels
        return cls.of_dataset(labels) if isinstance(labels, Dataset) else cls.read(Path(labels))

    def evaluated(self, images: Iterable[str]) -> Evaluated:
        """Take some images, by name, as those that a model is measured on."""
        return Evaluated.of(self.rows, self.sources, images, self.patients_of)


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
        unlabelled: rows with probabilities whose image has no labels, left out here.
        unpredicted: labelled images of the same split without a prediction.
        about: n rows: `age` float years and `follow_up` float, NaN where unknown; `sex`, `view` and
            `source`, empty where unknown.
        matched_by_file_name: images whose predicted name is only the end of the label's path, or
            the reverse.
        called: bool [n, K], the model's own calls; None where the table has none.
        not_assessed: findings that the model never calls, as the table says.
        models: identities of the models that made the table; empty where it names none.
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
    unlabelled: int = 0
    called: npt.NDArray[np.bool_] | None = None
    not_assessed: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()

    def only(self, kept: npt.NDArray[np.bool_]) -> Pairs:
        """Give some of the rows; the counts of what is left out before stay."""
        return replace(
            self,
            images=self.images[kept],
            probabilities=self.probabilities[kept],
            labels=self.labels[kept],
            patients=self.patients[kept],
            positions=self.positions[kept],
            about=self.about[kept].reset_index(drop=True),
            called=None if self.called is None else self.called[kept],
        )

    def restricted(
        self, images: npt.NDArray[np.object_], places: list[int], findings: Findings
    ) -> Pairs:
        """Keep some images and findings.

        Args:
            images: of these, sorted.
            places: of the findings.
            findings: their names from here on.
        """
        _, rows, _ = np.intersect1d(self.images, images, assume_unique=True, return_indices=True)
        return replace(
            self,
            images=self.images[rows],
            findings=findings,
            probabilities=self.probabilities[rows][:, places],
            labels=self.labels[rows][:, places],
            patients=self.patients[rows],
            positions=self.positions[rows],
            about=self.about.iloc[rows],
            called=None if self.called is None else self.called[rows][:, places],
        )


def pair(
    source: Path | Predictions,
    truth: Labels,
    split: str | None = None,
    unlabelled: str = "give the labels of this data set",
) -> Pairs:
    """Read a table of predictions and pair it with the labels.

    Args:
        source: the table, or its file.
        truth: the labels.
        split: which split the predictions must be of, `test` by default. It names the split where
            `truth` does not know it; `train` and `val` are accepted within `train_val`.
        unlabelled: what to do next where more than half of the images have no labels.

    Raises:
        PredictionsError: a table that `predictions.read` refuses, more than half of the images
            without labels, ambiguous names, no finding in common, nothing to evaluate, several
            splits mixed, or another split than `split`.
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
    ok = (table["status"] == predictions.OK).to_numpy()
    if not ok.any():
        raise PredictionsError(
            f"{name}: none of {counted(len(table), 'row')} has status ok, so there is nothing to "
            f"evaluate: "
            f"see their reasons and predict again"
        )
    images = pd.Index(table[predictions.IMAGE])
    places = _places(name, images, truth.rows.index)
    labelled = places >= 0
    _check_labelled(name, images[ok], images[ok & ~labelled], truth.rows.index, unlabelled)
    positions = np.flatnonzero(ok & labelled)
    at = places[positions]
    splits = truth.rows["split"]
    found = _one_split(name, splits.iloc[at], split)
    same_part = (splits == splits.iloc[at[0]]).to_numpy()
    ours, theirs = (list(of) for of in zip(*common, strict=True))
    named = truth.rows.index[at]
    return Pairs(
        images=named.to_numpy(dtype=object),
        findings=Findings(read.findings[place] for place in ours),
        probabilities=_columns(table, probability_columns(read.findings), ours, positions),
        labels=_columns(truth.rows, truth.findings, theirs, at),
        # Numbered over all labels, so that the patients of two tables can be compared.
        patients=pd.factorize(truth.rows["patient"], sort=True)[0][at],
        split=found,
        positions=positions,
        predicted=read.findings,
        left_out=_left_out(read.findings, truth.findings),
        failed=int((~ok).sum()),
        unpredicted=int(same_part.sum()) - int(same_part[places[labelled]].sum()),
        about=about_images(truth.rows[truth.rows.columns.intersection([*_ABOUT])].iloc[at]),
        matched_by_file_name=int((named != images[positions]).sum()),
        unlabelled=int((ok & ~labelled).sum()),
        called=None if read.called is None else read.called[positions][:, ours],
        not_assessed=read.not_assessed,
        models=read.models,
    )


def _columns(
    table: pd.DataFrame, names: Sequence[str], places: Sequence[int], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Take some rows of some columns, one after the other: together, they may not fit twice."""
    taken = column_store(len(rows), len(places))
    for k, place in enumerate(places):
        taken[:, k] = table[names[place]].to_numpy(dtype=np.float64)[rows]
    return taken


def match_names(
    names: pd.Index[str], keys: pd.Index[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Find image names among keys by the whole name, else by the end of the path.

    A name that no key equals matches the one key that ends in it, or that it ends in itself:
    `P0/1.png` and `images/P0/1.png` are the same image, and `P1/1.png` is another. The longest end
    decides, and only if no second key has it and no second name matches the key.

    Args:
        names: n unique names.
        keys: unique names.

    Returns:
        Position of each name's key, int64 [n], -1 without a match; and whether a name has none
        because it is ambiguous, bool [n].
    """
    places = _equal(names, keys)
    rest = np.flatnonzero(places == _NONE)
    if len(rest):
        whole, by_end = set(keys), _by_end(keys)
        places[rest] = [_ends_alike(name, by_end, whole) for name in names[rest]]
    matches = np.bincount(places[places >= 0], minlength=len(keys))
    found = rest[places[rest] >= 0]
    places[found[matches[places[found]] > 1]] = _SEVERAL
    ambiguous = places == _SEVERAL
    places[ambiguous] = _NONE
    return places, ambiguous


def _equal(names: pd.Index[str], keys: pd.Index[str]) -> npt.NDArray[np.int64]:
    """Give the position of each name among the keys, `_NONE` where it is none of them.

    Arrow compares text without an object for each.
    """
    texts = (pa.array(of, pa.large_string(), from_pandas=True) for of in (names, keys))
    found = pc.index_in(*texts)
    return np.asarray(pc.fill_null(found, _NONE)).astype(np.int64)


def _ends(name: str) -> Iterator[str]:
    """Give `a/b/c.png`, `b/c.png` and `c.png` of the first."""
    while name:
        yield name
        name = name.partition("/")[2]


def _by_end(keys: pd.Index[str]) -> dict[str, int]:
    """Give the position of the key with each end of a path, `_SEVERAL` where keys share it."""
    found: dict[str, int] = {}
    for place, name in enumerate(keys):
        for end in _ends(name):
            found[end] = _SEVERAL if end in found else place
    return found


def _ends_alike(name: str, by_end: Mapping[str, int], whole: AbstractSet[str]) -> int:
    """Give the position of the key that ends in a name or that the name ends in."""
    end = next((end for end in _ends(name) if end in by_end), None)
    if end is None or (end != name and end not in whole):
        return _NONE
    return by_end[end]


def _places(table: str, images: pd.Index[str], keys: pd.Index[str]) -> npt.NDArray[np.int64]:
    """Find the labels of each image, -1 without; refuse ambiguous names."""
    places, ambiguous = match_names(images, keys)
    if ambiguous.any():
        unclear = images[ambiguous]
        plain = unclear[0].rpartition("/")[2]
        same = [key for key in keys if key.rpartition("/")[2] == plain]
        raise PredictionsError(
            f"{table}: of {counted(len(images), 'image name')}, {len(unclear)} ambiguous "
            f"({unclear[0]} could be {predictions.examples(same)}): write the names as the "
            f"labels have them"
        )
    return places


def _check_labelled(
    table: str, images: pd.Index[str], missing: pd.Index[str], keys: pd.Index[str], advice: str
) -> None:
    """Refuse predictions of which more than half have no labels: they are of other images."""
    if 2 * len(missing) > len(images):
        raise PredictionsError(
            f"{table}: no labels for {len(missing)} of {counted(len(images), 'image')} "
            f"({predictions.examples(list(missing))}; the labels name images like {keys[0]}), and "
            f"at least half need them: {advice}"
        )


def _left_out(predicted: Findings, labelled: Findings) -> dict[str, str]:
    """Say of each finding that only one side has why it is not evaluated."""
    unlabelled = {name: "not labelled" for name in predicted if labelled.place(name) is None}
    return unlabelled | {
        name: "not predicted" for name in labelled if predicted.place(name) is None
    }


def about_images(rows: pd.DataFrame) -> pd.DataFrame:
    """Give age, follow-up, sex, view and source, see `Pairs.about`; labels need not have them."""
    about = pd.DataFrame(
        {name: rows.get(name, np.nan) for name in ("age", "follow_up")}, rows.index
    )
    about = about.astype(np.float64)
    for name in ("sex", "view", "source"):
        about[name] = rows.get(name, "")
    return about.reset_index(drop=True)


def _one_split(table: str, splits: pd.Series[str], wanted: str | None) -> str:
    counts = splits.value_counts()
    if len(counts) > 1:
        mixed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise PredictionsError(
            f"{table} mixes the splits of the labels ({mixed}): evaluate the images of one split "
            f"at a time, such as those that `chestxray predict BUNDLE DATASET --split test` reads"
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
