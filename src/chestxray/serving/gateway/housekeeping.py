"""What runs beside: files that have served their time go, and figures for Prometheus."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client import start_http_server
from prometheus_client.core import REGISTRY, GaugeMetricFamily
from prometheus_client.registry import Collector

from chestxray import artifacts as durable
from chestxray.serving.gateway import statistics as survey
from chestxray.serving.gateway.config import Metrics, Storage
from chestxray.serving.gateway.store import Store

_SECONDS_BETWEEN: Final = 60.0
_DAY: Final = 86400.0
_HOUR: Final = 3600.0
_log = logging.getLogger(__name__)


class House:
    """Keeps house beside the receiver.

    Args:
        storage: what stays, and how long.
        store: of its own.
    """

    def __init__(self, storage: Storage, store: Store) -> None:
        self._storage = storage
        self._store = store

    def run(self, stop: threading.Event) -> None:
        """Remove files that have served now and then, until told to stop."""
        while not stop.is_set():
            self.keep_once()
            stop.wait(_SECONDS_BETWEEN)
        self._store.close()

    def keep_once(self) -> None:
        """Remove files that have served; what goes wrong may go better the next time."""
        try:
            removed = tidy(self._storage, self._store)
        except (OSError, sqlite3.Error) as error:
            _log.error("files could not be removed: %s", error, extra={"event": "house-failed"})
        else:
            if removed:
                _log.info("files of %d images removed", removed, extra={"event": "removed"})


def tidy(storage: Storage, store: Store) -> int:
    """Remove the files of images whose results were all sent; how many images it were.

    Those of `keep_days` ago, and while less than `spare_mib` is free the longest served first. What
    was not read or not sent stays.
    """
    _remove_parts(store)
    old = survey.served(store.db, time.time() - storage.keep_days * _DAY)
    for uid in old:
        _remove(store, uid)
    removed = len(old)
    for uid in survey.served(store.db, math.inf):  # whatever the clock said when they had served
        if durable.free_mib(store.images) >= storage.spare_mib:
            break
        _remove(store, uid)
        removed += 1
    return removed


def _remove(store: Store, uid: str) -> None:
    for path in (store.image_file(uid), *_results(store, uid)):
        path.unlink(missing_ok=True)
    survey.note_removed(store.db, uid)


def _results(store: Store, uid: str) -> list[Path]:
    return [store.result_file(result) for result in survey.results_of(store.db, uid)]


def _remove_parts(store: Store) -> None:
    """Remove what a process was writing when it was killed."""
    for folder in (store.images, store.outbox):
        for path in folder.glob(f".*{durable.PART}"):
            try:
                if time.time() - path.stat().st_mtime > _HOUR:
                    path.unlink()
            except FileNotFoundError:
                pass  # it was being written, and is whole now


def serve_metrics(metrics: Metrics, state: Path) -> None:
    """Answer Prometheus, from a thread."""
    REGISTRY.register(Figures(state))
    start_http_server(metrics.port, addr=metrics.host)


class Figures(Collector):
    """Counts the queues when it is asked, so figures are right whichever process died."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the figures."""
        store = Store(self._state)
        try:
            counts, oldest = survey.counts(store.db), survey.oldest(store.db)
            asked, free = survey.asked(store.db), durable.free_mib(store.images)
        finally:
            store.close()
        tasks = {
            (queue, state): count
            for queue, states in counts.items()
            for state, count in states.items()
        }
        what = "Images to read and results to send, by state."
        yield _gauge("chestxray_gateway_tasks", what, ["queue", "state"], tasks)
        what = "Age of the oldest image that waits to be read, or whose results wait to be sent."
        ages = {(queue,): age for queue, age in oldest.items()}
        yield _gauge("chestxray_gateway_oldest_seconds", what, ["queue"], ages)
        what = "Time since all that a polled source has was taken in."
        polled = {(source,): seconds for source, seconds in asked.items()}
        yield _gauge("chestxray_gateway_polled_seconds", what, ["source"], polled)
        what = "Free space of the disk."
        yield _gauge("chestxray_gateway_free_mebibytes", what, [], {(): free})


def _gauge(
    name: str, what: str, labels: list[str], values: Mapping[Any, float]
) -> GaugeMetricFamily:
    figure = GaugeMetricFamily(name, what, labels=labels)
    for key, value in values.items():
        figure.add_metric(key, value)
    return figure
