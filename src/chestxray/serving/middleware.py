"""Figures about the service for Prometheus; none about patients.

What every request passes: the token, the headers for browsers, the log, the figures.

Where no token is asked for, programs and pages of this machine alone are served. Another site's
page, open in a browser here, could otherwise have this machine work for it, or read the answers
once it had its own name resolved to this machine's address (DNS rebinding). It cannot forge `Host`,
`Sec-Fetch-Site` (W3C, Fetch Metadata Request Headers) and, all that older browsers send with a
POST, `Origin` (RFC 6454).

The log names the route and the status, never a path as sent, a file or anything of a patient.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import traceback
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chestxray.serving.http_errors import Problem
from chestxray.serving.settings import host_of, is_loopback

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one service, and of its process (memory, CPU time, open files).

    Attributes:
        requests: answered, by route and status.
        seconds: from the request's first byte to the answer, by route.
        problems: by code.
        upload_bytes: of bodies read whole.
        in_progress: requests that hold a place.
        batches: images that the model read at once.
    """

    def __init__(self, model: str, engine: str) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "chestxray_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "chestxray_request_duration_seconds",
            "Seconds from a request's first byte to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.problems = Counter(
            "chestxray_problems",
            "Requests without a reading, by code.",
            ("code",),
            registry=self._registry,
        )
        self.upload_bytes = Counter(
            "chestxray_upload_bytes", "Bytes of images received.", registry=self._registry
        )
        self.in_progress = Gauge(
            "chestxray_uploads_in_progress",
            "Uploads being received, decoded or read.",
            registry=self._registry,
        )
        self.batches = Histogram(
            "chestxray_batch_images",
            "Images that the model read at once.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        info = Info("chestxray_model", "What reads.", registry=self._registry)
        info.info({"identity": model, "engine": engine})

    def page(self) -> bytes:
        """Give all figures in Prometheus's text format."""
        return generate_latest(self._registry)


_GUARDED: Final = ("/v1/", "/metrics")
_LINGER_SECONDS: Final = 2.0
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_WITHOUT_TOKEN: Final = JSONResponse(
    Problem(code="token", sentence="Show the token: `Authorization: Bearer TOKEN`.").model_dump(),
    401,
    {"WWW-Authenticate": "Bearer"},
)
_ELSEWHERE: Final = JSONResponse(
    Problem(
        code="elsewhere",
        sentence="Without a token only programs and pages of this machine are served, under "
        "http://127.0.0.1 or http://localhost.",
    ).model_dump(),
    403,
)
_log = logging.getLogger(__name__)


class Guard:
    """Middleware around the whole application.

    Args:
        app: what is guarded.
        token: to be shown for all but the viewer's own files and the health checks; None for none.
        anyone: whether those without a token may come from elsewhere than this machine.
        metrics: that requests are counted in.
    """

    def __init__(self, app: ASGIApp, token: str | None, anyone: bool, metrics: Metrics) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._anyone = anyone
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":  # as GET, whose body the server leaves out
            scope = {**scope, "method": "GET"}
        exchange = _Exchange(scope, receive, send)
        start = time.monotonic()
        try:
            refusal = self._refusal(scope)
            await (refusal or self._app)(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 (a message may quote what a file says: not logged)
            frames = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s\n%s", type(error).__name__, frames)
            await _fail(exchange)
        seconds = time.monotonic() - start
        route = getattr(scope.get("route"), "path", "") or "other"
        self._metrics.requests.labels(route, str(exchange.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        _log.info("%s %s %s %.3f s", method, route, exchange.status, seconds)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if not scope["path"].startswith(_GUARDED):
            return None
        headers = Headers(scope=scope)
        if self._token is None:
            return None if self._anyone or _from_here(headers) else _ELSEWHERE
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode(), self._token)
        return None if scheme.lower() == "bearer" and right else _WITHOUT_TOKEN


def _from_here(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site", "none")
    host = headers.get("host", "")
    own = headers.get("origin") in {None, f"http://{host}"}
    return own and site in {"none", "same-origin"} and is_loopback(host_of(host))


class _Exchange:
    """One request and its answer on their way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            fixed = self.scope["path"].startswith("/static/")
            headers.setdefault("Cache-Control", "no-cache" if fixed else "no-store")
            if message["status"] >= 400:
                await self._drain()
        await self._send(message)

    async def _drain(self) -> None:
        """Throw away what still comes: many clients see no answer before they have sent it all."""
        if self._whole or "expect" in Headers(scope=self.scope):
            return
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._whole:
                    await self.receive()
        except TimeoutError:
            pass


async def _fail(exchange: _Exchange) -> None:
    if exchange.status is None:
        problem = Problem(code="internal", sentence="The service failed; its log says where.")
        await JSONResponse(problem.model_dump(), 500)(
            exchange.scope, exchange.receive, exchange.send
        )
