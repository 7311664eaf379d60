"""The ways to a destination: C-STORE and STOW-RS.

A result is delivered when the destination has said so: status 0000, or a warning (Bxxx), which has
stored it too (PS3.4 table B.2-1); or its UID in ReferencedSOPSequence and nothing in
FailedSOPSequence (PS3.18 section 10.5.3). Or when it says that it has it already (0111), since a
sender may be killed before it notes a success. It is sent as the bytes that lie in the outbox.

The sender: brings results from the outbox to one destination.

A destination that turns a result down is asked again some times, later; while it cannot be reached
at all, results wait, nothing is counted, and it is asked ever more rarely.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import uuid
from pathlib import Path
from typing import Final, Protocol

import httpx
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.association import Association

from chestxray.errors import ChestXrayError
from chestxray.serving.gateway import queue as tasks
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.destinations import Destination, StoreSCP, Stow
from chestxray.serving.gateway.dimse import client_context
from chestxray.serving.gateway.queue import Task, within
from chestxray.serving.gateway.receiver import RESULTS
from chestxray.serving.gateway.store import Store, sending

_SECONDS: Final = 30.0
_CLOSED: Final = frozenset({401, 403, 429, 502, 503, 504, 507})  # says nothing about the result
_DUPLICATE: Final = 0x0111
_OUT_OF_RESOURCES: Final = 0xA700


class NotDeliveredError(ChestXrayError):
    """A destination did not take a result; the message is what it said."""


class UnreachableError(NotDeliveredError):
    """A destination cannot be reached, or takes nothing at all now."""


class Link(Protocol):
    """A way to one destination."""

    def send(self, path: Path) -> None:
        """Deliver a file.

        Raises:
            UnreachableError: no result would get through now.
            NotDeliveredError: this one was not taken.
            OSError: the file cannot be read.
        """

    def rest(self) -> None:
        """Let go of what others wait for, while there is nothing to send."""

    def close(self) -> None:
        """Let go of all connections."""


class StoreLink:
    """C-STORE, over one association as long as there is something to send."""

    def __init__(self, to: StoreSCP, ae_title: str) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True  # bytes as they are, not decoded and encoded
        self._to = to
        self._ae = AE(ae_title=ae_title)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = _SECONDS
        self._ae.connection_timeout = _SECONDS
        for sop_class in RESULTS:
            self._ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        self._association: Association | None = None

    def send(self, path: Path) -> None:
        """Deliver a file by C-STORE; see `Link.send`."""
        association = self._associated()
        try:
            status = association.send_c_store(path)
        except (RuntimeError, ValueError, AttributeError) as error:
            self.rest()
            raise NotDeliveredError(f"C-STORE was not possible: {error}") from error
        if "Status" not in status:
            self.rest()
            raise NotDeliveredError("the connection was lost before an answer came")
        code = status.Status
        if code not in (0x0000, _DUPLICATE) and code & 0xF000 != 0xB000:
            # Its error comment is not repeated: it may name the patient.
            raise _refusal(code, f"C-STORE was answered with status {code:04X}")

    def rest(self) -> None:
        """Release the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def close(self) -> None:
        """Release the association."""
        self.rest()

    def _associated(self) -> Association:
        if self._association is None or not self._association.is_established:
            to = self._to
            try:
                tls = (client_context(to.tls), to.host) if to.tls else None
            except OSError as error:  # they are being renewed, perhaps
                raise UnreachableError(f"the TLS files cannot be used: {error}") from error
            found = self._ae.associate(to.host, to.port, ae_title=to.ae_title, tls_args=tls)
            if not found.is_established:
                why = "was rejected" if found.is_rejected else "could not be opened"
                where = f"{to.ae_title} at {to.host}:{to.port}"
                raise UnreachableError(f"the association with {where} {why}")
            self._association = found
        return self._association


