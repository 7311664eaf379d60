"""What every source gives: common rows, boxes, official lists, and what is wrong with the tree.

No pixels here, and no place of origin: a reader such as `sources.nih.read` fills a `Collection`,
and everything after it knows only this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

import pandas as pd

from chestxray.findings import FINDINGS

MAX_EXAMPLES: Final = 5
ROW_COLUMNS: Final[tuple[str, ...]] = (
    "image", "path", "patient", "follow_up", "age", "sex", "view", *FINDINGS,
)  # fmt: skip
BOX_COLUMNS: Final[tuple[str, ...]] = ("image", "finding", "x", "y", "w", "h")

Generation = Literal["2017", "v2020", "unknown"]


# What `Collection.source` says of phantoms, so that nothing takes them for patients.
SYNTHETIC: Final = "phantoms"


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
class Collection:
    """A raw tree, understood.

    Attributes:
        source: the data set's name, such as `NIH ChestX-ray14`.
        generation: of the label table: `2017`, `v2020`, or `unknown` where its content can't tell.
        rows: an image that has both a file and a label row is one row, sorted by `image`: `image`
            (the name in the label table), `path` (of its file, absolute, str), `patient` (int64),
            `follow_up` (int64, orders a patient's images), `age` (float years, NaN where
            impossible), `sex` (`M`, `F`, or empty), `view` (`PA`, `AP`, or empty), then a float
            column a finding (1, 0, NaN = unknown).
        boxes: `image`, `finding`, and `x`, `y`, `w`, `h` as fractions of the image's sides, with
            the origin at the top left.
        official: the official lists as `{"train_val": names, "test": names}` where both lie in
            the tree, else empty.
        problems: everything that did not fit.
        facts: what the reader wants said in addition, such as which label table it chose.
    """

    source: str
    generation: Generation
    rows: pd.DataFrame
    boxes: pd.DataFrame
    official: dict[str, frozenset[str]]
    problems: tuple[Problem, ...]
    facts: dict[str, str] = field(default_factory=dict)
