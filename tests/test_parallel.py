"""Results keep the order of the items, leaving cancels the work, and a dead worker is reported."""

from __future__ import annotations

import os
import signal
import time

import pytest

from chestxray.errors import WorkerError
from chestxray.parallel import on_all_cores


def late(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 3 == 0))  # so that later items finish first
    return number, os.getpid()


def fall(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    if number == 5:
        raise ValueError("five")
    return number


def slow(number: int) -> int:
    time.sleep(0.2)
    return number


def test_results_of_other_processes_keep_the_order_of_the_items():
    with on_all_cores(late, range(12), chunk=1, workers=2) as results:
        found = list(results)
    assert [number for number, _ in found] == list(range(12))
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.parametrize(("count", "workers"), [(3, None), (12, 1), (0, None)])
def test_little_work_is_done_in_this_process(count, workers):
    with on_all_cores(late, range(count), chunk=4, workers=workers) as results:
        assert list(results) == [(number, os.getpid()) for number in range(count)]


def test_a_killed_worker_is_reported():
    with (
        pytest.raises(WorkerError, match=r"a worker process died.*run it again"),
        on_all_cores(fall, range(12), chunk=1, workers=2) as results,
    ):
        list(results)


def test_an_exception_is_raised_in_place_of_its_result():
    with on_all_cores(fail, range(12), chunk=1, workers=2) as results:
        assert [next(results) for _ in range(5)] == list(range(5))
        with pytest.raises(ValueError, match="five"):
            next(results)


def test_leaving_the_block_cancels_the_work_that_has_not_started():
    with on_all_cores(slow, range(200), chunk=1, workers=2) as results:
        assert next(results) == 0
        start = time.monotonic()
    assert time.monotonic() - start < 10  # all of it would take 20 s
