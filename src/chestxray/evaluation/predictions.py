"""The table of predictions: `Image Index`, one `prob_<Finding>` per finding, `status`, `reason`.

It is the format that other projects on ChestX-ray14 publish, so their tables are read too: columns
by name in any order, further columns ignored, all but `Image Index` and the probabilities optional.
`status` is `ok`, or says that the image has no probabilities; `reason` then says why. No other row
is left out: a value that is not a probability is refused, with what it looks like. `called` names
the findings that the model called and `not_assessed` those that it never calls, both separated by
`|`; `model` is the identity of the model.

The suffix tells the format: `.csv`, `.csv.gz`, `.parquet`, or `.jsonl` with one object per line.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from chestxray.artifacts import require, write_table, write_text
from chestxray.csv_cells import restored
from chestxray.errors import FindingsError, PredictionsError
from chestxray.evaluation.prediction_columns import numbers_of
from chestxray.findings import Findings, probability_column
from chestxray.table_limits import open_text, parquet_rows, parquet_tables, parquet_titles

IMAGE: Final = "Image Index"
OK: Final = "ok"
CALLED: Final = "called"
NOT_ASSESSED: Final = "not_assessed"
OPERATING_POINT: Final = "operating_point"
ORIGIN: Final = "origin"
MODEL: Final = "model"
_OF_MODEL: Final = (CALLED, NOT_ASSESSED, MODEL)
_OTHERS: Final = (IMAGE, "status", "reason", *_OF_MODEL)
_FEW: Final = 0.05  # of all values: fewer outside [0, 1] are single errors, more are another scale
_PREFIX: Final = probability_column("")
_SEPARATOR: Final = "|"
_BROKEN: Final = (pa.ArrowException, zlib.error, RecursionError)


@dataclass(frozen=True)
class Predictions:
    """A table of predictions.

    Attributes:
        findings: the K that it has a column for, in the order of the file.
        rows: `Image Index`, a `prob_<Finding>` each, `status`, `reason`; in the order of the file.
            `called`, `not_assessed` and `model` where the file has them.
    """

    findings: Findings
    rows: pd.DataFrame

    @classmethod
    def read(cls, path: Path | str) -> Predictions:
        """Read a table from its file; see `read` of this module for the errors."""
        return read(Path(path))

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Give float64 [n, K] in [0, 1], NaN only where `status` is not `ok`."""
        return self.rows[list(probability_columns(self.findings))].to_numpy(dtype=np.float64)

    @property
    def called(self) -> npt.NDArray[np.bool_] | None:
        """Give the model's own calls, bool [n, K]; None where the table has none."""
        if CALLED not in self.rows:
            return None
        codes, cells = pd.factorize(self.rows[CALLED])
        lists = [cell.split(_SEPARATOR) for cell in cells]
        known = np.array(
            [[name in called for name in self.findings] for called in lists], dtype=bool
        )
        return known[codes]

    @property
    def not_assessed(self) -> frozenset[str]:
        """Findings that some row says are never called; empty where the table does not say."""
        if NOT_ASSESSED not in self.rows:
            return frozenset()
        named = {
            name for cell in self.rows[NOT_ASSESSED].unique() for name in cell.split(_SEPARATOR)
        }
        return frozenset(named & set(self.findings))

    @property
    def models(self) -> tuple[str, ...]:
        """Identities of the models that made the rows; empty where the table names none."""
        return tuple(sorted({*self.rows[MODEL].unique()} - {""})) if MODEL in self.rows else ()


def probability_columns(findings: Findings) -> tuple[str, ...]:
    """Name the columns of findings, such as `prob_Effusion`."""
    return tuple(probability_column(finding) for finding in findings)


def columns(findings: Findings) -> tuple[str, ...]:
    """Name the columns that every table of predictions has, in their order."""
    return (IMAGE, *probability_columns(findings), "status", "reason")


def table(
    images: Sequence[str], probabilities: npt.NDArray[np.floating[Any]], findings: Findings
) -> Predictions:
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
    """Write a table in the format of its suffix, after the checks that `read` makes."""
    _check(str(path), predictions)
    rows = predictions.rows[list(columns(predictions.findings))]
    if path.suffix.lower() == ".jsonl":
        values = rows.astype(object).where(rows.notna(), None).to_dict("records")
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in values)
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        write_table(path, rows)


def file_of(path: Path, name: str = "predictions.csv") -> Path:
    """Give the file of a table: the path itself, or the table of the run folder that it is.

    Args:
        path: a table, a run folder, or the folder that `chestxray run` writes one to.
        name: of the table in a run folder.

    Raises:
        PredictionsError: another folder.
    """
    if not path.is_dir():
        return path
    for file in (path / name, path / "run" / name):
        if file.is_file():
            return file
    raise PredictionsError(
        f"{path} is a folder without {name}: give a run folder or a table of predictions (.csv, "
        f".csv.gz, .parquet or .jsonl)"
    )


