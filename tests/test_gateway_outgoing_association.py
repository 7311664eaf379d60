"""The association over which results are sent, with peers that end it, hang or lie."""

from __future__ import annotations

import contextlib
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
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

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
def peer(
    on_store: PeerAct = str, status: Callable[[], int] = int
) -> Iterator[tuple[StoreSCP, list[Association]]]:
    """A Storage SCP that does something before it answers; it, and the associations it had."""
    had: list[Association] = []

    def stored(event: evt.Event) -> int:
        on_store(event)
        return status()

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
            assert association.store(result) == 0x0000
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
        assert association.store(result) == 0x0000
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


def command(**values: object) -> bytes:
    """A command set, as C-STORE's answers have it unless said otherwise."""
    usual = {"CommandField": 0x8001, "MessageIDBeingRespondedTo": 1, "CommandDataSetType": 0x0101}
    answer = {"AffectedSOPClassUID": SecondaryCaptureImageStorage, "Status": 0x0000}
    data_set = Dataset()
    for name, value in (usual | answer | values).items():
        setattr(data_set, name, value)
    return encode(data_set, is_implicit_vr=True, is_little_endian=True)


def pdu(fragment: bytes, header: int = 0b11, context: int = 1) -> bytes:
    """A P-DATA-TF PDU of one fragment; by default a whole command set."""
    value = struct.pack(">LBB", len(fragment) + 2, context, header) + fragment
    return struct.pack(">BxL", 0x04, len(value)) + value


EVENT = {
    "CommandField": 0x0100,
    "MessageID": 7,
    "EventTypeID": 1,
    "AffectedSOPInstanceUID": "1.2.3",
}
LIES = {
    "a PDU of 4 GB": struct.pack(">BxL", 0x04, 2**32 - 1),
    "no DICOM": b"HTTP/1.1 200 OK\r\n\r\n",
    "an answer to another request": pdu(command(MessageIDBeingRespondedTo=9)),
    "an event": pdu(command(**EVENT)),
    "an unknown command": pdu(command(CommandField=0x7777)),
    "noise as a command": pdu(bytes(range(256))),
    "an endless command": pdu(b"\0" * 2**14, 0b01) * 3,
    "an answer with a data set": pdu(command(CommandDataSetType=0)) + pdu(b"\0" * 100, 0b10),
    "a wish to release": b"\5\0\0\0\0\4\0\0\0\0",
    "an abort of an unknown source": b"\7\0\0\0\0\4\0\0\x09\0",
    "another acceptance": b"\2\0\0\0\0\x44" + b"\0" * 68,
}


def connection(event: evt.Event) -> socket.socket:
    return event.assoc.dul.socket.socket


@pytest.mark.parametrize("lies", ["closes", "aborts", *LIES])
def test_where_the_peer_ends_or_lies_instead_of_an_answer_nothing_is_waited_for(
    result: Path, lies: str
) -> None:
    def act(event: evt.Event) -> None:
        if lies == "closes":
            connection(event).shutdown(socket.SHUT_RDWR)
        elif lies == "aborts":
            event.assoc.abort(block=False)
        else:
            connection(event).sendall(LIES[lies])
            time.sleep(0.5)  # before the answer itself

    threads = threading.active_count()
    with peer(act) as (to, _):
        association = associate(to, seconds=30)
        start = time.monotonic()
        assert association.store(result) is None
        association.end()
        assert time.monotonic() - start < 10
        assert not association.is_usable
    wait_for(lambda: threading.active_count() <= threads, 20)


@pytest.mark.parametrize("what", ["an event", "an answer", "an unknown command", "empty fragments"])
def test_what_comes_while_nothing_is_awaited_ends_it(result: Path, what: str) -> None:
    over = threading.Event()
    unasked = {"an answer": pdu(command()), "empty fragments": pdu(b"", 0b01)} | LIES

    def flood(to: socket.socket) -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while not over.wait(0.001):
                to.sendall(unasked[what])

    with peer() as (to, had):
        association = associate(to, seconds=30)
        assert association.store(result) == 0x0000
        thread = threading.Thread(target=flood, args=(had[0].dul.socket.socket,))
        thread.start()
        start = time.monotonic()
        wait_for(lambda: not association.is_usable, 10)
        association.end()
        assert time.monotonic() - start < 10
        over.set()
        thread.join()


