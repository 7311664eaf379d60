"""What every source gives: common rows, boxes, official lists, and what is wrong with the tree.

A `Source` reads a raw tree into a `Collection`; everything after it knows only the `Collection`.

    Source.recognises(tree) → bool
    Source.read(tree, options) → Collection

A raw tree is a folder of radiographs with their tables, or a label table alone, whose rows then
have no file. No pixel is decoded here.

A label is 1 (present), 0 (absent) or NaN (unknown). A reader writes labels as its data set has
them, with `UNCERTAIN` for those that a report left open and NaN for findings that it did not
mention; `resolve` then applies the policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings

MAX_EXAMPLES: Final = 5
LEADING_COLUMNS: Final = (
    "image", "path", "patient", "study", "follow_up", "age", "sex", "view",
)  # fmt: skip
BOX_COLUMNS: Final = ("image", "finding", "x", "y", "w", "h")
MASK_COLUMNS: Final = ("image", "finding", "path")
FRONTAL: Final = frozenset({"PA", "AP", ""})  # an unknown view is taken for frontal
LATERAL: Final = "LATERAL"
_KNOWN_VIEWS: Final = frozenset({"PA", "AP", LATERAL})

Uncertain = Literal["zeros", "ones", "ignore"]
Blank = Literal["negative", "unknown"]
Readers = Literal["majority", "any", "unanimous"]
Labelers = Literal["all", "physicians"]

MISSING_IMAGE: Final = "missing-image"  # the code of a row without a file
OTHER_VIEW: Final = "other-view"  # the code of a row that `only_views` leaves out

UNCERTAIN: Final = -1.0  # a label that the report left open, before the policy


@dataclass(frozen=True)
class Problem:
    """One kind of thing that is wrong with a raw tree, with its count and a few names.

    Attributes:
        code: a stable short word for programs, such as `missing-image`.
        sentence: what is wrong and what was done about it, for people.
        count: how many times it occurs.
        examples: at most five names.
        loses: whether an image, a label or a box is left out because of it.
    """

    code: str
    sentence: str
    count: int
    examples: tuple[str, ...]
    loses: bool


def problem(code: str, names: Iterable[object], sentence: str, *, loses: bool) -> list[Problem]:
    """Give one `Problem` naming the first of `names`, or none where there are no names."""
    found = [str(name) for name in names]
    if not found:
        return []
    return [Problem(code, sentence, len(found), tuple(found[:MAX_EXAMPLES]), loses)]


@dataclass(frozen=True)
class SourceCard:
    """What is to be known of a data set.

    Attributes:
        title: such as `NIH ChestX-ray14`.
        citation: how to cite it; empty where there is nothing to cite.
        licence: one sentence on access and terms.
        access: how to get it, step by step; empty where there is nothing to get.
        label_origin: how the labels came to be, in one sentence.
        uncertain: default policy for labels that the report left open, see `ReadOptions`.
        blank: default policy for findings that a row does not mention, see `ReadOptions`.
        views: default policy for views, see `ReadOptions`.
        reasons: why these policies are the default.
        split: what the official split is.
        overlaps: titles of data sets that share images with this one, beyond those that
            `sources.overlaps` knows.
        differs: what torchxrayvision's reader of the data set does differently, rule by rule.
        synthetic: the radiographs are drawn, so no result on them is valid for patients.
        heeds: what it heeds of `ReadOptions` besides policies: `table` (a choice among several
            label tables), `columns`, `patient_per_image`, `readers`, `labelers`. Others are
            refused.
    """

    title: str
    citation: str = ""
    licence: str = ""
    access: str = ""
    label_origin: str = ""
    uncertain: Uncertain = "ignore"
    blank: Blank = "negative"
    views: str = "frontal"
    reasons: str = ""
    split: str = ""
    overlaps: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    synthetic: bool = False
    heeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadOptions:
    """What the user asks of a source; None leaves it to the source's card.

    Attributes:
        uncertain: what a label becomes that the report left open: `zeros` (absent), `ones`
            (present) or `ignore` (unknown).
        blank: what a finding becomes that a row does not mention: `negative` (absent) or `unknown`.
        views: `frontal` (PA, AP and unknown), `all`, or names with commas such as `PA,AP`.
        columns: of the source `table`: its column by our name, such as `{"image": "file"}`. Of a
            data set with several label tables: `{"table": "train_cheXbert.csv"}` chooses one.
        patient_per_image: of the source `table`: each image belongs to a different patient.
        readers: of a data set that several people read: a finding is present where more than half
            of them (`majority`, which is meant by None), at least one (`any`) or all of them
            (`unanimous`; unknown where they disagree) say so. There is no mean: a label is 1, 0 or
            unknown, not a share.
        labelers: of a data set that physicians labelled in part and a program in part: whose images
            to keep, `all` (which is meant by None) or those of `physicians`.
    """

    uncertain: Uncertain | None = None
    blank: Blank | None = None
    views: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    patient_per_image: bool = False
    readers: Readers | None = None
    labelers: Labelers | None = None


@dataclass(frozen=True)
class Collection:
    """The content of a raw tree.

    Attributes:
        name: short name of the data set, such as `nih`; the `source` of its rows in a dataset.
        card: what the data set says of itself.
        findings: those that are labelled.
        rows: an image that has both a file and a label row is one row, sorted by `image`: `image`
            (unique; the name in the label table, or a relative path where names repeat), `path` (of
            its file, absolute, str; empty where a label table was read alone), `patient` and
            `study` (str; study empty where unknown), `follow_up` (int64, orders a patient's
            images), `age` (float years, NaN where unknown), `sex` (`M`, `F`, or empty), `view`
            (`PA`, `AP`, `LATERAL`, another, or empty), then a float column per finding (1,
            0, NaN = unknown).
        boxes: `image`, `finding`, and `x`, `y`, `w`, `h` as fractions of the image's sides, with
            the origin at the top left.
        official: the data set's own lists, image names by part: `train_val` and `test`, or `train`,
            `val` and `test`; empty where there are none.
        problems: everything that could not be used as it is.
        policies: those that were applied to uncertain labels, blanks and views.
        release: of the data set, such as `v2020`; empty where there is only one.
        facts: what the reader adds for people, such as which label table it chose.
        masks: `image`, `finding` and `path` of a PNG file (absolute, str) over the whole image, 0
            outside the finding and above 0 inside; or an empty `path`, and `runs` as
            `regions.text_of_runs` writes them. `runs` may be missing where all have a file.
        patients_of: the source whose patients these are, under the same names, such as `nih`; empty
            where they are the data set's own. A patient of two sources is in one split.
        rules: how labels came to be beside the policies, in words: by finding, and under "" for all
            findings.
    """

    name: str
    card: SourceCard
    findings: Findings
    rows: pd.DataFrame
    boxes: pd.DataFrame
    official: dict[str, frozenset[str]]
    problems: tuple[Problem, ...]
    policies: dict[str, str] = field(default_factory=dict)
    release: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    masks: pd.DataFrame = field(
        default_factory=partial(pd.DataFrame, columns=list(MASK_COLUMNS), dtype=object)
    )
    patients_of: str = ""
    rules: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """A reader of the trees of one data set; stateless.

    A package adds one by an entry point of the group `chestxray.sources` that names an instance.

    Attributes:
        name: lower case, as `--source` takes it.
        card: what is to be known of the data set.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def card(self) -> SourceCard: ...  # noqa: D102

    def recognises(self, tree: Path) -> bool:
        """Tell by its content whether a folder, or a label table alone, is of this data set."""
        ...

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        """Read a tree without decoding an image; raises `SourceError`."""
        ...


