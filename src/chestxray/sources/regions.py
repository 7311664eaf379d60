"""Boxes in pixels → fractions of the image's sides."""

from __future__ import annotations

from typing import Final

import pandas as pd

from chestxray.sources.collection import BOX_COLUMNS, Problem, problem

_SLACK: Final = 1.0  # pixels by which rounding may push a box out of the frame; cut off


def fractions(boxes: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Turn boxes into fractions; leave out those that are empty or not inside their image.

    Args:
        boxes: `image`, `finding`; `x`, `y`, `w`, `h` in pixels with the origin at the top left;
            `width` and `height` of the image in pixels. NaN where a value is not known.

    Returns:
        Boxes as `Collection.boxes` has them, each once, and what was left out.
    """
    boxes = boxes.drop_duplicates()
    sides = boxes["width"].isna() | boxes["height"].isna()
    problems = problem(
        "box-without-size",
        boxes["image"][sides].unique(),
        "the size of the image is not known, since it has no file: its boxes are left out",
        loses=False,
    )
    boxes = boxes[~sides]
    right, bottom = boxes["x"] + boxes["w"], boxes["y"] + boxes["h"]
    good = (
        (boxes["w"] > 0) & (boxes["h"] > 0) & (boxes["x"] >= -_SLACK) & (boxes["y"] >= -_SLACK)
        & (right <= boxes["width"] + _SLACK) & (bottom <= boxes["height"] + _SLACK)
    )  # fmt: skip
    problems += problem(
        "bad-box",
        boxes["image"][~good],
        "a box is empty, incomplete or not inside its image: left out",
        loses=True,
    )
    kept = boxes[good]
    left, top = kept["x"].clip(lower=0), kept["y"].clip(lower=0)
    found = kept.assign(
        x=left / kept["width"],
        y=top / kept["height"],
        w=(right[good].clip(upper=kept["width"]) - left) / kept["width"],
        h=(bottom[good].clip(upper=kept["height"]) - top) / kept["height"],
    )
    return found[list(BOX_COLUMNS)].reset_index(drop=True), problems
