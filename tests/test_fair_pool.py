"""Workers are lent to clients in turn, over a toy and over a real service."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

import chestxray
from chestxray.serving.admission import Limits
from chestxray.serving.fair_pool import FairPool
from chestxray.serving.web import create_app, example_png
from web_server import listening, wait_until


def waiting(pool: FairPool) -> int:
    return sum(map(len, pool._waiting.values()))


def order_of_service(clients: str) -> str:
    """Queue one job of each client in this order behind a job that is in progress."""
    pool, served = FairPool(["worker"]), []
    lock = threading.Lock()

    def job(client: str) -> None:
        with pool.lent(client, 30), lock:
            served.append(client)

    with ThreadPoolExecutor(len(clients)) as threads, pool.lent("first", 30):
        for number, client in enumerate(clients, start=1):
            threads.submit(job, client)
            wait_until(lambda number=number: waiting(pool) == number)
    return "".join(served)


@pytest.mark.parametrize(
    ("queued", "served"),
    [("aaaa", "aaaa"), ("aaaab", "abaaa"), ("aaabbc", "abcaba"), ("abababab", "abababab")],
)
def test_each_client_has_its_turn_after_one_job_of_each_other(queued: str, served: str) -> None:
    assert order_of_service(queued) == served


def test_who_waits_too_long_gives_its_turn_up_and_the_worker_is_not_lost() -> None:
    pool = FairPool(["worker"])
    with pool.lent("a", 1), pytest.raises(TimeoutError), pool.lent("b", 0.01):
        pass
    with pool.lent("c", 0.01) as worker:
        assert worker == "worker"
    assert waiting(pool) == 0


def test_many_threads_with_short_patience_lose_no_worker() -> None:
    pool = FairPool([1, 2])

    def job(number: int) -> None:
        try:
            with pool.lent(str(number % 3), 0.002):
                time.sleep(0.001)
        except TimeoutError:
            pass

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(job, range(600)))
    assert sorted(pool._free) == [1, 2]
    assert waiting(pool) == 0


def test_a_client_with_many_slow_images_does_not_keep_another_waiting_for_all(run: Path) -> None:
    """The honest client is answered long before the other's images, which came first, are done."""
    _, slow = cv2.imencode(".png", np.tile(np.arange(3000, dtype=np.uint16), (3000, 1)))
    app = create_app(chestxray.load(run / "bundle", "torch"), Limits(decoders=1))
    with listening(app) as server, ThreadPoolExecutor(14) as threads:
        wait_until(lambda: app.state.admission.state == "ready")

        def crowd(_: int) -> int:
            transport = httpx.HTTPTransport(local_address="127.0.0.2")
            with httpx.Client(transport=transport, timeout=120) as client:
                files = {"file": bytes(slow)}
                return client.post(f"{server.url}/v1/read", files=files).status_code

        jobs = [threads.submit(crowd, number) for number in range(14)]
        wait_until(lambda: waiting(app.state.admission._decoders._fair) >= 11)
        before = sum(job.done() for job in jobs)
        files = {"file": example_png("clear")}
        answer = httpx.post(f"{server.url}/v1/read", files=files, timeout=120)
        assert answer.status_code in {200, 422}, "read, or refused by the gate"
        assert sum(job.done() for job in jobs) - before <= 5
