"""The monitor: a process that watches over the database and says how the gateway is.

Every few seconds it anchors the audit record (`anchors.py`) and compares it with the last anchor;
every hour it checks the whole database, every day it makes a backup. Where the database is damaged
the process ends with a status of its own, and the supervisor halts the gateway; then a monitor only
serves the health endpoint.
"""

from __future__ import annotations

import logging
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Final

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import anchors, audit, backups, health, integrity
from chestxray.serving.gateway.anchors import Anchor
from chestxray.serving.gateway.config import Audit, Config
from chestxray.serving.gateway.http_client import AnswerError, HTTPClient
from chestxray.serving.gateway.store import Store, transaction

INTERVAL_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 3600.0
_POST_SECONDS: Final = 4.0  # less than the interval, which a slow service must not stretch
_MAX_ANSWER_BYTES: Final = 2**16
_STALLED_SECONDS: Final = 120.0
_LOG_AUDIT_NOTICE: Final = 13 * 8 + 5  # RFC 3164 tables 1 and 2
_log = logging.getLogger(__name__)


class Monitor:
    """Watches over the database of a state folder.

    Args:
        config: of the gateway.
    """

    def __init__(self, config: Config) -> None:
        self._state = config.state
        self._outside = _OutsideAnchors(config.audit)
        self._checked = time.monotonic()  # the supervisor checked it before the start
        self._seen = time.monotonic()
        self._problems: list[str] = []
        self._begun = False

    def run(self, stop: threading.Event) -> None:
        """Watch until told to stop; a last time then."""
        while not health.halted(self._state):
            due = time.monotonic() + INTERVAL_SECONDS
            self.run_once()
            if stop.wait(max(0.0, due - time.monotonic())):
                self.run_once()
                return
        stop.wait()

    def run_once(self) -> None:
        """Anchor and check the record, and make a backup where one is due.

        Raises:
            DamageError: the database is damaged, missing or replaced.
            sqlite3.DatabaseError: it is damaged.
        """
        found: list[str] = []
        try:
            self._watch()
        except (OSError, sqlite3.Error, ArtifactError) as error:
            if integrity.is_damage(error):
                raise
            found.append(f"the audit record cannot be anchored or backed up: {error}")
            _log.error("%s", found[-1], extra={"event": "postponed"})
        found += self._outside.problems()
        self._problems, self._seen = found, time.monotonic()

    def problems(self) -> list[str]:
        """Give what is wrong with the gateway, one sentence each; empty where it is well."""
        if health.halted(self._state):
            return list(health.problems(self._state))
        silent = time.monotonic() - self._seen
        stalled = [f"the monitor has not run for {silent:.0f} s"]
        return [
            *health.problems(self._state),
            *self._problems,
            *(stalled if silent > _STALLED_SECONDS else []),
        ]

    def _watch(self) -> None:
        integrity.check_present(self._state)
        integrity.check_anchored(self._state)
        if time.monotonic() - self._checked >= _CHECK_SECONDS:
            integrity.check(self._state)
            self._checked = time.monotonic()
        with closing(Store(self._state)) as store:
            if not self._begun:
                begin_anchors(store)
                self._begun = True
            anchor = anchor_record(store)
            if backups.is_due(self._state):
                path = backups.make(store.db, self._state)
                _log.info("backup made: %s", path.name, extra={"event": "backup"})
        self._outside.offer(anchor)


def begin_anchors(store: Store) -> None:
    """Anchor a record for the first time, and record that it is anchored from here on.

    Raises:
        OSError: the anchor cannot be written.
        sqlite3.Error: the record cannot be read or written.
    """
    if anchors.last(store.folder) is None:
        anchors.append(store.folder, Anchor.now(*audit.last(store.db)))
    if not audit.has(store.db, "anchored"):
        with transaction(store.db):
            audit.append(store.db, "anchored", {"file": anchors.FILE})


def anchor_record(store: Store) -> Anchor:
    """Anchor the last entry of the audit record, if it is new; give the last anchor.

    Raises:
        OSError: the anchor cannot be written.
        sqlite3.Error: the record cannot be read.
    """
    before = anchors.last(store.folder)
    anchor = Anchor.now(*audit.last(store.db))
    if before is not None and before.number == anchor.number:
        return before
    anchors.append(store.folder, anchor)
    return anchor


class _OutsideAnchors:
    """Sends anchors to syslog and to a URL, where `audit` names them; the newest one if one fails.

    Args:
        config: where to.
    """

    def __init__(self, config: Audit) -> None:
        self._ways: dict[str, Callable[[Anchor], None]] = {}
        if config.syslog is not None:
            self._ways["audit.syslog"] = partial(_send_to_syslog, config.syslog)
        if config.url is not None:
            client = HTTPClient(config.headers, threading.Event())
            self._ways["audit.url"] = partial(_post, client, config.url)
        self._sent: dict[str, Anchor] = {}
        self._failures: dict[str, str] = {}

    def offer(self, anchor: Anchor) -> None:
        """Send an anchor wherever it has not been sent; a failure is tried again next time."""
        for key, send in self._ways.items():
            if self._sent.get(key) == anchor:
                continue
            try:
                send(anchor)
            except (OSError, AnswerError) as error:
                self._failures[key] = f"{key}: the anchor could not be sent: {error}"
                _log.error("%s", self._failures[key], extra={"event": "anchor-failed"})
            else:
                self._sent[key] = anchor
                self._failures.pop(key, None)

    def problems(self) -> list[str]:
        """Give the failures that were not made good since."""
        return list(self._failures.values())


def _send_to_syslog(address: str, anchor: Anchor) -> None:
    """Send an anchor as a message of the facility "log audit" (RFC 3164 section 4.1)."""
    message = f"<{_LOG_AUDIT_NOTICE}>chestxray-gateway: audit anchor {anchor.line()}".encode()
    if sys.platform != "win32" and address.startswith("/"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message, address)
        return
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(found[0], socket.SOCK_DGRAM) as sender:
        sender.sendto(message, found[4])


def _post(client: HTTPClient, url: str, anchor: Anchor) -> None:
    """Post an anchor as JSON.

    Raises:
        AnswerError: the service did not answer in time, or with another status than 2xx.
    """
    with client.request(
        "POST",
        url,
        content=anchor.line().encode(),
        headers={"Content-Type": "application/json"},
        max_bytes=_MAX_ANSWER_BYTES,
        seconds=_POST_SECONDS,
    ) as answer:
        if not 200 <= answer.status < 300:
            raise AnswerError(f"the service answered {answer.status}")
        answer.content()  # so that the connection can be used again
