"""What every source gives: common rows, boxes, official lists, and what is wrong with the tree.

No pixels here, and no place of origin: a `Source` reads a raw tree into a `Collection`, and
everything after it knows only this.

    Source.recognises(tree) → bool
    Source.read(tree, options) → Collection

A raw tree is a folder of radiographs with their tables, or a label table alone, whose rows then
have no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import pandas as pd

from chestxray.findings import Findings

MAX_EXAMPLES: Final = 5
LEADING_COLUMNS: Final = (
    "image", "path", "patient", "study", "follow_up", "age", "sex", "view",
)  # fmt: skip
BOX_COLUMNS: Final = ("image", "finding", "x", "y", "w", "h")
FRONTAL: Final = frozenset({"PA", "AP", ""})  # a view that is not known is taken for frontal
LATERAL: Final = "LATERAL"

Uncertain = Literal["zeros", "ones", "ignore"]
Blank = Literal["negative", "unknown"]

UNCERTAIN: Final = -1.0  # how a reader writes a label that the report left open, before the policy


@dataclass(frozen=True)
class Problem:
    """One kind of thing that is wrong with a source, with its count and a few names.

    Attributes:
        code: a stable short word for programs, such as `missing-image`.
        sentence: what it is and what was done about it, for people.
        count: how many times it occurs.
        examples: at most five names.
        loses: True where an image, a label or a box is left out because of it, so that it would
            be lost silently were it not for this line.
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
    """What a data set says of itself; one a source.

    Attributes:
        title: such as `NIH ChestX-ray14`.
        citation: how to cite it; empty where there is nothing to cite.
        licence: one sentence on access and terms.
        label_origin: how the labels came to be, in one sentence.
        uncertain: default policy for labels that the report left open.
        blank: default policy for findings that a row does not mention.
        views: default policy for views, see `ReadOptions`.
        overlaps: names of data sets that hold images of this one.
        synthetic: the radiographs are drawn, so nothing measured on them speaks of patients.
    """

    title: str
    citation: str = ""
    licence: str = ""
    label_origin: str = ""
    uncertain: Uncertain = "ignore"
    blank: Blank = "negative"
    views: str = "frontal"
    overlaps: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True)
class ReadOptions:
    """What the user asks of a source; None leaves it to the source's card.

    Attributes:
        uncertain: what an uncertain label (-1) becomes: absent, present, or unknown.
        blank: what a finding becomes that a row does not mention: absent or unknown.
        views: `frontal`, `all`, or names with commas such as `PA,AP`.
        columns: for a table of one's own, its column by our name: `{"image": "file", …}`.
        patient_per_image: for a table without patients: each image is its own patient.
    """

    uncertain: Uncertain | None = None
    blank: Blank | None = None
    views: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    patient_per_image: bool = False


@dataclass(frozen=True)
class Collection:
    """A raw tree, understood.

    Attributes:
        name: short name of the data set, such as `nih`; the `source` of its rows in a dataset.
        card: what the data set says of itself.
        findings: that its labels speak of.
        rows: an image that has both a file and a label row is one row, sorted by `image`: `image`
            (unique; the name in the label table, or a relative path where names repeat), `path` (of
            its file, absolute, str; empty where a label table was read alone), `patient` and
            `study` (str; study empty where unknown), `follow_up` (int64, orders a patient's
            images), `age` (float years, NaN where unknown), `sex` (`M`, `F`, or empty), `view`
            (`PA`, `AP`, `LATERAL`, another, or empty), then a float column a finding (1, 0,
            NaN = unknown).
        boxes: `image`, `finding`, and `x`, `y`, `w`, `h` as fractions of the image's sides, with
            the origin at the top left.
        official: the data set's own lists, image names by part: `train_val` and `test`, or `train`,
            `val` and `test`; empty where there are none.
        problems: everything that did not fit.
        policies: what was done with uncertain labels, blanks and views: the options that were
            asked for, or else the card's.
        release: of the data set, such as `v2020`; empty where there is but one.
        facts: what the reader wants said in addition, such as which label table it chose.
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


class Source(Protocol):
    """A reader of one data set's trees; stateless.

    A package adds one by an entry point of the group `chestxray.sources` that names an instance.

    Attributes:
        name: lower case, as `--source` takes it.
        card: what the data set says of itself.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def card(self) -> SourceCard: ...  # noqa: D102

    def recognises(self, tree: Path) -> bool:
        """Tell by its content whether a folder, or a label table alone, is of this data set."""
        ...

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        """Understand a tree without decoding an image; raises `SourceError`."""
        ...


def no_boxes() -> pd.DataFrame:
    """Give the table of boxes of a source that has none."""
    return pd.DataFrame(columns=list(BOX_COLUMNS)).astype(dict.fromkeys("xywh", float))


def policies(card: SourceCard, options: ReadOptions) -> dict[str, str]:
    """Give the policies to apply: what was asked for, or else the card's."""
    return {
        "uncertain": options.uncertain or card.uncertain,
        "blank": options.blank or card.blank,
        "views": options.views or card.views,
    }


def resolve(labels: pd.DataFrame, applied: Mapping[str, str]) -> pd.DataFrame:
    """Turn labels as a data set writes them into 1, 0 and NaN.

    Args:
        labels: float, 1 present, 0 absent, `UNCERTAIN` for left open, NaN for not mentioned.
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
    """
    if views == "all":
        return rows, []
    wanted: Iterable[str] = FRONTAL if views == "frontal" else _names(views)
    kept = rows["view"].isin(list(wanted))
    other = rows[~kept]
    return rows[kept].reset_index(drop=True), problem(
        "other-view",
        other["image"] + " (" + other["view"].replace("", "view unknown") + ")",
        f"the view is none of those taken (--views {views}): left out",
        loses=False,
    )


def _names(views: str) -> Sequence[str]:
    return [name.strip().upper() for name in views.split(",") if name.strip()]
