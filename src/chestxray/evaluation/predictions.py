"""The table of predictions: `Image Index`, a `prob_<Finding>` a finding, `status`, `reason`.

It is the format that other projects on ChestX-ray14 publish, so theirs are read too: columns by
name in any order, further columns ignored, `status` and `reason` not needed. `status` is `ok`, or
says that the image gave no probabilities; `reason` then says why.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import require, write_table
from chestxray.errors import PredictionsError
from chestxray.evaluation.metrics import Floats
from chestxray.findings import FINDINGS, canonical, probability_column

IMAGE: Final = "Image Index"
OK: Final = "ok"
PROBABILITIES: Final = tuple(probability_column(finding) for finding in FINDINGS)
COLUMNS: Final = (IMAGE, *PROBABILITIES, "status", "reason")


def table(images: Sequence[str], probabilities: Floats) -> pd.DataFrame:
    """Make a table of predictions in which every row is `ok`.

    Args:
        images: n names.
        probabilities: float [n, 14] in [0, 1], columns as `FINDINGS`.
    """
    result = pd.DataFrame(np.asarray(probabilities, dtype=np.float64), columns=list(PROBABILITIES))
    result.insert(0, IMAGE, list(images))
    return result.assign(status=OK, reason="")


def write(path: Path, predictions: pd.DataFrame) -> None:
    """Write a table made by `table`, after the checks that `read` makes."""
    _check(path, predictions)
    write_table(path, predictions[list(COLUMNS)])


def read(path: Path) -> pd.DataFrame:
    """Read a table of predictions.

    Returns:
        The columns of `COLUMNS`; probabilities float64 in [0, 1], NaN only where `status` is not
        `ok`. Rows in the order of the file.

    Raises:
        PredictionsError: no such table, a finding missing or twice, an image twice, a probability
            that is missing, no number, or outside [0, 1].
        ArtifactError: no such file.
    """
    require(path, "chestxray predict")
    names = _columns(path)
    try:
        raw = pd.read_csv(
            path, usecols=list(names), dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise PredictionsError(f"{path} is no CSV table: {error}") from error
    raw = raw.rename(columns=names)
    result = pd.DataFrame({IMAGE: raw[IMAGE].str.strip()})
    for column in PROBABILITIES:
        result[column] = _numbers(path, raw, column)
    result["status"] = raw.get("status", OK)
    result["reason"] = raw.get("reason", "")
    _check(path, result)
    return result


def probabilities(predictions: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Give the probabilities of a table as float64 [n, 14], columns as `FINDINGS`."""
    return predictions[list(PROBABILITIES)].to_numpy(dtype=np.float64)


def _columns(path: Path) -> dict[str, str]:
    """Map the wanted columns of the file to our names for them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise PredictionsError(f"{path} is no CSV table: {error}") from error
    named = [(column, _our_name(column)) for column in header]
    ours = [name for _, name in named if name]
    missing = [name for name in (IMAGE, *PROBABILITIES) if name not in ours]
    if missing:
        raise PredictionsError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: a table of "
            f"predictions has '{IMAGE}' and prob_<Finding> for all {len(FINDINGS)} findings, this "
            f"one has {', '.join(header)}"
        )
    twice = sorted({name for name in ours if ours.count(name) > 1})
    if twice:
        raise PredictionsError(f"{path} has two columns for {', '.join(twice)}: remove one of each")
    return {column: name for column, name in named if name}


def _our_name(column: str) -> str | None:
    column = column.strip()
    if column in {IMAGE, "status", "reason"}:
        return column
    if not column.startswith("prob_"):
        return None
    finding = canonical(column.removeprefix("prob_"))
    return probability_column(finding) if finding in FINDINGS else None


def _numbers(path: Path, raw: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    text = raw[column].to_numpy(dtype=object)
    try:
        # Python's own conversion rounds correctly, so a table survives writing and reading.
        return np.array([float(cell) if cell else np.nan for cell in text], dtype=np.float64)
    except ValueError as error:
        raise PredictionsError(f"{path}, column {column}: {error}") from error


def _check(path: Path, predictions: pd.DataFrame) -> None:
    images = predictions[IMAGE]
    if (images == "").any():
        raise PredictionsError(f"{path}: {int((images == '').sum())} rows name no image")
    twice = images[images.duplicated()]
    if len(twice):
        raise PredictionsError(
            f"{path}: {len(twice)} rows repeat an image ({examples(twice)}): keep one row an image"
        )
    ok = predictions[predictions["status"] == OK]
    values = probabilities(ok)
    for wrong, what in (
        (np.isnan(values), "have no probability"),
        (
            (values < 0) | (values > 1),
            "lie outside [0, 1], which looks like logits: apply a sigmoid",
        ),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise PredictionsError(
                f"{path}: {int(wrong.sum())} values {what} (first: {ok[IMAGE].iloc[row]}, "
                f"{PROBABILITIES[column]} = {values[row, column]:g})"
            )


def examples(names: Sequence[str] | pd.Series) -> str:
    """Name at most three, and tell that there are more."""
    shown = ", ".join(list(names)[:3])
    return f"{shown}, …" if len(names) > 3 else shown
