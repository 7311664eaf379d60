"""The poller: asks a DICOMweb source for new radiographs and takes them in as if they were sent.

QIDO-RS for studies and their instances (PS3.18 section 10.6), WADO-RS for each instance that is not
known yet (section 10.4). What is known is told by the queue, not by the source, so nothing is lost
when the gateway was down. The saved position is a study date: all before it is here, and each
question asks from there on. A study of an older date that arrives later is not seen; send such by
C-STORE.
"""

from __future__ import annotations

import datetime as dt
import logging
import sqlite3
import threading
from collections.abc import Iterator
from email.message import Message
from typing import Any, Final

import httpx

from chestxray.serving.gateway.config import Poll
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError, is_uid
from chestxray.serving.gateway.store import Store

_PAGE: Final = 200
_OVERLAP: Final = dt.timedelta(days=1)  # studies of yesterday still grow; clocks and zones differ
_TIMEOUT: Final = 60.0
_ANY_SYNTAX: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_log = logging.getLogger(__name__)


class Poller:
    """Asks one source.

    Args:
        source: which.
        intake: where images go.
        store: of its own, for the position.
    """

    def __init__(self, source: Poll, intake: Intake, store: Store) -> None:
        self._source = source
        self._intake = intake
        self._store = store
        self._url = source.url.rstrip("/")
        self._client = httpx.Client(headers=source.headers, timeout=_TIMEOUT)
        self._complete: dict[str, int] = {}  # studies, by how many instances they had when taken

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop; a source that does not answer is asked again later."""
        while not stop.is_set():
            try:
                self.ask(stop)
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                self._warn(f"the source could not be asked: {_said(error)}")
            stop.wait(self._source.seconds)
        self.close()

    def close(self) -> None:
        """Let go of the connection to the source."""
        self._client.close()

    def ask(self, stop: threading.Event) -> int:
        """Take in what is new; save the position when all of it is durable; how many came.

        Raises:
            httpx.HTTPError: the source cannot be reached or refuses.
            ValueError, LookupError, TypeError: what it says is no DICOM JSON.
        """
        today = dt.datetime.now().astimezone().date()
        since = self._store.position(self._url) or f"{self._source.since or today:%Y%m%d}"
        taken, whole = 0, True
        for study, instances in list(self._studies(since)):
            if stop.is_set():
                return taken
            new, all_taken = self._take_study(study)
            taken, whole = taken + new, whole and all_taken
            if all_taken:
                self._complete[study] = instances
        if whole:
            position = max(since, f"{today - _OVERLAP:%Y%m%d}")
            self._store.set_position(self._url, position)
        return taken

    def _take_study(self, study: str) -> tuple[int, bool]:
        """Take in a study's new radiographs; how many, and whether none was left behind."""
        taken, whole = 0, True
        for uid, sop_class, path in list(self._instances(study)):
            if self._intake.known(uid):
                continue
            try:
                content = self._fetched(path)
                self._intake.take(uid, content, self._url, RADIOGRAPHS[sop_class])
                taken += 1
            except (httpx.HTTPError, ValueError, OSError, sqlite3.Error, OutOfSpaceError) as error:
                self._warn(f"an image could not be taken: {_said(error)}", uid)
                whole = False
        return taken, whole

    def _studies(self, since: str) -> Iterator[tuple[str, int]]:
        """Give UID and number of instances of each study that grew since it was taken."""
        for modality in self._source.modalities:
            query = {"StudyDate": f"{since}-", "ModalitiesInStudy": modality}
            for found in self._pages("/studies", query):
                study, instances = _value(found, "0020000D"), int(_value(found, "00201208", "-1"))
                if is_uid(study) and (instances < 0 or self._complete.get(study) != instances):
                    yield study, instances

    def _instances(self, study: str) -> Iterator[tuple[str, str, str]]:
        """Give UID, SOP class and path of each radiograph of a study."""
        for modality in self._source.modalities:
            for found in self._pages(f"/studies/{study}/instances", {"Modality": modality}):
                series, uid = _value(found, "0020000E"), _value(found, "00080018")
                sop_class = _value(found, "00080016")
                if sop_class in RADIOGRAPHS and is_uid(uid) and is_uid(series):
                    yield uid, sop_class, f"/studies/{study}/series/{series}/instances/{uid}"

    def _pages(self, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Give all matches of a search, page by page."""
        offset = 0
        while True:
            answer = self._client.get(
                self._url + path,
                params=query | {"limit": str(_PAGE), "offset": str(offset)},
                headers={"Accept": "application/dicom+json"},
            )
            answer.raise_for_status()
            found = [] if answer.status_code == 204 else answer.json()
            yield from found
            offset += len(found)
            if len(found) < _PAGE:
                return

    def _fetched(self, path: str) -> bytes:
        answer = self._client.get(self._url + path, headers={"Accept": _ANY_SYNTAX})
        answer.raise_for_status()
        return _part(answer)

    def _warn(self, what: str, uid: str | None = None) -> None:
        extra = {"event": "poll-failed", "source": self._url, "uid": uid}
        _log.warning("%s", what, extra=extra)


def _said(error: Exception) -> str:
    """Say what failed; an answer that is no DICOM JSON is not quoted, it may name a patient."""
    quoted = isinstance(error, httpx.HTTPError | OSError | OutOfSpaceError)
    return str(error) if quoted else type(error).__name__


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
    if content[128:132] != b"DICM":
        raise ValueError("what the source sent is no DICOM file")
    return content
