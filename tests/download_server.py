"""A real HTTP file server on this machine, which misbehaves when told to."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Server:
    """Serves `files`; each of `faults` spoils one answer, then `always` spoils all the others.

    Faults: a status such as `404`, `cuts` (half of what was asked for), `cuts at once`,
    `short file`, `wrong bytes`, `no length`, `ignores range`, `ignores range and cuts`,
    `wrong range`, `web page`.
    """

    files: dict[str, bytes]
    port: int = 0
    faults: list[str] = field(default_factory=list)
    always: str = ""
    asked: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.removeprefix("/"), request.headers.get("Range")
        self.asked.append(name)
        self.ranges.append(wanted)
        fault = self.faults.pop(0) if self.faults else self.always
        if fault.isdigit() or name not in self.files:
            request.send_error(int(fault or "404"))
            return
        body = _spoilt(self.files[name], fault)
        honoured = wanted and not fault.startswith("ignores range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if honoured else 0
        _head(request, len(body), start, fault)
        if start < len(body):
            _send(request, body[start:], fault)


def _spoilt(body: bytes, fault: str) -> bytes:
    if fault == "short file":
        return body[: len(body) // 2]
    return body[:-1] + b"!" if fault == "wrong bytes" else body


def _head(request: http.server.BaseHTTPRequestHandler, length: int, start: int, fault: str) -> None:
    if start >= length:
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{length}")
    elif start:
        first = start + 7 if fault == "wrong range" else start
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {first}-{length - 1}/{length}")
    else:
        request.send_response(200)
    if fault != "no length":
        request.send_header("Content-Length", str(max(length - start, 0)))
    request.send_header("Content-Type", "text/html" if fault == "web page" else "text/plain")
    request.end_headers()


def _send(request: http.server.BaseHTTPRequestHandler, rest: bytes, fault: str) -> None:
    if fault.endswith("cuts"):
        rest = rest[: max(len(rest) // 2, 1)]
    request.wfile.write(b"" if fault == "cuts at once" else rest)
    if "cuts" in fault:
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    script = Server(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            script.answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as real:
        script.port = real.server_port
        thread = threading.Thread(target=real.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            real.shutdown()
            thread.join()
