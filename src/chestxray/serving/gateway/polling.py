"""Polling: finds new radiographs on a DICOMweb service and takes them in as if they were sent.

Studies and instances are found by QIDO-RS (PS3.18 section 10.6), each file is fetched by WADO-RS
(section 10.4). The queue, not the service, says what is known, so nothing is lost while the gateway
is down. The saved position is a study date: everything before it was taken in, and each poll asks
from there on. It stays some days behind today, since studies grow, clocks and time zones differ,
and radiographs arrive late. A study that arrives later still is not found: send it by C-STORE.

dicomweb-client is not used: it parses each fetched file, so that the received bytes are lost, and
reads answers of any size into memory.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from email.message import Message
from typing import Any, Final, NamedTuple

import httpx

from chestxray.dicom_elements import is_dicom
from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.config import Poll
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError, is_uid
from chestxray.serving.gateway.store import Store

_PAGE_SIZE: Final = 500
_MAX_PAGE_BYTES: Final = 64 * 2**20
_MAX_FILE_BYTES: Final = 512 * 2**20
_TIMEOUT: Final = 30.0
_JSON: Final = "application/dicom+json"
_ANY_SYNTAX: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_FORGET_SECONDS: Final = 3600.0
_log = logging.getLogger(__name__)


class _InvalidAnswerError(ChestXrayError):
    """A service answered something else than DICOMweb; the message does not quote the answer."""


_SERVICE_ERRORS: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    _InvalidAnswerError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""Raised where a service does not answer, refuses, or sends no valid DICOM JSON."""

_LOCAL_ERRORS: Final = (OutOfSpaceError, OSError, sqlite3.Error)  # a full disk, a busy queue


class _Study(NamedTuple):
    """A study and its number of instances; -1 where the service does not tell."""

    uid: str
    instances: int


class Instance(NamedTuple):
    """A radiograph and the path of its file."""

    uid: str
    sop_class: str
    path: str


