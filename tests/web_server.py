"""A real server in this process: the application behind uvicorn, on a port of its own."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from fastapi import FastAPI

from chestxray.errors import RefusedError
from chestxray.reading.reader import Reader
from chestxray.serving.server import Server, bind, url_of


def wait_until(ready, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def accepted(reader: Reader, phantoms: Path) -> list[Path]:
    """Radiographs of a raw tree that the reader's gate does not refuse."""
    paths = sorted((phantoms / "images_001/images").glob("*.png"))
    films = [path for path in paths[:40] if not refused(reader, path)]
    assert len(films) >= 8
    return films


def refused(reader: Reader, path: Path) -> bool:
    try:
        reader.read(path)
    except RefusedError:
        return True
    return False


@contextlib.contextmanager
def listening(app: FastAPI, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run the application; `server.url` is its address."""
    address = bind("127.0.0.1", 0)
    server = Server(app, tls=tls)
    server.url = url_of(address, "http" if tls is None else "https").rstrip(
        "/"
    )  # where tests find it
    thread = threading.Thread(target=server.serve_on, args=(address,), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def ready(app: FastAPI) -> Iterator[httpx.Client]:
    """Run the application; gives a client once it is ready, with `client.admission` inside."""
    with listening(app) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        client.admission = app.state.admission
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client
