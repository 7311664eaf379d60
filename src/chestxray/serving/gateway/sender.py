"""The sender: delivers results from the outbox to one destination, by C-STORE or STOW-RS.

A result is delivered when the destination says so: by status 0000 or a warning (Bxxx), which has
stored it too (PS3.4 table B.2-1); or by its UID in ReferencedSOPSequence and an empty
FailedSOPSequence (PS3.18 section 10.5.3). It is also delivered when the destination has it already
(0111), since a sender may be killed before it records a success. The bytes of the outbox are sent
as they are; dicomweb-client would decode and encode them again, so it is not used. Only a picture
for a destination that does not accept JPEG Baseline is decoded first (`uncompressed`).

A result that the destination rejects is offered again some times, later. While the destination
cannot be reached, results wait, no attempt is counted, and the intervals grow. What a STOW-RS
service answers is limited in bytes, depth and time (`http_client`, `dicom_json`).
"""

from __future__ import annotations

import io
import logging
import re
import sqlite3
import threading
import time
import uuid
from pathlib import Path
from typing import Final, Protocol

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage
from pynetdicom import AE, _config
from pynetdicom.association import Association

from chestxray.errors import ChestXrayError
from chestxray.serving.gateway import dicom_json
from chestxray.serving.gateway.config import Config, Destination, StoreSCP, Stow
from chestxray.serving.gateway.http_client import AnswerError, HTTPClient
from chestxray.serving.gateway.http_client import UnreachableError as NoConnectionError
from chestxray.serving.gateway.outgoing_association import OutgoingAssociation
from chestxray.serving.gateway.queue import Task, backoff, exit_after
from chestxray.serving.gateway.receiver import RESULT_CLASSES
from chestxray.serving.gateway.sop_uids import transfer_syntax
from chestxray.serving.gateway.store import Store, send_queue

_TIMEOUT: Final = 30.0
_IDLE_SECONDS: Final = 0.2
_HEAD_BYTES: Final = 2**10  # with the file meta of a result
_HELD_SECONDS: Final = 2.0  # an association costs as much as three results
_LONGEST_INTERVAL: Final = 60.0
_UNAVAILABLE: Final = frozenset({401, 403, 429, 502, 503, 504, 507})  # not about the result
_EXPLAINED: Final = frozenset({200, 202, 409})  # with DICOM JSON (PS3.18 section 10.5.3)
_OF_CONTENT: Final = frozenset({400, 406, 415, 422})  # may be about the encoding of a result
_ADVICE: Final = {404: "check the URL", 413: "the result is too large for it"}
_DUPLICATE: Final = 0x0111
_OUT_OF_RESOURCES: Final = 0xA700
_MAX_ANSWER_BYTES: Final = 2**20  # one about one instance is shorter
_SHOWN_REASONS: Final = 3

_REFERENCED_SOP_SEQUENCE: Final = "00081199"
_REFERENCED_SOP_INSTANCE: Final = "00081155"
_FAILED_SOP_SEQUENCE: Final = "00081198"
_FAILURE_REASON: Final = "00081197"
_log = logging.getLogger(__name__)


class _DeliveryError(ChestXrayError):
    """A destination did not store a result; the message is its answer."""


class _RejectedError(_DeliveryError):
    """A STOW-RS service answered that it does not store a result, at least not in this encoding."""


class _UnreachableError(_DeliveryError):
    """A destination cannot be reached, or stores no result at the moment."""


class _Transport(Protocol):
    """A way to one destination."""

    def send(self, path: Path) -> None:
        """Deliver a file.

        Raises:
            _UnreachableError: no result would be stored at the moment.
            _DeliveryError: this result was not stored.
            OSError: the file cannot be read.
        """

    def release(self, held: float = 0.0) -> None:
        """Release what other senders wait for, if it has been held for so many seconds."""

    def close(self) -> None:
        """Close all connections."""


