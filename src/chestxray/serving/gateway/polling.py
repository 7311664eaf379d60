"""A DICOMweb source: which studies and radiographs it has, and their files.

QIDO-RS for studies and their instances (PS3.18 section 10.6), WADO-RS for each instance (section
10.4).

The poller: asks a DICOMweb source for new radiographs and takes them in as if they were sent.

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
from collections.abc import Iterator
from email.message import Message
from typing import Any, Final, NamedTuple

import httpx

from chestxray.dataset.dicom import is_dicom
from chestxray.serving.gateway.config import Poll
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError, is_uid
from chestxray.serving.gateway.store import Store

_PAGE: Final = 500
_TIMEOUT: Final = 30.0
_ANY_SYNTAX: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'

# What is raised by answers that never come, refuse, or are no DICOM JSON.
TROUBLE: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class Study(NamedTuple):
    """A study, and how many instances it has; -1 where the source does not say."""

    uid: str
    instances: int


class Instance(NamedTuple):
    """A radiograph, and where its file is."""

    uid: str
    sop_class: str
    path: str


class Source:
    """Asks one source; all methods raise one of `TROUBLE` where that fails."""

    def __init__(self, source: Poll) -> None:
        self.url = source.url.rstrip("/")
        self._modalities = source.modalities
        self._client = httpx.Client(headers=source.headers, timeout=_TIMEOUT)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def studies(self, since: str) -> set[Study]:
        """Give all studies of a date (YYYYMMDD) on that may have radiographs.

        Modalities are compared here: asked for ModalitiesInStudy, Orthanc 1.10 gives its first page
        alone, and others refuse.
        """
        return {
            Study(uid, int(count) if (count := _value(found, "00201208", "")).isdecimal() else -1)
            for found in self._pages("/studies", {"StudyDate": f"{since}-"})
            if is_uid(uid := _value(found, "0020000D", "")) and self._may_have(found)
        }

    def _may_have(self, study: dict[str, Any]) -> bool:
        modalities = study.get("00080061", {}).get("Value")
        return not modalities or not set(self._modalities).isdisjoint(modalities)

    def radiographs(self, study: str) -> list[Instance]:
        """Give each radiograph of a study."""
        instances = []
        for modality in self._modalities:
            for found in self._pages(f"/studies/{study}/instances", {"Modality": modality}):
                series, uid = _value(found, "0020000E"), _value(found, "00080018")
                sop_class = _value(found, "00080016")
                if sop_class in RADIOGRAPHS and is_uid(uid) and is_uid(series):
                    path = f"/studies/{study}/series/{series}/instances/{uid}"
                    instances.append(Instance(uid, sop_class, path))
        return instances

    def fetched(self, instance: Instance) -> bytes:
        """Give the DICOM file of an instance."""
        answer = self._client.get(self.url + instance.path, headers={"Accept": _ANY_SYNTAX})
        answer.raise_for_status()
        return _part(answer)

    def _pages(self, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Give all matches of a search, page by page.

        The source may give fewer a page than we ask for (PS3.18 section 8.3.4), so only a page that
        is empty, or the same again, is the last.
        """
        offset, last = 0, None
        while True:
            answer = self._client.get(
                self.url + path,
                params=query | {"limit": str(_PAGE), "offset": str(offset)},
                headers={"Accept": "application/dicom+json"},
            )
            answer.raise_for_status()
            found = [] if answer.status_code == 204 else answer.json()
            if not found or found == last:
                return
            yield from found
            offset, last = offset + len(found), found


def said(error: Exception) -> str:
    """Say what failed; an answer that is no DICOM JSON is not quoted, it may name a patient."""
    return str(error) if isinstance(error, httpx.HTTPError) else type(error).__name__


def _value(found: dict[str, Any], tag: str, default: str | None = None) -> str:
    if default is not None and not found.get(tag, {}).get("Value"):
        return default
    return str(found[tag]["Value"][0])


def _part(answer: httpx.Response) -> bytes:
    """Take the one DICOM file out of a multipart answer."""
    header = Message()
    header["Content-Type"] = answer.headers["content-type"]
    boundary = header.get_boundary()
    if boundary is None:
        raise ValueError(f"the source sent {header.get_content_type()}, no multipart answer")
    _, *parts, _ = answer.content.split(b"--" + boundary.encode())
    if len(parts) != 1:
        raise ValueError(f"the source sent {len(parts)} parts for one instance")
    content = parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
    if not is_dicom(content):
        raise ValueError("what the source sent is no DICOM file")
    return content


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
            except (*TROUBLE, *_OURS) as error:
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
        except TROUBLE as error:  # one that the source cannot list keeps no other back
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
            except (*TROUBLE, *_OURS) as error:
                self._warn("an image could not be taken", error, uid)
                whole = False
        return taken, whole

    def _warn(self, what: str, error: Exception, uid: str | None = None) -> None:
        what_is_wrong = str(error) if isinstance(error, _OURS) else said(error)
        extra = {"event": "poll-failed", "source": self._source.url, "uid": uid}
        _log.warning("%s: %s", what, what_is_wrong, extra=extra)


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
