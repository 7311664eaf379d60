"""Drift of what is read, week by week: probabilities, measures of the images, notices of the gate.

| kind          | what is compared                                    | with validation      |
|---------------|-----------------------------------------------------|----------------------|
| `probability` | of each finding, where the image was read           | by its distributions |
| `measure`     | of `model.image_measures`, of frontal radiographs;  | by its distributions |
|               | those that were refused for their pixels count      |                      |
| `notice`      | share of patients whose first image has each code   | unknown              |
| `refused`     | share of patients whose first image was refused     | unknown              |

Validation images have no headers, so it is not known how often the gate would have said something
of them; shares are compared with the site's own baseline where `drift.baseline` names one, and then
all else is as well. Without it they are counted only.

A week is compared with readings or validation of its own model, so nothing is compared where the
baseline has no reading by it, such as after a change of the bundle. That is said, and is not the
same as no alarm.

Of each patient the first radiograph of the week counts (`evaluation.drift`), for shares as well.
In a baseline of several weeks a patient counts once in each, since hashes of different weeks cannot
be compared; its size is then that of the worst case, the same patients each week. The level is
shared by all that is compared in a week (Bonferroni), so `drift.level` is the chance of any alarm
in a week without drift.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from chestxray.evaluation.drift import (
    MEASURES,
    Distribution,
    Shift,
    Values,
    effective_size,
    first_of_each,
    share_shift,
    shift,
)
from chestxray.serving.gateway import readings
from chestxray.serving.gateway.config import Drift
from chestxray.serving.gateway.readings import KnownModel, Rows, Week

REFUSED: Final = "refused"


class Watched(NamedTuple):
    """What is compared.

    Attributes:
        kind: `probability`, `measure`, `notice` or `refused`.
        name: of the finding, the measure or the code.
    """

    kind: str
    name: str


@dataclass(frozen=True)
class WeekDrift:
    """The readings of a week by one model, and how far they lie from the reference.

    Attributes:
        week: the week.
        model: identity of the model.
        radiographs: that were read or refused.
        refused: of these.
        patients: of these.
        notices: code → number of radiographs.
        shifts: of all that is compared.
        alarms: what of it is further away than chance and tolerance explain.
        not_compared: why nothing is compared, or no probability, and what to do.
    """

    week: Week
    model: str
    radiographs: int
    refused: int
    patients: int
    notices: Counter[str]
    shifts: dict[Watched, Shift] = field(default_factory=dict)
    alarms: tuple[Watched, ...] = ()
    not_compared: str = ""


@dataclass(frozen=True)
class _Reference:
    """What weeks are compared with.

    Attributes:
        distributions: of probabilities and measures.
        shares: of patients with a notice or refusal, 0 to 1.
        patients: of whom the shares are; 0 where they are unknown.
        lacks: why it has no distribution of a probability, and what to do; empty where it has.
    """

    distributions: dict[Watched, Distribution]
    shares: dict[Watched, float] = field(default_factory=dict)
    patients: int = 0
    lacks: str = ""


class _Sample(NamedTuple):
    """Values of one radiograph of each patient of a week.

    Attributes:
        values: [n].
        weeks: n, in which each was read.
    """

    values: Values
    weeks: list[Week]


def weeks_until(last: Week, count: int) -> list[Week]:
    """Give a number of weeks up to one, the earliest first."""
    found = [last]
    while len(found) < count:
        found.insert(0, found[0].before)
    return found


def this_week() -> Week:
    """Give the week that it is now."""
    return Week.of(time.time())


def of_weeks(db: sqlite3.Connection, config: Drift, weeks: list[Week]) -> Iterator[WeekDrift]:
    """Give the drift of each week in which anything was read, by the model that read last in it."""
    references: dict[str, _Reference] = {}
    for week in weeks:
        identity = readings.latest_model(db, week.end)
        model = None if identity is None else readings.known_model(db, identity)
        if model is None:
            continue
        rows = readings.rows_between(db, model, week.start, week.end)
        if not len(rows):
            continue
        if model.identity not in references:
            references[model.identity] = _reference(db, config, model)
        yield _drift(rows, week, model, references[model.identity], config)


def _reference(db: sqlite3.Connection, config: Drift, model: KnownModel) -> _Reference:
    return _of_validation(model) if config.baseline is None else _of_baseline(db, config, model)


def _of_validation(model: KnownModel) -> _Reference:
    known = {Watched("probability", name): of for name, of in model.probabilities.items()}
    known |= {Watched("measure", name): of for name, of in model.measures.items()}
    lacks = (
        "the bundle has no distributions of its validation images; set drift.baseline to a period "
        "of this gateway"
    )
    return _Reference(known, lacks="" if model.probabilities else lacks)


def _of_baseline(db: sqlite3.Connection, config: Drift, model: KnownModel) -> _Reference:
    rows = readings.rows_between(db, model, *(config.period or (0.0, 0.0)))
    lacks = (
        f"{model.identity} has read nothing in the period of drift.baseline; set it to a period in "
        "which it has, or remove it to compare with the bundle's validation"
    )
    if not len(rows):
        return _Reference({}, lacks=lacks)
    distributions = {
        what: Distribution.of(sample.values, np.arange(len(sample.values))).model_copy(
            update={"patients": effective_size(sample.weeks, range(len(sample.values)))}
        )
        for what, sample in _samples(rows, model).items()
        if len(sample.values)
    }
    counts, patients = _shares(rows)
    weeks = [rows.week[row] for row in first_of_each(rows.patient)]
    shares = {what: count / patients for what, count in counts.items()}
    some_read = any(what.kind == "probability" for what in distributions)
    size = effective_size(weeks, range(patients))
    return _Reference(distributions, shares, size, "" if some_read else lacks)


def _drift(
    rows: Rows, week: Week, model: KnownModel, reference: _Reference, config: Drift
) -> WeekDrift:
    samples = {
        what: sample.values
        for what, sample in _samples(rows, model).items()
        if len(sample.values) and what in reference.distributions
    }
    shares, patients = _shares(rows)
    named = dict.fromkeys([*shares, *reference.shares]) if reference.patients else {}
    compared = [what for what in named if shares[what] or reference.shares.get(what)]
    level = config.level / max(1, len(samples) + len(compared))
    shifts = {
        what: shift(reference.distributions[what], values, level)
        for what, values in samples.items()
    }
    for what in compared:
        before = reference.shares.get(what, 0.0) * reference.patients
        shifts[what] = share_shift((before, reference.patients), (shares[what], patients), level)
    return WeekDrift(
        week,
        model.identity,
        radiographs=len(rows),
        refused=int(rows.refused.sum()),
        patients=patients,
        notices=Counter(code for codes in rows.notices for code in codes),
        shifts=shifts,
        alarms=tuple(what for what, of in shifts.items() if of.alarms(config.tolerance)),
        not_compared=_not_compared(reference, shifts),
    )


def _not_compared(reference: _Reference, shifts: dict[Watched, Shift]) -> str:
    if shifts:
        return reference.lacks and f"probabilities: {reference.lacks}"
    return reference.lacks or "no radiograph has a figure that the reference has"


def _samples(rows: Rows, model: KnownModel) -> dict[Watched, _Sample]:
    """Give the values of each probability and measure, one of each patient of a week."""
    columns = [
        *(
            (Watched("probability", of), at, rows.probabilities)
            for at, of in enumerate(model.findings)
        ),
        *((Watched("measure", of), at, rows.measures) for at, of in enumerate(MEASURES)),
    ]
    samples = {}
    for what, at, values in columns:
        known = np.flatnonzero(np.isfinite(values[:, at]))
        first = known[first_of_each([rows.patient[row] for row in known])]
        samples[what] = _Sample(values[first, at], [rows.week[row] for row in first])
    return samples


def _shares(rows: Rows) -> tuple[Counter[Watched], int]:
    """Count the patients of whom the first radiograph has a notice or was refused, and all."""
    first = first_of_each(rows.patient)
    found: Counter[Watched] = Counter()
    for row in first:
        found.update(Watched("notice", code) for code in rows.notices[row])
        found[Watched(REFUSED, "")] += bool(rows.refused[row])
    return found, len(first)
