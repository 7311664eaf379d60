"""What the gateway's tests are made of: radiographs, a real PACS, a real gateway, real senders."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import trustme
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from chestxray.serving.gateway import config as settings
from chestxray.serving.gateway import statistics
from chestxray.serving.gateway.config import TLS, Config
from chestxray.serving.gateway.queue import STATES
from chestxray.serving.gateway.store import Image, Store
from dicom_files import dataset, written

ORTHANC = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PATIENT = "Secretname^Patient"
PAGE = 4096
"""Bytes of a page of SQLite."""


def tool(name: str) -> str:
    """A tool of dcmtk; pynetdicom puts tools of the same names into a virtual environment."""
    path = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{name} is not there: install Debian's dcmtk")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], object], seconds: float, every: float = 0.1) -> None:
    """Wait until something holds; what it last was is in the failure."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"still {found!r} after {seconds} s"
        time.sleep(every)


def full_once(function: Callable) -> Callable:
    """The function, whose first call fails as on a full disk."""
    failed = []

    def call(*arguments: object) -> object:
        if not failed:
            failed.append(True)
            raise sqlite3.OperationalError("database or disk is full")
        return function(*arguments)

    return call


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A disk of so many MiB."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a tmpfs cannot be mounted: that takes root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def film(number: int = 0, pixels: int = 64) -> np.ndarray:
    """An image with some structure, another for each number; uint16 of 12 bits."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : pixels * 1j, -1 : 1 : pixels * 1j]
    lungs = np.exp(-(((np.abs(x) - 0.45) / 0.3) ** 2 + (y / 0.6) ** 2))
    return (3000 - 2200 * lungs + rng.normal(0, 40, x.shape)).clip(0, 4095).astype(np.uint16)


def radiograph(number: int = 0, stored: np.ndarray | None = None, **more: object) -> Dataset:
    """A DX or CR of a patient of its own; `more` adds or replaces attributes."""
    header = {
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientName": PATIENT,
        "PatientID": f"P{number}",
        "PatientBirthDate": "19600101",
        "PatientSex": "F",
        "StudyID": "1",
        "StudyDate": time.strftime("%Y%m%d"),
        "StudyTime": "101500",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesNumber": "1",
        "InstanceNumber": "1",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "BurnedInAnnotation": "NO",
        "PixelSpacing": [0.15, 0.15],
        "PresentationIntentType": "FOR PRESENTATION",
    }
    return dataset(film(number) if stored is None else stored, 12, **header | more)


def write_radiographs(folder: Path, count: int) -> list[Path]:
    """Files <SOP instance UID>.dcm."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        image = radiograph(number)
        made.append(written_to(folder / f"{image.SOPInstanceUID}.dcm", image))
    return made


def written_to(path: Path, image: Dataset) -> Path:
    """A file of one image."""
    path.write_bytes(written(image))
    return path


def config(folder: Path, text: str = "", **changes: object) -> Config:
    """A gateway's configuration on free ports, `text` is more TOML, `changes` are of `receive`."""
    receive = {"port": free_port(), "allow": ["SENDER"]} | changes
    lines = [f"{key} = {json.dumps(value)}" for key, value in receive.items()]
    nowhere = '[[destinations]]\nname = "pacs"\nkind = "dicom"\nae_title = "PACS"\n'
    nowhere += f'host = "127.0.0.1"\nport = {free_port()}\n'
    text = text if "[[destinations]]" in text else text + "\n" + nowhere
    head = 'state = "state"\n[receive]\n' + "\n".join(lines) + "\n"
    if "[storage]" not in text:
        head += "[storage]\nspare_mib = 0\nfree_mib = 0\n"
    path = folder / "gateway.toml"
    path.write_text(head + text, encoding="utf-8")
    return settings.load(path)


def add(store: Store, *uids: str) -> None:
    """Enter images of which the queue alone matters."""
    for uid in uids:
        store.image_file(uid).write_bytes(uid.encode())
        store.add(Image(uid, "ab" * 32, "SENDER", "DX"))


def damage_page(state: Path, table: str) -> None:
    """Write noise over the root page of a table, as a failing disk does."""
    path = state / "queue.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = db.execute(query, (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xa5" * PAGE)


def remove_database(state: Path) -> None:
    for path in state.glob("queue.sqlite*"):
        path.unlink()


def counted(**states: int) -> dict[str, int]:
    """How many tasks a queue has in each state, 0 in those not named."""
    return dict.fromkeys(STATES, 0) | states


def certificates(folder: Path, name: str, authority: trustme.CA, host: str = "127.0.0.1") -> TLS:
    """A certificate for a host as files."""
    made = authority.issue_cert(host)
    paths = [folder / f"{name}.{kind}" for kind in ("pem", "key", "ca")]
    made.cert_chain_pems[0].write_to_path(paths[0])
    made.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    return TLS(certificate=paths[0], key=paths[1], authority=paths[2])


