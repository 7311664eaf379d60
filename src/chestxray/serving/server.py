"""Runs the web service of a bundle until it is told to stop, and then completes open requests."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, Literal

import uvicorn
from fastapi import FastAPI

from chestxray.errors import ConfigError
from chestxray.reading.reader import load
from chestxray.serving.admission import AdmissionControl, Limits
from chestxray.serving.clients import Proxies
from chestxray.serving.http_connections import (
    ACCEPTED_AT_ONCE,
    LISTEN_BACKLOG,
    ConnectionTable,
    connections_possible,
)
from chestxray.serving.http_protocol import HttpProtocol, ServerConfig
from chestxray.serving.json_log import JSONLines
from chestxray.serving.log_rate import RateLimitedHandler
from chestxray.serving.middleware import check_address, check_token
from chestxray.serving.tls import server_context
from chestxray.serving.web import create_app

LogFormat = Literal["text", "json"]

_SECONDS_TO_STOP: Final = 30
_LOG_FIELDS: Final = ("event", "request", "method", "route", "status", "seconds")
_log = logging.getLogger(__name__)


def serve(  # noqa: PLR0913 - the options of one command
    bundle: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str | Path = "auto",
    operating_point: str | None = None,
    require_signature: str | Path | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    allow_remote: bool = False,
    proxies: Sequence[str] = (),
    allow_force: bool = False,
    device: str = "auto",
    tls: tuple[str | Path, str | Path] | None = None,
    log_format: LogFormat = "text",
) -> None:
    """Serve a bundle over HTTP, with a viewer, until SIGINT (Ctrl-C) or SIGTERM.

    The address is taken before the model is loaded. The log (standard error) has the URL once
    radiographs can be read. Nothing of an upload is stored, and the log names no file.

    Args:
        bundle: the bundle folder of a run.
        host: name or address to listen on.
        port: 0 for a free one, which the log has.
        engine: see `chestxray.load`.
        operating_point: likewise.
        require_signature: likewise.
        token: bearer token that clients must send; at least 16 ASCII characters.
        limits: bounds of memory and waiting; the defaults when None.
        allow_remote: serve other machines without a token.
        proxies: addresses or networks of reverse proxies, whose `X-Forwarded-For` is believed.
        allow_force: let clients have read what the gate refuses, with `force=true`.
        device: see `chestxray.load`.
        tls: files of the certificate and of its private key, PEM; HTTP without them.
        log_format: `text`, or `json`: one object a line.

    Raises:
        ConfigError: the address is taken, the token is too short, other machines can reach the
            address and there is no token, a proxy's address is invalid, certificate or key cannot
            be used, or too few files may be open.
        BundleError: see `chestxray.load`, as for the other errors of a bundle and its engine.
        WorkerError: no decoder process could be started.
        KeyboardInterrupt: it was stopped by SIGINT, after the requests in progress were completed.
    """
    if token is not None:
        check_token(token)
    check_address(host, token, allow_remote)
    trusted = Proxies(proxies)
    context = None if tls is None else server_context(*map(Path, tls))
    with closing(bind(host, port)) as address:
        reader = load(bundle, engine, operating_point, require_signature, device=device)
        _set_up_log(log_format)
        for warning in reader.warnings:
            _log.warning("%s", warning)
        app = create_app(
            reader,
            limits,
            token,
            allow_remote=allow_remote,
            proxies=proxies,
            allow_force=allow_force,
        )
        server = Server(app, trusted, context)
        server.serve_on(address)
    if server.interrupted:
        raise KeyboardInterrupt


class Server(uvicorn.Server):
    """An HTTP server that rejects new requests as soon as it is told to stop.

    Args:
        app: as of `create_app`, which has the limits too.
        proxies: whose connections are not limited per client.
        tls: encrypts all connections; None for none.

    Attributes:
        interrupted: whether SIGINT (Ctrl-C) stopped it.
        table: of the connections.

    Raises:
        ConfigError: too few files may be open.
    """

    interrupted = False

    def __init__(
        self, app: FastAPI, proxies: Proxies | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        config = ServerConfig(
            app,
            loop="asyncio",  # whose `backlog` limits what is accepted at once
            http=HttpProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            log_level="error",  # its warnings are of what clients send
            server_header=False,
            proxy_headers=False,  # the middleware reads them, if a proxy is configured
            backlog=ACCEPTED_AT_ONCE,
            timeout_graceful_shutdown=_SECONDS_TO_STOP,
        )
        # It has whatever clients put into addresses, and another set-up could switch it on.
        logging.getLogger("uvicorn.access").disabled = True
        self._admission: AdmissionControl = app.state.admission
        limits = self._admission.limits
        self.table = ConnectionTable(
            connections_possible(limits.max_connections),
            limits.max_connections_per_client,
            limits.head_timeout,
            limits.answer_timeout,
            limits.max_held_bytes,
        )
        config.table, config.proxies = self.table, proxies or Proxies()
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            config.encrypt(tls, limits.head_timeout)
        super().__init__(config)

    def serve_on(self, address: socket.socket) -> None:
        """Serve on a bound socket until stopped.

        Raises:
            Exception: why the service could not start, such as a `WorkerError`.
        """
        started = self._admission.started
        self.run(sockets=[address])
        if started.done():
            started.result()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections; the URL is logged when these can be made and answered."""
        await super().startup(sockets)
        for address in sockets or ():
            address.listen(LISTEN_BACKLOG)
            self._admission.started.add_done_callback(partial(self._announce, address))

    async def on_tick(self, counter: int) -> bool:
        """Close slow connections once a second; uvicorn calls this ten times as often."""
        if counter % 10 == 0:
            self.table.close_slow()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Handle a signal; a second Ctrl-C ends at once.

        Uvicorn's own method raises the signal again at the end, so that a requested stop would look
        like a failure.
        """
        self._admission.stop()
        self.interrupted |= sig == signal.SIGINT
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _announce(self, address: socket.socket, _started: Future[None]) -> None:
        """Log the URL where the service is ready; end the server where it could not start."""
        if self._admission.state == "ready":
            reader = self._admission.reader
            _log.info(
                "serving %s by %s at %s (Ctrl-C stops it)",
                reader.bundle.identity,
                reader.engine.name,
                url_of(address, self._scheme),
                extra={"event": "ready"},
            )
        elif self._admission.state == "failed":
            self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Take an address, before anything slow is begun; the server listens on it later.

    Raises:
        ConfigError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol, asyncio leaves Nagle's algorithm on, which delays answers by 40 ms.
    address = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if sys.platform == "win32":  # there SO_REUSEADDR would let another program take the port too
        address.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        address.bind((host, port))
    except OSError as error:
        address.close()
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror}): stop the program that uses "
            f"it, or choose another --port or --host"
        ) from error
    return address


def url_of(address: socket.socket, scheme: str = "http") -> str:
    """Give the URL of a bound socket."""
    host, port = address.getsockname()[:2]
    name = f"[{host}]" if address.family == socket.AF_INET6 else host
    return f"{scheme}://{name}:{port}/"


def _set_up_log(form: LogFormat) -> None:
    """Write this package's records of level INFO and above, and others' warnings, to stderr.

    Python's warnings and pydicom's records are not written: they quote the file.
    """
    handler = RateLimitedHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(text if form == "text" else JSONLines(_LOG_FIELDS))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("chestxray").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it quotes clients' bytes
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
