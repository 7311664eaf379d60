"""Runs the web application until it is told to stop, and then lets those in the house finish."""

from __future__ import annotations

import logging
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from chestxray.serving.desk import Desk

_SECONDS_TO_STOP: Final = 30


class Server(uvicorn.Server):
    """An HTTP server that sends newcomers away as soon as it is told to stop."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,  # it would hold whatever clients put into addresses
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_SECONDS_TO_STOP,
            )
        )
        self._desk: Desk = app.state.desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._desk.stop()
        super().handle_exit(sig, frame)


def set_up_logs() -> None:
    """Send our records of level INFO and above to standard error, and others' warnings."""
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form)
    logging.getLogger("chestxray").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it tells of clients' bytes
