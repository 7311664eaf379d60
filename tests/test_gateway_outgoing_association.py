"""The association over which results are sent, with peers that end it, hang or lie."""

from __future__ import annotations

import gc
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association

from chestxray.serving.gateway import outgoing_association
from chestxray.serving.gateway.config import StoreSCP
from chestxray.serving.gateway.outgoing_association import OutgoingAssociation
from gateway_parts import free_port, radiograph, tool, wait_for, written_to

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)
SECONDS = 2.0
"""That the peer has for an answer."""

PeerAct = Callable[[evt.Event], object]


@pytest.fixture(autouse=True)
def _collect_sockets() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def result(tmp_path: Path) -> Path:
    image = radiograph(SOPClassUID=SecondaryCaptureImageStorage)
    return written_to(tmp_path / "result.dcm", image)


@contextmanager
def peer(on_store: PeerAct = str) -> Iterator[tuple[StoreSCP, list[Association]]]:
    """A Storage SCP that does something before it answers; it, and the associations it had."""
    had: list[Association] = []

    def stored(event: evt.Event) -> int:
        on_store(event)
        return 0x0000

    ae = AE(ae_title="PACS")
    ae.add_supported_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    handlers = [
        (evt.EVT_C_STORE, stored),
        (evt.EVT_ACCEPTED, lambda event: had.append(event.assoc)),
    ]
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield at(port), had
    finally:
        server.shutdown()


def at(port: int) -> StoreSCP:
    return StoreSCP(
        name="pacs", send=["sc"], kind="dicom", ae_title="PACS", host="127.0.0.1", port=port
    )


def associate(to: StoreSCP, seconds: float = SECONDS) -> OutgoingAssociation:
    ae = AE(ae_title="CHESTXRAY")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = seconds
    ae.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    return OutgoingAssociation(ae, to, None)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_it_has_no_thread_that_could_take_an_answer(result: Path) -> None:
    """pynetdicom's two took one now and then, and the result was sent again 30 s later."""
    with peer() as (to, had):
        association = associate(to)
        for _ in range(5):
            assert association.send_c_store(result).Status == 0x0000
        assert association.ident is None
        assert association.dul.ident is None
        association.end()
        wait_for(lambda: had[0].is_released, 10)
    assert len(had) == 1
    assert not association.is_established


@pytest.mark.parametrize("ends", ["releases", "aborts", "closes"])
def test_that_the_peer_has_ended_it_is_seen_before_something_is_sent(
    result: Path, ends: str
) -> None:
    with peer() as (to, had):
        association = associate(to)
        assert association.send_c_store(result).Status == 0x0000
        assert association.is_usable
        (theirs,) = had
        leave = {
            "releases": theirs.release,
            "aborts": theirs.abort,
            "closes": lambda: theirs.dul.socket.socket.shutdown(socket.SHUT_RDWR),
        }[ends]
        thread = threading.Thread(target=leave)  # a release waits for our answer
        thread.start()
        wait_for(lambda: not association.is_usable, 10)
        start = time.monotonic()
        association.end()
        thread.join(10)
        assert time.monotonic() - start < SECONDS
        assert not association.is_established
        assert theirs.is_released == (ends == "releases")


@pytest.mark.parametrize("lies", ["closes", "aborts", "a PDU of 4 GB", "no DICOM"])
def test_where_the_peer_ends_it_instead_of_an_answer_nothing_is_waited_for(
    result: Path, lies: str
) -> None:
    def act(event: evt.Event) -> None:
        connection = event.assoc.dul.socket.socket
        if lies == "closes":
            connection.shutdown(socket.SHUT_RDWR)
        elif lies == "aborts":
            event.assoc.abort(block=False)
        elif lies == "a PDU of 4 GB":
            connection.sendall(struct.pack(">BxL", 0x04, 2**32 - 1))
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with peer(act) as (to, _):
        association = associate(to, seconds=30)
        start = time.monotonic()
        assert "Status" not in association.send_c_store(result)
        association.end()
        assert time.monotonic() - start < 10
        assert not association.is_usable


def test_an_answer_that_does_not_come_is_waited_for_as_long_as_agreed(result: Path) -> None:
    over = threading.Event()
    with peer(lambda _: over.wait(30)) as (to, _):
        association = associate(to, seconds=0.5)
        start = time.monotonic()
        assert "Status" not in association.send_c_store(result)
        assert 0.4 < time.monotonic() - start < 10
        assert not association.is_usable
        over.set()


def test_where_nobody_listens_it_is_not_established() -> None:
    association = associate(at(free_port()))
    assert not association.is_established
    assert not association.is_rejected
    association.end()


def test_a_peer_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        association = associate(at(silent.getsockname()[1]), seconds=0.5)
        assert time.monotonic() - start < 10
        assert not association.is_established


def test_the_end_of_a_small_result_does_not_wait_for_an_acknowledgement() -> None:
    """With Nagle's algorithm a report of 10 kB took 40 ms more than its bytes need."""
    with peer() as (to, _):
        association = associate(to)
        connection = association.dul.socket.socket
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        association.end()


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux has TCP_QUICKACK")
def test_an_answer_in_two_pieces_does_not_wait_for_an_acknowledgement(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dcmtk's storescp sends its answers so: 40 ms passed between the two."""

    def seconds() -> float:
        port, taken = free_port(), []
        archive = subprocess.Popen([tool("storescp"), "--accept-all", "--ignore", str(port)])
        try:
            wait_for(lambda: listens(port), 30)
            association = associate(at(port))
            for _ in range(25):
                start = time.perf_counter()
                association.send_c_store(result)
                taken.append(time.perf_counter() - start)
            association.end()
        finally:
            archive.kill()
            archive.wait()
        return float(np.median(taken[10:]))  # Linux acknowledges the first ones at once

    at_once = seconds()
    monkeypatch.setattr(outgoing_association, "_acknowledge_at_once", lambda _: None)
    assert seconds() - at_once > 0.02
