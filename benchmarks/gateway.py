"""Throughput of the gateway in images per second, and the memory of its processes.

    python benchmarks/gateway.py BUNDLE RADIOGRAPHS [--images 200] [--workers 1]
        [--engine EXPORT] [--send sr sc]

RADIOGRAPHS is a folder of radiographs of any size; they are sent in turn, each time as a new DX
image of 12 bits. dcmtk stands for the hospital: storescu sends the images by C-STORE over loopback,
storescp receives the results and drops them. The time runs from the first image sent to the last
result that the receiver acknowledged, so it includes receiving, reading, drawing and sending. A row
is printed at the start, each minute and at the end: images per second since the previous row, and
the resident memory of each process, part of which are libraries that processes share. Processor
time depends little on the load of the machine. That of sender and receiver is printed too: they are
other machines in a hospital, but take the same cores here.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chestxray.dataset import pixels
from gateway_parts import Gateway, config, free_port, radiograph, tool, wait_for, written_to

MIB = 2**20


@contextmanager
def archive() -> Iterator[tuple[int, psutil.Process]]:
    """Run a Storage SCP that stores nothing; give its port and its process."""
    port = free_port()
    command = [tool("storescp"), "--accept-all", "--bit-preserving", "--ignore", str(port)]
    with subprocess.Popen(command) as process:
        try:
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()


def modality(files: list[Path], images: int, port: int) -> subprocess.Popen[bytes]:
    """Send images over one association, each as one of a new patient."""
    new = ["+II", "+IP", "1", "+IS", "1", "+IR", "1"]
    names = ["-aet", "SENDER", "-aec", "CHESTXRAY"]
    sent = [str(files[number % len(files)]) for number in range(images)]
    command = [tool("storescu"), "--required", *new, *names, "127.0.0.1", str(port), *sent]
    return subprocess.Popen(command)


def dicom_files(radiographs: Path, folder: Path) -> list[Path]:
    """Write each radiograph as a DX image."""
    folder.mkdir()
    found = sorted(path for path in radiographs.iterdir() if path.is_file())
    stored = (pixels.decode(path).astype(np.uint16) << 4 for path in found)
    return [
        written_to(folder / f"{number}.dcm", radiograph(number, of))
        for number, of in enumerate(stored)
    ]


def memory(gateway: Gateway) -> dict[str, int]:
    """Resident memory of each process, MiB."""
    members = {"supervisor": gateway.pid} | gateway.members()
    return {name: psutil.Process(pid).memory_info().rss // MIB for name, pid in members.items()}


def processor(gateway: Gateway, archive: psutil.Process) -> dict[str, float]:
    """Processor seconds used by each process, and by the decoder of each worker."""
    used = {"archive": _seconds(archive)}
    for name, pid in gateway.members().items():
        process = psutil.Process(pid)
        used[name] = _seconds(process)
        if children := process.children(recursive=True):
            used[f"decoder of {name}"] = sum(map(_seconds, children))
    return used


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("radiographs", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--send", nargs="+", default=["sr", "sc"], choices=("sr", "sc"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, archive() as (port, receiver):
        folder = Path(name)
        engine = Path(asked.engine).absolute() if Path(asked.engine).is_dir() else asked.engine
        text = f"[read]\nworkers = {asked.workers}\nengine = '{engine}'\n"
        text += f"[[destinations]]\nname = 'pacs'\nsend = {asked.send}\n"
        text += f"kind = 'dicom'\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = {port}\n"
        config(folder, text)
        files = dicom_files(asked.radiographs, folder / "radiographs")
        gateway = Gateway(folder, asked.bundle.absolute())
        try:
            measure(gateway, receiver, files, asked)
        finally:
            gateway.kill()


def delivered(gateway: Gateway) -> int:
    """How many results the archive has acknowledged."""
    return gateway.counts().get("send:pacs", {"done": 0})["done"]


def warm_up(gateway: Gateway, files: list[Path], workers: int, results: int) -> int:
    """Send images until each worker has read one; give how many were sent."""
    sent = 0
    readers: set[str] = set()
    while len(readers) < workers:
        modality(files, workers, gateway.config.receive.port).wait()
        sent += workers
        wait_for(lambda due=results * sent: delivered(gateway) == due, 300)
        log = gateway.log()
        readers = {line["process"] for line in log if line.get("event") in ("read", "refused")}
    return sent


def measure(
    gateway: Gateway, archive: psutil.Process, files: list[Path], asked: argparse.Namespace
) -> None:
    gateway.start(300)
    results = len(asked.send)  # of an image
    warm = warm_up(gateway, files, asked.workers, results)
    print(f"load average before: {os.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
    started, before = time.monotonic(), processor(gateway, archive)
    sender = modality(files, asked.images, gateway.config.receive.port)
    print(f"{'seconds':>8} {'images':>7} {'per s':>9}  MiB")
    done, seconds = 0, 0.0
    while True:
        since, count = seconds, done
        seconds, done = time.monotonic() - started, delivered(gateway) // results - warm
        rate = (done - count) / (seconds - since)
        held = ", ".join(f"{name} {mib}" for name, mib in memory(gateway).items())
        print(f"{seconds:8.1f} {done:7d} {rate:9.2f}  {held}", flush=True)
        if done == asked.images:
            break
        if done == count and seconds - since > 59:
            sys.exit("no result arrived for a minute")
        end = time.monotonic() + 60
        while delivered(gateway) < results * (warm + asked.images) and time.monotonic() < end:
            time.sleep(0.2)
    _, status, of_sender = os.wait4(sender.pid, 0)
    if status != 0:
        sys.exit("the gateway did not accept an image")
    print(f"total: {done / seconds:.2f} images per second with {asked.workers} worker(s)")
    now = processor(gateway, archive)
    used = {name: (after - before[name]) / done for name, after in now.items()}
    peers = used.pop("archive") + (of_sender.ru_utime + of_sender.ru_stime) / done
    shown = ", ".join(f"{name} {seconds:.4f}" for name, seconds in used.items())
    print(f"processor seconds per image: {shown}; total {sum(used.values()):.4f}")
    print(f"of dcmtk as sender and as archive: {peers:.4f}")
    refused = sum(line.get("event") == "refused" for line in gateway.log())
    print(f"load average after: {os.getloadavg()[0]:.1f}; images refused by the gate: {refused}")
    gateway.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
