"""Polling: finds new radiographs on a DICOMweb service and takes them in as if they were sent.

Studies and instances are found by QIDO-RS (PS3.18 section 10.6), each file is fetched by WADO-RS
(section 10.4). The queue, not the service, says what is known, so nothing is lost while the gateway
is down. The saved position is a study date: everything before it was taken in, and each poll asks
from there on. It stays some days behind today, since studies grow, clocks and time zones differ,
and radiographs arrive late. A study that arrives later still is not found: send it by C-STORE.

A service is not trusted: bytes, pages, results, depth and time of its answers are limited, and each
service is polled in a process of its own. What a poller leaves at a limit is asked for again.

dicomweb-client is not used: it parses each fetched file, so that the received bytes are lost, and
reads answers of any size into memory.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from io import BytesIO
from typing import Final, NamedTuple

from chestxray.dicom_elements import is_dicom
from chestxray.serving.gateway import dicom_json
from chestxray.serving.gateway.config import Poll
from chestxray.serving.gateway.dicom_json import Attributes
from chestxray.serving.gateway.http_client import AnswerError, HTTPClient
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError, is_uid
from chestxray.serving.gateway.integrity import exit_if_damage
from chestxray.serving.gateway.multipart import only_part
from chestxray.serving.gateway.queue import exit_after
from chestxray.serving.gateway.secondary_captures import (
    NO_CAPTURES,
    SECONDARY_CAPTURE,
    CaptureRule,
    NotARadiographError,
)
from chestxray.serving.gateway.sop_uids import sop_uids, transfer_syntax
from chestxray.serving.gateway.spool import Spool, data_set_starts
from chestxray.serving.gateway.store import Store

_PAGE_SIZE: Final = 500
_MAX_PAGE_BYTES: Final = 8 * 2**20
_MAX_PAGES: Final = 2000
_MAX_RESULTS: Final = 100_000
_MAX_META: Final = 2**16
_SEARCH_SECONDS: Final = 600.0
_POLL_SECONDS: Final = 3600.0
_WINDOW: Final = dt.timedelta(days=31)
_JSON: Final = "application/dicom+json"
_ANY_SYNTAX: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_FORGET_SECONDS: Final = 3600.0
_log = logging.getLogger(__name__)

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
    """A client of one service; its methods raise `AnswerError`.

    Args:
        config: of the service.
        max_bytes: maximum size of a file.
        stop: when it is set, a request in progress fails.
        classes: SOP classes of the instances to find.
    """

    def __init__(
        self, config: Poll, max_bytes: int, stop: threading.Event, classes: Collection[str]
    ) -> None:
        self._classes = classes
        self.url = config.url.rstrip("/")
        self._modalities = config.modalities
        self._max_bytes = max_bytes
        self._client = HTTPClient(config.headers, stop)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def studies(self, dates: str) -> set[_Study]:
        """Find all studies of a range of dates (YYYYMMDD-YYYYMMDD) that may have radiographs.

        Modalities are compared here: asked for ModalitiesInStudy, Orthanc 1.10 gives its first page
        only, and other services refuse.
        """
        return {
            _Study(uid, _count(found))
            for found in self._search("/studies", {"StudyDate": dates})
            if is_uid(uid := dicom_json.text(found, "0020000D")) and self._may_have(found)
        }

    def radiographs(self, study: str) -> list[Instance]:
        """Find the radiographs of a study."""
        instances = []
        for modality in self._modalities:
            for found in self._search(f"/studies/{study}/instances", {"Modality": modality}):
                series = dicom_json.text(found, "0020000E")
                uid = dicom_json.text(found, "00080018")
                sop_class = dicom_json.text(found, "00080016")
                if not (series and uid and sop_class):
                    raise AnswerError("an instance has no series, class or instance UID")
                if sop_class in self._classes and is_uid(uid) and is_uid(series):
                    path = f"/studies/{study}/series/{series}/instances/{uid}"
                    instances.append(Instance(uid, sop_class, path))
        return instances

    def fetch(self, instance: Instance, open_spool: Callable[[bytes], Spool]) -> Spool:
        """Fetch the DICOM file of an instance, byte for byte, into a spool.

        Raises:
            AnswerError: the service does not give the file of this instance.
            OSError: the spool cannot be written.
            OutOfSpaceError: the disk is full.
        """
        accept, limit = {"Accept": _ANY_SYNTAX}, self._max_bytes
        url = self.url + instance.path
        with self._client.request("GET", url, headers=accept, max_bytes=limit) as answer:
            if answer.status != 200:
                raise AnswerError(f"the service answered {answer.status}")
            return _spooled(only_part(answer.content_type, answer.chunks), instance, open_spool)

    def _may_have(self, study: Attributes) -> bool:
        modalities = dicom_json.values(study, "00080061")
        return not modalities or any(one in modalities for one in self._modalities)

    def _search(self, path: str, query: dict[str, str]) -> Iterator[Attributes]:
        """Give all matches of a search, page by page.

        A service may give fewer matches per page than asked for (PS3.18 section 8.3.4), so only an
        empty page, or the same page again, is the last one.
        """
        end = time.monotonic() + _SEARCH_SECONDS
        offset, last = 0, None
        for _ in range(_MAX_PAGES):
            found = self._page(path, query | {"limit": str(_PAGE_SIZE), "offset": str(offset)})
            if not found or found == last:
                return
            offset, last = offset + len(found), found
            if offset > _MAX_RESULTS:
                raise AnswerError(f"a search has more than {_MAX_RESULTS} results")
            if time.monotonic() > end:
                raise AnswerError(f"a search takes more than {_SEARCH_SECONDS:.0f} s")
            yield from found
        raise AnswerError(f"a search has more than {_MAX_PAGES} pages")

    def _page(self, path: str, query: dict[str, str]) -> list[Attributes]:
        with self._client.request(
            "GET",
            self.url + path,
            params=query,
            headers={"Accept": _JSON},
            max_bytes=_MAX_PAGE_BYTES,
        ) as answer:
            if answer.status == 204:
                return []
            if answer.status != 200:
                raise AnswerError(f"the service answered {answer.status}")
            return dicom_json.data_sets(answer.content())


class Poller:
    """Polls one service.

    Args:
        config: of the service.
        intake: where images go.
        store: a store of its own, for the position.
        max_bytes: maximum size of an image.
        stop: when it is set, the poller ends, and a request in progress fails.
        captures: which secondary captures are taken in.
    """

    def __init__(
        self,
        config: Poll,
        intake: Intake,
        store: Store,
        max_bytes: int,
        stop: threading.Event,
        captures: CaptureRule = NO_CAPTURES,
    ) -> None:
        self._config = config
        self._intake = intake
        self._store = store
        self._stop = stop
        self._captures = captures
        classes = {*RADIOGRAPHS, *((SECONDARY_CAPTURE,) if captures.accepted else ())}
        self._service = _DICOMwebService(config, max_bytes, stop, classes)
        self._complete: set[_Study] = set()
        self._no_radiographs: set[str] = set()
        self._forget_at = 0.0

    def run(self) -> None:
        """Poll until told to stop; after a failure the next poll tries again."""
        while not self._stop.is_set():
            try:
                with exit_after(2 * _POLL_SECONDS):  # whatever else may take so long
                    self.poll()
            except (AnswerError, *_LOCAL_ERRORS) as error:
                self._warn("the service could not be polled", error)
            self._stop.wait(self._config.seconds)
        self.close()

    def close(self) -> None:
        """Close the connection to the service."""
        self._service.close()

    def poll(self) -> int:
        """Take in new images; save the position when all are durable; give how many were new.

        Raises:
            AnswerError: the service cannot be asked for its studies.
            sqlite3.Error: the position cannot be read or saved.
        """
        end = time.monotonic() + _POLL_SECONDS
        today = dt.datetime.now().astimezone().date()
        behind = today - dt.timedelta(days=self._config.days)
        saved = position(self._store.db, self._service.url)
        if saved is None:  # saved now, however long it takes until the service answers
            saved = f"{self._config.since or today:%Y%m%d}"
            _save_position(self._store.db, self._service.url, saved)
        since = dt.datetime.strptime(saved, "%Y%m%d").date()  # noqa: DTZ007 (a date)
        if since > today:  # the clock was wrong when it was saved
            since = behind
        self._forget()
        new, all_complete = 0, True
        for first, last in _windows(since, behind):
            added, complete = self._take_window(first, last, end)
            new, all_complete = new + added, all_complete and complete
            if all_complete:
                reached = last or max(first, behind)
                _save_position(self._store.db, self._service.url, f"{reached:%Y%m%d}")
        return new

    def _forget(self) -> None:
        """Check all studies again at times: one image removed and one added keep the number."""
        if len(self._no_radiographs) > _MAX_RESULTS:
            self._no_radiographs.clear()
        if time.monotonic() >= self._forget_at or len(self._complete) > _MAX_RESULTS:
            self._complete.clear()
            self._forget_at = time.monotonic() + _FORGET_SECONDS

    def _take_window(self, first: dt.date, last: dt.date | None, end: float) -> tuple[int, bool]:
        """Take in the images of some days; give how many were new, and whether that is all."""
        if self._is_over(end):
            return 0, False
        until = "" if last is None else f"{last:%Y%m%d}"
        studies = list(self._service.studies(f"{first:%Y%m%d}-{until}") - self._complete)
        random.shuffle(studies)  # one that always takes long keeps no other back for ever
        new, all_complete = 0, True
        for study in studies:
            added, complete = self._take_study(study.uid, end)
            new, all_complete = new + added, all_complete and complete
            if complete and study.instances >= 0:
                self._complete.add(study)
        return new, all_complete

    def _take_study(self, study: str, end: float) -> tuple[int, bool]:
        """Take in a study's new radiographs; give how many, and whether the study is complete."""
        if self._is_over(end):
            return 0, False
        new, complete = 0, True
        try:
            instances = self._service.radiographs(study)
        except AnswerError as error:  # the other studies are still taken in
            self._warn("a study could not be listed", error, study)
            return 0, False
        for instance in instances:
            if self._is_over(end):
                return new, False
            try:
                new += self._take(instance)
            except (AnswerError, *_LOCAL_ERRORS) as error:
                self._warn("an image could not be taken in", error, instance.uid)
                complete = False
        return new, complete

    def _take(self, instance: Instance) -> bool:
        """Take in an image, unless it is known."""
        if instance.uid in self._no_radiographs or self._intake.is_known(instance.uid):
            return False
        spool = self._service.fetch(instance, self._intake.spool)
        try:
            modality = self._modality(instance, spool)
        except NotARadiographError as error:
            spool.discard()
            self._no_radiographs.add(instance.uid)  # else it would be fetched at each poll
            extra = {"event": "foreign-result", "source": self._service.url, "uid": instance.uid}
            _log.warning("an image is not taken in: %s", error, extra=extra)
            return False
        return self._intake.accept(instance.uid, spool, self._service.url, modality)

    def _modality(self, instance: Instance, spool: Spool) -> str:
        """Give the modality of an image by its class, of a secondary capture by its tags.

        Raises:
            NotARadiographError: it is no radiograph.
        """
        if instance.sop_class in RADIOGRAPHS:
            return RADIOGRAPHS[instance.sop_class]
        return self._captures.modality(bytes(spool.beginning), transfer_syntax(spool.head))

    def _is_over(self, end: float) -> bool:
        return self._stop.is_set() or time.monotonic() > end

    def _warn(self, what: str, error: Exception, uid: str | None = None) -> None:
        exit_if_damage(error)
        if self._stop.is_set():  # a request that was cut for it
            return
        extra = {"event": "poll-failed", "source": self._service.url, "uid": uid}
        _log.warning("%s: %s", what, error, extra=extra)


