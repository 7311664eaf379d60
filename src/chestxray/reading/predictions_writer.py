"""Writes a table of predictions row by row, so that an interrupted run resumes and ends whole.

    .predictions.csv.part       the table so far, always CSV
    .predictions.csv.heatmaps   heatmaps.npy so far
    .predictions.csv.journal    what the rows are of, then one line per sync to the disk

What the journal lists is on the disk. Resuming cuts off what was written after its last line, so no
row is lost or doubled. The files get their names when all rows are there; a table whose name ends
in .parquet or .jsonl is converted then.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import lock, sha256, sync_folder, write_json
from chestxray.csv_cells import restored, without_formulas
from chestxray.errors import ArtifactError
from chestxray.evaluation import predictions
from chestxray.findings import Findings, probability_column

_log = logging.getLogger(__name__)

HEATMAPS: Final = "heatmaps.npy"
SUFFIXES: Final = (".csv", ".parquet", ".jsonl")
_SECONDS_BETWEEN_SYNCS: Final = 1.0
_PROBABILITY: Final = probability_column("")


def columns(findings: Findings) -> tuple[str, ...]:
    """Name the columns of the table that `predict` writes."""
    return (
        *predictions.columns(findings),
        predictions.CALLED,
        predictions.NOT_ASSESSED,
        predictions.OPERATING_POINT,
        predictions.MODEL,
        predictions.ORIGIN,
    )


def begun_rows(out: Path) -> tuple[str, str] | None:
    """Give the plan and the engine of the rows that an interrupted run left; None without any."""
    try:
        lines = _journal_of(out).read_bytes().splitlines(keepends=True)
    except OSError:
        return None
    entries = _parsed(lines)
    if len(entries) < 2 or not entries[-1].get("rows"):
        return None
    return str(entries[0].get("plan")), str(entries[0].get("engine"))


class PredictionsWriter:
    """Writes the rows of one table, in order; a context manager that keeps what was written.

    Args:
        out: the table to write, named as one of `SUFFIXES`; `heatmaps.npy` and `heatmaps.json` are
            written beside it.
        findings: the columns of probabilities.
        plan: what the rows are of: inputs, their order, the model. Rows of another plan are
            discarded.
        engine: what computes them. Rows by another engine are kept for it.
        shape: of the heatmaps, [N, K, h, w], or None without.

    Attributes:
        done: rows that are written.

    Raises:
        ArtifactError: another process writes this table, or another engine started it.
    """

    def __init__(
        self,
        out: Path,
        findings: Findings,
        plan: str,
        engine: str,
        shape: tuple[int, ...] | None,
    ) -> None:
        self.out = out
        self._columns = columns(findings)
        self._begins = {"plan": plan, "engine": engine}
        self._table_path, self._maps_path = _beside(out, "part"), _beside(out, "heatmaps")
        self._journal_path = _journal_of(out)
        self._header = _npy_header(shape) if shape else b""
        self._row = math.prod(shape[1:]) * 2 if shape else 0
        out.parent.mkdir(parents=True, exist_ok=True)
        self._journal = self._locked_journal()
        self.done, length = self._resumable() or self._restarted()
        if not shape:  # only now: a table that is kept for another engine keeps its heatmaps
            self._maps_path.unlink(missing_ok=True)
        self._table = self._opened(self._table_path, length)
        self._maps = (
            self._opened(self._maps_path, len(self._header) + self.done * self._row)
            if shape
            else None
        )
        self._synced = -math.inf  # the first rows are on the disk at once
        if self.done:
            _log.warning("%s: resuming after %s", out, _rows(self.done))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._table, self._maps, self._journal):
            if file is not None:
                file.close()

    def add(self, table: pd.DataFrame, maps: npt.NDArray[np.float16]) -> None:
        """Add rows: the columns that `columns` names, and heatmaps [n, K, h, w] of these rows."""
        rows = without_formulas(table[list(self._columns)])
        self._table.write(rows.to_csv(index=False, header=False).encode())
        if self._maps is not None:
            self._maps.write(np.ascontiguousarray(maps, dtype="<f2").data)
        self.done += len(table)
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self._sync()

    def so_far(self) -> Path:
        """Give the CSV file that holds all rows which were added."""
        self._sync()
        return self._table_path

    def finish(self) -> None:
        """Give the files their names, now that all rows are written."""
        self._sync()
        whole = self._converted()
        if self._maps is not None:
            maps = self.out.with_name(HEATMAPS)
            note = {"predictions_sha256": sha256(whole)}
            write_json(maps.with_suffix(".json"), note)  # first: the renames belong together
            self._maps_path.replace(maps)
        whole.replace(self.out)
        sync_folder(self.out.parent)
        self._table_path.unlink(missing_ok=True)
        self._journal_path.unlink()

    def _converted(self) -> Path:
        """Give the finished table in the format that its name asks for, under a temporary name."""
        if self.out.suffix.lower() == ".csv":
            return self._table_path
        whole = self.out.with_name(f".{self.out.name}.whole")
        table = self._read_back()
        if self.out.suffix.lower() == ".parquet":
            table.to_parquet(whole, index=False)
        else:
            with whole.open("w", encoding="utf-8") as file:
                file.writelines(map(_json_line, table.to_dict("records")))
        with whole.open("rb") as file:
            os.fsync(file.fileno())
        return whole

    def _read_back(self) -> pd.DataFrame:
        kinds = {name: str for name in self._columns if not name.startswith(_PROBABILITY)}
        blank = {name: [""] for name in self._columns if name not in kinds}
        table = pd.read_csv(self._table_path, dtype=kinds, keep_default_na=False, na_values=blank)
        return table.assign(**{name: table[name].map(restored) for name in kinds})

    def _sync(self) -> None:
        for file in (self._table, self._maps):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
        self._note({"rows": self.done, "bytes": self._table.tell()})
        self._synced = time.monotonic()

    def _locked_journal(self) -> IO[bytes]:
        refusal = f"another process is writing {self.out}: wait for it, or choose another --out"
        return lock(self._journal_path, ArtifactError(refusal))

    def _resumable(self) -> tuple[int, int] | None:
        """Give the rows and bytes of the table that are on the disk, None to restart."""
        entries = self._entries()
        if len(entries) < 2:
            return None
        begins, last = entries[0], entries[-1]
        rows, length = int(last["rows"]), int(last["bytes"])
        if not (rows and _holds(self._table_path, length) and self._continues(begins, rows)):
            return None
        if self._header and not _holds(self._maps_path, len(self._header) + rows * self._row):
            _log.warning(
                "%s is restarted: %s written without heatmaps", self.out, _rows(rows, verb=True)
            )
            return None
        return rows, length

    def _continues(self, begins: dict[str, str], rows: int) -> bool:
        """Say whether the rows that are written are of this plan, by this engine."""
        if begins["plan"] != self._begins["plan"]:
            _log.warning(
                "%s is restarted: %s of other inputs, another model or other options",
                self.out,
                _rows(rows, verb=True),
            )
        elif begins != self._begins:
            self._journal.close()
            raise ArtifactError(
                f"{_rows(rows)} of {self.out} came from "
                f"{begins['engine']}, this is {self._begins['engine']}, and a table must not mix "
                f"engines: resume with the same --engine, choose another --out, or "
                f"delete {self._journal_path} to restart"
            )
        return begins == self._begins

    def _entries(self) -> list[dict[str, Any]]:
        """Give the complete lines of the journal, none if it is damaged; cut an incomplete one."""
        self._journal.seek(0)
        lines = self._journal.read().splitlines(keepends=True)
        self._journal.truncate(sum(len(line) for line in lines if line.endswith(b"\n")))
        return _parsed(lines)

    def _restarted(self) -> tuple[int, int]:
        """Make new files without rows."""
        self._journal.truncate(0)
        header = (",".join(self._columns) + "\n").encode()
        self._table_path.write_bytes(header)
        self._maps_path.unlink(missing_ok=True)
        if self._header:
            self._maps_path.write_bytes(self._header)
        self._note(self._begins)
        self._note({"rows": 0, "bytes": len(header)})
        return 0, len(header)

    def _note(self, entry: dict[str, Any]) -> None:
        self._journal.write(json.dumps(entry).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    @staticmethod
    def _opened(path: Path, length: int) -> IO[bytes]:
        file = path.open("r+b")
        file.truncate(length)
        file.seek(length)
        return file


def _journal_of(out: Path) -> Path:
    return _beside(out, "journal")


def _beside(out: Path, part: str) -> Path:
    return out.with_name(f".{out.name}.{part}")


def _parsed(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Give the complete lines of a journal, none if it is damaged."""
    try:
        return [json.loads(line) for line in lines if line.endswith(b"\n")]
    except ValueError:
        return []


def _json_line(row: dict[Any, Any]) -> str:
    values = {name: None if pd.isna(value) else value for name, value in row.items()}
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


def _rows(count: int, verb: bool = False) -> str:
    words = "1 row" if count == 1 else f"{count} rows"
    return words if not verb else f"its {words} {'was' if count == 1 else 'were'}"


def _holds(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size >= size


def _npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f2", "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
