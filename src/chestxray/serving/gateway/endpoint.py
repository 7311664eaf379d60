"""The endpoint for monitoring: `/health` for health checks, everything else for Prometheus.

It serves a bounded number of connections, each for a limited time; a further one displaces the
oldest.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Final, cast

from prometheus_client import MetricsHandler
from prometheus_client.core import REGISTRY

from chestxray.serving.gateway.config import Metrics
from chestxray.serving.gateway.statistics import Statistics

_CONNECTIONS: Final = 16
_TIMEOUT: Final = 10.0

Problems = Callable[[], list[str]]
"""Gives what is wrong with the gateway, one sentence each."""


def serve(metrics: Metrics, state: Path, problems: Problems) -> None:
    """Serve statistics and health, in a thread."""
    REGISTRY.register(Statistics(state, problems))
    server = _Server(metrics, problems)
    threading.Thread(target=server.serve_forever, daemon=True).start()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, metrics: Metrics, problems: Problems) -> None:
        self.problems = problems
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        found = socket.getaddrinfo(metrics.host, metrics.port, type=socket.SOCK_STREAM)[0]
        self.address_family = found[0]
        super().__init__((metrics.host, metrics.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Make room for a connection and start its thread."""
        with self._lock:
            if len(self._open) >= _CONNECTIONS:
                with contextlib.suppress(OSError):
                    self._open.popleft().shutdown(socket.SHUT_RDWR)
            self._open.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """Close a connection and forget it."""
        with self._lock, contextlib.suppress(ValueError):
            self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing of a connection that was closed."""


class _Handler(MetricsHandler):
    timeout = _TIMEOUT
    registry = REGISTRY

    def do_GET(self) -> None:  # noqa: N802 (what the server calls)
        """Answer a request."""
        if self.path.partition("?")[0] != "/health":
            super().do_GET()
            return
        problems = cast("_Server", self.server).problems()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        said = {"status": "failing" if problems else "ok", "problems": problems}
        body = json.dumps(said, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
