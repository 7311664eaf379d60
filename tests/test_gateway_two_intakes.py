"""Receiver and pollers take images in at the same time, as processes that share a state folder."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chestxray.serving.gateway import audit, statistics
from chestxray.serving.gateway.config import Config, Storage
from chestxray.serving.gateway.intake import Intake, OutOfSpaceError
from chestxray.serving.gateway.store import READ, Store
from dicom_files import written
from gateway_parts import config, counted, radiograph

# Takes in files named by UID and prints which ones were new, until the list ends.
TAKE = """
import sys
from pathlib import Path
from chestxray.serving.gateway import config, logs
from chestxray.serving.gateway.intake import Intake
from chestxray.serving.gateway.store import Store

logs.set_up()
settings = config.load(Path(sys.argv[1]))
intake = Intake(Store(settings.state), settings.storage)
files = sorted(Path(sys.argv[2]).iterdir(), reverse=sys.argv[2].endswith("second"))
print("ready", flush=True)
sys.stdin.readline()
for file in files:
    if intake.accept(file.stem, file.read_bytes(), "SENDER", "DX"):
        print(file.stem, flush=True)
"""


class Taker:
    """A process that takes in the files of a folder."""

    def __init__(self, settings: Config, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE, str(settings.state.parent / "gateway.toml"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        assert self._process.stdout.readline() == "ready\n"

    def begin(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def taken(self, whole: bool = True) -> list[str]:
        """Wait until it has ended; what it took in."""
        out, errors = self._process.communicate(timeout=120)
        if whole:
            assert self._process.returncode == 0, errors
        return out.split()


def begin(*takers: Taker) -> None:
    """Let all begin at once."""
    for one in takers:
        one.wait()
    for one in takers:
        one.begin()


def folders(where: Path, images: int) -> list[Path]:
    """Two folders with files of the same UIDs and different content."""
    uids = [f"1.2.{number}" for number in range(images)]
    made = [where / "first", where / "second"]
    for number, folder in enumerate(made):
        folder.mkdir()
        content = written(radiograph(number))
        for uid in uids:
            (folder / f"{uid}.dcm").write_bytes(content + uid.encode())
    return made


def consistent(store: Store) -> int:
    """How many images there are; each row has its file, each file its row."""
    files = {path.stem: path for path in store.images.glob("*.dcm")}
    rows = {row["uid"]: row["sha256"] for row in store.db.execute("SELECT uid, sha256 FROM images")}
    assert rows.keys() == files.keys()
    for uid, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == rows[uid]
    assert statistics.counts(store.db)[READ] == counted(queued=len(rows))
    events = [json.loads(one["entry"])["event"] for one in audit.verified_entries(store.db)]
    assert events.count("received") == len(rows)
    return len(rows)


def test_of_two_processes_with_the_same_uids_one_takes_each(tmp_path: Path) -> None:
    settings = config(tmp_path)
    store = Store(settings.state)
    takers = [Taker(settings, folder) for folder in folders(tmp_path, 150)]
    begin(*takers)
    first, second = (one.taken() for one in takers)
    assert len(first) + len(second) == 150
    assert not set(first) & set(second)
    assert min(len(first), len(second)) > 0
    assert consistent(store) == 150
    store.close()


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_killed_process_leaves_the_lock_and_no_image_behind(tmp_path: Path, rounds: int) -> None:
    settings = config(tmp_path)
    store = Store(settings.state)
    one, other = folders(tmp_path, 40)
    acknowledged: set[str] = set()
    rng = random.Random(12)
    for _ in range(rounds):
        killed, living = Taker(settings, one), Taker(settings, other)
        begin(killed, living)
        time.sleep(rng.uniform(0.0, 0.3))
        killed.kill()
        acknowledged |= set(killed.taken(whole=False)) | set(living.taken())
        Intake(store, settings.storage).recover()
        assert acknowledged <= {path.stem for path in store.images.glob("*.dcm")}
    assert consistent(store) == 40
    store.close()


@pytest.mark.parametrize(("can_wait", "required"), [(False, 1000), (True, 1500)])
def test_what_can_wait_leaves_room_for_what_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_wait: bool, required: int
) -> None:
    store = Store(tmp_path / "state")
    storage = Storage(spare_mib=2000, free_mib=1000)
    intake = Intake(store, storage, can_wait=can_wait)
    content = written(radiograph(1))
    monkeypatch.setattr(Store, "free_mib", lambda _: required - 1)
    with pytest.raises(OutOfSpaceError, match=f"less than {required} must stay free"):
        intake.accept("1.2", content, "SENDER", "DX")
    monkeypatch.setattr(Store, "free_mib", lambda _: required)
    assert intake.accept("1.2", content, "SENDER", "DX")
    store.close()
