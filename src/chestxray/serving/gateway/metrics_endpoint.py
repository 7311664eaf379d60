"""The HTTP endpoint of the metrics: `GET /metrics`, one answer per connection (RFC 9112).

It runs in the receiver's process, so it must not use up the threads and descriptors of that: one
thread serves all connections, which are few, and each is closed when it takes too long. prometheus-
client's own server starts a thread for each connection and waits for it without a limit.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final, cast

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from chestxray.serving.clients import limited_as
from chestxray.serving.gateway import logs
from chestxray.serving.http_connections import (
    ACCEPTED_AT_ONCE,
    LISTEN_BACKLOG,
    ConnectionTable,
    Phase,
)

HEAD_SECONDS: Final = 5.0
"""Time that a client has to send its request."""

_CONNECTIONS: Final = 64
_CONNECTIONS_PER_CLIENT: Final = 32
_ANSWER_SECONDS: Final = 10.0
_UNSENT_BYTES: Final = 16 * 2**20
_SECONDS_BETWEEN_CHECKS: Final = 0.5
_HEAD_BYTES: Final = 8 * 2**10
_FRESH_SECONDS: Final = 1.0  # a page is computed at most once in so long
_PATHS: Final = (b"/", b"/metrics")
_log = logging.getLogger(__name__)


class MetricsEndpoint:
    """Serves a page to Prometheus.

    Args:
        host: address to listen on.
        port: TCP port, 0 for a free one.
        page: gives the page; called in a thread of its own, seldom.

    Attributes:
        port: that it listens on.
        table: of the connections.

    Raises:
        OSError: the address is not available.
    """

    def __init__(self, host: str, port: int, page: Callable[[], bytes]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self.table = ConnectionTable(
            _CONNECTIONS, _CONNECTIONS_PER_CLIENT, HEAD_SECONDS, _ANSWER_SECONDS, _UNSENT_BYTES
        )
        self._page = _Page(page)
        self._pool = ThreadPoolExecutor(1, "metrics-page")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Serve in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more connections and close those that are open."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Exchange(self.table, self._answer),
            sock=self._socket,
            backlog=ACCEPTED_AT_ONCE,
        )
        self._socket.listen(LISTEN_BACKLOG)
        while not self._stop.is_set():
            self.table.close_slow()
            await asyncio.sleep(_SECONDS_BETWEEN_CHECKS)
        server.close()
        self.table.close_all()
        self._pool.shutdown()

    async def _answer(self, head: bytes) -> bytes:
        """Give the whole answer to a request."""
        method, target, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b""]
        if method not in {b"GET", b"HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED)
        if target.partition(b"?")[0] not in _PATHS:
            return _response(HTTPStatus.NOT_FOUND)
        try:
            loop = asyncio.get_running_loop()
            page = await loop.run_in_executor(self._pool, self._page.latest)
        except Exception as error:  # noqa: BLE001 (it is logged)
            _log.error("no metrics: %s", logs.place(error), extra={"event": "metrics-failed"})
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _response(HTTPStatus.OK, page, with_body=method == b"GET")


class _Page:
    """A page that is computed at most once a second."""

    def __init__(self, compute: Callable[[], bytes]) -> None:
        self._compute = compute
        self._computed = -_FRESH_SECONDS
        self._page = b""

    def latest(self) -> bytes:
        """Give the page; called by one thread."""
        if time.monotonic() - self._computed >= _FRESH_SECONDS:
            self._page = self._compute()
            self._computed = time.monotonic()
        return self._page


class _Exchange(asyncio.Protocol):
    """One connection: a request, an answer, the end."""

    _transport: asyncio.Transport

    def __init__(
        self,
        table: ConnectionTable,
        answer: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        self._table = table
        self._answer = answer
        self._head = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._table.add(self, limited_as(str(peer[0])))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._table.remove(self)

    def data_received(self, data: bytes) -> None:
        if self._task is not None:  # a body, or another request
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._task = asyncio.get_running_loop().create_task(self._finish())
            self._table.update(self)
        elif len(self._head) > _HEAD_BYTES:
            self.abort()

    def phase(self) -> Phase:
        """See `Connection.phase`."""
        if self.unsent_bytes():
            return "unloading"
        return "waiting" if self._task is None or self._task.done() else "busy"

    def unsent_bytes(self) -> int:
        """See `Connection.unsent_bytes`."""
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """See `Connection.abort`."""
        self._transport.abort()

    async def _finish(self) -> None:
        self._transport.write(await self._answer(self._head))
        self._table.update(self)
        self._transport.close()


def _response(status: HTTPStatus, page: bytes = b"", *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {CONTENT_TYPE_LATEST}\r\n"
        f"Content-Length: {len(page)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (page if with_body else b"")
