"""The web service under load: requests a second, latency, memory; each answer held to its image.

Usage: python benchmarks/serving.py BUNDLE [--clients 32] [--seconds 60] [--pixels 1024]

`chestxray serve` runs in a process of its own; clients post phantoms of PIXELS px one after the
other, each by its own connection, and compare every answer with what `Reader.read` says of that
file. Clients and service share this machine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

import chestxray
from chestxray.sources.phantom.tree import write_tree

FILMS = 16
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pixels", type=int, default=1024)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        films = phantoms(Path(folder) / "raw", given.pixels)
        reader = chestxray.load(given.bundle)
        expected = [list(reader.read(film).probabilities.values()) for film in films]
        spread = min(np.abs(np.subtract(a, b)).max() for a in expected for b in expected if a != b)
        print(f"films differ by at least {spread:.2g} in some probability")
        del reader
        with service(given.bundle) as (url, process):
            measure(url, process.pid, films, expected, given)


def measure(
    url: str, pid: int, films: list[bytes], expected: list[list[float]], given: argparse.Namespace
) -> None:
    """Let all clients post for a while and print what came of it."""
    end = time.monotonic() + given.seconds
    memory = []
    with ThreadPoolExecutor(given.clients) as pool:
        asked = [pool.submit(client, url, n, films, expected, end) for n in range(given.clients)]
        while not all(future.done() for future in asked):
            memory.append(resident(pid))
            time.sleep(0.5)
        outcomes = [future.result() for future in asked]
    times = [t for found, _ in outcomes for t in found]
    wrong = sum(count for _, count in outcomes)
    figures = [1000 * q for q in statistics.quantiles(times, n=100)]
    half = len(memory) // 2
    print(f"{given.clients} clients, {given.seconds:g} s, films of {given.pixels} px")
    print(f"{len(times)} answers, {len(times) / given.seconds:.1f} a second, {wrong} wrong")
    print(f"latency: {figures[49]:.0f} ms median, {figures[89]:.0f} p90, {figures[98]:.0f} p99")
    print(
        f"memory of the service: {max(memory[:half]) / 2**20:.0f} MB at most in the first half, "
        f"{max(memory[half:]) / 2**20:.0f} MB in the second"
    )
    print(batches(url))


def client(
    url: str, number: int, films: list[bytes], expected: list[list[float]], end: float
) -> tuple[list[float], int]:
    """Post one film after the other; gives seconds of each answer, and how many were wrong."""
    order = np.random.default_rng(number).permutation(len(films))
    times: list[float] = []
    wrong = 0
    with httpx.Client(base_url=url, timeout=120) as http:
        while time.monotonic() < end:
            which = order[len(times) % len(films)]
            start = time.perf_counter()
            answer = http.post("/v1/read", files={"file": films[which]})
            times.append(time.perf_counter() - start)
            answer.raise_for_status()
            found = [row["probability"] for row in answer.json()["findings"]]
            wrong += not np.allclose(found, expected[which], atol=TOLERANCE)
    return times, wrong


@contextlib.contextmanager
def service(bundle: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `chestxray serve` until it is ready; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "chestxray", "serve", str(bundle), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while not ready(url):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.2)
        yield url, process
    finally:
        process.terminate()
        process.wait()


def ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    return False


def batches(url: str) -> str:
    """Say how many images the model read at once."""
    page = httpx.get(f"{url}/metrics", timeout=30).text
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    count, total = (float(lines[f"chestxray_batch_images_{name}"]) for name in ("count", "sum"))
    return f"{total / count:.1f} images a batch in the mean"


def resident(pid: int) -> int:
    """Bytes that a process has in memory, decoders not counted."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def phantoms(folder: Path, pixels: int) -> list[bytes]:
    with contextlib.redirect_stderr(io.StringIO()):
        write_tree(folder, images=FILMS, pixels=pixels, balanced=True)
    return [path.read_bytes() for path in sorted((folder / "images_001/images").glob("*.png"))]


if __name__ == "__main__":
    main()
