"""The HTTP endpoint for monitoring: `GET /metrics` for Prometheus, `GET /health` for health checks.

One answer per connection (RFC 9112). One thread serves all connections, which are few, and each is
closed when it takes too long. prometheus-client's own server starts a thread for each connection
and waits for it without a limit.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple, cast

from prometheus_client.core import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from chestxray.serving.clients import limited_as
from chestxray.serving.gateway import logs
from chestxray.serving.gateway.config import Metrics
from chestxray.serving.gateway.statistics import Statistics
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
_log = logging.getLogger(__name__)

Problems = Callable[[], list[str]]
"""Gives what is wrong with the gateway, one sentence each."""


class Page(NamedTuple):
    """An answer.

    Attributes:
        status: of HTTP.
        kind: media type.
        body: in that type.
    """

    status: HTTPStatus
    kind: str
    body: bytes


def serve(
    metrics: Metrics, state: Path, problems: Problems, more: Sequence[Collector] = ()
) -> None:
    """Serve statistics and health, in a thread.

    Args:
        metrics: where.
        state: state folder.
        problems: gives what is wrong.
        more: further metrics.

    Raises:
        OSError: the address is not available.
    """
    for collector in (Statistics(state, problems), *more):
        REGISTRY.register(collector)
    pages: dict[str, Callable[[], Page]] = {"/": _metrics, "/metrics": _metrics}
    pages["/health"] = partial(health, problems)
    Endpoint(metrics.host, metrics.port, pages).start()


def health(problems: Problems) -> Page:
    """Give status 200 with no problems, or 503 with the problems in words."""
    found = problems()
    said = {"status": "failing" if found else "ok", "problems": found}
    status = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
    return Page(status, "application/json", json.dumps(said, ensure_ascii=False).encode())


def _metrics() -> Page:
    return Page(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(REGISTRY))


class Endpoint:
    """Serves pages.

    Args:
        host: address to listen on.
        port: TCP port, 0 for a free one.
        pages: path → what gives its page; called in a thread of its own, seldom.

    Attributes:
        port: that it listens on.
        table: of the connections.

    Raises:
        OSError: the address is not available.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self.table = ConnectionTable(
            _CONNECTIONS, _CONNECTIONS_PER_CLIENT, HEAD_SECONDS, _ANSWER_SECONDS, _UNSENT_BYTES
        )
        self._pages = {path.encode(): _Recent(page) for path, page in pages.items()}
        self._pool = ThreadPoolExecutor(1, "monitoring-page")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitoring", daemon=True)

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
        recent = self._pages.get(target.partition(b"?")[0])
        if recent is None:
            return _response(HTTPStatus.NOT_FOUND)
        try:
            loop = asyncio.get_running_loop()
            page = await loop.run_in_executor(self._pool, recent.page)
        except Exception as error:  # noqa: BLE001 (it is logged)
            _log.error("no page: %s", logs.place(error), extra={"event": "monitoring-failed"})
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _response(page.status, page.kind, page.body, with_body=method == b"GET")


class _Recent:
    """A page that is computed at most once a second."""

    def __init__(self, compute: Callable[[], Page]) -> None:
        self._compute = compute
        self._page: Page | None = None
        self._computed = 0.0

    def page(self) -> Page:
        """Give the page; called by one thread."""
        if self._page is None or time.monotonic() - self._computed >= _FRESH_SECONDS:
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


def _response(
    status: HTTPStatus, kind: str = "text/plain", body: bytes = b"", *, with_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
