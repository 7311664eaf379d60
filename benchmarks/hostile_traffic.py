"""What a hostile network and hostile files send to the gateway and to the web service.

Attackers come from other loopback addresses than the legitimate clients, which use 127.0.0.1. Each
is a function of a port and an event; it repeats its attack until the event is set. All rates are
bounded: together they cost a few percent of a core.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import itertools
import random
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image
from pynetdicom import AE
from pynetdicom.sop_class import Verification

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from test_dicom_hostile import BASES, NASTY, PLAIN, mutated

Attack = Callable[[int, threading.Event], None]

PLANTED = "Plantedname"
"""In every name, number and free text of every file; it must not appear in any log."""

_TEMPLATE_UID = b"1.2.826.0.1.3680043.8.498.1"
_GARBAGE = (
    b"GET / HTTP/1.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x01\x00" + b"\xff" * 64,
    b"\x04\x00\x00\x00\x00\x04\xff\xff\xff\xff",
    b"POST /v1/read HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    b"\x00" * 512,
)


def connected(port: int, source: str) -> socket.socket:
    """Connect to this machine from one of its other addresses."""
    return socket.create_connection(("127.0.0.1", port), 5, source_address=(source, 0))


# --- DIMSE ----------------------------------------------------------------------------------------


def probe(port: int, stop: threading.Event) -> None:
    """Connect and close, as a port scanner or a load balancer does."""
    while not stop.wait(0.2):
        with contextlib.suppress(OSError):
            connected(port, "127.0.0.2").close()


def garbage(port: int, stop: threading.Event) -> None:
    """Send what is not the protocol, and hang up a second later."""
    for content in itertools.cycle(_GARBAGE):
        with contextlib.suppress(OSError), connected(port, "127.0.0.3") as peer:
            peer.sendall(content)
            stop.wait(1)
        if stop.wait(0.2):
            return


def idle(port: int, stop: threading.Event) -> None:
    """Hold 20 connections on which nothing is sent."""
    hold([b""] * 20, port, "127.0.0.4", stop)


def dripping_association(port: int, stop: threading.Event) -> None:
    """Send an association request byte by byte."""
    hold([struct.pack(">BxL", 1, 4096)] * 4, port, "127.0.0.5", stop)


def false_length(port: int, stop: threading.Event) -> None:
    """Announce an association request of 4 GB, and send of it what is taken, at most 8 MiB."""
    while not stop.wait(5):
        with contextlib.suppress(OSError), connected(port, "127.0.0.6") as peer:
            peer.sendall(struct.pack(">BxL", 1, 0xFFFFFFF0))
            for _ in range(8):
                peer.sendall(bytes(2**20))


def endless_data_set(port: int, stop: threading.Event) -> None:
    """Send fragments of a data set without end from an allowed AE title, at most 64 MiB."""
    fragment = struct.pack(">BxLLBB", 4, 32768 + 6, 32768 + 2, 1, 0) + bytes(32768)
    while not stop.wait(15):
        ae = AE(ae_title="SENDER")
        ae.add_requested_context(Verification)
        peer = ae.associate("127.0.0.1", port, ae_title="CHESTXRAY", bind_address=("127.0.0.7", 0))
        with contextlib.suppress(OSError, AttributeError):
            for _ in range(2048):
                peer.dul.socket.socket.sendall(fragment)
        peer.abort()


def hold(heads: list[bytes], port: int, source: str, stop: threading.Event) -> None:
    """Hold a connection for each head, drip a byte a second after it, connect again when closed."""
    peers: list[socket.socket | None] = [None] * len(heads)
    while not stop.wait(1):
        for number, head in enumerate(heads):
            peers[number] = _dripped(peers[number], head, port, source)
    for peer in peers:
        if peer is not None:
            peer.close()


def _dripped(
    peer: socket.socket | None, head: bytes, port: int, source: str
) -> socket.socket | None:
    try:
        if peer is None:
            peer = connected(port, source)
            peer.sendall(head)
            peer.setblocking(False)
            return peer
        with contextlib.suppress(BlockingIOError):
            if not peer.recv(4096):
                raise ConnectionResetError
        if head:
            peer.send(b"a")
    except OSError:
        if peer is not None:
            peer.close()
        return None
    return peer


DIMSE: tuple[Attack, ...] = (
    probe,
    garbage,
    idle,
    dripping_association,
    false_length,
    endless_data_set,
)

# --- HTTP -----------------------------------------------------------------------------------------

_POST = b"POST /v1/read HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
_PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def half_sent_heads(port: int, stop: threading.Event) -> None:
    """Hold 40 requests whose head never ends."""
    hold([_POST + b"X-Header: "] * 40, port, "127.0.0.8", stop)


def slow_bodies(port: int, stop: threading.Event) -> None:
    """Hold 40 uploads of a byte a second."""
    hold([_POST + _FORM % 10**6 + _PART] * 40, port, "127.0.0.9", stop)


def large_announcements(port: int, stop: threading.Event) -> None:
    """Hold 8 uploads that announce 60 MiB each."""
    hold([_POST + _FORM % (60 * 2**20) + _PART] * 8, port, "127.0.0.10", stop)


HTTP: tuple[Attack, ...] = (probe, garbage, half_sent_heads, slow_bodies, large_announcements)


class _HostileAnswers(BaseHTTPRequestHandler):
    """Answers of a DICOMweb service: nested, inflating, endless or dripping, in turn."""

    answers: Iterator[int] = itertools.count()

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):
            (self._nested, self._inflating, self._endless, self._dripping)[next(self.answers) % 4]()

    def _nested(self) -> None:
        self._head()
        self.wfile.write(b"[" * 100_000)

    def _inflating(self) -> None:
        self._head(("Content-Encoding", "gzip"))
        self.wfile.write(_bomb())

    def _endless(self) -> None:
        self._head()
        for _ in range(128):
            self.wfile.write(b"[" + b" " * 2**20)

    def _dripping(self) -> None:
        self._head()
        for _ in range(120):
            self.wfile.write(b"[")
            if self.server.stopping.wait(1):
                return

    def _head(self, *more: tuple[str, str]) -> None:
        self.send_response(200)
        for name, value in (("Content-Type", "application/dicom+json"), *more):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@functools.cache
def _bomb() -> bytes:
    """Give 40 MB of JSON in 40 kB."""
    return gzip.compress(b"[" + b"0," * 20_000_000 + b"0]")


@contextlib.contextmanager
def hostile_source() -> Iterator[int]:
    """Run a hostile DICOMweb service; gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _HostileAnswers)
    server.stopping = threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()


