"""The Storage SCP: success only when the image and its row are durable (PS3.4 Annex B).

| what came                                    | status                                         |
|----------------------------------------------|------------------------------------------------|
| a radiograph, on the disk and in the queue   | 0000 success                                   |
| one that was received before                 | 0000 success, nothing else happens             |
| the same, where that one could not be read   | 0000 success; other bytes replace the first    |
| a result of this gateway, coming back        | 0000 success, ignored                          |
| another secondary capture or report          | 0122 SOP class not supported                   |
| an instance UID that is no UID               | 0117 invalid SOP instance                      |
| the disk is full, or below the watermark     | A700 out of resources: the sender tries again  |
"""

from __future__ import annotations

import logging
import sqlite3
import time
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

from chestxray.serving.gateway import dimse as transport
from chestxray.serving.gateway.config import Receive
from chestxray.serving.gateway.intake import RADIOGRAPHS, Intake, OutOfSpaceError, is_uid

RESULTS: Final = (SecondaryCaptureImageStorage, Comprehensive3DSRStorage)

SUCCESS: Final = 0x0000
INVALID_INSTANCE: Final = 0x0117
UNSUPPORTED_CLASS: Final = 0x0122
OUT_OF_RESOURCES: Final = 0xA700

_PATIENCE: Final = 10.0  # seconds that open associations have to end when we stop
_LARGE_PDU: Final = 131072
_log = logging.getLogger(__name__)


class Receiver:
    """Answers C-ECHO, and C-STORE of radiographs by taking them in."""

    def __init__(self, config: Receive, intake: Intake) -> None:
        self._config = config
        self._intake = intake
        self._server: transport.Server | None = None

    def start(self) -> None:
        """Listen, and return.

        Raises:
            OSError: the address is taken or not ours, or a certificate cannot be read.
        """
        ae = AE(ae_title=self._config.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(self._config.allow)
        ae.maximum_associations = self._config.associations
        ae.maximum_pdu_size = _LARGE_PDU
        ae.add_supported_context(Verification)
        for sop_class in (*RADIOGRAPHS, *RESULTS):
            ae.add_supported_context(sop_class, list(AllTransferSyntaxes))
        handlers = [
            (evt.EVT_C_STORE, self._stored),
            (evt.EVT_REJECTED, self._rejected),
        ]
        address = (self._config.host, self._config.port)
        self._server = transport.serve(ae, address, handlers, self._config.tls)

    def stop(self) -> None:
        """Take no more associations, let those that are open end, then end what is left."""
        if self._server is None:
            return
        self._server.shutdown()
        end = time.monotonic() + _PATIENCE
        while self._server.active_associations and time.monotonic() < end:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort()

    def _stored(self, event: evt.Event) -> int:
        request: Any = event.request
        sop_class, uid = UID(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        source = _calling(event)
        about = {"uid": uid, "source": source}
        if not is_uid(uid):
            return INVALID_INSTANCE
        try:
            if sop_class in RESULTS:
                return self._returned(sop_class, about)
            if sop_class not in RADIOGRAPHS:  # another than its presentation context says
                return UNSUPPORTED_CLASS
            new = self._intake.take(uid, _file(event), source, RADIOGRAPHS[sop_class])
        except (OSError, sqlite3.Error, OutOfSpaceError) as error:
            _log.error("image turned down: %s", error, extra={"event": "turned-down", **about})
            return OUT_OF_RESOURCES
        what = "received" if new else "known"
        _log.info("image %s", what, extra={"event": what, **about})
        return SUCCESS

    def _returned(self, sop_class: UID, about: dict[str, str]) -> int:
        if self._intake.known(about["uid"]):
            _log.info("a result of ours, ignored", extra={"event": "ours-returned", **about})
            return SUCCESS
        said = "%s is turned down: neither a radiograph nor a result of ours"
        _log.warning(said, sop_class.name, extra={"event": "foreign-result", **about})
        return UNSUPPORTED_CLASS

    def _rejected(self, event: evt.Event) -> None:
        source, ours = _calling(event), self._config
        requestor: Any = event.assoc.requestor
        called = str(requestor.primitive.called_ae_title).strip()
        if called != ours.ae_title.strip():
            why = f"it called {called}, we are {ours.ae_title}"
        elif source not in [title.strip() for title in ours.allow]:
            why = f"{source} is not in receive.allow"
        else:
            why = f"there are {ours.associations} already, see receive.associations"
        extra = {"event": "rejected", "source": source}
        _log.warning("association rejected: %s", why, extra=extra)


def _file(event: evt.Event) -> bytes:
    """Give the DICOM file as sent, undecoded; where it came from stands in its file meta."""
    meta = event.file_meta
    meta.SourceApplicationEntityTitle = _calling(event)
    prefix = b"\0" * 128 + b"DICM" + encode_file_meta(meta)
    return prefix + event.encoded_dataset(include_meta=False)


def _calling(event: evt.Event) -> str:
    requestor: Any = event.assoc.requestor
    return str(requestor.ae_title).strip()
