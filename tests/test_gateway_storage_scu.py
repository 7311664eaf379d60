"""The Storage SCU against pynetdicom's SCP, and against peers that answer what they must not."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from chestxray.serving.gateway.storage_scu import AssociationError, Context, StorageSCU
from gateway_parts import free_port

SR = Context(Comprehensive3DSRStorage, ExplicitVRLittleEndian)
SECONDS = 1.0
SUCCESS = struct.pack("<HHLH", 0, 0x0100, 2, 0x8001) + struct.pack("<HHLH", 0, 0x0900, 2, 0)


def associate(port: int, seconds: float = 20) -> StorageSCU:
    return StorageSCU.associate(("127.0.0.1", port), ("PACS", "CHESTXRAY"), [SR], None, seconds)


def store(association: StorageSCU, data_set: bytes = b"\x08\x00\x60\x00CS\x02\x00SR") -> int:
    return association.store(association.accepted[SR], SR.sop_class, "1.2.9", data_set)


@pytest.mark.parametrize(
    ("most", "size"),
    list(itertools.product([1024, 16382, 131072, 0], [2, 16376, 300_000])),
)
def test_an_object_arrives_whole_in_pdus_of_the_size_that_the_other_side_takes(
    most: int, size: int
) -> None:
    """Sizes at the borders of a PDU, against pynetdicom; 0 is no maximum."""
    got, lengths = [], []

    def stored(event: evt.Event) -> int:
        got.append((event.request.AffectedSOPInstanceUID, event.request.DataSet.getvalue()))
        return 0xB007

    def received(event: evt.Event) -> None:
        lengths.append(len(event.data) - 6)

    ae, port = AE(ae_title="PACS"), free_port()
    ae.maximum_pdu_size = most
    ae.add_supported_context(SR.sop_class, SR.syntax)
    handlers = [(evt.EVT_C_STORE, stored), (evt.EVT_DATA_RECV, received)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    content = np.random.default_rng(size).bytes(size)
    association = associate(port)
    assert [store(association, content) for _ in range(2)] == [0xB007, 0xB007]
    assert association.is_open
    association.release()
    server.shutdown()
    assert got == [("1.2.9", content)] * 2
    assert max(lengths) <= (most or 131072)


def test_what_is_proposed_is_what_the_other_side_reads() -> None:
    found = {}

    def accepted(event: evt.Event) -> None:
        asked = event.assoc.requestor
        found.update(titles=(asked.ae_title, asked.primitive.called_ae_title))
        found.update(contexts=[(c.abstract_syntax, c.transfer_syntax) for c in
                               asked.primitive.presentation_context_definition_list])  # fmt: skip

    ae, port = AE(ae_title="PACS"), free_port()
    ae.add_supported_context(SR.sop_class, SR.syntax)
    handlers = [(evt.EVT_ACCEPTED, accepted)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    associate(port).release()
    server.shutdown()
    assert found["titles"] == ("CHESTXRAY", "PACS")
    assert found["contexts"] == [(SR.sop_class, [SR.syntax])]


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(content)) + content


def value(content: bytes, flags: int = 3) -> bytes:
    """A presentation data value of context 1; flags 3 are the last of a command."""
    return struct.pack(">LBB", len(content) + 2, 1, flags) + content


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def acceptance(max_length: int = 16384) -> bytes:
    user = item(0x50, item(0x51, struct.pack(">L", max_length)))
    return pdu(0x02, bytes(68) + item(0x21, bytes([1, 0, 0, 0])) + user)


def hear(connection: socket.socket) -> None:
    """Read a message: an association's PDU, or all PDUs of a request with its data set."""
    while True:
        kind, length = struct.unpack(">BxL", connection.recv(6, socket.MSG_WAITALL))
        content = connection.recv(length, socket.MSG_WAITALL)
        if kind != 0x04 or content[5] == 2:
            return


