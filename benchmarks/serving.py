"""The web service under load: answers a second, latency, memory; each answer held to its image.

Usage: python benchmarks/serving.py BUNDLE [--clients 32] [--seconds 60] [--pixels 1024]
       [--places 32]

`chestxray serve` runs in a process of its own; clients post phantoms of PIXELS px one after the
other, each over its own connection, and compare every answer with what `Reader.read` says of that
film. Who is sent away (429, 503) comes back after `Retry-After`; with fewer places than clients
that is the rule. Clients and service share this machine's cores. Ends with 1 where an answer was
wrong or lost.
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

FILMS = 16
TOLERANCE = 1e-4
EARLY = 10.0  # seconds: what is first used is in memory by then
SENT_AWAY = {429, 503}


@dataclass
class Outcome:
    """What came of one client's requests, or of all clients'.

    Attributes:
        seconds: from asking to the answer, waits in between included.
        wrong: answers that are another film's, or no film's.
        lost: requests without an answer, by what came instead.
        sent_away: by status; these came back.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    sent_away: Counter[int] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        self.seconds += other.seconds
        self.wrong += other.wrong
        self.lost += other.lost
        self.sent_away += other.sent_away


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--places", type=int, default=32)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reader = chestxray.load(given.bundle)
        films, expected = accepted(reader, phantoms(Path(folder) / "raw", given.pixels))
        spread = min(np.abs(np.subtract(a, b)).max() for a in expected for b in expected if a != b)
        print(f"films differ by at least {spread:.2g} in some probability")
        del reader
        with service(given.bundle, given.places) as (url, process):
            outcome = measure(url, process.pid, films, expected, given)
    sys.exit(bool(outcome.wrong or outcome.lost))


def measure(
    url: str, pid: int, films: list[bytes], expected: list[list[float]], given: argparse.Namespace
) -> Outcome:
    """Let all clients post for a while and print what came of it."""
    start = time.monotonic()
    end = start + given.seconds
    memory = [(0.0, resident(pid))]
    with ThreadPoolExecutor(given.clients) as pool:
        asked = [pool.submit(client, url, n, films, expected, end) for n in range(given.clients)]
        while not all(future.done() for future in asked):
            time.sleep(0.5)
            memory.append((time.monotonic() - start, resident(pid)))
    outcome = Outcome()
    for future in asked:
        outcome.add(future.result())
    took = time.monotonic() - start
    print(
        f"{given.clients} clients, {given.places} places, {took:.0f} s, films of {given.pixels} px"
    )
    print_outcome(outcome, took)
    print_memory(memory)
    print(batches(url))
    return outcome


def print_outcome(outcome: Outcome, took: float) -> None:
    cuts = [1000 * q for q in statistics.quantiles(outcome.seconds, n=100)]
    answers = len(outcome.seconds)
    print(f"{answers} answers, {answers / took:.1f} a second")
    print(f"latency: {cuts[49]:.0f} ms median, {cuts[89]:.0f} p90, {cuts[98]:.0f} p99")
    away = ", ".join(f"{n} with {status}" for status, n in sorted(outcome.sent_away.items()))
    print(f"sent away and come back: {away or 'none'}")
    print(f"wrong: {outcome.wrong}; lost: {dict(outcome.lost) or 'none'}")


def print_memory(memory: list[tuple[float, int]]) -> None:
    """Print what the service and its decoders hold, where it may be compared."""
    early = next((held for after, held in memory if after >= EARLY), memory[-1][1])
    marks = {
        "at the start": memory[0][1],
        f"after {EARLY:g} s": early,
        "at the end": memory[-1][1],
        "at most": max(held for _, held in memory),
    }
    figures = ", ".join(f"{held / 2**20:.0f} MB {when}" for when, held in marks.items())
    print(f"memory of the service and its decoders: {figures}")


def client(
    url: str, number: int, films: list[bytes], expected: list[list[float]], end: float
) -> Outcome:
    """Post one film after the other."""
    order = np.random.default_rng(number).permutation(len(films))
    outcome = Outcome()
    with httpx.Client(base_url=url, timeout=120) as http:
        while time.monotonic() < end:
            which = order[len(outcome.seconds) % len(films)]
            start = time.perf_counter()
            try:
                answer = post(http, films[which], outcome.sent_away)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                outcome.lost[str(error).splitlines()[0]] += 1
                continue
            outcome.seconds.append(time.perf_counter() - start)
            found = [row["probability"] for row in answer.json()["findings"]]
            outcome.wrong += not np.allclose(found, expected[which], atol=TOLERANCE)
    return outcome


def post(http: httpx.Client, film: bytes, sent_away: Counter[int]) -> httpx.Response:
    """Post a film, again and again where the service says when."""
    while True:
        answer = http.post("/v1/read", files={"file": film})
        if answer.status_code not in SENT_AWAY or "Retry-After" not in answer.headers:
            return answer
        sent_away[answer.status_code] += 1
        time.sleep(float(answer.headers["Retry-After"]))


@contextlib.contextmanager
def service(bundle: Path, places: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `chestxray serve` until it is ready; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "chestxray", "serve", str(bundle)]
    command += ["--port", str(port), "--places", str(places)]
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
    """Bytes that a process and its children have in memory; pages they share count twice."""
    process = Path(f"/proc/{pid}")
    children = " ".join(path.read_text() for path in process.glob("task/*/children")).split()
    own = int((process / "statm").read_text().split()[1]) * resource.getpagesize()
    return own + sum(resident(int(child)) for child in children)


def accepted(reader: Reader, films: list[bytes]) -> tuple[list[bytes], list[list[float]]]:
    """Give the films that the reader does not refuse, and its probabilities of each."""
    read = {}
    for film in films:
        with contextlib.suppress(RefusedError):
            read[film] = list(reader.read(film).probabilities.values())
    if len(read) < 2:
        sys.exit("the bundle's gate refuses the phantoms: take a bundle that reads them")
    return list(read), list(read.values())


def phantoms(folder: Path, pixels: int) -> list[bytes]:
    with contextlib.redirect_stderr(io.StringIO()):
        synth(folder, images=FILMS, pixels=pixels, balanced=True)
    return [path.read_bytes() for path in sorted((folder / "images_001/images").glob("*.png"))]


if __name__ == "__main__":
    main()
