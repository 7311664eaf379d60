"""Statistics of the queues: for `chestxray gateway status` and for Prometheus."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import health
from chestxray.serving.gateway.queue import STATES
from chestxray.serving.gateway.store import DRY_RUN, READ, Store

_HEALTHY: Final = "chestxray_gateway_healthy"
_HEALTHY_HELP: Final = "1 where nothing is wrong with the gateway, else 0: see /health."


def counts(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Count the tasks: queue → state → number."""
    counted = {READ: dict.fromkeys(STATES, 0)}
    for row in db.execute("SELECT queue, state, count(*) AS n FROM tasks GROUP BY queue, state"):
        counted.setdefault(row["queue"], dict.fromkeys(STATES, 0))[row["state"]] = row["n"]
    return counted


def oldest(db: sqlite3.Connection) -> dict[str, float]:
    """Give the age in seconds of the oldest image that waits in each queue; 0 when none does."""
    ages = dict.fromkeys(counts(db), 0.0)
    for row in db.execute(
        "SELECT queue, min(received) AS first FROM tasks "
        "LEFT JOIN results ON results.uid = item "
        "JOIN images ON images.uid = coalesce(results.image, item) "
        "WHERE state = 'queued' GROUP BY queue"
    ):
        ages[row["queue"]] = max(0.0, time.time() - row["first"])
    return ages


def polled(db: sqlite3.Connection) -> dict[str, float]:
    """Give the seconds since the last complete poll of each DICOMweb service, by URL."""
    rows = db.execute("SELECT source, asked FROM positions")
    return {row["source"]: max(0.0, time.time() - row["asked"]) for row in rows}


def retrying(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """List tasks that wait after a failure as `queue`, `item`, `attempts`, `reason`, 20 at most."""
    rows = db.execute(
        "SELECT queue, item, attempts, reason FROM tasks WHERE state = 'queued' AND reason != '' "
        "ORDER BY due DESC LIMIT 20"
    )
    return [dict(row) for row in rows]


def status_lines(db: sqlite3.Connection) -> Iterator[str]:
    """Write the status of the gateway for its operator, one sentence per line."""
    for queue, states in counts(db).items():
        if queue.startswith(f"{DRY_RUN}:"):
            yield f"{queue}: {states['done']} results kept in dry runs, not sent"
        else:
            yield f"{queue}: " + ", ".join(f"{count} {state}" for state, count in states.items())
    for queue, seconds in oldest(db).items():
        if seconds:
            yield f"{queue}: the oldest image has waited for {seconds:.0f} s"
    for url, seconds in polled(db).items():
        yield f"{url}: last complete poll {seconds:.0f} s ago"
    for task in retrying(db):
        yield f"retrying: {task['queue']} {task['item']}: {task['reason']}"


class Statistics(Collector):
    """Reads the queues at each request, so that no process has to be alive to be counted.

    Args:
        state: state folder.
        problems: gives what is wrong with the gateway.
    """

    def __init__(self, state: Path, problems: Callable[[], list[str]]) -> None:
        self._state = state
        self._problems = problems

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the metrics; only that it is not healthy where the database cannot be read."""
        healthy = not self._problems()
        try:
            with closing(Store(self._state)) as store:
                counted, ages = counts(store.db), oldest(store.db)
                polls, free = polled(store.db), store.free_mib()
        except (ArtifactError, OSError, sqlite3.Error):
            yield gauge(_HEALTHY, _HEALTHY_HELP, [], {(): 0})
            return
        yield gauge(_HEALTHY, _HEALTHY_HELP, [], {(): healthy})
        help_text = "1 where results are kept and sent nowhere, else 0."
        dry = health.is_dry_run(self._state)
        yield gauge("chestxray_gateway_dry_run", help_text, [], {(): dry})
        tasks = {
            (queue, state): count
            for queue, states in counted.items()
            for state, count in states.items()
        }
        help_text = "Images to read and results to send, by state."
        yield gauge("chestxray_gateway_tasks", help_text, ["queue", "state"], tasks)
        help_text = "Age of the oldest image that is not read, or whose results are not sent."
        by_queue = {(queue,): age for queue, age in ages.items()}
        yield gauge("chestxray_gateway_oldest_seconds", help_text, ["queue"], by_queue)
        help_text = "Time since the last complete poll of a DICOMweb service."
        by_url = {(url,): seconds for url, seconds in polls.items()}
        yield gauge("chestxray_gateway_polled_seconds", help_text, ["source"], by_url)
        help_text = "Free disk space."
        yield gauge("chestxray_gateway_free_mebibytes", help_text, [], {(): free})


def gauge(
    name: str, help_text: str, labels: list[str], values: Mapping[Any, float]
) -> GaugeMetricFamily:
    """Make a gauge of values by their labels."""
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
