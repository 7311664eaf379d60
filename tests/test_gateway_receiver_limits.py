"""The DICOM port against probes, garbage, false lengths and endless data, over real sockets."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ, N_EVENT_REPORT_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification

from chestxray.serving.gateway.config import Config, Receive
from chestxray.serving.gateway.connections import Connections
from gateway_parts import config, radiograph, store, wait_for

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)

MIB = 2**20
LIMIT = 200 * MIB

_RUN = """
import sys, threading, time
from pathlib import Path
from chestxray.serving.gateway import config, logs
from chestxray.serving.gateway.intake import Intake
from chestxray.serving.gateway.receiver import Receiver
from chestxray.serving.gateway.store import Store
logs.set_up()
settings = config.load(Path(sys.argv[1]))
receiver = Receiver(settings.receive, Intake(Store(settings.state), settings.storage))
receiver.start()
print("ready", flush=True)
sys.stdin.read()
receiver.stop()
"""


class Alone:
    """A receiver in a process of its own, so that its memory and threads can be measured."""

    def __init__(self, settings: Config) -> None:
        self.port = settings.receive.port
        self.images = settings.state / "images"
        self._log = settings.state.parent / "log"
        command = [sys.executable, "-c", _RUN, str(settings.state.parent / "gateway.toml")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert self._process.stdout.readline() == b"ready\n"
        self._measured = psutil.Process(self._process.pid)

    def peak(self) -> int:
        """Largest resident memory so far, bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def threads(self) -> int:
        return self._measured.num_threads()

    def connections(self) -> int:
        found = self._measured.net_connections("tcp")
        return sum(one.status != psutil.CONN_LISTEN for one in found)

    def log(self) -> str:
        return self._log.read_text()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def echoes(self) -> bool:
        ae = AE(ae_title="SENDER")
        ae.add_requested_context(Verification)
        association = ae.associate("127.0.0.1", self.port, ae_title="CHESTXRAY")
        if not association.is_established:
            return False
        answer = association.send_c_echo()
        association.release()
        return answer.get("Status") == 0

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture
def alone(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Alone]:
    made = Alone(config(tmp_path, **getattr(request, "param", {})))
    yield made
    made.stop()


def pdu(kind: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BxL", kind, len(content) if length is None else length) + content


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def association_request(abstract: str, extra: bytes = b"", syntaxes: int = 1) -> bytes:
    transfer = item(0x40, ImplicitVRLittleEndian.encode()) * syntaxes
    context = item(0x20, b"\1\0\0\0" + item(0x30, abstract.encode()) + transfer)
    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    titles = b"CHESTXRAY".ljust(16) + b"SENDER".ljust(16)
    head = struct.pack(">HH", 1, 0) + titles + bytes(32)
    return pdu(0x01, head + application + context + extra + user)


def associated(alone: Alone, abstract: str = Verification) -> socket.socket:
    """A connection with an association, on which a test sends what it likes."""
    peer = alone.connect()
    peer.sendall(association_request(abstract))
    assert peer.recv(4096)[:1] == b"\x02", "accepted"
    return peer


def fragment(control: int, content: bytes) -> bytes:
    return pdu(0x04, struct.pack(">LBB", len(content) + 2, 1, control) + content)


def message(kind: type, primitive: object, data_set: bool = False) -> bytes:
    made = kind()
    made.primitive_to_message(primitive)
    made.command_set.CommandDataSetType = 1 if data_set else 0x0101
    return fragment(0x03, encode(made.command_set, True, True))


def store_request(image: object) -> bytes:
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = image.SOPClassUID
    request.AffectedSOPInstanceUID = image.SOPInstanceUID
    request.Priority = 0
    return message(C_STORE_RQ, request, data_set=True)


def echo_request() -> bytes:
    request = C_ECHO()
    request.MessageID = 1
    request.AffectedSOPClassUID = Verification
    return message(C_ECHO_RQ, request)


def pump(peer: socket.socket, content: bytes, total: int) -> int:
    """Send the same bytes again and again until the other side closes; how many went out."""
    sent = 0
    peer.settimeout(20)
    with contextlib.suppress(OSError):
        while sent < total:
            peer.sendall(content)
            sent += len(content)
    return sent


def ended(peer: socket.socket, seconds: float) -> bool:
    """Whether the other side closes the connection within this time."""
    peer.settimeout(seconds)
    try:
        while peer.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


# --- who keeps others out -----------------------------------------------------------------------


def test_probes_that_connect_and_close_take_no_association(alone: Alone) -> None:
    for _ in range(40):
        alone.connect().close()
    assert [alone.echoes() for _ in range(16)] == [True] * 16
    wait_for(lambda: alone.threads() < 12, 60)


def test_idle_connections_keep_nobody_out_and_are_closed_soon(alone: Alone) -> None:
    idle = [alone.connect() for _ in range(40)]
    assert [alone.echoes() for _ in range(16)] == [True] * 16
    assert alone.connections() <= 34
    wait_for(lambda: alone.connections() == 0, 20)  # pynetdicom's own limit is 30 s
    for one in idle:
        one.close()


def test_600_garbage_connections_leave_no_threads(alone: Alone) -> None:
    peers, most = [], 0
    for number in range(600):
        peers.append(alone.connect())
        peers[-1].sendall(b"GET / HTTP/1.0\r\n\r\n" if number % 2 else b"\x01")
        if number % 20 == 0:
            most = max(most, alone.threads())
    assert most < 160
    assert alone.echoes()
    for one in peers:
        one.close()
    wait_for(lambda: alone.threads() < 12, 60)


@pytest.mark.parametrize("alone", [{"connections": 8, "connections_per_address": 4}], indirect=True)
def test_the_oldest_pending_connection_of_an_address_makes_room(alone: Alone) -> None:
    held = [alone.connect() for _ in range(4)]
    time.sleep(0.3)
    more = alone.connect()
    assert ended(held[0], 2)
    assert not ended(held[1], 0.5)
    for one in (more, *held):
        one.close()


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    connections = Connections(Receive(allow=["PACS"], connections=8, connections_per_address=1))
    addresses = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "10.0.0.1", "10.0.0.2")
    pairs = [socket.socketpair() for _ in addresses]
    made = [connections.add(pair[0], one) for pair, one in zip(pairs, addresses, strict=True)]
    assert [one.dropped for one in made] == [True, False, False, False, False]
    for one in itertools.chain(*pairs):
        one.close()


