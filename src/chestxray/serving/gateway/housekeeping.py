"""What runs beside: files that have served their time go, and figures for Prometheus."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import start_http_server
from prometheus_client.core import REGISTRY, GaugeMetricFamily
from prometheus_client.registry import Collector

from chestxray.serving.gateway import durable, survey
from chestxray.serving.gateway.config import Config, Metrics, Storage
from chestxray.serving.gateway.store import Store

_SECONDS_BETWEEN: Final = 60.0
_DAY: Final = 86400.0
_HOUR: Final = 3600.0
_log = logging.getLogger(__name__)


def keep_house(config: Config, stop: threading.Event) -> None:
    """Remove files that have served now and then, until told to stop."""
    store = Store(config.state)
    try:
        while not stop.is_set():
            removed = tidy(config.storage, store)
            if removed:
                _log.info("files of %d images removed", removed, extra={"event": "removed"})
            stop.wait(_SECONDS_BETWEEN)
    finally:
        store.close()


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
    for uid in survey.served(store.db, time.time()):
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
            free = durable.free_mib(store.images)
        finally:
            store.close()
        what = "Images to read and results to send, by state."
        figure = GaugeMetricFamily("chestxray_gateway_tasks", what, labels=["queue", "state"])
        for queue, states in counts.items():
            for state, count in states.items():
                figure.add_metric([queue, state], count)
        yield figure
        what = "Age of the oldest image that waits to be read."
        yield GaugeMetricFamily("chestxray_gateway_oldest_seconds", what, value=oldest)
        what = "Free space of the disk."
        yield GaugeMetricFamily("chestxray_gateway_free_mebibytes", what, value=free)
