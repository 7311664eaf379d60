"""Attackers on an HTTP port, over real sockets, and an honest client that measures what they do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

HALF_HEAD = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def upload_head(length: int, token: str | None = None) -> bytes:
    """A complete head that announces a body, and the body's first bytes."""
    shown = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"POST /v1/read HTTP/1.1\r\nHost: localhost\r\n{shown}Content-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    ).encode()


class Crowd:
    """Many connections that send an opening and then a little now and then; always as many.

    Args:
        address: of the server.
        count: connections.
        opening: what each sends first.
        drip: what each sends every second.
        sources: addresses of this machine that they come from, in turn.
        pause: seconds until a closed connection is replaced.
    """

    def __init__(
        self,
        address: tuple[str, int],
        count: int,
        opening: bytes,
        drip: bytes = b"",
        sources: tuple[str, ...] = ("127.0.0.1",),
        pause: float = 0.1,
    ) -> None:
        self.made = self.open = self.most = 0
        self._address, self._opening, self._drip, self._pause = address, opening, drip, pause
        self._sources = [sources[number % len(sources)] for number in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all connections."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(30)

    def _run(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*map(self._attack, self._sources))

        self._task = self._loop.create_task(all_of_them())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _attack(self, source: str) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection(
                        *self._address, local_addr=(source, 0)
                    )
                self.made += 1
                self.open += 1
                self.most = max(self.most, self.open)
                try:
                    await self._hold(reader, writer)
                finally:
                    self.open -= 1
                    writer.transport.abort()
            await asyncio.sleep(self._pause)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Drip until the server closes the connection or answers."""
        writer.write(self._opening)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await reader.read(4096)
                    return
            writer.write(self._drip)


@dataclass
class Service:
    """A service in a process of its own; `log` is its standard error."""

    process: subprocess.Popen[bytes]
    log: Path
    address: tuple[str, int]

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def descriptors(self) -> int:
        return _entries(f"/proc/{self.process.pid}/fd")

    def threads(self) -> int:
        return _entries(f"/proc/{self.process.pid}/task")

    def peak_mb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) // 1024


@contextlib.contextmanager
def service(bundle: Path, log: Path, *options: str, descriptors: int = 1024) -> Iterator[Service]:
    """Run `chestxray serve` with a limit of its descriptors."""
    command = [sys.executable, "-m", "chestxray", "serve", str(bundle), "--port", "0", *options]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
    try:
        end = time.monotonic() + 180
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text())):
            assert time.monotonic() < end, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield Service(process, log, ("127.0.0.1", int(found[1])))
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Honest:
    """A client that asks again and again, each time over a new connection.

    Attributes:
        seconds: of each answer.
        failures: statuses and errors other than 200.
    """

    url: str
    image: bytes | None = None
    source: str | None = None
    token: str | None = None
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def ask(self, patience: float = 20) -> None:
        start = time.monotonic()
        transport = httpx.HTTPTransport(local_address=self.source)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with httpx.Client(
                base_url=self.url, timeout=patience, transport=transport, headers=headers
            ) as client:
                if self.image is None:
                    answer = client.get("/readyz")
                else:
                    answer = client.post("/v1/read", files={"file": self.image})
        except httpx.HTTPError as error:
            self.failures.append(type(error).__name__)
            return
        if answer.status_code != 200:
            self.failures.append(f"{answer.status_code} {answer.json().get('code')}")
        else:
            self.seconds.append(time.monotonic() - start)

    def ask_for(self, seconds: float, pause: float = 0.1) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.ask()
            time.sleep(pause)

    def figures(self) -> str:
        if not self.seconds:
            return f"0 answered, {len(self.failures)} failed"
        p50, p99 = np.percentile(self.seconds, (50, 99))
        return (
            f"{len(self.seconds)} answered, {len(self.failures)} failed "
            f"{sorted(set(self.failures))}, p50 {p50:.3f} s, p99 {p99:.3f} s"
        )


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())
