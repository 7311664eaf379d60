"""Real servers of S3 and of Google's interface on loopback, and a proxy that injects faults.

The proxy stands where a network would: it answers 503 in the server's place, waits, cuts a body
short, or resets the connection, before or after the server has done what was asked.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

KINDS = ("unavailable", "slow", "truncated", "reset", "lost answer")
BUCKET = "films"
SECRET = "planted-secret-0123456789"  # noqa: S105 - what must never be printed


@dataclass
class Faults:
    """Which requests fail, and how.

    Attributes:
        share: of the requests, drawn from `seed`.
        kinds: to draw from.
        calls: requests that came.
        injected: the kinds of those that failed.
        before: called before each request with its method and path.
    """

    share: float = 0.0
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    calls: list[tuple[str, str]] = field(default_factory=list)
    injected: list[str] = field(default_factory=list)
    before: Callable[[str, str], None] | None = None

    def __post_init__(self):
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def draw(self, method: str, path: str) -> str:
        with self._lock:
            self.calls.append((method, path))
            kind = ""
            if self._random.random() < self.share:
                kind = self._random.choice(self.kinds)
                self.injected.append(kind)
        if self.before is not None:
            self.before(method, path)
        return kind


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 server; gives its endpoint. Skips where it is not installed."""
    for name in ("moto", "flask", "flask_cors", "s3fs"):
        pytest.importorskip(name, reason="the tests against S3 need moto's server and s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with (
                suppress(OSError),
                closing(http.client.HTTPConnection("127.0.0.1", port)) as server,
            ):
                server.request("PUT", f"/{BUCKET}")
                assert server.getresponse().status == 200
                break
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def google_server() -> Iterator[str]:
    """Run an emulator of Google Cloud Storage; gives its endpoint. Skips without it."""
    for name in ("gcp_storage_emulator", "gcsfs"):
        pytest.importorskip(name, reason="the tests of gs:// need gcp-storage-emulator and gcsfs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
    command += [f"--default-bucket={BUCKET}", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class _Proxy(BaseHTTPRequestHandler):
    """Passes a request on to `server.upstream`, unless `server.faults` says otherwise."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with suppress(OSError):
            super().handle_one_request()

    def _serve(self) -> None:
        body = self._body()
        kind = self.server.faults.draw(self.command, self.path)
        if kind == "reset":
            self._reset()
        elif kind == "unavailable":
            self._answer(503, {"Content-Type": "application/xml"}, _BUSY)
        else:
            self._pass_on(kind, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _pass_on(self, kind: str, body: bytes) -> None:
        if kind == "slow":
            time.sleep(0.3)
        upstream = http.client.HTTPConnection(*self.server.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if kind == "lost answer":
            self._reset()
        elif kind == "truncated":
            self._answer(answer.status, answer.headers, content, content[: len(content) // 2])
            self._reset()
        else:
            self._answer(answer.status, answer.headers, content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(self, status, headers, content: bytes, sent: bytes | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        of_head = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", of_head or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if sent is None else sent)
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: tuple[str, int], faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.upstream, self.faults = upstream, faults


@contextmanager
def faulty(endpoint: str, faults: Faults) -> Iterator[str]:
    """Run a proxy before a server; gives the proxy's endpoint."""
    host, port = endpoint.removeprefix("http://").split(":")
    server = _Server((host, int(port)), faults)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>"


def environment(endpoint: str, cache: Path) -> dict[str, str]:
    """Give the variables by which a process reads this server and its own cache."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "CHESTXRAY_CACHE": str(cache),
    }
