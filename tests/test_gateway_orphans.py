"""When the supervisor is killed, nothing of it stays, at whatever moment and whatever it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gateway_parts import config, wait_for


def gone(process: psutil.Process) -> bool:
    """Whether it has ended; what nobody waits for remains as a zombie."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("after", [0.0, 0.5, 3.0])
def test_a_supervisor_killed_while_it_checks_the_model_leaves_nothing(
    tmp_path: Path, run: Path, after: float
) -> None:
    config(tmp_path)
    command = [sys.executable, "-m", "chestxray", "gateway", "run", str(run / "bundle")]
    command += ["--config", str(tmp_path / "gateway.toml")]
    with (tmp_path / "log").open("wb") as log:
        supervisor = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: family(supervisor.pid), 60, every=0.01)
        time.sleep(after)
        members = family(supervisor.pid)
        assert members
        os.kill(supervisor.pid, signal.SIGKILL)
    finally:
        supervisor.kill()
        supervisor.wait()
    try:
        wait_for(lambda: all(map(gone, members)), 60)  # a process may just be starting
    finally:
        for one in members:
            if not gone(one):
                one.kill()


# The expression never gives the interpreter's lock back, as some decoders do.
BUSY = """
import multiprocessing, re, time
from chestxray.serving.gateway import processes

def busy(stop):
    print("busy", flush=True)
    re.match("(a+)+$", "a" * 50 + "b")

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=processes.start, args=(busy,))
    child.start()
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="by the kernel of Linux only")
def test_a_process_that_is_busy_in_c_ends_with_its_supervisor(tmp_path: Path) -> None:
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "busy\n"
    time.sleep(0.3)
    assert not gone(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        wait_for(lambda: gone(child), 60)
    finally:
        if not gone(child):
            child.kill()
