"""What was read when, as figures: the rows behind drift, agreement and the report.

A row is written in the transaction that records a reading. It has the time, the codes of the gate's
notices, probabilities, calls and measures of the image, and no name, number or date of a patient.
Since radiographs of one patient are not independent, a row says which rows of the same week are of
the same patient: by a hash with a key that is drawn for each week, deleted when the next one
begins, and in no backup. After that, and once the write-ahead log has been overwritten, nobody can
find out whose a row is but by the image's UID. Rows are removed after `drift.keep_weeks`.

Weeks are those of ISO 8601, from Monday 0:00 to Sunday 24:00 UTC.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.drift import MEASURES, Distribution
from chestxray.findings import Findings

if TYPE_CHECKING:
    from chestxray.model.model_card import ModelCard

TABLES: Final = """
CREATE TABLE IF NOT EXISTS models (
    identity TEXT PRIMARY KEY,
    described TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS readings (
    number INTEGER PRIMARY KEY,
    image TEXT NOT NULL,
    model TEXT NOT NULL,
    time REAL NOT NULL,
    seconds REAL NOT NULL,
    patient BLOB NOT NULL,
    refused INTEGER NOT NULL,
    notices TEXT NOT NULL,
    probabilities BLOB NOT NULL,
    calls TEXT NOT NULL,
    measures BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS readings_time ON readings (time);
CREATE TABLE IF NOT EXISTS week_keys (
    week TEXT PRIMARY KEY,
    key BLOB NOT NULL
) STRICT;
"""
"""SQL that makes the tables of this module."""

_FLOATS: Final = np.dtype("<f4")
_CALLS: Final = {True: "1", False: "0", None: "-"}
_KEY_BYTES: Final = 32
_HASH_BYTES: Final = 12
_WEEK: Final = dt.timedelta(weeks=1)


class Week(NamedTuple):
    """A week of ISO 8601.

    Attributes:
        year: that it belongs to.
        number: 1 to 53.
    """

    year: int
    number: int

    @classmethod
    def of(cls, seconds: float) -> Week:
        """Give the week of a time in seconds since 1970."""
        year, number, _ = dt.datetime.fromtimestamp(seconds, dt.UTC).isocalendar()
        return cls(year, number)

    @property
    def start(self) -> float:
        """Its beginning, seconds since 1970."""
        return self._monday().timestamp()

    @property
    def end(self) -> float:
        """Its end, seconds since 1970."""
        return (self._monday() + _WEEK).timestamp()

    @property
    def before(self) -> Week:
        """The week before."""
        return Week.of(self.start - 1)

    def __str__(self) -> str:
        return f"{self.year}-W{self.number:02d}"

    def _monday(self) -> dt.datetime:
        return dt.datetime.fromisocalendar(self.year, self.number, 1).replace(tzinfo=dt.UTC)


@dataclass(frozen=True)
class Figures:
    """The figures of one reading.

    Attributes:
        seconds: that reading and making the results took.
        patient: text by which radiographs of a patient are known; never written.
        refused: whether the gate refused the image.
        notices: codes of the gate.
        probabilities: of the model's findings in their order; none where refused.
        calls: likewise, None for what is not assessed.
        measures: of the image, see `image_measures`; none of an image of another kind.
    """

    seconds: float
    patient: str
    refused: bool
    notices: Sequence[str]
    probabilities: Sequence[float] = ()
    calls: Sequence[bool | None] = ()
    measures: Mapping[str, float] | None = None


@dataclass(frozen=True)
class KnownModel:
    """What is known of a model that has read.

    Attributes:
        identity: of the model.
        findings: in the order of a row's probabilities.
        probabilities: finding → distribution on its validation images.
        measures: measure → the same.
    """

    identity: str
    findings: Findings
    probabilities: dict[str, Distribution]
    measures: dict[str, Distribution]


@dataclass(frozen=True)
class Rows:
    """The readings of a period by one model, N rows in the order of reading.

    Attributes:
        image: SOP instance UID of each.
        number: of the row.
        week: in which each was read.
        patient: equal for radiographs of one patient in the same week.
        seconds: float64 [N].
        refused: bool [N].
        notices: the codes of each.
        probabilities: float64 [N, K]; NaN where refused.
        calls: the calls of each, a character a finding; empty where refused.
        measures: float64 [N, M], in the order of `MEASURES`; NaN where unknown.
    """

    image: list[str]
    number: list[int]
    week: list[Week]
    patient: list[bytes]
    seconds: npt.NDArray[np.float64]
    refused: npt.NDArray[np.bool_]
    notices: list[tuple[str, ...]]
    probabilities: npt.NDArray[np.float64]
    calls: list[str]
    measures: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)


def remember_model(db: sqlite3.Connection, identity: str, card: ModelCard) -> None:
    """Keep what the report needs to know of a model, so that it needs no bundle."""
    described = {
        "findings": list(card.findings),
        "probabilities": _dumped(card.probability_distributions),
        "measures": _dumped(card.measure_distributions),
    }
    db.execute(
        "INSERT INTO models VALUES (?, ?) ON CONFLICT (identity) "
        "DO UPDATE SET described = excluded.described",
        (identity, json.dumps(described)),
    )


def known_model(db: sqlite3.Connection, identity: str) -> KnownModel | None:
    """Give what is known of a model; None where it has never read here."""
    row = db.execute("SELECT described FROM models WHERE identity = ?", (identity,)).fetchone()
    if row is None:
        return None
    described = json.loads(row[0])
    probabilities, measures = (
        {name: Distribution.model_validate(of) for name, of in described[what].items()}
        for what in ("probabilities", "measures")
    )
    return KnownModel(identity, Findings(described["findings"]), probabilities, measures)


def latest_model(db: sqlite3.Connection, before: float) -> str | None:
    """Give the model of the last reading before a time; None where there is none."""
    row = db.execute(
        "SELECT model FROM readings WHERE time < ? ORDER BY time DESC LIMIT 1", (before,)
    ).fetchone()
    return None if row is None else str(row[0])


def record(db: sqlite3.Connection, image: str, model: str, figures: Figures) -> None:
    """Write the row of a reading, inside the transaction that records the reading."""
    now = time.time()
    key = _week_key(db, Week.of(now))
    patient = hashlib.blake2b(figures.patient.encode(), key=key, digest_size=_HASH_BYTES).digest()
    measures = [(figures.measures or {}).get(name, np.nan) for name in MEASURES]
    db.execute(
        "INSERT INTO readings (image, model, time, seconds, patient, refused, notices, "
        "probabilities, calls, measures) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            image,
            model,
            now,
            figures.seconds,
            patient,
            int(figures.refused),
            " ".join(dict.fromkeys(figures.notices)),
            _bytes(figures.probabilities),
            calls_text(figures.calls),
            _bytes(measures),
        ),
    )


def remove_old(db: sqlite3.Connection, before: float, kept: tuple[float, float] | None) -> int:
    """Remove rows of readings before a time; give how many.

    Args:
        db: the database.
        before: seconds since 1970.
        kept: beginning and end of a period whose rows stay.
    """
    first, last = kept or (0.0, 0.0)
    removed = db.execute(
        "DELETE FROM readings WHERE time < ? AND NOT (time >= ? AND time < ?)",
        (before, first, last),
    )
    return removed.rowcount


def forget_keys(db: sqlite3.Connection, but: Week | None = None) -> None:
    """Delete the keys of all weeks but one."""
    db.execute("DELETE FROM week_keys WHERE week != ?", ("" if but is None else str(but),))


def rows_between(db: sqlite3.Connection, model: KnownModel, start: float, end: float) -> Rows:
    """Give the readings of a model from a time up to another, seconds since 1970."""
    found = db.execute(
        "SELECT * FROM readings WHERE time >= ? AND time < ? AND model = ? ORDER BY number",
        (start, end, model.identity),
    ).fetchall()
    return Rows(
        image=[row["image"] for row in found],
        number=[row["number"] for row in found],
        week=[Week.of(row["time"]) for row in found],
        patient=[row["patient"] for row in found],
        seconds=np.array([row["seconds"] for row in found], dtype=np.float64),
        refused=np.array([row["refused"] for row in found], dtype=np.bool_),
        notices=[tuple(row["notices"].split()) for row in found],
        probabilities=numbers([row["probabilities"] for row in found], len(model.findings)),
        calls=[row["calls"] for row in found],
        measures=numbers([row["measures"] for row in found], len(MEASURES)),
    )


def calls_text(calls: Sequence[bool | None]) -> str:
    """Write calls, a character each."""
    return "".join(_CALLS[call] for call in calls)


def probabilities_bytes(values: Sequence[float]) -> bytes:
    """Write probabilities as a row holds them."""
    return _bytes(values)


def numbers(columns: Sequence[bytes], width: int) -> npt.NDArray[np.float64]:
    """Read numbers as rows hold them, [N, width]; NaN where a row has another number of them."""
    found = np.full((len(columns), width), np.nan)
    for at, column in enumerate(columns):
        if len(column) == width * _FLOATS.itemsize:
            found[at] = np.frombuffer(column, _FLOATS)
    return found


def _bytes(values: Sequence[float]) -> bytes:
    return np.asarray(values, _FLOATS).tobytes()


def _dumped(found: Mapping[str, Distribution]) -> dict[str, object]:
    return {name: of.model_dump(mode="json") for name, of in found.items()}


def _week_key(db: sqlite3.Connection, week: Week) -> bytes:
    """Give the key of a week; those of other weeks are deleted."""
    row = db.execute("SELECT key FROM week_keys WHERE week = ?", (str(week),)).fetchone()
    if row is not None:
        return bytes(row[0])
    key = os.urandom(_KEY_BYTES)
    forget_keys(db)
    db.execute("INSERT INTO week_keys VALUES (?, ?)", (str(week), key))
    return key
