"""The table of predictions: `Image Index`, a `prob_<Finding>` a finding, `status`, `reason`.

It is the format that other projects on ChestX-ray14 publish, so theirs are read too: columns by
name in any order, further columns ignored, `status` and `reason` not needed. `status` is `ok`, or
says that the image gave no probabilities; `reason` then says why. Nothing else is left out: what
is not a probability is refused, with what it looks like.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import require, write_table
from chestxray.errors import PredictionsError
from chestxray.evaluation.calibration_error import Floats
from chestxray.findings import FINDINGS, canonical, probability_column

IMAGE: Final = "Image Index"
OK: Final = "ok"
PROBABILITIES: Final = tuple(probability_column(finding) for finding in FINDINGS)
FEW: Final = 0.05  # of all values: fewer outside [0, 1] are strays, more are another scale
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
    """Read a table of predictions, plain or gzipped.

    Returns:
        The columns of `COLUMNS`; probabilities float64 in [0, 1], NaN only where `status` is not
        `ok`. Rows in the order of the file.

    Raises:
        PredictionsError: no CSV table, no rows, a row longer or shorter than the header, a finding
            missing or twice, an image twice, a probability that is missing, no number, or outside
            [0, 1].
        ArtifactError: no such file.
    """
    require(path, "chestxray predict")
    header, *rows = _rows(path)
    places = _places(path, header)
    if not rows:
        raise PredictionsError(f"{path} has a header but no rows: predict its images again")
    text = {name: [row[place] for row in rows] for name, place in places.items()}
    text[IMAGE] = [name.strip() for name in text[IMAGE]]
    blank = [""] * len(rows)
    # A row without a status claims to be good, so that nothing missing in it goes by unseen.
    status = [word.strip() or OK for word in text.get("status", blank)]
    numbers = {column: _numbers(path, column, text) for column in PROBABILITIES}
    reason = text.get("reason", blank)
    result = pd.DataFrame({IMAGE: text[IMAGE], **numbers, "status": status, "reason": reason})
    _check(path, result)
    return result


def is_table(path: Path) -> bool:
    """Say whether a file's header is that of a table of predictions, whatever stands below it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            _places(path, next(csv.reader(file), []))
    except (PredictionsError, UnicodeDecodeError, csv.Error):
        return False
    return True


def probabilities(predictions: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Give the probabilities of a table as float64 [n, 14], columns as `FINDINGS`."""
    return predictions[list(PROBABILITIES)].to_numpy(dtype=np.float64)


def _rows(path: Path) -> list[list[str]]:
    """Read the header and all rows, each as long as the header."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise PredictionsError(f"{path} is no CSV table: {error}") from error
    width = len(rows[0][1]) if rows else 0
    for line, row in rows:
        if len(row) < width or any(row[width:]):
            raise PredictionsError(
                f"{path}, line {line}: {len(row)} values under {width} titles, so the file was cut "
                f"short or a comma is not quoted: write it again"
            )
    return [row for _, row in rows] or [[]]


def _places(path: Path, header: list[str]) -> dict[str, int]:
    """Map our names to the places of their columns."""
    ours = [_our_name(column) for column in header]
    missing = [name for name in (IMAGE, *PROBABILITIES) if name not in ours]
    if missing:
        raise PredictionsError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: a table of "
            f"predictions has '{IMAGE}' and prob_<Finding> for all {len(FINDINGS)} findings, this "
            f"one has {', '.join(header) or 'none'}"
        )
    twice = sorted({name for name in ours if name and ours.count(name) > 1})
    if twice:
        raise PredictionsError(f"{path} has two columns for {', '.join(twice)}: remove one of each")
    return {name: place for place, name in enumerate(ours) if name}


def _our_name(column: str) -> str | None:
    column = column.strip()
    if column in {IMAGE, "status", "reason"}:
        return column
    if not column.startswith("prob_"):
        return None
    finding = canonical(column.removeprefix("prob_"))
    return probability_column(finding) if finding in FINDINGS else None


def _numbers(path: Path, column: str, text: dict[str, list[str]]) -> npt.NDArray[np.float64]:
    cells = text[column]
    try:
        # Python's own conversion rounds correctly, so a table survives writing and reading.
        return np.array([float(cell) if cell else np.nan for cell in cells], dtype=np.float64)
    except ValueError:
        row = next(row for row, cell in enumerate(cells) if cell and not _is_number(cell))
        raise PredictionsError(
            f"{path}: {cells[row]!r} is no number ({text[IMAGE][row]}, {column}): write "
            f"probabilities as 0.25"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


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
    for wrong, sentence in (
        (np.isnan(values), "have no probability: predict these images, or set their status"),
        (np.isinf(values), "are infinite: correct them, or set the status of these rows"),
        ((values < 0) | (values > 1), _outside(values)),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise PredictionsError(
                f"{path}: {int(wrong.sum())} of {wrong.size} values {sentence} "
                f"(first: {ok[IMAGE].iloc[row]}, {PROBABILITIES[column]} = {values[row, column]:g})"
            )


def _outside(values: npt.NDArray[np.float64]) -> str:
    """Say what values outside [0, 1] look like, and what to do about it."""
    outside = (values < 0) | (values > 1)
    if outside.sum() < FEW * outside.size:
        return "lie outside [0, 1], the others inside: correct these, or set their rows' status"
    if (values < 0).any():
        return "lie outside [0, 1], some below 0, which looks like logits: apply a sigmoid"
    if (values <= 100).all():
        return "lie between 1 and 100, none below 0, which looks like percentages: divide by 100"
    return "lie outside [0, 1], which no probability does: give probabilities"


def examples(names: Sequence[str] | pd.Series) -> str:
    """Name at most three, and tell that there are more."""
    shown = ", ".join(list(names)[:3])
    return f"{shown}, …" if len(names) > 3 else shown
