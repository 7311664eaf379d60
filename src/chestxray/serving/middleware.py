"""What applies to every HTTP request: access control, security headers, the log and the metrics.

Without a token, only programs and pages on the same machine are served. Otherwise another site's
page, open in a browser here, could use this service, or read the answers once its own name resolves
to this machine's address (DNS rebinding). Such a page cannot forge `Host`, `Sec-Fetch-Site` (W3C,
Fetch Metadata Request Headers) or `Origin` (RFC 6454), which is all that older browsers send with a
POST. A request that came through a proxy may be anyone's, whatever its `Host`.

The log has a line for each request: its id, which the answer has too (`X-Request-ID`), the route,
the status and the duration; never a path as sent, a file name or anything about a patient.
The metrics (Prometheus) count requests, never patients.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import shlex
import stat
import sys
import time
import traceback
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chestxray.errors import ConfigError
from chestxray.serving.clients import Proxies, is_forwarded, is_loopback, peer_of
from chestxray.serving.content_negotiation import accepted
from chestxray.serving.error_responses import error_response
from chestxray.serving.http_errors import ProblemDetails, problem_details

REQUEST_ID: Final = "chestxray.request"
"""Where the scope of a request has its id."""

_TOKEN_VARIABLE: Final = "CHESTXRAY_TOKEN"  # noqa: S105 (the variable's name)

_MIN_TOKEN: Final = 16  # characters
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DRAIN_SECONDS: Final = 2.0
_PROTECTED: Final = ("/v1/", "/metrics")
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a page may load and do: nothing from another host, no script within the page."""

_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
_UNAUTHORIZED: Final = problem_details(
    401, "unauthorized", "Send the token in the header `Authorization: Bearer TOKEN`."
)
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_NOT_LOCAL: Final = problem_details(
    403,
    "not-local",
    "Without a token, only programs and pages on this machine are served, at http://127.0.0.1 or "
    "http://localhost, and not through a proxy.",
)
_log = logging.getLogger(__name__)


