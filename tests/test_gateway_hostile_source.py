"""A DICOMweb service that attacks its poller hurts nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dicom_files import written
from gateway_parts import config, radiograph, store, wait_for
from hostile_dicomweb import ATTACKS, Hostile, hostile

pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)

# The gateway without its workers, which would take a model and long to start.
RUN = """
import sys
from pathlib import Path
from chestxray.serving.gateway import config, logs
from chestxray.serving.gateway.store import Store
from chestxray.serving.gateway.supervisor import Gateway

if __name__ == "__main__":
    logs.set_up()
    settings = config.load(Path(sys.argv[1]))
    Store(settings.state).close()
    gateway = Gateway(settings, Path("none"))
    gateway._children = [one for one in gateway._children if not one.name.startswith("worker")]
    gateway.run()
"""


class Node:
    """A gateway without workers, whose memory and deaths can be told."""

    def __init__(self, folder: Path, text: str) -> None:
        settings = config(folder, text)
        self.port = settings.receive.port
        self.images = settings.state / "images"
        self._log = folder / "log.jsonl"
        script = folder / "run.py"
        script.write_text(RUN)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(folder / "gateway.toml")], stderr=log
            )

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def lines(self) -> list[dict]:
        text = self._log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def deaths(self) -> list[str]:
        return [line["message"] for line in self.lines() if line.get("event") == "process-died"]

    def peaks(self) -> dict[str, int]:
        """Largest resident memory of each process so far, MiB."""
        found = {}
        for line in self.lines():
            if line.get("event") == "started":
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{line['pid']}/status").read_text()
                    peak = next(one for one in status.splitlines() if one.startswith("VmHWM"))
                    found[line["process"]] = int(peak.split()[1]) // 1024
        return found

    def stop(self) -> float:
        """Stop it as systemd does; the seconds that took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)
        return time.monotonic() - started


@contextlib.contextmanager
def attacked(folder: Path, server: Hostile, *attacks: str) -> Iterator[Node]:
    polls = (f'[[poll]]\nurl = "{server.url(one)}"\nseconds = 0.2\n' for one in attacks)
    node = Node(folder, "".join(polls))
    family = psutil.Process(node.process.pid)
    try:
        yield node
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [*family.children(recursive=True), family]:
                one.kill()
        node.process.wait(10)


OFTEN = ("deep", "drip-head", "endless-file")  # against stack, time and bytes; the others are slow


@pytest.mark.parametrize(
    "attack",
    [one if one in OFTEN else pytest.param(one, marks=pytest.mark.slow) for one in ATTACKS],
)
def test_a_hostile_source_hurts_neither_receiver_nor_stop(tmp_path: Path, attack: str) -> None:
    with hostile() as server, attacked(tmp_path, server, attack) as node:
        wait_for(lambda: server.asked[attack] and node.listens(), 60)
        answers = []
        for number in range(8):
            answers.append(store(radiograph(number), node.port))
            time.sleep(0.25)
        peaks, deaths = node.peaks(), node.deaths()
        seconds = node.stop()
    print(f"{attack}: {answers.count(0)} of 8, {peaks}, {len(deaths)} deaths, stop {seconds:.1f} s")
    assert answers == [0] * 8
    assert max(peaks.values()) < 200
    assert not deaths
    assert seconds < (5 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 20)


def test_an_honest_source_beside_a_hostile_one_is_polled(tmp_path: Path) -> None:
    with hostile() as server, attacked(tmp_path, server, "deep", "honest") as node:
        image = node.images / f"{server.image.SOPInstanceUID}.dcm"
        wait_for(lambda: server.asked["deep"] and image.exists(), 60)
        wait_for(lambda: server.asked["deep"] > 1, 60)
        assert image.read_bytes() == written(server.image)
        assert not node.deaths()
