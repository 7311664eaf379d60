"""The poller: asks a DICOMweb source for new radiographs and takes them in as if they were sent.

What is known is told by the queue, not by the source, so nothing is lost when the gateway was down.
The saved position is a study date: all before it is here, and each question asks from there on. It
stays some days behind today, since studies grow, clocks and zones differ, and films come late: a
study that arrives later still is not seen; send such by C-STORE.
"""

from __future__ import annotations

import datetime as dt
import logging
import sqlite3
import threading
import time
from typing import Final

from chestxray.serving.gateway import dicomweb
from chestxray.serving.gateway.config import Poll
from chestxray.serving.gateway.dicomweb import Source, Study
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError
from chestxray.serving.gateway.store import Store

_FORGET_SECONDS: Final = 3600.0
_OURS: Final = (OutOfSpaceError, OSError, sqlite3.Error)  # a full disk, a busy queue
_log = logging.getLogger(__name__)


class Poller:
    """Asks one source.

    Args:
        config: of the source.
        intake: where images go.
        store: of its own, for the position.
    """

    def __init__(self, config: Poll, intake: Intake, store: Store) -> None:
        self._config = config
        self._intake = intake
        self._store = store
        self._source = Source(config)
        self._complete: set[Study] = set()
        self._forget_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop; a source that does not answer is asked again later."""
        while not stop.is_set():
            try:
                self.ask(stop)
            except (*dicomweb.TROUBLE, *_OURS) as error:
                self._warn("the source could not be asked", error)
            stop.wait(self._config.seconds)
        self.close()

    def close(self) -> None:
        """Let go of the connection to the source."""
        self._source.close()

    def ask(self, stop: threading.Event) -> int:
        """Take in what is new; save the position when all of it is durable; how many came.

        Raises:
            dicomweb.TROUBLE: the source cannot be asked.
            sqlite3.Error: the position cannot be read or saved.
        """
        today = dt.datetime.now().astimezone().date()
        behind = f"{today - dt.timedelta(days=self._config.days):%Y%m%d}"
        since = position(self._store.db, self._source.url)
        if since is None:  # however long it takes until the source answers, it is from here on
            since = f"{self._config.since or today:%Y%m%d}"
            save_position(self._store.db, self._source.url, since)
        if since > f"{today:%Y%m%d}":  # the clock was wrong when it was saved
            since = behind
        studies = self._source.studies(since)
        self._forget(studies)
        taken = 0
        for study in sorted(studies - self._complete):
            if stop.is_set():
                return taken
            new, whole = self._take_study(study.uid, stop)
            taken += new
            if whole:
                self._complete.add(study)
        if studies <= self._complete:
            save_position(self._store.db, self._source.url, max(since, behind))
        return taken

    def _forget(self, studies: set[Study]) -> None:
        """Look through all again now and then: one image gone and one come is the same number."""
        self._complete &= {study for study in studies if study.instances >= 0}
        if time.monotonic() >= self._forget_at:
            self._complete.clear()
            self._forget_at = time.monotonic() + _FORGET_SECONDS

    def _take_study(self, study: str, stop: threading.Event) -> tuple[int, bool]:
        """Take in a study's new radiographs; how many, and whether none was left behind."""
        taken, whole = 0, True
        try:
            found = self._source.radiographs(study)
        except dicomweb.TROUBLE as error:  # one that the source cannot list keeps no other back
            self._warn("a study could not be asked for", error, study)
            return 0, False
        for instance in found:
            if stop.is_set():
                return taken, False
            uid, modality = instance.uid, RADIOGRAPHS[instance.sop_class]
            try:
                if not self._intake.known(uid):
                    content = self._source.fetched(instance)
                    taken += self._intake.take(uid, content, self._source.url, modality)
            except (*dicomweb.TROUBLE, *_OURS) as error:
                self._warn("an image could not be taken", error, uid)
                whole = False
        return taken, whole

    def _warn(self, what: str, error: Exception, uid: str | None = None) -> None:
        said = str(error) if isinstance(error, _OURS) else dicomweb.said(error)
        extra = {"event": "poll-failed", "source": self._source.url, "uid": uid}
        _log.warning("%s: %s", what, said, extra=extra)


def position(db: sqlite3.Connection, source: str) -> str | None:
    """Give the study date from which a source is to be asked; None at the start."""
    row = db.execute("SELECT position FROM positions WHERE source = ?", (source,)).fetchone()
    return None if row is None else str(row["position"])


def save_position(db: sqlite3.Connection, source: str, date: str) -> None:
    """Save from which study date a source is to be asked, and that all was taken in now."""
    db.execute(
        "INSERT INTO positions VALUES (?, ?, ?) ON CONFLICT (source) "
        "DO UPDATE SET position = excluded.position, asked = excluded.asked",
        (source, date, time.time()),
    )