def test_a_request_that_drips_is_closed_after_the_timer(alone: Alone) -> None:
    peer = alone.connect()
    peer.sendall(pdu(0x01, b"", 4096))
    started = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - started < 10:
            peer.sendall(b"\x00")
            time.sleep(0.2)
    assert 4 < time.monotonic() - started < 8
    peer.close()


# --- what is believed ---------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0xFFFFFFF0, MIB + 1])
def test_a_false_length_is_refused_before_its_bytes_are_read(alone: Alone, length: int) -> None:
    peer = alone.connect()
    peer.sendall(pdu(0x01, b"", length))
    assert pump(peer, bytes(MIB), 300 * MIB) < 20 * MIB
    peer.close()
    assert alone.peak() < LIMIT
    assert alone.echoes()


@pytest.mark.parametrize(("kind", "length"), [(0x04, 131073), (0x05, 5), (0x07, 2**31)])
def test_a_false_length_inside_an_association_is_refused(
    alone: Alone, kind: int, length: int
) -> None:
    peer = associated(alone)
    peer.sendall(pdu(kind, b"", length))
    assert pump(peer, bytes(MIB), 300 * MIB) < 20 * MIB
    peer.close()
    wait_for(lambda: f"announces {length} bytes" in alone.log(), 60)
    assert alone.peak() < LIMIT


@pytest.mark.parametrize(
    "values",
    [
        struct.pack(">LBB", 0, 1, 3),
        struct.pack(">LBB", 1, 1, 3),
        struct.pack(">LBB", 3, 1, 3),
        struct.pack(">LBB", 0xFFFFFFFF, 1, 3),
        struct.pack(">LBB", 2, 1, 1) + b"\0\0\0",
    ],
)
def test_a_value_of_a_false_length_is_refused(alone: Alone, values: bytes) -> None:
    peer = associated(alone)
    peer.sendall(pdu(0x04, values))
    assert ended(peer, 10)
    assert "a presentation data value" in alone.log()
    assert alone.echoes()


def test_an_association_that_waits_takes_no_processor_time_and_is_answered_at_once(
    alone: Alone,
) -> None:
    """Its threads looked for work each millisecond, which took 4 % of a core."""

    def used() -> float:
        times = alone._measured.cpu_times()
        return times.user + times.system

    peer = associated(alone)
    peer.sendall(echo_request())
    assert peer.recv(4096)[:1] == b"\x04"
    before = used()
    time.sleep(3)
    assert used() - before < 0.045
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        peer.sendall(echo_request())
        assert peer.recv(4096)[:1] == b"\x04"
        seconds.append(time.monotonic() - started)
        time.sleep(0.05)
    assert min(seconds) < 0.05
    peer.sendall(pdu(0x05, bytes(4)))
    started = time.monotonic()
    assert peer.recv(4096)[:1] == b"\x06"
    assert time.monotonic() - started < 2
    peer.close()


