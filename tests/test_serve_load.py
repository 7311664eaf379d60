"""Many clients at once: each gets the answer to its own image, and the service does not grow."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

import chestxray
from chestxray.model.engines import Answer
from chestxray.reading.reader import Reader
from chestxray.serving.admission import Limits
from chestxray.serving.batching import BatchingEngine
from chestxray.serving.web import create_app
from web_server import accepted, listening, wait_until

CLIENTS = 32


class SumEngine:
    """Answers with a fingerprint of each image, slowly enough for others to queue up."""

    name = "sum"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, images) -> Answer:
        self.batches.append(len(images))
        time.sleep(0.005)
        marks = images.reshape(len(images), -1).astype(np.float32).sum(axis=1)
        return Answer(marks[:, None], marks[:, None, None, None], marks[:, None])


def test_a_shared_batch_gives_every_thread_its_own_answer():
    engine = SumEngine()
    shared = BatchingEngine(engine, max_batch=8)

    def ask(number: int) -> bool:
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (1 + number % 3, 16, 16), dtype=np.uint8)
        answer = shared.run(image)
        own = image.reshape(len(image), -1).sum(axis=1)
        return all(np.array_equal(part.ravel(), own) for part in answer)

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert all(pool.map(ask, range(400)))
    shared.close()
    assert max(engine.batches) > 1
    assert not shared.alive


def test_an_engine_that_fails_fails_the_asker_and_continues():
    class Failing(SumEngine):
        def run(self, images) -> Answer:
            if images[0, 0, 0] == 13:
                raise RuntimeError("unlucky")
            return super().run(images)

    shared = BatchingEngine(Failing(), max_batch=8)
    with pytest.raises(RuntimeError, match="unlucky"):
        shared.run(np.full((1, 4, 4), 13, np.uint8))
    assert shared.run(np.ones((1, 4, 4), np.uint8)).logits[0, 0] == 16
    shared.close()


def load(
    reader: Reader, radiographs: list[Path], rounds: Callable[[], bool]
) -> tuple[int, list[int], float]:
    """Let the clients ask while `rounds()`: answers, resident bytes over time, mean batch."""
    expected = {radiograph: reader.read(radiograph) for radiograph in radiographs}
    app = create_app(reader, Limits(decoders=2))
    memory = []

    def client(number: int, url: str) -> int:
        own = np.random.default_rng(number).permutation(len(radiographs))
        done = 0
        with httpx.Client(base_url=url, timeout=120) as http:
            while rounds() or not done:
                radiograph = radiographs[own[done % len(radiographs)]]
                answer = http.post(
                    "/v1/read", params={"heatmaps": "json"}, files={"file": radiograph.read_bytes()}
                )
                assert answer.status_code == 200, answer.text
                check(answer.json(), expected[radiograph])
                done += 1
        return done

    with listening(app) as server, ThreadPoolExecutor(CLIENTS) as pool:
        wait_until(lambda: app.state.admission.state == "ready")
        asked = [pool.submit(client, number, server.url) for number in range(CLIENTS)]
        while not all(future.done() for future in asked):
            memory.append(resident())
            time.sleep(0.25)
        total = sum(future.result() for future in asked)
        figures = {
            s.name: s.value for s in app.state.admission.metrics.batch_images.collect()[0].samples
        }
    mean = figures["chestxray_batch_images_sum"] / figures["chestxray_batch_images_count"]
    return total, memory, mean


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def check(answer, reading) -> None:
    found = [row["probability"] for row in answer["findings"]]
    assert np.allclose(found, list(reading.probabilities.values()), atol=1e-5)
    heat = np.array(list(answer["heatmaps"]["maps"].values()))
    assert np.allclose(heat, np.stack(list(reading.heatmaps.values())), atol=1e-4)


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


@pytest.fixture(scope="module")
def radiographs(reader, phantoms: Path) -> list[Path]:
    return accepted(reader, phantoms)


def test_32_clients_at_once_each_get_their_own_answer(reader, radiographs):
    end = time.monotonic() + 2
    total, _, batch = load(reader, radiographs, lambda: time.monotonic() < end)
    assert total >= CLIENTS
    assert batch > 1.1, "nothing was batched"


@pytest.mark.slow
def test_a_minute_of_32_clients_loses_nothing_and_does_not_grow(reader, radiographs):
    end = time.monotonic() + 60
    total, memory, _ = load(reader, radiographs, lambda: time.monotonic() < end)
    half = len(memory) // 2
    growth = max(memory[half:]) - max(memory[:half])
    sys.stderr.write(f"{total} answers, memory grew by {growth / 2**20:.1f} MB\n")
    assert total > 10 * CLIENTS
    assert growth < 32 * 2**20
