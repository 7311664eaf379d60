"""NIH's box table (984 boxes on 880 images) → fractions of the image's sides.

Rows are read by position, because the header `Bbox [x,y,w,h]` is itself cut at its commas. The
boxes are in the 1024-pixel frame of the published images, with the origin at the top left. As
fractions they are valid for resized copies too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import canonical
from chestxray.sources.collection import BOX_COLUMNS, Problem, problem
from chestxray.sources.nih.label_table import FINDINGS
from chestxray.sources.table_files import cells, header, key

_FRAME: Final = 1024.0  # pixels
_SLACK: Final = 0.5  # pixels by which rounding may push a box out of the frame; cut off


@dataclass(frozen=True)
class BoxTable:
    """The content of a box table.

    Attributes:
        rows: as `Collection.boxes`, sorted by image and finding.
        problems: everything in it that could not be used as it is.
    """

    rows: pd.DataFrame
    problems: tuple[Problem, ...]


def is_box_table(path: Path) -> bool:
    """Tell whether a CSV's header is that of a box table."""
    titles = [key(title) for title in header(path)]
    return titles[:2] == ["imageindex", "findinglabel"] and any("bbox" in name for name in titles)


def read_boxes(table: Path) -> BoxTable:
    """Read a box table, `.csv` or `.csv.gz`, with or without the spare commas.

    Raises:
        SourceError: not a box table.
    """
    if not is_box_table(table):
        raise SourceError(
            f"{table} is not an NIH box table: its header must begin with "
            "Image Index,Finding Label,Bbox [x,y,w,h]"
        )
    text = cells(table)
    if text.shape[1] < len(BOX_COLUMNS):
        raise SourceError(f"{table}: a box needs six columns, this table has {text.shape[1]}")
    text = text[list(range(len(BOX_COLUMNS)))].set_axis(list(BOX_COLUMNS), axis=1)
    finding = text["finding"].map(canonical)
    known = finding.isin(FINDINGS)
    problems = problem(
        "unknown-box-finding",
        (text["image"] + " (" + text["finding"] + ")")[~known],
        "a box names none of the 14 findings: left out",
        loses=True,
    )
    text = text.assign(finding=finding)[known]
    sides = text[["x", "y", "w", "h"]].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    inside = _inside(sides)
    problems += problem(
        "box-out-of-frame",
        text["image"][~inside],
        "a box is not inside the 1024 × 1024 frame, or is empty: left out",
        loses=True,
    )
    rows = pd.concat([text[["image", "finding"]], _fractions(sides)], axis=1)[inside]
    repeated = rows.duplicated()
    problems += problem(
        "repeated-box",
        rows["image"][repeated],
        "the same box is listed twice: read once",
        loses=False,
    )
    rows = rows[~repeated].sort_values(list(BOX_COLUMNS), ignore_index=True)
    return BoxTable(rows, tuple(problems))


def _inside(sides: pd.DataFrame) -> pd.Series:
    low = (sides["x"] >= -_SLACK) & (sides["y"] >= -_SLACK)
    high = (sides["x"] + sides["w"] <= _FRAME + _SLACK) & (
        sides["y"] + sides["h"] <= _FRAME + _SLACK
    )
    return low & high & (sides["w"] > 0) & (sides["h"] > 0)


def _fractions(sides: pd.DataFrame) -> pd.DataFrame:
    left, top = sides["x"].clip(lower=0.0), sides["y"].clip(lower=0.0)
    right = (sides["x"] + sides["w"]).clip(upper=_FRAME)
    bottom = (sides["y"] + sides["h"]).clip(upper=_FRAME)
    corners = {"x": left, "y": top, "w": right - left, "h": bottom - top}
    return pd.DataFrame(corners) / _FRAME
