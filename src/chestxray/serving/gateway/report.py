"""`chestxray gateway report`: drift, agreement with the shadow, what is kept; no patient's data.

The same as text for a terminal and as a page; both hold numbers, names of findings and codes only.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chestxray.evaluation.signed_numbers import number, signed
from chestxray.findings import label
from chestxray.serving.gateway import drift, shadow_store
from chestxray.serving.gateway.agreement import Agreement, FindingAgreement, agreement
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.drift import Watched, WeekDrift
from chestxray.serving.gateway.holdings import Holding, holdings
from chestxray.serving.gateway.shadow_store import ShadowCounts
from chestxray.serving.gateway.store import Store

_KINDS: Final = {
    "probability": "probability of {}",
    "measure": "image: {}",
    "notice": "notice {}",
    "refused": "refused",
}
_MEASURES: Final = {
    "brightness": "mean grey value",
    "contrast": "spread of grey values",
    "look": "unlike a chest radiograph",
    "features": "distance of the features",
}


@dataclass(frozen=True)
class Report:
    """All that the report says.

    Attributes:
        made: when.
        reference: what weeks are compared with, in words.
        level: chance of an alarm in a week without drift.
        tolerance: distance that is no alarm.
        weeks: in which anything was read, the earliest first.
        agreement: with the shadow over these weeks; None where there is none.
        shadow: what became of the images that it was to read.
        waiting: readings that the shadow has not taken up; None where none is configured.
        holdings: what is kept.
        problem: why there is nothing of the shadow, where its database cannot be read.
    """

    made: dt.datetime
    reference: str
    level: float
    tolerance: float
    weeks: list[WeekDrift]
    agreement: Agreement | None
    shadow: ShadowCounts | None
    waiting: int | None
    holdings: list[Holding]
    problem: str = ""


def gather(config: Config, store: Store, weeks: int) -> Report:
    """Compute the report of a number of weeks, the current one included."""
    periods = drift.weeks_until(drift.this_week(), weeks)
    agreed, counts, problem = None, None, ""
    try:
        start, end = periods[0].start, periods[-1].end
        agreed = agreement(store.db, store.folder, start, end)
        counts = shadow_store.shadow_counts(store.folder)
    except sqlite3.Error as error:
        problem = f"{shadow_store.FILE} cannot be read: {error}"
    return Report(
        made=dt.datetime.now(dt.UTC),
        reference=_reference(config),
        level=config.drift.level,
        tolerance=config.drift.tolerance,
        weeks=list(drift.of_weeks(store.db, config.drift, periods)),
        agreement=agreed,
        shadow=counts,
        waiting=_waiting(config, store, counts),
        holdings=list(holdings(config, store, counts)),
        problem=problem,
    )


def lines(report: Report) -> Iterator[str]:
    """Write the report for a terminal."""
    yield f"Report of {report.made:%Y-%m-%d %H:%M} UTC. For research, not a medical device."
    yield ""
    yield from _drift_lines(report)
    yield ""
    yield from _shadow_lines(report)
    yield ""
    yield "WHAT IS KEPT"
    for one in report.holdings:
        yield "  " + _kept(one)


def page_values(report: Report) -> dict[str, Any]:
    """Give what the page shows, as values that JSON can hold."""
    watched = _watched(report.weeks)
    return {
        "made": f"{report.made:%Y-%m-%d %H:%M} UTC",
        "reference": report.reference,
        "level": report.level,
        "tolerance": report.tolerance,
        "weeks": [_week_values(week, watched) for week in report.weeks],
        "watched": [name_of(what) for what in watched],
        "alarms": list(_alarms(report)),
        "compared": sum(bool(week.shifts) for week in report.weeks),
        "not_compared": list(_not_compared(report)),
        "codes": sorted({code for week in report.weeks for code in week.notices}),
        "agreement": None if report.agreement is None else _agreement_values(report.agreement),
        "shadow": None if report.shadow is None else report.shadow._asdict(),
        "waiting": report.waiting,
        "problem": report.problem,
        "holdings": [
            {**one._asdict(), "since": _day(one.since), "next": _day(one.next)}
            for one in report.holdings
        ],
    }


def name_of(what: Watched) -> str:
    """Name what is compared."""
    name = label(what.name) if what.kind == "probability" else _MEASURES.get(what.name, what.name)
    return _KINDS[what.kind].format(name)


def _reference(config: Config) -> str:
    if config.drift.baseline is not None:
        first, last = config.drift.baseline
        return f"radiographs of this gateway from {first} to {last}"
    return "the validation radiographs of the bundle"


def _waiting(config: Config, store: Store, counts: ShadowCounts | None) -> int | None:
    if config.shadow is None:
        return None
    last = store.db.execute("SELECT coalesce(max(number), 0) FROM readings").fetchone()[0]
    return max(0, last - counts.position) if counts else 0


def _watched(weeks: list[WeekDrift]) -> list[Watched]:
    """Give all that was compared in any week, in the order of the last ones."""
    found: dict[Watched, None] = {}
    for week in reversed(weeks):
        found |= dict.fromkeys(week.shifts)
    return list(found)


def _alarms(report: Report) -> Iterator[str]:
    for week in report.weeks:
        for what in week.alarms:
            of = week.shifts[what]
            yield (
                f"{week.week}: {name_of(what)} has moved by {of.distance:.2f} ({of.low:.2f} to "
                f"{of.high:.2f}), {of.patients} patients"
            )


def _not_compared(report: Report) -> Iterator[str]:
    for week in report.weeks:
        if week.not_compared:
            yield f"{week.week}: {week.not_compared}"


def _drift_lines(report: Report) -> Iterator[str]:
    yield f"DRIFT, compared with {report.reference}"
    if not report.weeks:
        yield "  no radiograph was read in these weeks"
        return
    for week in report.weeks:
        notices = ", ".join(f"{code} {count}" for code, count in week.notices.most_common())
        yield (
            f"  {week.week}  {week.model}: {week.radiographs} radiographs of {week.patients} "
            f"patients, {week.refused} refused{f'; {notices}' if notices else ''}"
        )
    yield from _table(report.weeks)
    yield from (f"  NOT COMPARED {reason}" for reason in _not_compared(report))
    compared = sum(bool(week.shifts) for week in report.weeks)
    if not compared:
        return
    alarms = list(_alarms(report))
    yield from (f"  ALARM {alarm}" for alarm in alarms)
    weeks = f"{compared} compared week{'s' if compared > 1 else ''}"
    said = "" if alarms else f"no alarm in {weeks}; "
    yield (
        f"  {said}the largest distance of the cumulative distributions, 0 to 1; ! where its "
        f"interval lies above {report.tolerance:g}; chance of any ! in a week without drift "
        f"{report.level:g}"
    )


def _table(weeks: list[WeekDrift]) -> Iterator[str]:
    watched = _watched(weeks)
    wide = max((len(name_of(what)) for what in watched), default=0)
    if watched:
        yield "  " + " " * wide + "".join(f"{week.week!s:>11}" for week in weeks)
    for what in watched:
        cells = "".join(f"{_cell(week, what):>11}" for week in weeks)
        yield f"  {name_of(what):<{wide}}{cells}"


def _cell(week: WeekDrift, what: Watched) -> str:
    found = week.shifts.get(what)
    return "–" if found is None else f"{found.distance:.2f}{'!' if what in week.alarms else ' '}"


def _shadow_lines(report: Report) -> Iterator[str]:
    yield "SHADOW"
    if report.problem:
        yield f"  {report.problem}"
    if report.shadow is None:
        if not report.problem:
            yield "  none has read"
        return
    counts = report.shadow
    if report.waiting is None:
        yield "  none is configured; this is what an earlier one has read"
    waiting = "" if report.waiting is None else f"{report.waiting} waiting, "
    yield f"  {counts.read} read, {waiting}{counts.missed} removed before, {counts.failed} failed"
    if report.agreement is None:
        return
    found = report.agreement
    yield (
        f"  {found.first} and {found.shadow} on {found.radiographs} radiographs; refused by both "
        f"{found.refused[0]}, by the first only {found.refused[1]}, by the shadow only "
        f"{found.refused[2]}; median {found.seconds[0]:.2f} and {found.seconds[1]:.2f} s a reading"
    )
    wide = max((len(label(name)) for name in found.findings), default=0)
    heads = ("both", "first", "shadow", "neither", "agreement", "kappa", "difference", "95 %")
    yield "  " + " " * wide + "".join(f"{head:>{_WIDTHS[head]}}" for head in heads)
    for name, one in found.findings.items():
        row = _row(one)
        yield f"  {label(name):<{wide}}" + "".join(
            f"{row[head]:>{_WIDTHS[head]}}" for head in heads
        )


_WIDTHS: Final = {
    "both": 8, "first": 8, "shadow": 8, "neither": 9, "agreement": 21, "kappa": 8,
    "difference": 12, "95 %": 18,
}  # fmt: skip


def _row(one: FindingAgreement) -> dict[str, str]:
    share, low, high = one.agreement or (0.0, 0.0, 0.0)
    return {
        "both": str(one.both),
        "first": str(one.first),
        "shadow": str(one.shadow),
        "neither": str(one.neither),
        "agreement": f"{share:.3f} ({low:.3f}–{high:.3f})" if one.agreement else "not assessed",
        "kappa": "–" if one.kappa is None else number(one.kappa, 2),
        "difference": signed(one.difference),
        "95 %": f"{signed(one.limits[0])} to {signed(one.limits[1])}",
    }


def _agreement_values(found: Agreement) -> dict[str, Any]:
    rows = {label(name): _row(one) for name, one in found.findings.items()}
    return {**found._asdict(), "findings": rows}


def _week_values(week: WeekDrift, watched: list[Watched]) -> dict[str, Any]:
    return {
        "week": str(week.week),
        "model": week.model,
        "radiographs": week.radiographs,
        "refused": week.refused,
        "patients": week.patients,
        "notices": dict(week.notices),
        "cells": [
            None
            if (of := week.shifts.get(what)) is None
            else {**of._asdict(), "alarm": what in week.alarms}
            for what in watched
        ],
    }


def _kept(one: Holding) -> str:
    size = "" if one.mib is None else f", {one.mib:.1f} MiB"
    since = "" if one.since is None else f", since {_day(one.since)}"
    due = "" if one.next is None else f", next on {_day(one.next)}"
    held = f"; {one.held} held until they are read and sent" if one.held else ""
    number = "number unknown" if one.number is None else one.number
    return f"{one.what} ({one.where}): {number}{size}{since}; removed: {one.rule}{due}{held}"


def _day(seconds: float | None) -> str:
    return "" if seconds is None else f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d}"


def write_page(report: Report, path: Path) -> None:
    """Write the report as a page.

    Raises:
        OSError: it cannot be written.
    """
    from chestxray.reporting.gateway_page import gateway_page  # noqa: PLC0415 - needs an extra

    gateway_page(page_values(report), path)