# --- files ----------------------------------------------------------------------------------------


def hostile_files() -> list[bytes]:
    """DICOM files that claim, nest, inflate or repeat, every other one with the planted name."""
    made = [build()[0] for build in NASTY.values()]
    made += [mutated(base, f"{name} {n}") for name, base in BASES.items() for n in range(4)]
    made.append(_many_items())
    random.Random(0).shuffle(made)  # noqa: S311 (an order, not a secret)
    return [_named(data) if n % 2 else data for n, data in enumerate(made)]


def with_uid(data: bytes, number: int) -> bytes:
    """Give a hostile file a SOP instance UID of its own, of the same length."""
    return data.replace(_TEMPLATE_UID, b"1.2.826.0.1.3680043.8.%05d" % (10_000 + number))


def many_scans(scans: int = 2_000) -> bytes:
    """Give a progressive JPEG whose last scan is repeated: little to send, long to decode."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (512, 512), np.uint8)
    Image.fromarray(noise).save(buffer, "jpeg", progressive=True, quality=5)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def _named(data: bytes) -> bytes:
    """Put the planted name where a file has its photometric interpretation."""
    return data.replace(b"MONOCHROME1 ", PLANTED.upper().encode().ljust(12), 1)


def _many_items() -> bytes:
    """Give a file of 2 MB whose patient has 250,000 issuer qualifiers."""
    at = PLAIN.index(b"\x28\x00\x02\x00US")
    sequence = b"\x10\x00\x24\x00SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0\0\0\0\0" * 250_000
    return PLAIN[:at] + sequence + b"\xfe\xff\xdd\xe0\0\0\0\0" + PLAIN[at:]
