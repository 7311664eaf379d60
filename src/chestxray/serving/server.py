"""Runs the web application until it is told to stop, and then lets those in the house finish."""

from __future__ import annotations

import logging
import signal
import socket
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from chestxray.errors import ConfigError
from chestxray.serving.admission import Desk

_SECONDS_TO_STOP: Final = 30


class Server(uvicorn.Server):
    """An HTTP server that sends newcomers away as soon as it is told to stop."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_SECONDS_TO_STOP,
            )
        )
        # It holds whatever clients put into addresses, and another set-up could switch it on.
        logging.getLogger("uvicorn.access").disabled = True
        self._desk: Desk = app.state.desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Take a signal: the second Ctrl-C waits for nobody.

        Uvicorn's own would raise the signal again at the end, so that a stop as asked for looked
        like a failure.
        """
        self._desk.stop()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Take an address, before anything slow is begun; the server listens on it later.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"{host} port {port} cannot be listened on ({error.strerror}): end what uses it, or "
            f"give another --port or --host"
        ) from error
    return taken


def set_up_logs() -> None:
    """Send our records of level INFO and above to standard error, and others' warnings."""
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form)
    logging.getLogger("chestxray").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it tells of clients' bytes