def read(path: Path) -> Predictions:
    """Read a table of predictions, or that of a run folder; the suffix tells its format.

    Raises:
        PredictionsError: a folder without `predictions.csv`, not such a table, no rows, a row
            longer or shorter than the header, no finding or one twice, an image twice, a
            probability that is missing, not a number, or outside [0, 1].
        ArtifactError: the file does not exist.
    """
    path = file_of(path)
    require(path, "chestxray predict")
    read = _columns(path) if path.suffix.lower() == ".parquet" else _rows(path)
    _check(str(path), read)
    return read


def _rows(path: Path) -> Predictions:
    """Read a table that is text."""
    header, rows = _json_lines(path) if path.suffix.lower() == ".jsonl" else _csv(path)
    findings, places = _places(path, header)
    if not rows:
        raise _empty(path)
    cells = {name: [row[place] for row in rows] for name, place in places.items()}
    images = [_text(name) for name in cells[IMAGE]]
    numbers = {
        column: _numbers(path, column, cells[column], images)
        for column in probability_columns(findings)
    }
    blank = [""] * len(rows)
    # A row without a status counts as good, so that no missing value in it goes unnoticed.
    status = [_text(word) or OK for word in cells.get("status", blank)]
    reason = ["" if word is None else str(word) for word in cells.get("reason", blank)]
    result = pd.DataFrame({IMAGE: images, **numbers, "status": status, "reason": reason})
    for name in (name for name in _OF_MODEL if name in cells):
        result[name] = [_text(cell) for cell in cells[name]]
    return Predictions(findings, result)


def _columns(path: Path) -> Predictions:
    """Read a Parquet table."""
    try:
        header = parquet_titles(path)
        _, places = _places(path, header)
        titles = [header[place] for place in sorted(places.values())]
        return of_tables(path, parquet_tables(path, titles), parquet_rows(path))
    except (OSError, pa.ArrowException) as error:
        raise PredictionsError(f"{path} is not a Parquet table: {error}") from error


def of_tables(path: Path, tables: Iterable[pa.Table], rows: int) -> Predictions:
    """Take a table of predictions from consecutive parts of it.

    Args:
        path: for messages.
        tables: the parts in row order, all with the same columns; one at least.
        rows: of all parts.

    Raises:
        PredictionsError: not such a table, no rows, no finding or one twice.
    """
    parts = iter(tables)
    first = next(parts)
    findings, places = _places(path, first.column_names)
    if not rows:
        raise _empty(path)
    named = probability_columns(findings)
    texts = {name: places[name] for name in _OTHERS if name in places}
    values, text = numbers_of(
        chain([first], parts),
        {name: places[name] for name in named},
        texts,
        rows,
        lambda column, cells, images: _numbers(path, column, cells, images),
    )
    blank = pd.Series("", index=range(rows), dtype="str")
    status = text.get("status", blank)
    columns: dict[str, Any] = {IMAGE: text[IMAGE]}
    columns |= dict(zip(named, values.T, strict=True))
    columns |= {"status": status.mask(status == "", OK), "reason": text.get("reason", blank)}
    columns |= {name: text[name] for name in _OF_MODEL if name in text}
    return Predictions(findings, pd.DataFrame(columns, copy=False))


def _empty(path: Path) -> PredictionsError:
    return PredictionsError(f"{path} has a header but no rows: predict its images again")


def checked(predictions: Predictions) -> Predictions:
    """Check a table that was made in memory as `read` checks a file.

    Raises:
        PredictionsError: as from `read`.
    """
    _check("the table of predictions", predictions)
    return predictions


def is_table(path: Path) -> bool:
    """Say whether a file's header is that of a table of predictions, whatever its rows."""
    try:
        if path.suffix.lower() == ".parquet":
            header = parquet_titles(path)
        elif path.suffix.lower() == ".jsonl":
            with open_text(path) as file:
                header = [str(name) for name in json.loads(file.readline() or "{}")]
        else:
            with open_text(path) as file:
                header = next(csv.reader(file), [])
        _places(path, header)
    except (PredictionsError, ValueError, TypeError, OSError, EOFError, csv.Error, *_BROKEN):
        return False
    return True


def _json_lines(path: Path) -> tuple[list[str], list[Sequence[Any]]]:
    rows: list[dict[str, Any]] = []
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(json.loads(line))
                    if not isinstance(rows[-1], dict):
                        raise PredictionsError(
                            f"{path}, line {number}: {line[:40]} is not a JSON object: write one "
                            f"object per image"
                        )
    except (OSError, ValueError, RecursionError) as error:
        raise PredictionsError(f"{path} is not a table of JSON lines: {error}") from error
    header = list(dict.fromkeys(name for row in rows for name in row))
    return header, [[row.get(name) for name in header] for row in rows]


def _csv(path: Path) -> tuple[list[str], list[Sequence[Any]]]:
    """Read a CSV table whose rows are all as long as the header."""
    try:
        with open_text(path) as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise PredictionsError(f"{path} is not a CSV table: {error}") from error
    header = rows[0][1] if rows else []
    for line, row in rows:
        if len(row) < len(header) or any(row[len(header) :]):
            raise PredictionsError(
                f"{path}, line {line}: {len(row)} values under {len(header)} column names. Either "
                f"the file was cut short or a comma is not quoted: write it again"
            )
    return header, [[restored(cell) for cell in row] for _, row in rows[1:]]


