"""The parts of the soak: gateway, web service, PACS, a small disk, a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from soak_figures import Figures

from gateway_parts import Gateway, free_port, wait_for

DISK_MIB = 2048


class Outages:
    """The times in which something was down because this program killed it."""

    def __init__(self) -> None:
        self._times: dict[str, list[list[float]]] = defaultdict(list)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        span = [time.monotonic(), float("inf")]
        self._times[what].append(span)
        try:
            yield
        finally:
            span[1] = time.monotonic()

    def seconds(self, what: str, since: float) -> float:
        """For how many seconds it was down since then; more than 0 where it was down at all."""
        now = time.monotonic()
        return sum(
            max(1e-9, min(now, end) - max(since, start))
            for start, end in self._times[what]
            if end >= since
        )


class Sink:
    """A Storage SCP that remembers what it receives; a known instance is answered 0111."""

    def __init__(self) -> None:
        self.port = free_port()
        self.instances: set[str] = set()
        self.by_study: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        ae = AE(ae_title="PACS")
        for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            ae.add_supported_context(sop_class)
        handlers = [(evt.EVT_C_STORE, self._stored)]
        ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def _stored(self, event: evt.Event) -> int:
        result = event.dataset
        with self._lock:
            if result.SOPInstanceUID in self.instances:
                return 0x0111
            self.instances.add(str(result.SOPInstanceUID))
            self.by_study[str(result.StudyInstanceUID), str(result.SOPClassUID)] += 1
        return 0x0000


class Service:
    """`chestxray serve` in a process of its own."""

    def __init__(self, bundle: Path, engine: Path, log: Path) -> None:
        self.port, self._log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "chestxray", "serve", str(bundle)]
        self._command += ["--engine", str(engine), "--port", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_for(self._is_ready, 120)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(90)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False


@dataclass
class Soak:
    """Everything that runs, and what it counts."""

    gateway: Gateway
    service: Service
    sink: Sink
    folder: Path
    disk: Path
    minutes: float
    images: int
    films: list[npt.NDArray[np.uint16]]
    figures: Figures = field(default_factory=Figures)
    outages: Outages = field(default_factory=Outages)
    legitimate: dict[str, str] = field(default_factory=dict)  # acknowledged UID: study
    hostile: set[str] = field(default_factory=set)  # acknowledged UIDs
    strikes: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def end(self) -> float:
        return self.minutes * 60

    def roster(self) -> dict[str, list[int]]:
        """Processes by name; those without a name are a child of one that has one."""
        found: dict[str, list[int]] = {}
        named = {pid: name for name, pid in self.gateway.members().items()}
        for root, name in ((self.gateway.pid, "supervisor"), (self.service.pid, "serve")):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                found[name] = [root]
                for child in process.children(recursive=True):
                    parent = named.get(child.ppid(), name)
                    found.setdefault(named.get(child.pid, f"{parent}'s child"), []).append(
                        child.pid
                    )
        return found


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Mount a small disk."""
    folder.mkdir()
    options = f"size={DISK_MIB}m,mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False)
    if done.returncode:
        sys.exit("a tmpfs cannot be mounted: run this as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long *offset;
static int (*original)(clockid_t, struct timespec *);

__attribute__((constructor)) static void set_up(void) {
    int file = open(getenv("SOAK_CLOCK"), O_RDONLY);
    offset = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    original = dlsym(RTLD_NEXT, "clock_gettime");
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = original(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *offset;
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    return now ? (*now = exact.tv_sec) : exact.tv_sec;
}
"""


def fake_clock(folder: Path) -> None:
    """Let all processes that are started from here add an offset, kept in a file, to the clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("a C compiler is needed: apt-get install gcc")
    library, source = folder / "clock.so", folder / "clock.c"
    source.write_text(_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    (folder / "clock").write_bytes(struct.pack("q", 0))
    os.environ |= {
        "LD_PRELOAD": str(library),
        "SOAK_CLOCK": str(folder / "clock"),
        "OMP_NUM_THREADS": "1",
    }


def set_clock(soak: Soak, offset: int) -> None:
    """Set the clock of gateway and web service to so many seconds from the right time."""
    soak.strikes[f"clock {offset:+d} s"] += 1
    with (soak.folder / "clock").open("r+b") as clock:
        clock.write(struct.pack("q", offset))
