"""Drift for Prometheus: of the last complete week, and of the current one as far as it has gone.

The level of an alarm holds for the last complete week, which is judged once. The current week is
looked at again and again, so set alerts on `week="last"`. The figures change slowly and are
computed at most every five minutes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import drift
from chestxray.serving.gateway.config import Drift
from chestxray.serving.gateway.drift import WeekDrift
from chestxray.serving.gateway.statistics import gauge
from chestxray.serving.gateway.store import Store

_FRESH_SECONDS: Final = 300.0
_DISTANCE: Final = "Largest distance of the cumulative distributions of a week and its reference."
_LOW: Final = "Lower end of the interval of the distance."
_ALARMS: Final = "How many distances are beyond chance and tolerance; of compared weeks only."
_COMPARED: Final = "How many distances there are; 0 where there is nothing to compare a week with."
_RADIOGRAPHS: Final = "Radiographs of a week by outcome."
_NOTICES: Final = "Radiographs of a week with a notice of the gate."


class DriftMetrics(Collector):
    """Computes drift now and then.

    Args:
        config: what counts as drift.
        state: state folder.
    """

    def __init__(self, config: Drift, state: Path) -> None:
        self._config = config
        self._state = state
        self._computed: float | None = None
        self._metrics: list[GaugeMetricFamily] = []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the metrics; the ones before where the database cannot be read."""
        now = time.monotonic()
        if self._computed is None or now - self._computed >= _FRESH_SECONDS:
            # Of a database that cannot be read the health endpoint says what is wrong.
            with suppress(ArtifactError, OSError, sqlite3.Error):
                self._metrics = list(self._compute())
            self._computed = now
        yield from self._metrics

    def _compute(self) -> Iterator[GaugeMetricFamily]:
        current = drift.this_week()
        names = {current.before: "last", current: "current"}
        with closing(Store(self._state)) as store:
            found = {
                names[one.week]: one for one in drift.of_weeks(store.db, self._config, list(names))
            }
        shifts = {
            (week, *what): shift
            for week, one in found.items()
            for what, shift in one.shifts.items()
        }
        labels = ["week", "kind", "name"]
        distances = {key: shift.distance for key, shift in shifts.items()}
        yield gauge("chestxray_gateway_drift_distance", _DISTANCE, labels, distances)
        lows = {key: shift.low for key, shift in shifts.items()}
        yield gauge("chestxray_gateway_drift_distance_low", _LOW, labels, lows)
        compared = {(week,): len(one.shifts) for week, one in found.items()}
        yield gauge("chestxray_gateway_drift_compared", _COMPARED, ["week"], compared)
        alarms = {(week,): len(one.alarms) for week, one in found.items() if one.shifts}
        yield gauge("chestxray_gateway_drift_alarms", _ALARMS, ["week"], alarms)
        outcomes = ["week", "outcome"]
        radiographs = _by_outcome(found)
        yield gauge("chestxray_gateway_week_radiographs", _RADIOGRAPHS, outcomes, radiographs)
        notices = {
            (week, code): count
            for week, one in found.items()
            for code, count in one.notices.items()
        }
        yield gauge("chestxray_gateway_week_notices", _NOTICES, ["week", "code"], notices)


def _by_outcome(found: dict[str, WeekDrift]) -> dict[tuple[str, str], int]:
    counted = {}
    for week, one in found.items():
        counted[week, "read"] = one.radiographs - one.refused
        counted[week, "refused"] = one.refused
    return counted