class _CStoreTransport:
    """C-STORE, over one association while results follow each other."""

    def __init__(self, to: StoreSCP, ae_title: str) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True  # send bytes as they are, without decoding
        self._to = to
        self._ae = AE(ae_title=ae_title)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = _TIMEOUT
        self._ae.connection_timeout = _TIMEOUT
        for sop_class in RESULT_CLASSES:
            self._ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        self._ae.add_requested_context(SecondaryCaptureImageStorage, JPEGBaseline8Bit)
        self._association: OutgoingAssociation | None = None
        self._opened = 0.0

    def send(self, path: Path) -> None:
        """Deliver a file by C-STORE; see `_Transport.send`."""
        association = self._associate()
        try:
            status = association.store(_as_accepted(path, association))
        except (RuntimeError, ValueError, AttributeError) as error:
            self.release()
            raise _DeliveryError(f"C-STORE failed: {error}") from error
        if status is None:
            self.release()
            raise _DeliveryError("the connection was lost before an answer came")
        if status not in (0x0000, _DUPLICATE) and status & 0xF000 != 0xB000:
            # Its error comment is not repeated: it may name the patient.
            raise _delivery_error(status, f"C-STORE was answered with status {status:04X}")

    def release(self, held: float = 0.0) -> None:
        """Release the association; see `_Transport.release`."""
        if self._association is not None and time.monotonic() - self._opened >= held:
            self._association.end()
            self._association = None

    def close(self) -> None:
        """Release the association."""
        self.release()

    def _associate(self) -> OutgoingAssociation:
        if self._association is None or not self._association.is_usable:
            self.release()
            to = self._to
            try:
                tls = to.tls.client_context() if to.tls else None
            except OSError as error:  # they may be being renewed
                raise _UnreachableError(f"the TLS files cannot be used: {error}") from error
            where = f"the association with {to.ae_title} at {to.host}:{to.port}"
            try:
                association = OutgoingAssociation(self._ae, to, tls)
            except OSError as error:  # such as a name that is not found
                raise _UnreachableError(f"{where} could not be opened: {error}") from error
            if not association.is_established:
                raise _UnreachableError(f"{where} {association.why_not}")
            self._association, self._opened = association, time.monotonic()
        return self._association


class _StowTransport:
    """STOW-RS, one instance per request."""

    def __init__(self, to: Stow, stop: threading.Event) -> None:
        self._url = to.url.rstrip("/") + "/studies"
        self._stop = stop
        self._client = HTTPClient({"Accept": "application/dicom+json", **to.headers}, stop)

    def send(self, path: Path) -> None:
        """Deliver a file by STOW-RS; see `_Transport.send`.

        Where the service answers that it does not store it, it is sent without compression too: the
        service may not support the transfer syntax.
        """
        try:
            self._store(path.read_bytes(), path.stem)
        except _RejectedError as rejected:
            plain = uncompressed(path)
            if plain is None:
                raise
            try:
                self._store(plain, path.stem)
            except _UnreachableError:
                raise
            except _DeliveryError as error:
                raise _DeliveryError(f"{rejected}; without compression: {error}") from error

    def _store(self, content: bytes, uid: str) -> None:
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = head + content + f"\r\n--{boundary}--\r\n".encode()
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        try:
            status, answer = self._post(body, {"Content-Type": content_type})
        except NoConnectionError as error:
            raise _UnreachableError(f"{self._url}: {error}") from error
        except AnswerError as error:
            kind = _UnreachableError if self._stop.is_set() else _DeliveryError
            raise kind(f"{self._url}: {error}") from error
        _check_stored(status, answer, uid)

    def release(self, held: float = 0.0) -> None:
        """Keep the connection; the pool closes idle ones."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Give the status and content of the answer.

        Raises:
            _UnreachableError: the service stores no result at the moment.
            AnswerError: it gave no answer within the limits.
        """
        with self._client.request(
            "POST", self._url, content=body, headers=headers, max_bytes=_MAX_ANSWER_BYTES
        ) as answer:
            if answer.status in _UNAVAILABLE:
                raise _UnreachableError(f"{self._url} answered {answer.status}")
            return answer.status, answer.content()


def uncompressed(path: Path) -> bytes | None:
    """Give a result whose pixels are compressed as a file in Explicit VR Little Endian.

    Returns:
        The file; None where the result has no compressed pixels.

    Raises:
        OSError: it cannot be read.
    """
    result = dcmread(path)
    if not result.file_meta.TransferSyntaxUID.is_compressed:
        return None
    result.decompress(as_rgb=True, generate_instance_uid=False)
    buffer = io.BytesIO()
    result.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _as_accepted(path: Path, association: Association) -> Path | Dataset:
    """Give a result as the other side accepts it: the file, or its data set without compression."""
    with path.open("rb") as file:
        syntax = transfer_syntax(file.read(_HEAD_BYTES))
    accepted = {context.transfer_syntax[0] for context in association.accepted_contexts}
    if syntax in accepted:  # compressed ones are proposed for pictures alone
        return path
    plain = uncompressed(path)
    return path if plain is None else dcmread(io.BytesIO(plain))