class Metrics:
    """Prometheus metrics of one service and of its process (memory, CPU time, open files).

    Attributes:
        requests: answered, by route and status.
        request_seconds: from a request's first byte to its answer, by route.
        problems: requests that failed, and files of a batch, by code.
        forced_readings: by the code of the first reason for the refusal.
        upload_bytes: of image files received.
        uploads_in_progress: requests that hold a slot.
        batch_images: images that the model read at once.
    """

    def __init__(self, model: str, engine: str) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "chestxray_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self.request_seconds = Histogram(
            "chestxray_request_duration_seconds",
            "Seconds from a request's first byte to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.problems = Counter(
            "chestxray_problems",
            "Requests that failed, and files of a batch, by code.",
            ("code",),
            registry=self._registry,
        )
        self.forced_readings = Counter(
            "chestxray_forced_readings",
            "Readings of radiographs that the gate refuses, by the code of the first reason.",
            ("code",),
            registry=self._registry,
        )
        self.upload_bytes = Counter(
            "chestxray_upload_bytes", "Bytes of image files received.", registry=self._registry
        )
        self.uploads_in_progress = Gauge(
            "chestxray_uploads_in_progress",
            "Uploads being received, decoded or read.",
            registry=self._registry,
        )
        self.batch_images = Histogram(
            "chestxray_batch_images",
            "Images that the model read at once.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        info = Info("chestxray_model", "The model and its engine.", registry=self._registry)
        info.info({"identity": model, "engine": engine})

    def page(self) -> bytes:
        """Give all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


def read_token(file: Path | None = None) -> str | None:
    """Read the bearer token from a file, else from the environment variable `CHESTXRAY_TOKEN`.

    It warns of a file that every user of this machine can read. Such a one is not refused: secrets
    that Docker and Kubernetes mount into a container are so by default.

    Returns:
        The token without white space around it; None where there is neither.

    Raises:
        ConfigError: the file cannot be read, or see `check_token`.
    """
    if file is None:
        token = os.environ.get(_TOKEN_VARIABLE)
    else:
        try:
            token, mode = file.read_text(encoding="utf-8"), file.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the token file {file} cannot be read: {error}") from error
        if sys.platform != "win32" and mode & stat.S_IROTH:
            mend = f"chmod o-rwx {shlex.quote(str(file))}"
            _log.warning("every user of this machine can read the token in %s: `%s`", file, mend)
    if token is not None:
        token = token.strip()
        check_token(token)
    return token


def check_token(token: str) -> None:
    """Check that a token is hard to guess and fits into an HTTP header.

    Raises:
        ConfigError: it is too short, or has white space or characters outside ASCII.
    """
    if len(token) < _MIN_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        raise ConfigError(
            f"the token must have at least {_MIN_TOKEN} ASCII characters and no white space, this "
            f"one has {len(token)} characters: create one with `openssl rand -hex 32`"
        )


def check_address(host: str, token: str | None, allow_remote: bool) -> None:
    """Refuse to serve a whole network without a token.

    Raises:
        ConfigError: other machines can reach the address, and there is no token.
    """
    if token is None and not allow_remote and not is_loopback(host):
        raise ConfigError(
            f"other machines can reach {host} and no token is set: give --token-file TOKEN, made "
            f"by `(umask 077; openssl rand -hex 32 > TOKEN)`, or --allow-remote where a proxy "
            f"controls the access"
        )


class HttpMiddleware:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        token: required for all but the viewer's own files and the health checks; None for none.
        allow_remote: whether clients without a token may come from other machines.
        proxies: that name their clients; the client in the request's scope is then theirs.
        metrics: counts the requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        allow_remote: bool,
        proxies: Proxies,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._warned_of_proxy = False
        self._token = None if token is None else token.encode()
        self._allow_remote = allow_remote
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":  # as GET, whose body the server leaves out
            scope = {**scope, "method": "GET"}
        scope = self._with_client(scope)
        exchange = _Exchange(scope, receive, send)
        scope[REQUEST_ID] = exchange.id
        start = time.monotonic()
        try:
            if refusal := self._refusal(scope):
                await self._fail(exchange, refusal)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 (a message may quote what a file says: not logged)
            await self._fail(exchange, internal_error(error, exchange.id))
        seconds = time.monotonic() - start
        route = getattr(scope.get("route"), "path", "") or "other"
        self._metrics.requests.labels(route, str(exchange.status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        _log_request(method, route, exchange, seconds)

    async def _fail(self, exchange: _Exchange, problem: ProblemDetails) -> None:
        self._metrics.problems.labels(problem.code).inc()
        await exchange.fail(problem)

    def _refusal(self, scope: Scope) -> ProblemDetails | None:
        if not scope["path"].startswith(_PROTECTED):
            return None
        headers = Headers(scope=scope)
        if self._token is None:
            return None if self._allow_remote or self._is_local(scope, headers) else _NOT_LOCAL
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._token)
        return None if scheme.lower() == "bearer" and right else _UNAUTHORIZED

    def _with_client(self, scope: Scope) -> Scope:
        """Put the client's address in the place of that of its proxy."""
        peer, headers = peer_of(scope), Headers(scope=scope)
        if peer is None:
            return scope
        if self._proxies.include(peer):
            return {**scope, "client": (self._proxies.client(peer, headers), 0)}
        if is_forwarded(headers) and not self._warned_of_proxy:
            self._warned_of_proxy = True
            _log.warning(
                "requests come through a proxy that is not configured, so all its clients count as "
                "one: if it is yours, give --proxy with its address"
            )
        return scope

    def _is_local(self, scope: Scope, headers: Headers) -> bool:
        peer = peer_of(scope)
        return (
            (peer is None or is_loopback(peer))
            and not is_forwarded(headers)
            and _is_own(scope["scheme"], headers)
        )


def internal_error(error: Exception, request: str = "") -> ProblemDetails:
    """Log an error without its message, which may quote a file, and give the problem to send.

    Args:
        error: the error.
        request: id of the request.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    extra = {"event": "failed", "request": request}
    _log.error("%s %s\n%s", type(error).__name__, request, frames, extra=extra)
    return problem_details(500, "internal-error", "The service failed. Its log has the traceback.")


def _log_request(method: str, route: str, exchange: _Exchange, seconds: float) -> None:
    extra = {
        "event": "request",
        "request": exchange.id,
        "method": method,
        "route": route,
        "status": exchange.status,
        "seconds": round(seconds, 3),
    }
    words = (method, route, exchange.status, seconds, exchange.id)
    _log.info("%s %s %s %.3f s %s", *words, extra=extra)


class _Exchange:
    """One request and its answer; `id` is its own, never one that a client has chosen."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = secrets.token_hex(8)
        self.status: int | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._complete = False  # the request's body

    async def receive(self) -> Message:
        message = await self._receive()
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-ID"] = self.id
            if message["status"] >= 400:
                await self._drain()
        await self._send(message)

    async def fail(self, problem: ProblemDetails) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self.status is None:
            accept = accepted(Headers(scope=self._scope))
            headers = _CHALLENGE if problem.status == 401 else None
            response = error_response(problem, accept, headers)
            await response(self._scope, self.receive, self.send)

    async def _drain(self) -> None:
        """Discard the rest of the body: many clients read no answer before they have sent it."""
        if self._complete or "expect" in Headers(scope=self._scope):
            return
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._complete:
                    await self.receive()
        except TimeoutError:
            pass


def _is_own(scheme: str, headers: Headers) -> bool:
    """Say whether a program or page of this machine asks, by this machine's own name."""
    site = headers.get("sec-fetch-site", "none")
    host = headers.get("host", "")
    own = headers.get("origin") in {None, f"{scheme}://{host}"}
    return own and site in {"none", "same-origin"} and is_loopback(_host_name(host))


def _host_name(header: str) -> str:
    """Give the name or address in a `Host` header, without port and brackets; empty if invalid."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