class StowLink:
    """STOW-RS, one instance a request."""

    def __init__(self, to: Stow) -> None:
        self._url = to.url.rstrip("/") + "/studies"
        self._client = httpx.Client(
            headers={"Accept": "application/dicom+json", **to.headers}, timeout=_SECONDS
        )

    def send(self, path: Path) -> None:
        """Deliver a file by STOW-RS; see `Link.send`."""
        mark = uuid.uuid4().hex
        head = f"--{mark}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = head + path.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={mark}'
        try:
            answer = self._client.post(self._url, content=body, headers={"Content-Type": kind})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UnreachableError(f"{self._url}: {error}") from error
        except httpx.HTTPError as error:
            raise NotDeliveredError(f"{self._url}: {error}") from error
        if answer.status_code in _CLOSED:
            raise UnreachableError(f"{self._url} answered {answer.status_code}")
        _check_stored(answer, path.stem)

    def rest(self) -> None:
        """Keep the connection; the pool closes idle ones."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _check_stored(answer: httpx.Response, uid: str) -> None:
    """Believe the body, not the status: 202 says that some instances were stored, not which."""
    try:
        said = Dataset.from_json(answer.text)
        stored = {
            str(item.ReferencedSOPInstanceUID) for item in said.get("ReferencedSOPSequence", [])
        }
        failed = [int(item.get("FailureReason", 0)) for item in said.get("FailedSOPSequence", [])]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"the server answered {answer.status_code} and no DICOM JSON"
        raise NotDeliveredError(why) from error
    known = _DUPLICATE in failed
    others = [code for code in failed if code != _DUPLICATE]
    if others or not (known or uid in stored):
        reasons = ", ".join(f"{code:04X}" for code in others) or "none given"
        why = f"the server answered {answer.status_code} and did not store it, reason {reasons}"
        raise _refusal(others[0] if others else 0, why)


def _refusal(code: int, why: str) -> NotDeliveredError:
    """Tell one that has no room for any result from one that does not want this one."""
    kind = UnreachableError if code & 0xFF00 == _OUT_OF_RESOURCES else NotDeliveredError
    return kind(why)


_IDLE_SECONDS: Final = 0.2
_LONGEST_SILENCE: Final = 60.0
_log = logging.getLogger(__name__)


def send(config: Config, to: Destination, stop: threading.Event) -> None:
    """Bring results to a destination until told to stop; the one in hand is finished first."""
    store = Store(config.state)
    link = StowLink(to) if isinstance(to, Stow) else StoreLink(to, config.receive.ae_title)
    silences, failed = 0, False
    try:
        while not stop.is_set():
            try:
                if failed:
                    store.release(sending(to.name), to.name, died=False)
                    failed = False
                reached = _send_once(to, link, store)
            except sqlite3.OperationalError as error:  # a full disk
                failed, reached = True, False
                _log.error("the queue cannot be written: %s", error, extra={"event": "waits"})
            if reached is None:
                link.rest()
                stop.wait(_IDLE_SECONDS)
                continue
            silences = 0 if reached else silences + 1
            stop.wait(min(_LONGEST_SILENCE, tasks.wait(silences)) if silences else 0)
    finally:
        link.close()
        store.close()


def _send_once(to: Destination, link: Link, store: Store) -> bool | None:
    """Send one result, where one is due; whether the destination was reached, None without one."""
    task = store.claim(sending(to.name), to.lease, to.attempts, to.name)
    if task is None:
        return None
    with within(to.lease):
        return deliver(task, link, store, to)


def deliver(task: Task, link: Link, store: Store, to: Destination) -> bool:
    """Send one result and note what came of it; False when the destination cannot be reached."""
    about = {"uid": task.item, "destination": to.name}
    try:
        link.send(store.result_file(task.item))
    except UnreachableError as error:
        store.give_back(task, str(error), 0)
        _log.warning("%s", error, extra={"event": "unreachable", **about})
        return False
    except (NotDeliveredError, OSError) as error:
        dead = store.fail(task, str(error), to.attempts)
        event = "delivery-dead" if dead else "delivery-failed"
        _log.error("result not sent: %s", error, extra={"event": event, **about})
    else:
        store.finish_sending(task)
        _log.info("result sent", extra={"event": "sent", **about})
    return True
