"""The Storage SCP: it answers success only when image and row are durable (PS3.4 Annex B).

| received                                     | status                                         |
|----------------------------------------------|------------------------------------------------|
| a radiograph, now on the disk and queued     | 0000 success                                   |
| a radiograph that was received before        | 0000 success, nothing else happens             |
| the same, where the first could not be read  | 0000 success; other bytes replace the first    |
| a result of this gateway, routed back        | 0000 success, ignored                          |
| a secondary capture that is a radiograph by  | as a radiograph, where `secondary_captures`    |
| its tags                                     | is true                                        |
| any other secondary capture or report        | 0122 SOP class not supported                   |
| an instance UID that is not a UID            | 0117 invalid SOP instance                      |
| a data set of another SOP class or instance  | A900 data set does not match SOP class         |
| disk full, or less than `free_mib` free      | A700 out of resources: the sender tries again  |
"""

from __future__ import annotations

import logging
import socket
import sqlite3
import threading
import time
from typing import Any, Final, NamedTuple

from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from chestxray.serving.dicom_writing import file_meta
from chestxray.serving.gateway.config import Receive
from chestxray.serving.gateway.connections import REQUEST_SECONDS, Connections, Handler, Server
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError, is_uid
from chestxray.serving.gateway.integrity import exit_if_damage
from chestxray.serving.gateway.secondary_captures import (
    NO_CAPTURES,
    SECONDARY_CAPTURE,
    NotARadiographError,
)
from chestxray.serving.gateway.sop_uids import sop_uids
from chestxray.serving.gateway.spool import Spool
from chestxray.serving.gateway.upper_layer import Messages, ServingUpperLayer, spool_of

RESULT_CLASSES: Final = (
    SecondaryCaptureImageStorage,
    Comprehensive3DSRStorage,
    SegmentationStorage,
)
"""SOP classes of the results that the gateway sends."""

_SUCCESS: Final = 0x0000
_INVALID_INSTANCE: Final = 0x0117
_UNSUPPORTED_CLASS: Final = 0x0122
_OUT_OF_RESOURCES: Final = 0xA700
_MISMATCH: Final = 0xA900

_IMPLEMENTATION: Final = (PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION)
_STOP_SECONDS: Final = 10.0  # that open associations have to end
_MAX_PDU_SIZE: Final = 131072
_log = logging.getLogger(__name__)


class _Refusal(NamedTuple):
    """Result, source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4), and our reason."""

    answer: tuple[int, int, int]
    reason: str


