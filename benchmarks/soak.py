"""Gateway and web service together: attacked, killed, on a jumping clock and a full disk.

    python benchmarks/soak.py [--minutes 30] [--images 3000] [--bundle BUNDLE] [--workers 2]

Legitimate clients send all images to the gateway and to the web service at a steady rate until
they are acknowledged; 1 in 20 is a hostile file. Attackers (`hostile_traffic.py`) work all the
time. In the first two thirds of the time, one process after the other is killed with SIGKILL, the
clock jumps, and the disk of the state folder is full for some seconds, in turn. In the last third
nothing is killed, so that memory can be compared over time. Then the queue is emptied and each
promise checked; the exit status is 1 where one is broken. Without a bundle a small one is trained
on phantoms.

It needs Linux, root (a small disk is mounted) and a C compiler (the clock of the processes under
test jumps, by a library that is loaded before theirs; the machine's clock stays as it is). An
attempt is left out of the rate of accepted associations,
and of the latencies, only where it overlaps a time in which the process that answers was down
because this program killed it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import hostile_traffic
import numpy as np
import numpy.typing as npt
import psutil
from hostile_traffic import PLANTED
from soak_clients import clients, senders
from soak_figures import broken, lines
from soak_parts import Service, Sink, Soak, fake_clock, mounted, set_clock

import chestxray
from chestxray.dataset import pixels
from chestxray.errors import RefusedError
from chestxray.serving.gateway.store import READ, Store, send_queue
from chestxray.sources.phantom.tree import synth
from dicom_files import written
from gateway_parts import Gateway, free_port, radiograph, wait_for

MIB = 2**20
TINY = ("backbone=resnet10t", "size=64", "batch_size=16", "max_epochs=3", "learning_rate=0.003")


# --- hazards --------------------------------------------------------------------------------------


def hazards(soak: Soak) -> None:
    """Kill each process, set the clock and fill the disk, in turn, for two thirds of the time."""
    until = soak.end * 2 / 3
    pause = min(10.0, until / 30)
    order = random.Random(0)  # noqa: S311 (an order, not a secret)
    try:
        while soak.seconds < until:
            strikes: list[Callable[[], object]] = [
                lambda name=name: kill(soak, name) for name in soak.roster()
            ]
            strikes += [lambda by=by: set_clock(soak, by) for by in (7200, -86400, 0)]
            strikes.append(lambda: fill_disk(soak))
            order.shuffle(strikes)
            for strike in strikes:
                if soak.seconds < until and not soak.stop.wait(pause):
                    strike()
    except AssertionError as error:  # something did not come back
        soak.figures.unfinished.append(str(error))
    set_clock(soak, 0)
    soak.figures.calm = soak.seconds + max(15.0, (soak.end - soak.seconds) / 4)


def kill(soak: Soak, name: str) -> None:
    """Kill a process by SIGKILL; those that nothing restarts are started again."""
    pids = soak.roster().get(name)
    if not pids:
        return
    soak.strikes[name] += 1
    if name == "serve":
        with soak.outages.during("serve"):
            soak.service.kill()
            soak.service.start()
    elif name == "supervisor":
        with soak.outages.during("receiver"):
            _kill_supervisor(soak)
    elif name == "receiver":
        with soak.outages.during("receiver"):
            _kill(pids[0])
            wait_for(lambda: soak.roster().get("receiver", pids) != pids, 60)
            wait_for(soak.gateway.listens, 60)
    else:
        _kill(pids[0])


def _kill_supervisor(soak: Soak) -> None:
    """Kill it, wait until all its processes have ended by themselves, and start it again."""
    children = [child.pid for child in psutil.Process(soak.gateway.pid).children(recursive=True)]
    _kill(soak.gateway.pid)
    wait_for(lambda: not any(is_running(pid) for pid in children), 30)
    soak.gateway.start(180)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_child(pid: int) -> None:
    """Kill a process unless it has ended, and its number is perhaps another's."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(pid).ppid() == os.getpid():
            _kill(pid)


def is_running(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def fill_disk(soak: Soak) -> None:
    """Fill the disk of the state folder for 10 s."""
    soak.strikes["full disk"] += 1
    path = soak.disk / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(MIB))
    soak.stop.wait(10)
    path.unlink()


# --- measuring ------------------------------------------------------------------------------------


def watch(soak: Soak) -> None:
    """Record the memory of each process every 5 s."""
    while not soak.stop.wait(5):
        for name, pids in soak.roster().items():
            held = 0
            for pid in pids:
                with contextlib.suppress(psutil.NoSuchProcess):
                    held += psutil.Process(pid).memory_info().rss
            soak.figures.memory[name].append((soak.seconds, held / MIB))


def left(gateway: Gateway) -> int:
    return sum(states["queued"] for states in gateway.counts().values())


def settle(soak: Soak) -> None:
    """Wait until every image is read and every result is sent."""
    try:
        wait_for(lambda: left(soak.gateway) == 0, 600, every=1)
    except AssertionError as error:
        soak.figures.unfinished.append(f"the queue: {error}")


def judge(soak: Soak) -> None:
    """Compare what was acknowledged with the queue and with what the PACS received."""
    figures = soak.figures
    figures.acknowledged = len(soak.legitimate) + len(soak.hostile)
    store = Store(soak.gateway.config.state)
    try:
        query = "SELECT item, state FROM tasks WHERE queue = ?"
        states = {row["item"]: row["state"] for row in store.db.execute(query, (READ,))}
        sent = {row["item"]: row["state"] for row in store.db.execute(query, (send_queue("pacs"),))}
    finally:
        store.close()
    figures.lost = [
        uid for uid in (*soak.legitimate, *soak.hostile) if states.get(uid) not in {"done", "dead"}
    ]
    received = soak.sink.instances
    figures.lost += [uid for uid, state in sent.items() if state == "done" and uid not in received]
    figures.dead = [uid for uid in soak.legitimate if states.get(uid) == "dead"]
    studies = {study for study, _ in soak.sink.by_study}
    figures.lost += [
        uid
        for uid, study in soak.legitimate.items()
        if states.get(uid) == "done" and study not in studies
    ]
    figures.doubled = [study for (study, _), count in soak.sink.by_study.items() if count > 1]
    search_names(soak)


