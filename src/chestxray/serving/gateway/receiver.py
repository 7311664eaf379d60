"""The Storage SCP: it answers success only when image and row are durable (PS3.4 Annex B).

| received                                     | status                                         |
|----------------------------------------------|------------------------------------------------|
| a radiograph, now on the disk and queued     | 0000 success                                   |
| a radiograph that was received before        | 0000 success, nothing else happens             |
| the same, where the first could not be read  | 0000 success; other bytes replace the first    |
| a result of this gateway, routed back        | 0000 success, ignored                          |
| any other secondary capture or report        | 0122 SOP class not supported                   |
| an instance UID that is not a UID            | 0117 invalid SOP instance                      |
| disk full, or less than `free_mib` free      | A700 out of resources: the sender tries again  |
"""

from __future__ import annotations

import logging
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from socketserver import BaseServer
from typing import Any, Final

from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from chestxray.serving.gateway.config import TLS, Receive
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError, is_uid

RESULT_CLASSES: Final = (SecondaryCaptureImageStorage, Comprehensive3DSRStorage)
"""SOP classes of the results that the gateway sends."""

_SUCCESS: Final = 0x0000
_INVALID_INSTANCE: Final = 0x0117
_UNSUPPORTED_CLASS: Final = 0x0122
_OUT_OF_RESOURCES: Final = 0xA700

_STOP_SECONDS: Final = 10.0  # that open associations have to end
_HANDSHAKE_SECONDS: Final = 10.0
_MAX_PDU_SIZE: Final = 131072
_log = logging.getLogger(__name__)


class Receiver:
    """Answers C-ECHO and C-STORE."""

    def __init__(self, config: Receive, intake: Intake) -> None:
        self._config = config
        self._intake = intake
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen in a thread, and return.

        Raises:
            OSError: the address is in use or not local, or a certificate cannot be read.
        """
        ae = AE(ae_title=self._config.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(self._config.allow)
        ae.maximum_associations = self._config.associations
        ae.maximum_pdu_size = _MAX_PDU_SIZE
        ae.add_supported_context(Verification)
        for sop_class in (*RADIOGRAPHS, *RESULT_CLASSES):
            ae.add_supported_context(sop_class, list(AllTransferSyntaxes))
        handlers = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_REJECTED, self._on_rejected),
        ]
        address = (self._config.host, self._config.port)
        self._server = serve(ae, address, handlers, self._config.tls)

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
        try:
            if sop_class in RESULT_CLASSES:
                return self._on_result(sop_class, about)
            if sop_class not in RADIOGRAPHS:  # differs from its presentation context
                return _UNSUPPORTED_CLASS
            new = self._intake.accept(uid, _file(event), source, RADIOGRAPHS[sop_class])
        except (OSError, sqlite3.Error, OutOfSpaceError) as error:
            _log.error("image not stored: %s", error, extra={"event": "not-stored", **about})
            return _OUT_OF_RESOURCES
        what = "received" if new else "known"
        _log.info("image %s", what, extra={"event": what, **about})
        return _SUCCESS

    def _on_result(self, sop_class: UID, about: dict[str, str]) -> int:
        if self._intake.is_known(about["uid"]):
            _log.info("own result ignored", extra={"event": "own-result", **about})
            return _SUCCESS
        message = "%s rejected: neither a radiograph nor a result of this gateway"
        _log.warning(message, sop_class.name, extra={"event": "foreign-result", **about})
        return _UNSUPPORTED_CLASS

    def _on_rejected(self, event: evt.Event) -> None:
        source, config = _calling(event), self._config
        requestor: Any = event.assoc.requestor
        called = str(requestor.primitive.called_ae_title).strip()
        if called != config.ae_title.strip():
            reason = f"it called {called}, receive.ae_title is {config.ae_title}"
        elif source not in [title.strip() for title in config.allow]:
            reason = f"{source} is not in receive.allow"
        else:
            reason = f"{config.associations} are open already, see receive.associations"
        extra = {"event": "rejected", "source": source}
        _log.warning("association rejected: %s", reason, extra=extra)


def serve(ae: AE, address: tuple[str, int], handlers: Sequence[Any], tls: TLS | None) -> _Server:
    """Accept associations in a thread of its own.

    Raises:
        OSError: the address is in use or not local, or a certificate cannot be read.
    """
    context = tls.server_context() if tls else None
    server: Any = ae.make_server(address, evt_handlers=list(handlers), server_class=_Server)
    server.tls = context
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return server  # type: ignore[no-any-return]


def check_address(host: str, port: int) -> None:
    """Check that a server could listen at an address.

    Raises:
        OSError: it is in use or not local.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


class _Server(ThreadedAssociationServer):
    """A server that performs the TLS handshake in the connection's own thread.

    pynetdicom's server does so while it accepts, so one silent client would block all others.
    """

    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Perform the handshake, then start the association."""
        if self.tls is not None:
            request.settimeout(_HANDSHAKE_SECONDS)
            request = self.tls.wrap_socket(request, server_side=True)
            request.settimeout(self.ae.network_timeout)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Log why a connection failed."""
        error = sys.exc_info()[1]
        reason = str(error) if isinstance(error, OSError) else type(error).__name__
        source = str(client_address[0])
        extra = {"event": "connection-failed", "source": source}
        _log.warning("connection failed: %s", reason, extra=extra)

    def shutdown(self) -> None:
        """Accept no more; pynetdicom's method also expects this server in a list of its own."""
        BaseServer.shutdown(self)
        self.server_close()


def _file(event: evt.Event) -> bytes:
    """Give the DICOM file as sent, not decoded, with the sender's AE title in its file meta."""
    meta = event.file_meta
    meta.SourceApplicationEntityTitle = _calling(event)
    prefix = b"\0" * 128 + b"DICM" + encode_file_meta(meta)
    return prefix + event.encoded_dataset(include_meta=False)


def _calling(event: evt.Event) -> str:
    requestor: Any = event.assoc.requestor
    return str(requestor.ae_title).strip()