class Receiver:
    """Answers C-ECHO and C-STORE."""

    def __init__(self, config: Receive, intake: Intake) -> None:
        self._config = config
        self._intake = intake
        self._connections = Connections(config)
        self._server: Server | None = None

    def start(self) -> None:
        """Listen in a thread, and return.

        Raises:
            OSError: the address is in use or not local, or a certificate cannot be read.
        """
        ae = AE(ae_title=self._config.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(self._config.allow)
        ae.maximum_associations = 2**16  # they are limited by Connections
        ae.maximum_pdu_size = _MAX_PDU_SIZE
        ae.add_supported_context(Verification)
        for sop_class in (*RADIOGRAPHS, *RESULT_CLASSES):
            ae.add_supported_context(sop_class, list(AllTransferSyntaxes))
        ae.acse_timeout = REQUEST_SECONDS
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_STORE, self._on_store),
        ]
        tls = self._config.tls.server_context() if self._config.tls else None
        server: Any = ae.make_server(
            (self._config.host, self._config.port),
            evt_handlers=handlers,
            server_class=Server,
            request_handler=Handler,
        )
        server.tls, server.connections, server.prepare = tls, self._connections, self._prepare
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()

    def stop(self) -> None:
        """Accept no more associations, let open ones end, then abort the rest."""
        if self._server is None:
            return
        self._server.shutdown()
        end = time.monotonic() + _STOP_SECONDS
        while self._server.active_associations and time.monotonic() < end:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort()

    def _on_store(self, event: evt.Event) -> int:
        request: Any = event.request
        sop_class, uid = UID(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        source = _calling(event)
        about = {"uid": uid, "source": source}
        if not is_uid(uid):
            return _INVALID_INSTANCE
        if sop_class not in (*RADIOGRAPHS, *RESULT_CLASSES):
            return _UNSUPPORTED_CLASS  # it differs from its presentation context
        try:
            return self._store(event, sop_class, about)
        except NotARadiographError as error:
            extra = {"event": "foreign-result", **about}
            _log.warning("%s rejected: %s", sop_class.name, error, extra=extra)
            return _UNSUPPORTED_CLASS
        except (OSError, sqlite3.Error, OutOfSpaceError) as error:
            exit_if_damage(error)
            _log.error("image not stored: %s", error, extra={"event": "not-stored", **about})
            return _OUT_OF_RESOURCES

    def _store(self, event: evt.Event, sop_class: UID, about: dict[str, str]) -> int:
        """Store an image, or ignore a result of this gateway; give the status.

        Raises:
            NotARadiographError: it is neither.
            OutOfSpaceError: less free space is left than must stay.
            OSError: the disk is full or fails.
            sqlite3.Error: the row could not be written.
        """
        uid = about["uid"]
        if sop_class in RESULT_CLASSES and self._intake.is_result(uid):
            _log.info("own result ignored", extra={"event": "own-result", **about})
            return _SUCCESS
        spool = spool_of(event)
        if spool is None or not _matches(spool, event):
            message = "image rejected: SOP class or instance UID differ from the data set's"
            _log.warning(message, extra={"event": "mismatch", **about})
            return _MISMATCH
        new = self._intake.accept(uid, spool, about["source"], self._modality(event, spool))
        what = "received" if new else "known"
        _log.info("image %s", what, extra={"event": what, **about})
        return _SUCCESS

    def _modality(self, event: evt.Event, spool: Spool) -> str:
        """Give the modality of what is received as a radiograph.

        Raises:
            NotARadiographError: it is none.
        """
        request: Any = event.request
        sop_class = UID(request.AffectedSOPClassUID)
        if sop_class in RADIOGRAPHS:
            return RADIOGRAPHS[sop_class]
        rule = self._config.capture_rule if sop_class == SECONDARY_CAPTURE else NO_CAPTURES
        return rule.modality(bytes(spool.beginning), UID(event.context.transfer_syntax))

    def _prepare(self, association: Association) -> None:
        """Limit what a peer may send."""
        seconds = float(association.network_timeout or 0)
        ServingUpperLayer(association, seconds).take_place_of(association.dul)

        def spool(context: int, command: Any) -> Spool:  # noqa: ANN401
            syntax = association._accepted_cx[context].transfer_syntax[0]  # noqa: SLF001
            source = str(association.requestor.ae_title).strip()
            return self._intake.spool(_head(command, syntax, source))

        max_bytes = self._config.object_mib * 2**20
        association.dimse = Messages(association, spool, max_bytes)

    def _on_requested(self, event: evt.Event) -> None:
        """Reject whom `receive` does not allow; then only is the association counted."""
        association: Any = event.assoc
        asked = association.requestor.primitive
        calling, called = str(asked.calling_ae_title).strip(), str(asked.called_ae_title).strip()
        address = association.requestor.address_info.address
        refusal = self._refusal(calling, called, address)
        if refusal is None and (crowded := self._connections.admit(association, calling)):
            refusal = _Refusal((0x02, 0x03, 0x02), crowded)
        if refusal is not None:
            extra = {"event": "rejected", "source": calling, "address": address}
            _log.warning("association rejected: %s", refusal.reason, extra=extra)
            association.acse.send_reject(*refusal.answer)
            association.kill()

    def _refusal(self, calling: str, called: str, address: str) -> _Refusal | None:
        config = self._config
        if called != config.ae_title.strip():
            reason = f"it called {called}, receive.ae_title is {config.ae_title}"
            return _Refusal((0x01, 0x01, 0x07), reason)
        if calling not in [title.strip() for title in config.allow]:
            return _Refusal((0x01, 0x01, 0x03), f"{calling} is not in receive.allow")
        if not config.may_come_from(calling, address):
            reason = f"{calling} came from {address}, see receive.addresses"
            return _Refusal((0x01, 0x01, 0x03), reason)
        return None


def check_address(host: str, port: int) -> None:
    """Check that a server could listen at an address.

    Raises:
        OSError: it is in use or not local.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _matches(spool: Spool, event: evt.Event) -> bool:
    """Tell whether the data set declares the SOP class and instance that the request names."""
    request: Any = event.request
    declared = sop_uids(bytes(spool.beginning), UID(event.context.transfer_syntax))
    return declared == (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))


def _head(command: Any, syntax: UID, source: str) -> bytes:  # noqa: ANN401
    """Give preamble, prefix and file meta of an image, with the sender's AE title."""
    if not is_uid(str(command.AffectedSOPInstanceUID)):  # it is not taken
        return b""
    return file_meta(
        command.AffectedSOPClassUID, command.AffectedSOPInstanceUID, syntax, _IMPLEMENTATION, source
    )


def _calling(event: evt.Event) -> str:
    requestor: Any = event.assoc.requestor
    return str(requestor.ae_title).strip()