def check_choice(name: str, value: str, allowed: object, note: str = "") -> None:
    """Refuse a value of `readers` or `labelers` that is none.

    Args:
        name: of the option.
        value: that was given.
        allowed: the type of the option, such as `Readers`.
        note: what to add of this value.

    Raises:
        SourceError: the value is none of the type.
    """
    if value not in get_args(allowed):
        raise SourceError(
            f"--{name} {value} is not a rule of {name}: choose one of "
            f"{', '.join(get_args(allowed))}{note}"
        )


def no_boxes() -> pd.DataFrame:
    """Give the table of boxes of a source that has none."""
    return pd.DataFrame(columns=list(BOX_COLUMNS)).astype(dict.fromkeys("xywh", float))


def policies(card: SourceCard, options: ReadOptions) -> dict[str, str]:
    """Give the policies to apply: those of the options, or else those of the card."""
    return {
        "uncertain": options.uncertain or card.uncertain,
        "blank": options.blank or card.blank,
        "views": options.views or card.views,
    }


def resolve(labels: pd.DataFrame, applied: Mapping[str, str]) -> pd.DataFrame:
    """Turn labels as a data set has them into 1, 0 and NaN.

    Args:
        labels: float [n, K]: 1 present, 0 absent, `UNCERTAIN` left open, NaN not mentioned.
        applied: `uncertain` and `blank`, as `policies` gives them.
    """
    uncertain = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}[applied["uncertain"]]
    open_ = labels == UNCERTAIN
    blank = 0.0 if applied["blank"] == "negative" else np.nan
    return labels.fillna(blank).mask(open_, uncertain)


def only_views(rows: pd.DataFrame, views: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Keep the rows whose view the policy takes, and count the others.

    Args:
        rows: with `image` and `view`.
        views: `frontal`, `all`, or names with commas.

    Raises:
        SourceError: no row is left, or a name is not a view that is known or that a row has.
    """
    if views == "all":
        return rows, []
    wanted: Iterable[str] = FRONTAL if views == "frontal" else _names(views, rows["view"])
    kept = rows["view"].isin(list(wanted))
    other = rows[~kept]
    if len(rows) and not kept.any():
        raise SourceError(
            f"--views {views} selects none of {len(rows)} images (views: {_seen(rows['view'])})"
        )
    return rows[kept].reset_index(drop=True), problem(
        OTHER_VIEW,
        other["image"] + " (" + other["view"].replace("", "view unknown") + ")",
        f"the view is not one of those that --views {views} selects: left out",
        loses=False,
    )


def one_row_per_image(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Keep one of several equal rows, and none of those that contradict each other."""
    repeated = rows.duplicated()
    problems = problem(
        "repeated-row", rows["image"][repeated], "the same row is repeated: read once", loses=False
    )
    rows = rows[~repeated]
    conflicting = rows.duplicated("image", keep=False)
    problems += problem(
        "conflicting-rows",
        rows["image"][conflicting].unique(),
        "the rows of an image contradict each other: the image is left out; keep one row per image",
        loses=True,
    )
    return rows[~conflicting], problems


def _names(views: str, there: pd.Series[str]) -> Sequence[str]:
    names = [name.strip().upper() for name in views.split(",") if name.strip()]
    unknown = sorted(set(names) - {*_KNOWN_VIEWS, *there})
    if unknown or not names:
        raise SourceError(
            f"--views {views}: {', '.join(unknown) or 'nothing'} is not a view of these images "
            f"(views: {_seen(there)}): give frontal, all, or names with commas"
        )
    return names


def _seen(views: pd.Series[str]) -> str:
    return ", ".join(sorted(set(views.replace("", "unknown"))))