def test_a_second_answer_is_not_taken_for_that_to_the_next_result(result: Path) -> None:
    """A rejected result would be recorded as delivered."""
    statuses = iter([0x0000, 0xC000])

    def twice(event: evt.Event) -> None:
        connection(event).sendall(pdu(command()))

    with peer(twice, lambda: next(statuses)) as (to, _):
        association = associate(to)
        assert association.store(result) == 0x0000
        wait_for(lambda: not association.is_usable, 10)
        association.end()
        association = associate(to)
        assert association.store(result) in {0x0000, None}, "its own first answer"
        association.end()


def test_fragments_without_end_are_listened_to_as_long_as_agreed(result: Path) -> None:
    def flood(event: evt.Event) -> None:
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                connection(event).sendall(pdu(b"", 0b01))
                time.sleep(0.001)

    with peer(flood) as (to, _):
        association = associate(to, seconds=1)
        start = time.monotonic()
        assert association.store(result) is None
        association.end()
        assert 0.5 < time.monotonic() - start < 8


@pytest.mark.parametrize(
    "answer",
    [
        b"\7\0\0\0\0\4\0\0\x09\0",
        b"\3\0\0\0\0\4\0\x09\1\1",
        b"\2\0\0\0\0\x44" + b"\xff" * 68,
        LIES["an event"],
        b"\5\0\0\0\0\4\0\0\0\0",
    ],
)
def test_a_request_that_is_answered_by_nonsense_is_not_established(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(2**16)
                client.sendall(answer)
                client.settimeout(10)
                with contextlib.suppress(OSError):
                    while client.recv(2**16):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        start = time.monotonic()
        association = associate(at(server.getsockname()[1]), seconds=5)
        assert not association.is_established
        thread.join()  # the connection is closed
        assert time.monotonic() - start < 8


def test_a_file_that_cannot_be_read_ends_it(tmp_path: Path) -> None:
    """Half of it may have been sent."""
    with peer() as (to, _):
        association = associate(to)
        with pytest.raises(FileNotFoundError):
            association.store(tmp_path / "missing.dcm")
        assert not association.is_usable
        association.end()


def test_an_answer_that_does_not_come_is_waited_for_as_long_as_agreed(result: Path) -> None:
    over = threading.Event()
    with peer(lambda _: over.wait(30)) as (to, _):
        association = associate(to, seconds=0.5)
        start = time.monotonic()
        assert association.store(result) is None
        assert 0.4 < time.monotonic() - start < 10
        assert not association.is_usable
        over.set()


def test_where_nobody_listens_it_is_not_established() -> None:
    association = associate(at(free_port()))
    assert not association.is_established
    assert association.why_not.endswith("there is no connection")
    association.end()


def test_a_peer_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        association = associate(at(silent.getsockname()[1]), seconds=0.5)
        assert time.monotonic() - start < 10
        assert not association.is_established
        assert association.why_not.endswith("does not answer")


def test_a_peer_that_takes_no_result_is_told_from_one_that_rejects() -> None:
    ae = AE(ae_title="PACS")
    ae.add_supported_context(CTImageStorage)
    server = ae.start_server(("127.0.0.1", port := free_port()), block=False)
    association = associate(at(port))
    assert not association.is_established
    assert association.why_not.endswith("accepts no class of results in Explicit VR")
    ae.require_calling_aet = ["ANOTHER"]
    assert associate(at(port)).why_not == "was rejected"
    server.shutdown()


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
                association.store(result)
                taken.append(time.perf_counter() - start)
            association.end()
        finally:
            archive.kill()
            archive.wait()
        return float(np.median(taken[10:]))  # Linux acknowledges the first ones at once

    at_once = seconds()
    monkeypatch.setattr(outgoing_association, "_acknowledge_at_once", lambda _: None)
    assert seconds() - at_once > 0.02
