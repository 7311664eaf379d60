"""Regions of findings: boxes in pixels → fractions of the sides, masks as runs of pixels."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.sources.collection import BOX_COLUMNS, Problem, problem

SLACK: Final = 1.0
"""Pixels by which rounding may push a box out of the frame; cut off."""

MOST_PIXELS: Final = 80_000_000
"""Pixels of a mask, as of a radiograph."""


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
        (boxes["w"] > 0) & (boxes["h"] > 0) & (boxes["x"] >= -SLACK) & (boxes["y"] >= -SLACK)
        & (right <= boxes["width"] + SLACK) & (bottom <= boxes["height"] + SLACK)
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


Runs = npt.NDArray[np.int64]
"""Runs of pixels inside a mask, [n, 2]: start and length, down the columns from the left."""


def runs_from_offsets(text: str, height: int, width: int) -> Runs | None:
    """Read runs whose starts count from the end of the run before them.

    Args:
        text: whole numbers, offset and length by turns.
        height: of the mask, pixels.
        width: of the mask, pixels.

    Returns:
        The runs; None where the text is not such a list, or a run leaves the mask.
    """
    words = text.split()
    if not words or len(words) % 2 or not all(word.isascii() and word.isdigit() for word in words):
        return None
    if max(map(len, words)) > len(str(height * width)):
        return None
    numbers = np.array(words, dtype=np.int64).reshape(-1, 2)
    ends = np.cumsum(numbers.sum(axis=1))
    if (numbers[:, 1] == 0).any() or ends[-1] > height * width:
        return None
    return np.column_stack([ends - numbers[:, 1], numbers[:, 1]])


def runs_from_coco(counts: object, height: int, width: int) -> Runs | None:
    """Read the run lengths of COCO: outside and inside by turns, down the columns from the left.

    Args:
        counts: text as the COCO API compresses it (`rleToString`: 5 bits a character above 48, the
            sixth for more to come; from the third on the difference to the last but one), or a list
            of lengths.
        height: of the mask, pixels.
        width: of the mask, pixels.

    Returns:
        The runs inside, none for an empty mask; None where the counts do not fill the mask.
    """
    if not 0 < height * width <= MOST_PIXELS:
        return None
    lengths = _coco_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(n) is int and n >= 0 for n in lengths):
        return None
    if not lengths or sum(lengths) != height * width:  # of Python, which does not overflow
        return None
    numbers = np.array(lengths, dtype=np.int64)
    ends = np.cumsum(numbers)
    runs = np.column_stack([ends - numbers, numbers])[1::2]
    return runs[runs[:, 1] > 0]


def _coco_lengths(text: str) -> list[int] | None:
    """Read compressed run lengths; None where the text is not such."""
    lengths: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths if shift == 0 else None


def runs_of_mask(mask: npt.NDArray[np.bool_]) -> Runs:
    """Give the runs of a mask, bool [h, w]."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.column_stack([edges[::2], edges[1::2] - edges[::2]]).astype(np.int64)


def text_of_runs(runs: Runs, height: int, width: int) -> str:
    """Write runs as `Collection.masks` has them: `1024x1024 120 3 …`, see `mask_of_runs`."""
    return f"{height}x{width} " + " ".join(map(str, runs.ravel()))


def mask_of_runs(text: str) -> npt.NDArray[np.bool_]:
    """Give the mask, bool [h, w], that `text_of_runs` wrote.

    Raises:
        ValueError: another text, or a run leaves the mask.
    """
    size, _, rest = text.partition(" ")
    height, width = (int(side) for side in size.split("x"))
    words = [int(word) for word in rest.split()]
    most = height * width
    if not 0 < most <= MOST_PIXELS or not all(0 <= word <= most for word in words):
        raise ValueError(f"runs outside a mask of {size} pixels")
    runs = np.array(words, dtype=np.int64).reshape(-1, 2)
    ends = runs.sum(axis=1)
    if (ends > most).any():
        raise ValueError(f"runs outside a mask of {size} pixels")
    change = np.zeros(height * width + 1, dtype=np.int64)
    np.add.at(change, runs[:, 0], 1)
    np.add.at(change, ends, -1)
    return (np.cumsum(change[:-1]) > 0).reshape(width, height).T


def box_of_runs(runs: Runs, height: int) -> tuple[int, int, int, int]:
    """Give the smallest box around runs: x, y, w, h in pixels."""
    first, last = runs[:, 0], runs.sum(axis=1) - 1
    whole = first // height != last // height  # a run that goes on in the next column
    top = np.where(whole, 0, first % height).min()
    bottom = np.where(whole, height - 1, last % height).max()
    left, right = (first // height).min(), (last // height).max()
    return int(left), int(top), int(right - left + 1), int(bottom - top + 1)