def _count(study: Attributes) -> int:
    """Give the number of a study's instances; -1 where the service does not tell."""
    count = dicom_json.text(study, "00201208")
    return int(count) if re.fullmatch("[0-9]{1,9}", count) else -1


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


def _windows(since: dt.date, behind: dt.date) -> Iterator[tuple[dt.date, dt.date | None]]:
    """Divide the days from `since` on, so that a search has not all studies of many years.

    Yields:
        First and last day of a search; the last search has no last day.
    """
    while since + _WINDOW < behind:
        yield since, since + _WINDOW
        since += _WINDOW
    yield since, None


def _spooled(
    content: Iterator[bytes], instance: Instance, open_spool: Callable[[bytes], Spool]
) -> Spool:
    """Write a file into a spool as it arrives, and check that it is the file of an instance."""
    head, rest = _divided(content)
    spool = open_spool(head)
    try:
        for chunk in itertools.chain([rest], content):
            spool.write(chunk)
            spool.check()
        _check_instance(spool, head, instance)
    except BaseException:
        spool.discard()
        raise
    return spool


def _divided(content: Iterator[bytes]) -> tuple[bytes, bytes]:
    """Read until the data set begins; give what precedes it, and what was read of it."""
    begun = bytearray()
    for chunk in content:
        begun += chunk
        if len(begun) < 144:
            continue
        start = data_set_starts(BytesIO(begun))
        if not is_dicom(bytes(begun[:144])) or start > _MAX_META:
            break
        if len(begun) >= start:
            return bytes(begun[:start]), bytes(begun[start:])
    raise AnswerError("the answer is not a DICOM file")


def _check_instance(spool: Spool, head: bytes, instance: Instance) -> None:
    """Check that a data set declares the SOP class and instance UID that were asked for.

    Raises:
        AnswerError: it is another one.
    """
    declared = sop_uids(bytes(spool.beginning), transfer_syntax(head))
    if declared != (instance.sop_class, instance.uid):
        raise AnswerError("the file is of another instance than the one that was asked for")
