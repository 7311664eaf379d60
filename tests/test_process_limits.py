"""What a process may allocate, and what it keeps of the memory that it frees."""

from __future__ import annotations

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch

from chestxray.process_limits import allocating_at_most, freed_memory_kept

MB = 2**20
GNU = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not GNU's")


def held() -> int:
    return psutil.Process().memory_info().rss // MB


@GNU
def test_freed_memory_is_kept_for_a_while_and_then_given_back():
    before = held()
    torch.ones(64 * MB)  # 256 MB
    assert held() < before + 64
    with freed_memory_kept():
        torch.ones(64 * MB)
        assert held() > before + 192
    assert held() < before + 64
    torch.ones(64 * MB)
    assert held() < before + 64


PAGE_FAULTS = """
import resource
import torch
from chestxray.process_limits import freed_memory_kept

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with freed_memory_kept():
    torch.ones(2**22)
found = []
for _ in range(40):
    before = faults()
    torch.ones(2**22)
    found.append(faults() - before)
print(sorted(found)[20])
"""


@GNU
def test_after_a_training_arrays_of_some_megabytes_are_not_cleared_anew_each_time():
    """Thresholds that were set, even to their first values, no longer adapt to what is freed."""
    ran = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS], check=True, capture_output=True, text=True
    )
    assert int(ran.stdout) < 100  # of 4,096 pages


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what is allocated")
def test_what_exceeds_the_limit_fails_and_afterwards_there_is_none():
    with allocating_at_most(1024 * MB), allocating_at_most(512 * MB):
        np.empty(256 * MB, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(768 * MB, np.uint8)
    np.empty(2048 * MB, np.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what is allocated")
def test_threads_that_limit_at_once_leave_no_limit_behind():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)

    def work(_: int) -> None:
        with allocating_at_most(1024 * MB):
            np.ones(2**16)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(400)))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
