"""A DICOMweb service that attacks whoever polls it, over real sockets.

The first part of a path names the attack, so that one server has them all. What is not attacked is
answered as an honest service does: one study with one radiograph.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

from pydicom import Dataset

from dicom_files import written
from gateway_parts import radiograph

MIB = 2**20
JSON = "application/dicom+json"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=b'


_NUMBERS = itertools.count()


def attribute(vr: str, *values: object) -> dict:
    return {"vr": vr, "Value": list(values)}


def study(uid: str, modality: str = "DX") -> dict:
    """A study as QIDO-RS tells it."""
    return {"0020000D": attribute("UI", uid), "00080061": attribute("CS", modality)}


def instance(image: Dataset) -> dict:
    """An instance as QIDO-RS tells it."""
    return {
        "0020000D": attribute("UI", image.StudyInstanceUID),
        "0020000E": attribute("UI", image.SeriesInstanceUID),
        "00080018": attribute("UI", image.SOPInstanceUID),
        "00080016": attribute("UI", image.SOPClassUID),
    }


def head(kind: str, *more: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *more, "Connection: close", "", ""]
    return "\r\n".join(lines).encode()


def answer(kind: str, content: bytes) -> bytes:
    return head(kind, f"Content-Length: {len(content)}") + content


def part(content: bytes) -> bytes:
    """A multipart answer of one part."""
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"


def bomb() -> Iterator[bytes]:
    """An endless gzip stream, in which a kilobyte stands for a mebibyte."""
    yield b"\x1f\x8b\x08" + bytes(7)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    while True:
        yield block * 16


def dripping(content: Iterator[bytes], seconds: float = 0.3) -> Iterator[bytes]:
    for piece in content:
        yield piece
        time.sleep(seconds)


class Hostile:
    """The server. `asked` counts the requests to each attack."""

    def __init__(self) -> None:
        self.image = radiograph(1)
        self.asked: Counter[str] = Counter()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._closed = False
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, attack: str) -> str:
        return f"http://127.0.0.1:{self.port}/{attack}"

    def close(self) -> None:
        self._closed = True
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            request = b""
            while b"\r\n\r\n" not in request:
                received = peer.recv(65536)
                if not received:
                    return
                request += received
            self._skip_body(peer, request)
            target = request.split(b" ")[1].decode()
            attack, _, path = target.removeprefix("/").partition("/")
            for piece in self._pieces(attack, path.partition("?")[0]):
                if self._closed:
                    return
                peer.sendall(piece)

    def _skip_body(self, peer: socket.socket, request: bytes) -> None:
        before, _, body = request.partition(b"\r\n\r\n")
        told = re.search(rb"(?i)content-length: (\d+)", before)
        missing = int(told[1]) - len(body) if told else 0
        while missing > 0 and (received := peer.recv(min(missing, 65536))):
            missing -= len(received)

    def _pieces(self, attack: str, path: str) -> Iterator[bytes]:
        what = _kind(path)
        wanted, make = ATTACKS.get(attack, ("", None))
        if wanted == what:
            self.asked[attack] += 1
            yield from make(self)
        else:
            yield self.honest(what)

    def honest(self, what: str) -> bytes:
        """What an honest service answers."""
        if what == "studies":
            return answer(JSON, json.dumps([study(self.image.StudyInstanceUID)]).encode())
        if what == "instances":
            return answer(JSON, json.dumps([instance(self.image)]).encode())
        return answer(MULTIPART, part(written(self.image)))


def _kind(path: str) -> str:
    parts = path.split("/")
    return "file" if len(parts) > 3 else parts[-1]


def _pages(_: Hostile) -> Iterator[bytes]:
    """One of pages without end, each with studies that no other has."""
    found = [study(f"1.2.{next(_NUMBERS)}") for _ in range(500)]
    yield answer(JSON, json.dumps(found).encode())


def _values(_: Hostile) -> Iterator[bytes]:
    content = b"[" + b"[]," * (20 * MIB) + b"[]]"
    yield answer(JSON, content)


def _endless(kind: str, start: bytes, piece: bytes, *headers: str) -> Iterator[bytes]:
    yield head(kind, *headers) + start
    yield from itertools.repeat(piece)


def _endless_file(server: Hostile) -> Iterator[bytes]:
    start = b"--b\r\n\r\n" + written(server.image)
    return _endless(MULTIPART, start, bytes(MIB))


def _bomb_file(_: Hostile) -> Iterator[bytes]:
    yield head(MULTIPART, "Content-Encoding: gzip")
    yield from bomb()


def _bomb(_: Hostile) -> Iterator[bytes]:
    yield head(JSON, "Content-Encoding: gzip")
    yield from bomb()


def _drip_file(server: Hostile) -> Iterator[bytes]:
    yield head(MULTIPART) + b"--b\r\n\r\n" + written(server.image)[:1000]
    yield from dripping(itertools.repeat(b"\0"))


def _other_file(_: Hostile) -> Iterator[bytes]:
    yield answer(MULTIPART, part(written(radiograph(2))))


def _silent(server: Hostile) -> Iterator[bytes]:
    while not server._closed:
        time.sleep(0.1)
        yield b""


ATTACKS: dict[str, tuple[str, Callable[[Hostile], Iterator[bytes]]]] = {
    "deep": ("studies", lambda _: iter([answer(JSON, b"[" * 100_000)])),
    "deep-objects": ("studies", lambda _: iter([answer(JSON, b'[{"a":' * 100_000)])),
    "values": ("studies", _values),
    "bomb": ("studies", _bomb),
    "endless-page": ("studies", lambda _: _endless(JSON, b"[", b"{}," * 100_000)),
    "pages": ("studies", _pages),
    "drip": ("studies", lambda _: dripping(itertools.chain([head(JSON)], itertools.repeat(b" ")))),
    "drip-head": (
        "studies",
        lambda _: dripping(bytes([b]) for b in b"HTTP/1.1 200 OK\r\nA: " * 99),
    ),
    "informational": (
        "studies",
        lambda _: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    ),
    "endless-head": (
        "studies",
        lambda _: itertools.chain([b"HTTP/1.1 200 OK\r\nA: "], itertools.repeat(b"a" * MIB)),
    ),
    "silent": ("studies", _silent),
    "silent-file": ("file", _silent),
    "endless-file": ("file", _endless_file),
    "bomb-file": ("file", _bomb_file),
    "drip-file": ("file", _drip_file),
    "other-file": ("file", _other_file),
}


@contextlib.contextmanager
def hostile() -> Iterator[Hostile]:
    """Run the server."""
    server = Hostile()
    try:
        yield server
    finally:
        server.close()