class _DICOMwebService:
    """A client of one service; its methods raise one of `_SERVICE_ERRORS`."""

    def __init__(self, config: Poll) -> None:
        self.url = config.url.rstrip("/")
        self._modalities = config.modalities
        self._client = httpx.Client(headers=config.headers, timeout=_TIMEOUT)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def studies(self, since: str) -> set[_Study]:
        """Find all studies from a date (YYYYMMDD) on that may have radiographs.

        Modalities are compared here: asked for ModalitiesInStudy, Orthanc 1.10 gives its first page
        only, and other services refuse.
        """
        return {
            _Study(uid, int(count) if (count := _value(found, "00201208", "")).isdecimal() else -1)
            for found in self._search("/studies", {"StudyDate": f"{since}-"})
            if is_uid(uid := _value(found, "0020000D", "")) and self._may_have(found)
        }

    def radiographs(self, study: str) -> list[Instance]:
        """Find the radiographs of a study."""
        instances = []
        for modality in self._modalities:
            for found in self._search(f"/studies/{study}/instances", {"Modality": modality}):
                series, uid = _value(found, "0020000E"), _value(found, "00080018")
                sop_class = _value(found, "00080016")
                if sop_class in RADIOGRAPHS and is_uid(uid) and is_uid(series):
                    path = f"/studies/{study}/series/{series}/instances/{uid}"
                    instances.append(Instance(uid, sop_class, path))
        return instances

    def fetch(self, instance: Instance) -> bytes:
        """Fetch the DICOM file of an instance, byte for byte."""
        answer, content = self._get(instance.path, {}, _ANY_SYNTAX, _MAX_FILE_BYTES)
        return _only_part(answer.headers["content-type"], content)

    def _may_have(self, study: dict[str, Any]) -> bool:
        modalities = study.get("00080061", {}).get("Value")
        return not modalities or not set(self._modalities).isdisjoint(modalities)

    def _search(self, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Give all matches of a search, page by page.

        A service may give fewer matches per page than asked for (PS3.18 section 8.3.4), so only an
        empty page, or the same page again, is the last one.
        """
        offset, last = 0, None
        while True:
            page = query | {"limit": str(_PAGE_SIZE), "offset": str(offset)}
            answer, content = self._get(path, page, _JSON, _MAX_PAGE_BYTES)
            found = [] if answer.status_code == 204 else json.loads(content)
            if not found or found == last:
                return
            yield from found
            offset, last = offset + len(found), found

    def _get(
        self, path: str, query: dict[str, str], accept: str, max_bytes: int
    ) -> tuple[httpx.Response, bytes]:
        content = bytearray()
        headers = {"Accept": accept}
        with self._client.stream("GET", self.url + path, params=query, headers=headers) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > max_bytes:
                    raise _InvalidAnswerError(f"the answer has more than {max_bytes} bytes")
        return answer, bytes(content)


class Poller:
    """Polls one service.

    Args:
        config: of the service.
        intake: where images go.
        store: a store of its own, for the position.
    """

    def __init__(self, config: Poll, intake: Intake, store: Store) -> None:
        self._config = config
        self._intake = intake
        self._store = store
        self._service = _DICOMwebService(config)
        self._complete: set[_Study] = set()
        self._forget_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Poll until told to stop; after a failure the next poll tries again."""
        while not stop.is_set():
            try:
                self.poll(stop)
            except (*_SERVICE_ERRORS, *_LOCAL_ERRORS) as error:
                self._warn("the service could not be polled", error)
            stop.wait(self._config.seconds)
        self.close()

    def close(self) -> None:
        """Close the connection to the service."""
        self._service.close()

    def poll(self, stop: threading.Event) -> int:
        """Take in new images; save the position when all are durable; give how many were new.

        Raises:
            Exception: one of `_SERVICE_ERRORS`, where the service cannot be asked for its studies.
            sqlite3.Error: the position cannot be read or saved.
        """
        today = dt.datetime.now().astimezone().date()
        behind = f"{today - dt.timedelta(days=self._config.days):%Y%m%d}"
        since = position(self._store.db, self._service.url)
        if since is None:  # saved now, however long it takes until the service answers
            since = f"{self._config.since or today:%Y%m%d}"
            _save_position(self._store.db, self._service.url, since)
        if since > f"{today:%Y%m%d}":  # the clock was wrong when it was saved
            since = behind
        studies = self._service.studies(since)
        self._forget(studies)
        new = 0
        for study in sorted(studies - self._complete):
            if stop.is_set():
                return new
            added, complete = self._take_study(study.uid, stop)
            new += added
            if complete:
                self._complete.add(study)
        if studies <= self._complete:
            _save_position(self._store.db, self._service.url, max(since, behind))
        return new

    def _forget(self, studies: set[_Study]) -> None:
        """Check all studies again at times: one image removed and one added keep the number."""
        self._complete &= {study for study in studies if study.instances >= 0}
        if time.monotonic() >= self._forget_at:
            self._complete.clear()
            self._forget_at = time.monotonic() + _FORGET_SECONDS

    def _take_study(self, study: str, stop: threading.Event) -> tuple[int, bool]:
        """Take in a study's new radiographs; give how many, and whether the study is complete."""
        new, complete = 0, True
        try:
            instances = self._service.radiographs(study)
        except _SERVICE_ERRORS as error:  # the other studies are still taken in
            self._warn("a study could not be listed", error, study)
            return 0, False
        for instance in instances:
            if stop.is_set():
                return new, False
            uid, modality = instance.uid, RADIOGRAPHS[instance.sop_class]
            try:
                if not self._intake.is_known(uid):
                    content = self._service.fetch(instance)
                    new += self._intake.accept(uid, content, self._service.url, modality)
            except (*_SERVICE_ERRORS, *_LOCAL_ERRORS) as error:
                self._warn("an image could not be taken in", error, uid)
                complete = False
        return new, complete

    def _warn(self, what: str, error: Exception, uid: str | None = None) -> None:
        extra = {"event": "poll-failed", "source": self._service.url, "uid": uid}
        _log.warning("%s: %s", what, _describe(error), extra=extra)


def position(db: sqlite3.Connection, url: str) -> str | None:
    """Give the study date from which a service is polled next; None before the first poll."""
    row = db.execute("SELECT position FROM positions WHERE source = ?", (url,)).fetchone()
    return None if row is None else str(row["position"])


def _save_position(db: sqlite3.Connection, url: str, date: str) -> None:
    """Save the study date from which a service is polled next, and the time of this poll."""
    db.execute(
        "INSERT INTO positions VALUES (?, ?, ?) ON CONFLICT (source) "
        "DO UPDATE SET position = excluded.position, asked = excluded.asked",
        (url, date, time.time()),
    )


def _describe(error: Exception) -> str:
    """Describe a failure without quoting an answer, which may name a patient."""
    shown = isinstance(error, (httpx.HTTPError, _InvalidAnswerError, *_LOCAL_ERRORS))
    return str(error) if shown else type(error).__name__


def _value(found: dict[str, Any], tag: str, default: str | None = None) -> str:
    if default is not None and not found.get(tag, {}).get("Value"):
        return default
    return str(found[tag]["Value"][0])


def _only_part(content_type: str, content: bytes) -> bytes:
    """Take the one DICOM file out of a multipart answer."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if boundary is None:
        raise _InvalidAnswerError("the answer is not multipart")
    _, *parts, _ = content.split(b"--" + boundary.encode())
    if len(parts) != 1:
        raise _InvalidAnswerError(f"the answer has {len(parts)} parts, one instance has one")
    file = parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
    if not is_dicom(file):
        raise _InvalidAnswerError("the answer is not a DICOM file")
    return file
