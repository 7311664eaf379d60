"""How many processor threads train fastest, measured.

More threads are not always faster: beside another busy process on two cores, a step of two threads
waits for the slower one. Measured on such a machine: 1.2 images per second with two threads, 8.7
with one (docs/log.md).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import torch

_ROUNDS: Final = 3
_SECONDS: Final = 20.0  # after this many, the timing ends with the round that it is in


@contextmanager
def restored() -> Iterator[None]:
    """Let torch's number of threads afterwards be as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose(wanted: int | Literal["auto"], step: Callable[[], object]) -> int:
    """Set torch's number of threads, and give it.

    Args:
        wanted: the number, or `auto`: the fastest of 1, 2, 4 and so on, up to torch's present
            number, which the environment variable OMP_NUM_THREADS limits.
        step: something like a training step; called several times by `auto`, unless there is only
            one number to choose from or a GPU computes.
    """
    if wanted != "auto":
        count = wanted
    elif torch.cuda.is_available():
        count = torch.get_num_threads()
    else:
        count = fastest(step, candidates(torch.get_num_threads()))
    torch.set_num_threads(count)
    return count


def candidates(most: int) -> list[int]:
    """Give the powers of two below `most`, and `most`."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def fastest(step: Callable[[], object], counts: list[int]) -> int:
    """Time a step with several numbers of threads, in turns, and give the fastest number.

    torch's number of threads and its random generator are as before afterwards.
    """
    if len(counts) == 1:
        return counts[0]
    times: dict[int, list[float]] = {count: [] for count in counts}
    with restored(), torch.random.fork_rng(devices=[]):
        step()  # warms up
        start = time.perf_counter()
        for _ in range(_ROUNDS):
            for count in counts:
                torch.set_num_threads(count)
                times[count].append(_seconds(step))
            if time.perf_counter() - start > _SECONDS:
                break
    return min(counts, key=lambda count: statistics.median(times[count]))


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