def store(image: Dataset, port: int, calling: str = "SENDER", called: str = "CHESTXRAY") -> int:
    """Send one image by C-STORE; the status, or -1 where no association came about."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    try:
        if not association.is_established:
            return -1
        answer = association.send_c_store(image)
        return int(answer.Status) if "Status" in answer else -1
    finally:
        if association.is_established:
            association.release()
        association.dul.join(10)
        _close_socket(association)


def _close_socket(association: Association) -> None:
    """Close what pynetdicom leaves open where the other side was killed."""
    left = association.dul.socket
    if left is not None and left.socket is not None:
        left.socket.close()


class Gateway:
    """`chestxray gateway` as an operator runs it, in a process of its own."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.config_file = folder / "gateway.toml"
        self.config = settings.load(self.config_file)
        self._bundle = bundle
        self._log_file = folder / "log.jsonl"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 120) -> None:
        """Start it and wait until its receiver listens."""
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(*self.run_command()),
                stderr=log,
                stdout=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        wait_for(self.listens, seconds)

    def listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended:\n{self._log_file.read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.config.receive.port)) == 0

    def run_command(self) -> tuple[str, ...]:
        """What starts it, after `chestxray gateway`."""
        return ("run", str(self._bundle))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> list[dict]:
        """All lines; each is JSON but the first, which greets."""
        lines = self._log_file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def text(self) -> str:
        return self._log_file.read_text(encoding="utf-8")

    def members(self) -> dict[str, int]:
        """Processes that live, by name, as the log tells them."""
        found = {}
        for line in self.log():
            if line.get("event") == "started" and psutil.pid_exists(line["pid"]):
                found[line["process"]] = line["pid"]
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """Tasks by queue and state, read beside it."""
        store = Store(self.config.state)
        try:
            return statistics.counts(store.db)
        finally:
            store.close()

    def ask(self, *what: str) -> str:
        """Run another subcommand of the gateway; what it prints."""
        done = subprocess.run(self._command(*what), check=True, capture_output=True, timeout=120)
        return done.stdout.decode()

    def complaint(self, *what: str) -> str:
        """Run a subcommand that fails; what it says."""
        done = subprocess.run(self._command(*what), check=False, capture_output=True, timeout=120)
        assert done.returncode == 1
        return done.stderr.decode()

    def stop(self) -> int:
        """Stop it as systemd does; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(90)

    def kill(self) -> None:
        """End it without a word, and its processes with it, should they stay."""
        members = self.members().values()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _command(self, *what: str) -> list[str]:
        command = [sys.executable, "-m", "chestxray", "gateway", *what]
        return [*command, "--config", str(self.config_file)]


class Orthanc:
    """A PACS with DICOM and DICOMweb. It takes nothing from other machines."""

    def __init__(self, folder: Path, gateway_port: int, route: bool = False) -> None:
        if not ORTHANC.exists() or not PLUGIN.exists():
            pytest.skip("Orthanc is not there: install Debian's orthanc and orthanc-dicomweb")
        self.port, self.http_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.web = f"{self.url}/dicom-web"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(self._settings(gateway_port, route)))
        (folder / "route.lua").write_text(_ROUTE)

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [ORTHANC, str(self._folder / "orthanc.json")], stdout=log, stderr=log
            )
        wait_for(self.answers, 60)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/system").status_code == 200
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def instances(self) -> list[dict]:
        """The main tags of all instances."""
        found = httpx.get(f"{self.url}/instances", params={"expand": ""}, timeout=60).json()
        return [one["MainDicomTags"] | {"ID": one["ID"]} for one in found]

    def search(self, path: str, **query: str) -> list[dict]:
        """QIDO-RS."""
        headers = {"Accept": "application/dicom+json"}
        answer = httpx.get(self.web + path, params=query, headers=headers, timeout=60)
        return answer.raise_for_status().json()

    def _settings(self, gateway_port: int, route: bool) -> dict:
        peer = ["CHESTXRAY", "127.0.0.1", gateway_port]
        return {
            "Name": "test",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "storage"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": self.port,
            "DicomAet": "PACS",
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": {
                "gateway": peer,
                "sender": ["SENDER", "127.0.0.1", 1],
            },
            "LuaScripts": [str(self._folder / "route.lua")] if route else [],
            "DicomWeb": {"Enable": True},
            "OverwriteInstances": False,
            "StableAge": 1,
        }


# All that is new goes on to the gateway, its own results too: a loop, if it were to read them.
# `false` keeps DumpJson from turning numbers into text.
_ROUTE = """
function OnStoredInstance(id, tags, metadata, origin)
  local body = { Resources = { id }, Synchronous = false }
  RestApiPost('/modalities/gateway/store', DumpJson(body, false))
end
"""


@contextlib.contextmanager
def running(*parts: Gateway | Orthanc) -> Iterator[None]:
    """Start some parts, and see to it that nothing of them stays."""
    try:
        for part in parts:
            part.start()
        yield
    finally:
        for part in parts:
            part.kill() if isinstance(part, Gateway) else part.stop()