def search_names(soak: Soak) -> None:
    """Search the planted names in logs, audit record, dead letters and status."""
    texts = {path.name: path.read_text(errors="replace") for path in soak.folder.glob("*log*")}
    soak.figures.log_mib = sum(map(len, texts.values())) / MIB
    for command in ("export-audit", "dead", "status"):
        texts[f"gateway {command}"] = soak.gateway.ask(command)
    soak.figures.names = [
        name for name, text in texts.items() if PLANTED.casefold() in text.casefold()
    ]


# --- set-up ---------------------------------------------------------------------------------------


def trained(folder: Path) -> Path:
    """Train a small bundle on phantoms."""
    synth(folder / "raw", images=160, pixels=128, seed=1, balanced=True)
    dataset = chestxray.prepare(folder / "raw", folder / "dataset", size=64)
    chestxray.train(dataset, recipe="quick", out=folder / "run", overrides=TINY)
    return folder / "run" / "bundle"


def expected_answers(
    bundle: Path, engine: Path, folder: Path
) -> tuple[dict[bytes, list[float]], list[npt.NDArray[np.uint16]]]:
    """Give files that the model does not refuse with its probabilities, and their pixels."""
    reader = chestxray.load(bundle, engine=engine)
    synth(folder / "films", images=16, pixels=256, seed=2, balanced=True)
    found, films = {}, []
    for number, path in enumerate(sorted((folder / "films").rglob("*.png"))):
        stored = pixels.decode(path).astype(np.uint16) << 4
        names = {"PatientName": PLANTED, "PatientID": PLANTED}
        for data in (path.read_bytes(), written(radiograph(number, stored, **names))):
            with contextlib.suppress(RefusedError):
                found[data] = list(reader.read(data).probabilities.values())
                films.append(stored)
    if len(found) < 4:
        sys.exit("the bundle's gate refuses the phantoms: use a bundle that reads them")
    return found, films


def configured(folder: Path, disk: Path, sink: Sink, engine: Path, workers: int, poll: int) -> None:
    """Write `gateway.toml`."""
    (folder / "gateway.toml").write_text(f"""
        state = "{disk / "state"}"
        [receive]
        port = {free_port()}
        allow = ["SENDER"]
        object_mib = 16
        [storage]
        spare_mib = 1200
        free_mib = 32
        [read]
        engine = "{engine}"
        workers = {workers}
        lease = 60
        attempts = 50
        [[poll]]
        url = "http://127.0.0.1:{poll}/dicom-web"
        seconds = 5
        [[destinations]]
        name = "pacs"
        kind = "dicom"
        ae_title = "PACS"
        host = "127.0.0.1"
        port = {sink.port}
        lease = 60
        attempts = 50
    """)


def run(soak: Soak, expected: dict[bytes, list[float]]) -> None:
    """Let everything work together for the time given, then judge."""
    files = hostile_traffic.hostile_files()
    uploads = [*files, hostile_traffic.many_scans()]
    soak.started = time.monotonic()
    port = soak.gateway.config.receive.port
    attacks = [(attack, port) for attack in hostile_traffic.DIMSE]
    attacks += [(attack, soak.service.port) for attack in hostile_traffic.HTTP]
    beside = [
        threading.Thread(target=attack, args=(to, soak.stop), daemon=True) for attack, to in attacks
    ]
    beside.append(threading.Thread(target=watch, args=(soak,), daemon=True))
    striking = threading.Thread(target=hazards, args=(soak,), daemon=True)
    working = [*senders(soak, files), *clients(soak, expected, uploads)]
    for thread in (*beside, striking, *working):
        thread.start()
    while soak.seconds < soak.end:
        time.sleep(min(30, max(0.1, soak.end - soak.seconds)))
        print(
            f"{soak.seconds:5.0f} s: {len(soak.legitimate)} acknowledged, "
            f"{len(soak.figures.seconds)} read by serve",
            flush=True,
        )
    for thread in (striking, *working):
        thread.join(900)
    settle(soak)
    soak.stop.set()
    for thread in beside:
        thread.join(30)
    judge(soak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a folder for logs, which stays")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.absolute()
        bundle = given.bundle.absolute() if given.bundle else trained(folder)
        engine = folder / "export"
        command = [sys.executable, "-m", "chestxray", "export", bundle, "--out", engine]
        subprocess.run([*command, "--format", "openvino"], check=True)
        expected, films = expected_answers(bundle, engine, folder)
        fake_clock(folder)
        disk = stack.enter_context(mounted(folder / "disk"))
        source, sink = stack.enter_context(hostile_traffic.hostile_source()), Sink()
        configured(folder, disk, sink, engine, given.workers, source)
        gateway, service = Gateway(folder, bundle), Service(bundle, engine, folder / "serve.log")
        soak = Soak(gateway, service, sink, folder, disk, given.minutes, given.images, films)
        stack.callback(lambda: end_child(gateway.pid))  # its processes end with it
        gateway.start(300)
        stack.callback(lambda: end_child(service.pid))
        service.start()
        run(soak, expected)
        gateway.stop()
        service.stop()
        print(f"struck: {dict(soak.strikes)}", *lines(soak.figures), sep="\n")
    sys.exit(bool(broken(soak.figures)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
