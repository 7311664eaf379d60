"""Whether the systems that the configuration names answer: asked without sending anything.

A PACS is asked by C-ECHO (PS3.4 annex A), over an association that also proposes the classes of the
results that it is to receive, in the transfer syntax that the sender proposes. A DICOMweb service
is asked for one study (QIDO-RS); what matches is not read.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.config import Config, Poll, StoreSCP, Stow
from chestxray.serving.gateway.http_client import AnswerError, HTTPClient

_SECONDS: Final = 10.0
_MAX_ANSWER_BYTES: Final = 8 * 2**20
_JSON: Final = "application/dicom+json"
_NEEDS_TOKEN: Final = (401, 403)
_NO_SEARCH: Final = (400, 405, 406, 501)  # of a service that stores but does not search
_CLASSES: Final[dict[str, UID]] = {
    "sr": Comprehensive3DSRStorage,
    "sc": SecondaryCaptureImageStorage,
    "regions": Comprehensive3DSRStorage,
    "seg": SegmentationStorage,
}


class _NotReachedError(ChestXrayError):
    """A system does not answer as it must; the message says what to do."""


class Reached(NamedTuple):
    """What came of asking a system.

    Attributes:
        place: key of the configuration, and the address.
        said: what it answered.
        problem: why nothing can be sent or fetched; empty where it answers as it must.
    """

    place: str
    said: str
    problem: str = ""


def reach(config: Config) -> Iterator[Reached]:
    """Ask each destination and each polled service in turn."""
    for number, to in enumerate(config.destinations):
        if isinstance(to, StoreSCP):
            address = f"{to.ae_title} at {to.host}:{to.port}"
            yield _answer(f"destinations[{number}] {to.name}: {address}", to, config)
        else:
            yield _answer(f"destinations[{number}] {to.name}: {to.url}", to, config)
    for number, service in enumerate(config.poll):
        yield _answer(f"poll[{number}]: {service.url}", service, config)


def _answer(place: str, to: StoreSCP | Stow | Poll, config: Config) -> Reached:
    try:
        said = _echo(to, config.receive.ae_title) if isinstance(to, StoreSCP) else _search(to)
    except _NotReachedError as error:
        return Reached(place, "", str(error))
    return Reached(place, said)


def _echo(to: StoreSCP, ae_title: str) -> str:
    started = time.monotonic()
    _connect(to)
    ae = AE(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _SECONDS
    wanted = {_CLASSES[kind] for kind in to.send}
    ae.add_requested_context(Verification)
    for sop_class in sorted(wanted):
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    try:
        tls = (to.tls.client_context(), to.host) if to.tls else None
    except OSError as error:
        raise _NotReachedError(f"the TLS files cannot be used: {error}") from error
    association = _associated(
        lambda: ae.associate(to.host, to.port, ae_title=to.ae_title, tls_args=tls)
    )
    if not association.is_established:
        raise _NotReachedError(_why_not(association, to, ae_title))
    try:
        accepted = {UID(one.abstract_syntax or "") for one in association.accepted_contexts}
        said = _verified(association) if Verification in accepted else "answered (no C-ECHO)"
    finally:
        association.release()
    if refused := sorted(UID(one).name for one in wanted - accepted):
        raise _NotReachedError(
            f"it does not accept {', '.join(refused)} in Explicit VR Little Endian: allow the "
            "class with this transfer syntax there, or take the kind of result out of `send`"
        )
    return f"{said} in {1000 * (time.monotonic() - started):.0f} ms and accepts the results"


def _associated(ask: Callable[[], Association]) -> Association:
    """Ask for an association, and once more where it was neither accepted nor rejected.

    A PACS that closes the connection right after a rejection may keep it from being read.
    """
    association = ask()
    return association if association.is_established or association.is_rejected else ask()


def _connect(to: StoreSCP) -> None:
    """Open a connection and close it: the system's own reason says most where none comes about."""
    try:
        socket.create_connection((to.host, to.port), timeout=_SECONDS).close()
    except OSError as error:
        raise _NotReachedError(
            f"no connection ({error.strerror or error}): check host, port and firewall, and that "
            "it is running"
        ) from error


def _verified(association: Association) -> str:
    status = association.send_c_echo()
    if "Status" not in status or status.Status != 0x0000:
        raise _NotReachedError("it does not answer C-ECHO with success: look at its log")
    return "answered C-ECHO"


def _why_not(association: Association, to: StoreSCP, ae_title: str) -> str:
    if association.is_rejected:
        return (
            f"it rejected the association: make {ae_title} known there with this machine's address,"
            f" and check that its own AE title is {to.ae_title}"
        )
    return "it accepts connections, but no association came about: check `tls` on both sides"


def _search(service: Stow | Poll) -> str:
    started = time.monotonic()
    client = HTTPClient({"Accept": _JSON, **service.headers}, threading.Event())
    url = service.url.rstrip("/") + "/studies"
    try:
        with client.request(
            "GET", url, params={"limit": "1"}, max_bytes=_MAX_ANSWER_BYTES, seconds=_SECONDS
        ) as answer:
            status = answer.status
    except AnswerError as error:
        raise _NotReachedError(f"{error}: check the URL, and that it is running") from error
    finally:
        client.close()
    if status in _NEEDS_TOKEN:
        raise _NotReachedError(f"it answered {status}: check the token in `headers`")
    searches = status in (200, 204)
    if not searches and not (isinstance(service, Stow) and status in _NO_SEARCH):
        raise _NotReachedError(f"a search for studies was answered {status}: check the URL")
    how = "answered a search" if searches else f"answered {status} to a search, if the URL is right"
    return f"{how}, in {1000 * (time.monotonic() - started):.0f} ms"
