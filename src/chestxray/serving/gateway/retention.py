"""Retention: removes the files of images that were read and whose results were all delivered.

Rows stay when files are removed, so an image that arrives again is recognised. The figures of
readings (`readings`) are removed after `drift.keep_weeks`, and with them those of a shadow, whether
or not one still runs.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from typing import Final

from chestxray.artifacts import PART
from chestxray.serving.gateway import readings, shadow_store
from chestxray.serving.gateway.config import Drift, Storage
from chestxray.serving.gateway.integrity import is_damage
from chestxray.serving.gateway.readings import Week
from chestxray.serving.gateway.store import READ, Store

_INTERVAL_SECONDS: Final = 60.0
DAY: Final = 86400.0
"""Seconds."""
_HOUR: Final = 3600.0
_log = logging.getLogger(__name__)


class Retention:
    """Removes expired files at intervals, in a thread of the receiver's process.

    Args:
        storage: how long files are kept.
        store: a store that no other thread uses.
        drift: how long the figures of readings are kept.
    """

    def __init__(self, storage: Storage, store: Store, drift: Drift = Drift()) -> None:  # noqa: B008
        self._storage = storage
        self._store = store
        self._drift = drift
        self._shadow_due = 0.0

    def run(self, stop: threading.Event) -> None:
        """Remove expired files at intervals until told to stop."""
        while not stop.is_set():
            self.run_once()
            stop.wait(_INTERVAL_SECONDS)
        self._store.close()

    def run_once(self) -> None:
        """Remove expired files; a failure is logged, and the next run tries again.

        Raises:
            sqlite3.DatabaseError: the database is damaged.
        """
        try:
            removed = _remove_expired(self._storage, self._store)
            _remove_figures(self._drift, self._store)
            self._remove_shadow_figures()
        except (OSError, sqlite3.Error) as error:
            if is_damage(error):
                raise
            extra = {"event": "retention-failed"}
            _log.error("expired files could not be removed: %s", error, extra=extra)
        else:
            if removed:
                _log.info(
                    "images whose files were removed: %d", removed, extra={"event": "removed"}
                )

    def _remove_shadow_figures(self) -> None:
        """Remove old figures of the shadow once an hour; its database harms nothing but itself."""
        if time.monotonic() < self._shadow_due:
            return
        self._shadow_due = time.monotonic() + _HOUR
        try:
            shadow_store.remove_old(self._store.folder, _figures_end(self._drift))
        except sqlite3.Error as error:
            _log.error(
                "old figures of the shadow could not be removed (%s): if none is configured, "
                "remove %s yourself",
                error,
                shadow_store.FILE,
                extra={"event": "retention-failed"},
            )


def _remove_expired(storage: Storage, store: Store) -> int:
    """Remove the files of delivered images; give the number of images.

    Those delivered more than `keep_days` ago, and further ones, the oldest first, while less than
    `spare_mib` is free. What is not yet read or not yet sent everywhere stays.
    """
    _remove_leftovers(store)
    expired = delivered(store.db, time.time() - storage.keep_days * DAY)
    for uid in expired:
        _remove(store, uid)
    removed = len(expired)
    for uid in delivered(store.db, math.inf):  # whatever the clock said at their delivery
        if store.free_mib() >= storage.spare_mib:
            break
        _remove(store, uid)
        removed += 1
    return removed


def _remove_figures(drift: Drift, store: Store) -> None:
    """Remove the figures of readings that are older than `keep_weeks`; the baseline's stay.

    The key of a week that is over is deleted too, if no reading has done so.
    """
    readings.forget_keys(store.db, Week.of(time.time()))
    readings.remove_old(store.db, _figures_end(drift), drift.period)


def _figures_end(drift: Drift) -> float:
    """Give the time before which figures are removed, seconds since 1970."""
    return time.time() - 7 * DAY * drift.keep_weeks


def delivered(db: sqlite3.Connection, before: float) -> list[str]:
    """List images whose files may be removed, the earliest finished first.

    Args:
        db: the database.
        before: seconds since 1970.

    Returns:
        UIDs of images that were read and whose results were all sent before that time, or
        discarded.
    """
    rows = db.execute(
        "SELECT uid FROM images CROSS JOIN tasks ON item = uid AND queue = ? "  # few have files
        "WHERE NOT removed AND state IN ('done', 'discarded') AND finished < ? AND NOT EXISTS ("
        "  SELECT 1 FROM results JOIN tasks AS sending ON sending.item = results.uid"
        "  WHERE results.image = images.uid"
        "  AND (sending.state NOT IN ('done', 'discarded') OR sending.finished >= ?)) "
        "ORDER BY finished",
        (READ, before, before),
    )
    return [row["uid"] for row in rows]


def _remove(store: Store, uid: str) -> None:
    rows = store.db.execute("SELECT uid FROM results WHERE image = ?", (uid,))
    results = [store.result_file(row["uid"]) for row in rows]
    for path in (store.image_file(uid), *results):
        path.unlink(missing_ok=True)
    _mark_removed(store.db, uid)


def _mark_removed(db: sqlite3.Connection, uid: str) -> None:
    db.execute("UPDATE images SET removed = 1 WHERE uid = ?", (uid,))


def _remove_leftovers(store: Store) -> None:
    """Remove temporary files of processes that were killed while writing."""
    for folder in (store.images, store.outbox):
        for path in folder.glob(f".*{PART}"):
            try:
                if time.time() - path.stat().st_mtime > _HOUR:
                    path.unlink()
            except FileNotFoundError:
                pass  # it was being written and is complete now
