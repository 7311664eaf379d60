"""Throughput of the gateway in images per second, and the memory of its processes.

    python benchmarks/gateway.py BUNDLE RADIOGRAPHS [--images 200] [--workers 1]
        [--engine EXPORT] [--send sr sc]

RADIOGRAPHS is a folder of radiographs of any size; they are sent in turn, each time as a new DX
image of 12 bits. Images arrive by C-STORE over loopback; results go to a Storage SCP of this
process. The time runs from the first image sent to the last result received, so it includes
receiving, reading, drawing and sending. A row is printed at the start, each minute and at the end:
images per second since the previous row, and the resident memory of each process, part of which are
libraries that processes share. Processor time depends little on the load of the machine.
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
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt

from chestxray.dataset import pixels
from gateway_parts import Gateway, config, free_port, radiograph, wait_for

MIB = 2**20


class Sink:
    """A Storage SCP that counts what it receives."""

    def __init__(self) -> None:
        self.port, self.count = free_port(), 0
        ae = AE(ae_title="PACS")
        for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            ae.add_supported_context(sop_class, [ExplicitVRLittleEndian, RLELossless])
        handlers = [(evt.EVT_C_STORE, self._stored)]
        ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def _stored(self, _: evt.Event) -> int:
        self.count += 1
        return 0x0000


def send(images: int, radiographs: list[Path], port: int) -> None:
    """Send images over one association, as a modality or a PACS does."""
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    association = ae.associate("127.0.0.1", port, ae_title="CHESTXRAY")
    for number in range(images):
        stored = pixels.decode(radiographs[number % len(radiographs)]).astype(np.uint16) << 4
        if association.send_c_store(radiograph(number, stored)).Status != 0x0000:
            sys.exit("the gateway did not accept an image")
    association.release()


def memory(gateway: Gateway) -> dict[str, int]:
    """Resident memory of each process, MiB."""
    members = {"supervisor": gateway.pid} | gateway.members()
    return {name: psutil.Process(pid).memory_info().rss // MIB for name, pid in members.items()}


def processor(gateway: Gateway) -> dict[str, float]:
    """Processor seconds used by each process, with the decoder of a worker."""
    used = {}
    for name, pid in gateway.members().items():
        process = psutil.Process(pid)
        times = [of.cpu_times() for of in (process, *process.children(recursive=True))]
        used[name] = sum(of.user + of.system for of in times)
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("radiographs", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--send", nargs="+", default=["sr", "sc"], choices=("sr", "sc"))
    asked = parser.parse_args()
    sink = Sink()
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(asked.engine).absolute() if Path(asked.engine).is_dir() else asked.engine
        text = f"[read]\nworkers = {asked.workers}\nengine = '{engine}'\n"
        text += f"[[destinations]]\nname = 'pacs'\nsend = {asked.send}\n"
        text += f"kind = 'dicom'\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = {sink.port}\n"
        config(Path(folder), text)
        gateway = Gateway(Path(folder), asked.bundle.absolute())
        try:
            measure(gateway, sink, asked)
        finally:
            gateway.kill()


def warm_up(
    gateway: Gateway, sink: Sink, radiographs: list[Path], workers: int, results: int
) -> int:
    """Send images until each worker has read one; give how many were sent."""
    sent = 0
    readers: set[str] = set()
    while len(readers) < workers:
        send(workers, radiographs, gateway.config.receive.port)
        sent += workers
        wait_for(lambda due=results * sent: sink.count == due, 300)
        log = gateway.log()
        readers = {line["process"] for line in log if line.get("event") in ("read", "refused")}
    return sent


def measure(gateway: Gateway, sink: Sink, asked: argparse.Namespace) -> None:
    gateway.start(300)
    radiographs = sorted(path for path in asked.radiographs.iterdir() if path.is_file())
    results = len(asked.send)  # of an image
    warm = warm_up(gateway, sink, radiographs, asked.workers, results)
    print(f"load average before: {os.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
    started, before = time.monotonic(), processor(gateway)
    port = gateway.config.receive.port
    sender = threading.Thread(target=send, args=(asked.images, radiographs, port))
    sender.start()
    print(f"{'seconds':>8} {'images':>7} {'per s':>9}  MiB")
    done, seconds = 0, 0.0
    while True:
        since, count = seconds, done
        seconds, done = time.monotonic() - started, sink.count // results - warm
        rate = (done - count) / (seconds - since)
        held = ", ".join(f"{name} {mib}" for name, mib in memory(gateway).items())
        print(f"{seconds:8.1f} {done:7d} {rate:9.2f}  {held}", flush=True)
        if done == asked.images:
            break
        end = time.monotonic() + 60
        while sink.count < results * (warm + asked.images) and time.monotonic() < end:
            time.sleep(0.05)
    sender.join()
    print(f"total: {done / seconds:.2f} images per second with {asked.workers} worker(s)")
    used = {name: (after - before[name]) / done for name, after in processor(gateway).items()}
    shown = ", ".join(f"{name} {seconds:.3f}" for name, seconds in used.items())
    print(f"processor seconds per image: {shown}; total {sum(used.values()):.3f}")
    refused = sum(line.get("event") == "refused" for line in gateway.log())
    print(f"load average after: {os.getloadavg()[0]:.1f}; images refused by the gate: {refused}")
    gateway.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
