"""How many images a second the gateway carries through, and what memory its processes take.

    python benchmarks/gateway.py BUNDLE FILMS [--images 200] [--workers 1] [--engine EXPORT]

FILMS is a folder of radiographs, of any size; they are sent in turn, each time as a new DX image of
12 bits. Images go in by C-STORE over loopback; their results go to a Storage SCP of this process.
The time runs from the first image sent to the last result that arrived, so receiving, reading,
drawing and sending are all in it. A row is printed at the start, each minute and at the end: images
a second since the row before, and memory, the resident set of each process, of which libraries are
a part that processes share. Processor time depends little on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pydicom.uid import (
    Comprehensive3DSRStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt

from chestxray.dataset import pixels
from gateway_parts import Gateway, config, free_port, radiograph, wait_for

MIB = 2**20


class Sink:
    """A Storage SCP that counts what it gets."""

    def __init__(self) -> None:
        self.port, self.count = free_port(), 0
        ae = AE(ae_title="PACS")
        for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            ae.add_supported_context(sop_class)
        handlers = [(evt.EVT_C_STORE, self._stored)]
        ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def _stored(self, _: evt.Event) -> int:
        self.count += 1
        return 0x0000


def send(images: int, films: list[Path], port: int) -> None:
    """Send images over one association, as a modality or a PACS does."""
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    association = ae.associate("127.0.0.1", port, ae_title="CHESTXRAY")
    for number in range(images):
        stored = pixels.decode(films[number % len(films)]).astype(np.uint16) << 4
        if association.send_c_store(radiograph(number, stored)).Status != 0x0000:
            sys.exit("the gateway did not take an image")
    association.release()


def memory(gateway: Gateway) -> dict[str, int]:
    """Resident MiB of each process."""
    members = {"supervisor": gateway.pid} | gateway.members()
    return {name: psutil.Process(pid).memory_info().rss // MIB for name, pid in members.items()}


def processor(gateway: Gateway) -> dict[str, float]:
    """Processor seconds that each process has used."""
    used = {}
    for name, pid in gateway.members().items():
        times = psutil.Process(pid).cpu_times()
        used[name] = times.user + times.system
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("films", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", default="auto")
    asked = parser.parse_args()
    sink = Sink()
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(asked.engine).absolute() if Path(asked.engine).is_dir() else asked.engine
        text = f"[read]\nworkers = {asked.workers}\nengine = '{engine}'\n"
        text += "[[destinations]]\nname = 'pacs'\n"
        text += f"kind = 'dicom'\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = {sink.port}\n"
        config(Path(folder), text)
        gateway = Gateway(Path(folder), asked.bundle.absolute())
        try:
            measure(gateway, sink, asked)
        finally:
            gateway.kill()


def warm_up(gateway: Gateway, sink: Sink, films: list[Path], workers: int) -> int:
    """Send until each worker is there and has read; how many images it took."""
    sent = 0
    readers: set[str] = set()
    while len(readers) < workers:
        send(workers, films, gateway.config.receive.port)
        sent += workers
        wait_for(lambda due=2 * sent: sink.count == due, 300)
        log = gateway.log()
        readers = {line["process"] for line in log if line.get("event") in ("read", "refused")}
    return sent


def measure(gateway: Gateway, sink: Sink, asked: argparse.Namespace) -> None:
    gateway.start(300)
    films = sorted(path for path in asked.films.iterdir() if path.is_file())
    warm = warm_up(gateway, sink, films, asked.workers)
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
    started, before = time.monotonic(), processor(gateway)
    port = gateway.config.receive.port
    sender = threading.Thread(target=send, args=(asked.images, films, port))
    sender.start()
    print(f"{'seconds':>8} {'images':>7} {'a second':>9}  MiB")
    done, seconds = 0, 0.0
    while True:
        since, count = seconds, done
        seconds, done = time.monotonic() - started, sink.count // 2 - warm
        pace = (done - count) / (seconds - since)
        held = ", ".join(f"{name} {mib}" for name, mib in memory(gateway).items())
        print(f"{seconds:8.1f} {done:7d} {pace:9.2f}  {held}", flush=True)
        if done == asked.images:
            break
        end = time.monotonic() + 60
        while sink.count < 2 * (warm + asked.images) and time.monotonic() < end:
            time.sleep(0.05)
    sender.join()
    print(f"together: {done / seconds:.2f} images a second with {asked.workers} workers")
    used = {name: (after - before[name]) / done for name, after in processor(gateway).items()}
    shown = ", ".join(f"{name} {seconds:.3f}" for name, seconds in used.items())
    print(f"processor seconds an image: {shown}; together {sum(used.values()):.3f}")
    refused = sum(line.get("event") == "refused" for line in gateway.log())
    print(f"load after: {os.getloadavg()[0]:.1f}; {refused} of all images refused by the gate")
    gateway.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