def test_an_association_is_accepted_at_once(alone: Alone) -> None:
    """Its request waited 0.1 s behind the connection that it came with."""
    seconds = []
    for _ in range(5):
        peer = alone.connect()
        started = time.monotonic()
        peer.sendall(association_request(Verification))
        assert peer.recv(4096)[:1] == b"\x02"
        seconds.append(time.monotonic() - started)
        peer.close()
    assert min(seconds) < 0.05


def test_association_requests_of_a_mebibyte_take_little_memory_and_time(alone: Alone) -> None:
    crowded = item(0x20, b"\3\0\0\0" + item(0x30, b"1.2") + item(0x40, b"1") * 13000) * 15
    peers = [alone.connect() for _ in range(8)]
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.sendall(association_request(Verification, crowded))
    started = time.monotonic()
    for peer in peers:
        ended(peer, 6)
        peer.close()
    assert alone.echoes()
    assert time.monotonic() - started < 3
    wait_for(lambda: "has more than 8192 items" in alone.log(), 60)
    assert alone.peak() < LIMIT


@pytest.mark.parametrize("alone", [{"object_mib": 8}], indirect=True)
def test_an_object_larger_than_the_limit_aborts_and_leaves_nothing(alone: Alone) -> None:
    image = radiograph()
    peer = associated(alone, image.SOPClassUID)
    peer.sendall(store_request(image))
    assert pump(peer, fragment(0x00, bytes(100_000)), 200 * MIB) < 40 * MIB
    peer.close()
    wait_for(lambda: "more than 8 MiB, see receive.object_mib" in alone.log(), 60)
    wait_for(lambda: not list(alone.images.iterdir()), 8)
    assert alone.peak() < LIMIT


def test_an_object_of_150_mib_is_taken_without_being_in_memory(alone: Alone) -> None:
    image = radiograph()
    del image.PixelData
    content = encode(image, True, True) + struct.pack("<HHL", 0x7FE0, 0x10, 150 * MIB)
    peer = associated(alone, image.SOPClassUID)
    peer.sendall(store_request(image) + fragment(0x00, content))
    assert pump(peer, fragment(0x00, bytes(MIB // 16)), 150 * 16 * (MIB // 16 + 12)) > 150 * MIB
    peer.sendall(fragment(0x02, b""))
    peer.settimeout(30)
    assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" in peer.recv(4096), "status 0000"
    peer.close()
    path = alone.images / f"{image.SOPInstanceUID}.dcm"
    assert path.stat().st_size > 150 * MIB
    assert alone.peak() < LIMIT


def test_an_endless_command_set_is_refused(alone: Alone) -> None:
    peer = associated(alone)
    assert pump(peer, fragment(0x01, bytes(10_000)), 200 * MIB) < 20 * MIB
    peer.close()
    wait_for(lambda: "a command set has more than" in alone.log(), 60)
    assert alone.peak() < LIMIT


def test_requests_without_waiting_for_answers_are_refused(alone: Alone) -> None:
    peer = associated(alone)
    pump(peer, echo_request() * 50, 20 * MIB)
    peer.close()
    wait_for(lambda: "does not wait for answers" in alone.log(), 60)
    assert alone.peak() < LIMIT


def test_other_commands_start_no_threads(alone: Alone) -> None:
    report = N_EVENT_REPORT()
    report.MessageID = 1
    report.AffectedSOPClassUID = Verification
    report.AffectedSOPInstanceUID = "1.2.3"
    report.EventTypeID = 1
    peer = associated(alone)
    pump(peer, message(N_EVENT_REPORT_RQ, report) * 50, MIB)
    peer.close()
    wait_for(lambda: "only C-ECHO and C-STORE" in alone.log(), 60)
    assert alone.threads() < 20


def test_a_transfer_that_breaks_off_leaves_no_file(alone: Alone) -> None:
    image = radiograph()
    peer = associated(alone, image.SOPClassUID)
    peer.sendall(store_request(image) + fragment(0x00, bytes(100_000)))
    wait_for(lambda: list(alone.images.glob(".*.part")), 60)
    peer.close()
    wait_for(lambda: not list(alone.images.iterdir()), 60)


def test_the_log_of_refused_connections_is_json_without_what_was_sent(alone: Alone) -> None:
    peer = alone.connect()
    peer.sendall(b"Secretname^Patient" * 10)
    assert ended(peer, 3)
    peer.close()
    wait_for(lambda: "does not speak DICOM" in alone.log(), 3)
    for line in alone.log().splitlines():
        json.loads(line)
    assert "Secretname" not in alone.log()


def test_an_ordinary_image_passes_in_the_midst_of_an_attack(alone: Alone) -> None:
    idle = [alone.connect() for _ in range(20)]
    for one in idle[:10]:
        one.sendall(pdu(0x01, b"", 4096))
    image = radiograph()
    assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert store(image, alone.port) == 0
    for one in idle:
        one.close()