def _places(path: Path, header: list[str]) -> tuple[Findings, dict[str, int]]:
    """Give the findings of a header, and the positions of the columns that are used."""
    ours = [column.strip() for column in header]
    names = [name.removeprefix(_PREFIX) for name in ours if name.startswith(_PREFIX)]
    if IMAGE not in ours or not names:
        raise PredictionsError(
            f"{path} is not a table of predictions: it needs '{IMAGE}' and one column "
            f"prob_<Finding> per finding, but has {', '.join(header) or 'no columns'}"
        )
    twice = sorted({name for name in ours if ours.count(name) > 1 and name in _OTHERS})
    if twice:
        raise PredictionsError(f"{path} has two columns for {', '.join(twice)}: remove one of each")
    try:
        findings = Findings(names)
    except FindingsError as error:
        raise PredictionsError(f"{path}: {error}") from error
    known = {*_OTHERS, *probability_columns(findings)}
    return findings, {name: place for place, name in enumerate(ours) if name in known}


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def _numbers(
    path: Path, column: str, cells: list[Any], images: list[str]
) -> npt.NDArray[np.float64]:
    try:
        # Python's own conversion rounds correctly, so a table survives writing and reading.
        return np.array([_number(cell) for cell in cells], dtype=np.float64)
    except (TypeError, ValueError):
        row = next(row for row, cell in enumerate(cells) if not _is_number(cell))
        raise PredictionsError(
            f"{path}: {cells[row]!r} is not a number ({images[row]}, {column}): write "
            f"probabilities as decimals, such as 0.25"
        ) from None


def _number(cell: Any) -> float:  # noqa: ANN401 - what a file holds
    if isinstance(cell, bool):
        raise TypeError
    return np.nan if cell is None or cell == "" else float(cell)


def _is_number(cell: object) -> bool:
    try:
        _number(cell)
    except (TypeError, ValueError):
        return False
    return True


def _check(path: str, predictions: Predictions) -> None:
    images = predictions.rows[IMAGE]
    if (images == "").any():
        raise PredictionsError(
            f"{path}: {counted(int((images == '').sum()), 'row')} without an image name: name the "
            f"image of each row"
        )
    _check_called(path, predictions)
    twice = images[images.duplicated()]
    if len(twice):
        raise PredictionsError(
            f"{path}: duplicate image name in {counted(len(twice), 'row')} "
            f"({examples(twice)}): keep one row per image"
        )
    good = (predictions.rows["status"] == OK).to_numpy()
    names = probability_columns(predictions.findings)
    # Column by column: together, they may not fit into memory.
    sound = all(
        ((of := predictions.rows[name].to_numpy(dtype=np.float64)[good]) >= 0).all()
        and (of <= 1).all()
        for name in names
    )
    if not sound:
        raise _unsound(path, predictions, good)


def _unsound(path: str, predictions: Predictions, good: npt.NDArray[np.bool_]) -> PredictionsError:
    """Say what is wrong with the first value that is not a probability."""
    ok, values = predictions.rows[good], predictions.probabilities[good]
    kinds = (
        (np.isnan(values), "missing: predict these images, or set their rows' status"),
        (np.isinf(values), "infinite: correct them, or set their rows' status"),
        ((values < 0) | (values > 1), _outside(values)),
    )
    wrong, what = next(kind for kind in kinds if kind[0].any())
    row, column = np.argwhere(wrong)[0]
    verb = "is" if wrong.sum() == 1 else "are"
    return PredictionsError(
        f"{path}: {wrong.sum()} of {wrong.size} values {verb} {what} "
        f"(first: {ok[IMAGE].iloc[row]}, "
        f"{probability_column(predictions.findings[column])} = {values[row, column]:g})"
    )


def _check_called(path: str, predictions: Predictions) -> None:
    """Refuse calls of findings that the table has no probabilities of."""
    if CALLED not in predictions.rows:
        return
    cells = predictions.rows[CALLED].unique()
    named = {name for cell in cells for name in cell.split(_SEPARATOR) if name}
    strange = sorted(named - set(predictions.findings))
    if strange:
        raise PredictionsError(
            f"{path}: column {CALLED} names {examples(strange)}, without a column "
            f"{probability_column(strange[0])}: name findings as the columns do, separated by "
            f"{_SEPARATOR}"
        )


def _outside(values: npt.NDArray[np.float64]) -> str:
    """Say what values outside [0, 1] look like, and what to do."""
    outside = (values < 0) | (values > 1)
    if outside.sum() < _FEW * outside.size:
        return "outside [0, 1], the others inside: correct these, or set their rows' status"
    if (values < 0).any():
        return "outside [0, 1], some below 0, which looks like logits: apply a sigmoid"
    if (values <= 100).all():
        return "between 1 and 100, none below 0, which looks like percentages: divide by 100"
    return "outside [0, 1]: give probabilities"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: "1 image", "2 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def examples(names: Sequence[str] | pd.Series) -> str:
    """Name at most three, and show that there are more."""
    shown = ", ".join(list(names)[:3])
    return f"{shown}, …" if len(names) > 3 else shown
