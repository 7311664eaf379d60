"""Whatever is killed whenever: what was acknowledged is read once, and its results arrive once."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from gateway_parts import (
    Gateway,
    Orthanc,
    config,
    counted,
    free_port,
    radiograph,
    running,
    wait_for,
)
from gateway_parts import (
    store as send,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)

MEMBERS = {"receiver", "sender", "worker"}


@pytest.fixture(autouse=True)
def _collect_sockets():
    yield
    gc.collect()


class Storm:
    """Senders that send until they are believed, and a hand that kills.

    Every second or so it strikes at one of receiver, workers and sender, who may be dead already; a
    worker is spared for `spared` seconds after another's death, since it takes long to start.
    """

    def __init__(self, gateway: Gateway, pacs: Orthanc, images: int, spared: float) -> None:
        self.gateway, self.pacs = gateway, pacs
        workers = gateway.config.read.workers
        self.names = ["receiver", "sender-pacs", *(f"worker-{one}" for one in range(workers))]
        self.images = [radiograph(number) for number in range(images)]
        self.acknowledged: list[str] = []
        self.kills: Counter[str] = Counter()
        self._random = random.Random(images)
        self._spared = spared
        self._spare_until = 0.0
        self._end = time.monotonic()

    def rage(self, seconds: float, senders: int, pacs_down: float) -> None:
        """Send all while killing, for so many seconds at least; the PACS is away for some."""
        self._end = time.monotonic() + seconds
        sent = threading.Event()
        with ThreadPoolExecutor(senders + 2) as pool:
            killing = pool.submit(self._kill_until, sent)
            away = pool.submit(self._take_pacs_away, seconds / 4, pacs_down)
            for sending in [pool.submit(self._send, image) for image in self.images]:
                sending.result()
            sent.set()
            killing.result()
            away.result()

    def _send(self, image) -> None:
        answer = -1
        while answer != 0:
            answer = send(image, self.gateway.config.receive.port)
            time.sleep(0.05 if answer == 0 else 0.5)
        self.acknowledged.append(str(image.SOPInstanceUID))
        if len(self.acknowledged) % 5 == 0:  # a sender that does not remember sends again
            send(image, self.gateway.config.receive.port)

    def _kill_until(self, sent: threading.Event) -> None:
        while time.monotonic() < self._end or not sent.is_set():
            time.sleep(self._random.uniform(0.6, 1.2))
            name, members = self._random.choice(self.names), self.gateway.members()
            spare = name.startswith("worker") and time.monotonic() < self._spare_until
            if name in members and not spare:
                self._kill(name, members)

    def _kill(self, name: str, members: dict[str, int]) -> None:
        with suppress(ProcessLookupError):
            os.kill(members[name], signal.SIGKILL)
            self.kills[name.split("-", maxsplit=1)[0]] += 1
        if name.startswith("worker"):
            self._spare_until = time.monotonic() + self._spared

    def _take_pacs_away(self, after: float, seconds: float) -> None:
        time.sleep(after)
        self.pacs.stop()
        time.sleep(seconds)
        self.pacs.start()


def left(gateway: Gateway) -> int:
    """How many tasks are queued."""
    return sum(states["queued"] for states in gateway.counts().values())


def weather(
    folder: Path,
    bundle: Path,
    images: int,
    seconds: float,
    pacs_down: float,
    read: str,
    spared: float,
) -> Storm:
    """Run a storm, wait until it is calm, and see that all is there once.

    `read` is more of that table of the configuration.
    No lease runs out: what the killed held is freed by their successors.
    """
    pacs = Orthanc(folder / "orthanc", free_port())
    text = f"""
        [read]
        {read}
        lease = 3600
        attempts = 50
        [[destinations]]
        name = "pacs"
        kind = "dicom"
        ae_title = "PACS"
        host = "127.0.0.1"
        port = {pacs.port}
        lease = 3600
        attempts = 50
    """
    config(folder, text)
    gateway = Gateway(folder, bundle)
    with running(pacs, gateway):
        storm = Storm(gateway, pacs, images, spared)
        storm.rage(seconds, 4, pacs_down)
        wait_for(lambda: left(gateway) == 0, 1200, every=0.5)
        assert sorted(storm.acknowledged) == sorted(str(one.SOPInstanceUID) for one in storm.images)
        counts = {"read": counted(done=images), "send:pacs": counted(done=2 * images)}
        assert gateway.counts() == counts
        assert len(pacs.instances()) == 2 * images
        found = Counter(
            (study["0020000D"]["Value"][0], tuple(sorted(study["00080061"]["Value"])))
            for study in pacs.search("/studies", includefield="ModalitiesInStudy")
        )
        assert found == Counter((str(one.StudyInstanceUID), ("OT", "SR")) for one in storm.images)
        print(f"{images} images, kills: {dict(storm.kills)}")
    return storm


def test_a_short_storm_loses_nothing(tmp_path: Path, run: Path, exported: Path) -> None:
    read = f'engine = "{exported}"'  # a worker starts fast by it
    storm = weather(tmp_path, run / "bundle", 12, seconds=7, pacs_down=2, read=read, spared=5)
    assert storm.kills.total() >= 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_long_storm_loses_nothing(tmp_path: Path, run: Path, exported: Path) -> None:
    read = f'engine = "{exported}"\n        workers = 2'
    storm = weather(tmp_path, run / "bundle", 240, seconds=240, pacs_down=20, read=read, spared=5)
    assert storm.kills.total() >= 100
    assert set(storm.kills) == MEMBERS