@contextmanager
def peer(*said: Callable[[socket.socket], None] | bytes) -> Iterator[int]:
    """A server that says one thing to each message of one connection; then it closes it."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError, struct.error):
            connection, _ = server.accept()
            with connection:
                for what in said:
                    hear(connection)
                    what(connection) if callable(what) else connection.sendall(what)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.close()
    thread.join(10)


def drip(connection: socket.socket) -> None:
    """An answer that comes a byte at a time."""
    for letter in pdu(0x04, value(bytes(200))):
        connection.sendall(bytes([letter]))
        time.sleep(0.1)


def silence(_: socket.socket) -> None:
    time.sleep(4 * SECONDS)


REJECTED = pdu(0x03, bytes([0, 1, 1, 7]))
ABORTED = pdu(0x07, bytes(4))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (REJECTED, "was rejected"),
        (ABORTED, "could not be opened"),
        (b"", "could not be opened"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "too long"),
        (b"\x02\x00\xff\xff\xff\xff", "too long"),
        (pdu(0x02, b""), "accepts none"),
        (pdu(0x02, bytes(68) + b"\x21\x00\xff\xff\x01"), "accepts none"),
        (pdu(0x02, bytes(68) + item(0x21, bytes([255, 0, 0, 0]))), "accepts none"),
        (pdu(0x02, bytes(68) + item(0x21, bytes([1, 0, 3, 0]))), "accepts none"),
        (acceptance(8), "accepts none"),
        (drip, "could not be opened"),
        (silence, "could not be opened"),
    ],
)
def test_a_peer_that_does_not_accept_is_told_from_one_that_does(
    said: Callable[[socket.socket], None] | bytes, reason: str
) -> None:
    started = time.monotonic()
    with peer(said) as port, pytest.raises(AssociationError, match=reason):
        associate(port, SECONDS)
    assert time.monotonic() - started < 10 * SECONDS


@pytest.mark.parametrize(
    "said",
    [
        b"",
        ABORTED,
        pdu(0x06, bytes(4)),
        pdu(0x04, b""),
        pdu(0x04, value(b"")),
        pdu(0x04, value(SUCCESS, flags=2)),  # a data set
        pdu(0x04, value(SUCCESS.replace(b"\x01\x80", b"\x01\x00"))),  # a request
        pdu(0x04, value(SUCCESS[:-2])),
        pdu(0x04, struct.pack(">LBB", 0, 1, 1) + SUCCESS),
        b"\x04\x00\x7f\xff\xff\xff" + SUCCESS,
        1000 * pdu(0x04, value(bytes(1000), flags=1)),
        drip,
        silence,
    ],
)
def test_what_is_no_answer_ends_the_association_in_time(
    said: Callable[[socket.socket], None] | bytes,
) -> None:
    started = time.monotonic()
    with peer(acceptance(), said) as port:
        association = associate(port, SECONDS)
        with pytest.raises(AssociationError):
            store(association)
    assert association.socket.fileno() == -1
    assert time.monotonic() - started < 10 * SECONDS


def test_an_answer_in_several_values_and_pdus_is_one_answer() -> None:
    parts = [SUCCESS[:5], SUCCESS[5:11]]
    said = pdu(0x04, b"".join(value(part, flags=1) for part in parts))
    with peer(acceptance(), said + pdu(0x04, value(SUCCESS[11:]))) as port:
        association = associate(port)
        assert store(association) == 0
        association.release()


def test_a_connection_that_the_other_side_closed_is_seen_before_it_is_used() -> None:
    with peer(acceptance()) as port:
        association = associate(port)
        end = time.monotonic() + 10
        while association.is_open and time.monotonic() < end:
            time.sleep(0.01)
        assert not association.is_open
        association.release()


def test_an_answer_in_two_pieces_does_not_wait_for_an_acknowledgement() -> None:
    """dcmtk's storescp sends so: with a delayed acknowledgement each answer took 40 ms."""

    def in_pieces(connection: socket.socket) -> None:
        answer = pdu(0x04, value(SUCCESS))
        connection.sendall(answer[:6])
        connection.sendall(answer[6:])  # held by Nagle's algorithm until the first is acknowledged

    with peer(acceptance(), *[in_pieces] * 40) as port:
        association, seconds = associate(port), []
        for _ in range(40):
            started = time.perf_counter()
            assert store(association, bytes(100_000)) == 0
            seconds.append(time.perf_counter() - started)
        association.release()
    late = np.median(seconds[20:])  # the first ones are acknowledged at once in any case
    assert late < 0.035