def run(config: Config, to: Destination, stop: threading.Event) -> None:
    """Deliver results to a destination until told to stop; a delivery in progress is completed."""
    store = Store(config.state)
    transport = (
        _StowTransport(to, stop)
        if isinstance(to, Stow)
        else _CStoreTransport(to, config.receive.ae_title)
    )
    failures, must_release = 0, False
    try:
        while not stop.is_set():
            try:
                if must_release:
                    store.release(send_queue(to.name), to.name, died=False)
                    must_release = False
                reached = _send_next(to, transport, store)
            except sqlite3.OperationalError as error:  # a full disk
                must_release, reached = True, False
                extra = {"event": "postponed", "destination": to.name}
                _log.error("the queue cannot be written: %s", error, extra=extra)
            if reached is None:
                transport.release(held=_HELD_SECONDS)
                stop.wait(_IDLE_SECONDS)
                continue
            failures = 0 if reached else failures + 1
            if failures:
                transport.release()
                stop.wait(min(_LONGEST_INTERVAL, backoff(failures)))
    finally:
        transport.close()
        store.close()


def _send_next(to: Destination, transport: _Transport, store: Store) -> bool | None:
    """Send one result; give whether the destination was reached, None where no result is due."""
    task = store.claim(send_queue(to.name), to.lease, to.attempts, to.name)
    if task is None:
        return None
    with exit_after(to.lease):
        return deliver(task, transport, store, to)


def deliver(task: Task, transport: _Transport, store: Store, to: Destination) -> bool:
    """Send one result and record the outcome; give False where the destination is unreachable."""
    about = {"uid": task.item, "destination": to.name}
    try:
        transport.send(store.result_file(task.item))
    except _UnreachableError as error:
        store.defer(task, str(error), 0)
        _log.warning("%s", error, extra={"event": "unreachable", **about})
        return False
    except (_DeliveryError, OSError) as error:
        dead = store.fail(task, str(error), to.attempts)
        event = "delivery-dead" if dead else "delivery-failed"
        _log.error("result not sent: %s", error, extra={"event": event, **about})
    else:
        store.finish_sending(task)
        _log.info("result sent", extra={"event": "sent", **about})
    return True


def _check_stored(status: int, answer: bytes, uid: str) -> None:
    """Check the body, not the status: 202 means that some instances were stored, not which.

    Raises:
        _RejectedError: the service says that it does not store the result.
        _UnreachableError: it has no room at the moment.
        _DeliveryError: it says nothing that can be understood.
    """
    try:
        said = dicom_json.data_set(answer)
    except AnswerError as error:
        kind = _RejectedError if status in _OF_CONTENT else _DeliveryError
        why = f"without valid DICOM JSON: {error}" if status in _EXPLAINED else _advice(status)
        raise kind(f"the server answered {status} {why}".rstrip()) from error
    referenced = dicom_json.items(said, _REFERENCED_SOP_SEQUENCE)
    stored = {dicom_json.text(item, _REFERENCED_SOP_INSTANCE) for item in referenced}
    failed = [_reason(item) for item in dicom_json.items(said, _FAILED_SOP_SEQUENCE)]
    known = _DUPLICATE in failed
    others = [code for code in failed if code != _DUPLICATE]
    if others or not (known or uid in stored):
        reasons = ", ".join(f"{code:04X}" for code in others[:_SHOWN_REASONS]) or "none given"
        message = f"the server answered {status} and did not store it, reason {reasons}"
        raise _delivery_error(others[0] if others else 0, message, _RejectedError)


def _advice(status: int) -> str:
    advice = "redirects are not followed: check the URL" if 300 <= status < 400 else ""
    advice = _ADVICE.get(status, advice)
    return f"({advice})" if advice else ""


def _reason(item: dicom_json.Attributes) -> int:
    """Give the failure reason of an item; 0 where there is none."""
    reason = dicom_json.text(item, _FAILURE_REASON)
    return int(reason) if re.fullmatch("[0-9]{1,5}", reason) else 0


def _delivery_error(
    code: int, message: str, rejected: type[_DeliveryError] = _DeliveryError
) -> _DeliveryError:
    """Distinguish a destination without resources from one that rejects this result."""
    kind = _UnreachableError if code & 0xFF00 == _OUT_OF_RESOURCES else rejected
    return kind(message)
