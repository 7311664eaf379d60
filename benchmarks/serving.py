"""The web service under load: answers per second, latency, memory, and whether answers are correct.

Usage: python benchmarks/serving.py BUNDLE [--clients 32] [--seconds 60] [--pixels 1024]
       [--max-uploads 32]

The service runs in a process of its own. Clients post phantoms of PIXELS px one after the other,
each over its own connection, and compare every answer with that of `Reader.read`. A client that is
rejected (429, 503) retries after `Retry-After`, which is usual where there are more clients than
uploads allowed at once. Clients and service share this machine's cores. The exit status is 1 where
an answer was wrong or lost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

import chestxray
from chestxray.errors import RefusedError
from chestxray.reading.reader import Reader
from chestxray.sources.phantom.tree import synth

RADIOGRAPHS = 16
TOLERANCE = 1e-4
WARM_UP = 10.0  # seconds, after which memory should not grow
REJECTED = {429, 503}


@dataclass
class Outcome:
    """The outcome of one client's requests, or of all clients'.

    Attributes:
        seconds: from the first attempt to the answer, waits included.
        wrong: answers that are not those of the radiograph.
        lost: requests without an answer, by error.
        rejected: attempts by status; they were repeated.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    rejected: Counter[int] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        self.seconds += other.seconds
        self.wrong += other.wrong
        self.lost += other.lost
        self.rejected += other.rejected


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--max-uploads", type=int, default=32)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reader = chestxray.load(given.bundle)
        radiographs, expected = accepted(reader, phantoms(Path(folder) / "raw", given.pixels))
        spread = min(np.abs(np.subtract(a, b)).max() for a in expected for b in expected if a != b)
        print(f"radiographs differ by at least {spread:.2g} in some probability")
        del reader
        with service(given.bundle, given.max_uploads) as (url, process):
            outcome = measure(url, process.pid, radiographs, expected, given)
    sys.exit(bool(outcome.wrong or outcome.lost))


def measure(
    url: str,
    pid: int,
    radiographs: list[bytes],
    expected: list[list[float]],
    given: argparse.Namespace,
) -> Outcome:
    """Let all clients post for a while and print the outcome."""
    start = time.monotonic()
    end = start + given.seconds
    memory = [(0.0, resident(pid))]
    with ThreadPoolExecutor(given.clients) as pool:
        asked = [
            pool.submit(client, url, n, radiographs, expected, end) for n in range(given.clients)
        ]
        while not all(future.done() for future in asked):
            time.sleep(0.5)
            memory.append((time.monotonic() - start, resident(pid)))
    outcome = Outcome()
    for future in asked:
        outcome.add(future.result())
    took = time.monotonic() - start
    print(
        f"{given.clients} clients, at most {given.max_uploads} uploads, {took:.0f} s, "
        f"radiographs of {given.pixels} px"
    )
    print_outcome(outcome, took)
    print_memory(memory)
    print(batches(url))
    return outcome


def print_outcome(outcome: Outcome, took: float) -> None:
    cuts = [1000 * q for q in statistics.quantiles(outcome.seconds, n=100)]
    answers = len(outcome.seconds)
    print(f"{answers} answers, {answers / took:.1f} per second")
    print(f"latency: {cuts[49]:.0f} ms median, {cuts[89]:.0f} p90, {cuts[98]:.0f} p99")
    away = ", ".join(f"{n} with {status}" for status, n in sorted(outcome.rejected.items()))
    print(f"rejected and repeated: {away or 'none'}")
    print(f"wrong: {outcome.wrong}; lost: {dict(outcome.lost) or 'none'}")


def print_memory(memory: list[tuple[float, int]]) -> None:
    """Print the memory of the service and its decoders at several times."""
    early = next((held for after, held in memory if after >= WARM_UP), memory[-1][1])
    marks = {
        "at the start": memory[0][1],
        f"after {WARM_UP:g} s": early,
        "at the end": memory[-1][1],
        "at most": max(held for _, held in memory),
    }
    figures = ", ".join(f"{held / 2**20:.0f} MB {when}" for when, held in marks.items())
    print(f"memory of the service and its decoders: {figures}")


def client(
    url: str, number: int, radiographs: list[bytes], expected: list[list[float]], end: float
) -> Outcome:
    """Post one radiograph after the other."""
    order = np.random.default_rng(number).permutation(len(radiographs))
    outcome = Outcome()
    with httpx.Client(base_url=url, timeout=120) as http:
        while time.monotonic() < end:
            which = order[len(outcome.seconds) % len(radiographs)]
            start = time.perf_counter()
            try:
                answer = post(http, radiographs[which], outcome.rejected)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                outcome.lost[str(error).splitlines()[0]] += 1
                continue
            outcome.seconds.append(time.perf_counter() - start)
            found = [row["probability"] for row in answer.json()["findings"]]
            outcome.wrong += not np.allclose(found, expected[which], atol=TOLERANCE)
    return outcome


def post(http: httpx.Client, radiograph: bytes, rejected: Counter[int]) -> httpx.Response:
    """Post a radiograph, repeatedly where the service says when to retry."""
    while True:
        answer = http.post("/v1/read", files={"file": radiograph})
        if answer.status_code not in REJECTED or "Retry-After" not in answer.headers:
            return answer
        rejected[answer.status_code] += 1
        time.sleep(float(answer.headers["Retry-After"]))


@contextlib.contextmanager
def service(bundle: Path, max_uploads: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the service until it is ready; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "chestxray", "serve", str(bundle)]
    command += ["--port", str(port), "--max-uploads", str(max_uploads)]
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
    return f"{total / count:.1f} images per batch on average"


def resident(pid: int) -> int:
    """Bytes that a process and its children have in memory; shared pages count twice."""
    process = Path(f"/proc/{pid}")
    children = " ".join(path.read_text() for path in process.glob("task/*/children")).split()
    own = int((process / "statm").read_text().split()[1]) * resource.getpagesize()
    return own + sum(resident(int(child)) for child in children)


def accepted(reader: Reader, radiographs: list[bytes]) -> tuple[list[bytes], list[list[float]]]:
    """Give the radiographs that the reader does not refuse, and its probabilities for each."""
    read = {}
    for radiograph in radiographs:
        with contextlib.suppress(RefusedError):
            read[radiograph] = list(reader.read(radiograph).probabilities.values())
    if len(read) < 2:
        sys.exit("the bundle's gate refuses the phantoms: use a bundle that reads them")
    return list(read), list(read.values())


def phantoms(folder: Path, pixels: int) -> list[bytes]:
    with contextlib.redirect_stderr(io.StringIO()):
        synth(folder, images=RADIOGRAPHS, pixels=pixels, balanced=True)
    return [path.read_bytes() for path in sorted((folder / "images_001/images").glob("*.png"))]


if __name__ == "__main__":
    main()
