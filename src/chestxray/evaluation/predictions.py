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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import require, write_table
from chestxray.errors import FindingsError, PredictionsError
from chestxray.evaluation.calibration_error import Floats
from chestxray.findings import Findings, probability_column

IMAGE: Final = "Image Index"
OK: Final = "ok"
FEW: Final = 0.05  # of all values: fewer outside [0, 1] are strays, more are another scale
_PREFIX: Final = probability_column("")


@dataclass(frozen=True)
class Predictions:
    """A table of predictions.

    Attributes:
        findings: the K that it has a column of, in the order of the file.
        rows: `Image Index`, a `prob_<Finding>` each, `status`, `reason`; in the order of the file.
    """

    findings: Findings
    rows: pd.DataFrame

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Give float64 [n, K] in [0, 1], NaN only where `status` is not `ok`."""
        return self.rows[list(probability_columns(self.findings))].to_numpy(dtype=np.float64)


def probability_columns(findings: Findings) -> tuple[str, ...]:
    """Name the columns of findings, such as `prob_Effusion`."""
    return tuple(probability_column(finding) for finding in findings)


def columns(findings: Findings) -> tuple[str, ...]:
    """Name the columns of a table of predictions that every reader knows, in their order."""
    return (IMAGE, *probability_columns(findings), "status", "reason")


def table(images: Sequence[str], probabilities: Floats, findings: Findings) -> Predictions:
    """Make a table of predictions in which every row is `ok`.

    Args:
        images: n names.
        probabilities: float [n, K] in [0, 1].
        findings: of the columns.
    """
    names = list(probability_columns(findings))
    rows = pd.DataFrame(np.asarray(probabilities, dtype=np.float64), columns=names)
    rows.insert(0, IMAGE, list(images))
    return Predictions(findings, rows.assign(status=OK, reason=""))


def write(path: Path, predictions: Predictions) -> None:
    """Write a table, after the checks that `read` makes."""
    _check(path, predictions)
    write_table(path, predictions.rows[list(columns(predictions.findings))])


def read(path: Path) -> Predictions:
    """Read a table of predictions, plain or gzipped.

    Raises:
        PredictionsError: no CSV table, no rows, a row longer or shorter than the header, no finding
            or one twice, an image twice, a probability that is missing, no number, or outside
            [0, 1].
        ArtifactError: no such file.
    """
    require(path, "chestxray predict")
    header, *rows = _rows(path)
    findings, places = _places(path, header)
    if not rows:
        raise PredictionsError(f"{path} has a header but no rows: predict its images again")
    text = {name: [row[place] for row in rows] for name, place in places.items()}
    text[IMAGE] = [name.strip() for name in text[IMAGE]]
    blank = [""] * len(rows)
    # A row without a status claims to be good, so that nothing missing in it goes by unseen.
    status = [word.strip() or OK for word in text.get("status", blank)]
    numbers = {column: _numbers(path, column, text) for column in probability_columns(findings)}
    reason = text.get("reason", blank)
    result = pd.DataFrame({IMAGE: text[IMAGE], **numbers, "status": status, "reason": reason})
    predictions = Predictions(findings, result)
    _check(path, predictions)
    return predictions


def is_table(path: Path) -> bool:
    """Say whether a file's header is that of a table of predictions, whatever stands below it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            _places(path, next(csv.reader(file), []))
    except (PredictionsError, UnicodeDecodeError, csv.Error):
        return False
    return True


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


def _places(path: Path, header: list[str]) -> tuple[Findings, dict[str, int]]:
    """Tell the findings of a header, and map our names to the places of their columns."""
    ours = [column.strip() for column in header]
    names = [name.removeprefix(_PREFIX) for name in ours if name.startswith(_PREFIX)]
    if IMAGE not in ours or not names:
        raise PredictionsError(
            f"{path} is no table of predictions: it has '{IMAGE}' and a column prob_<Finding> for "
            f"each finding, this one has {', '.join(header) or 'no columns'}"
        )
    twice = sorted(
        {name for name in ours if ours.count(name) > 1 and name in {IMAGE, "status", "reason"}}
    )
    if twice:
        raise PredictionsError(f"{path} has two columns for {', '.join(twice)}: remove one of each")
    try:
        findings = Findings(names)
    except FindingsError as error:
        raise PredictionsError(f"{path}: {error}") from error
    known = {IMAGE, "status", "reason", *probability_columns(findings)}
    return findings, {name: place for place, name in enumerate(ours) if name in known}


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


def _check(path: Path, predictions: Predictions) -> None:
    images = predictions.rows[IMAGE]
    if (images == "").any():
        raise PredictionsError(f"{path}: {int((images == '').sum())} rows name no image")
    twice = images[images.duplicated()]
    if len(twice):
        raise PredictionsError(
            f"{path}: {len(twice)} rows repeat an image ({examples(twice)}): keep one row an image"
        )
    good = (predictions.rows["status"] == OK).to_numpy()
    ok, values = predictions.rows[good], predictions.probabilities[good]
    for wrong, sentence in (
        (np.isnan(values), "have no probability: predict these images, or set their status"),
        (np.isinf(values), "are infinite: correct them, or set the status of these rows"),
        ((values < 0) | (values > 1), _outside(values)),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise PredictionsError(
                f"{path}: {int(wrong.sum())} of {wrong.size} values {sentence} "
                f"(first: {ok[IMAGE].iloc[row]}, "
                f"{probability_column(predictions.findings[column])} = {values[row, column]:g})"
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
