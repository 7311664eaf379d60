"""Many threads ask for one image each, one thread runs the model on all that wait.

A `BatchingEngine` stands in a `Reader` in place of its engine, so that each request goes the whole
way through the one door, and only the network's work is shared. Nothing waits for company: a batch
is what came while the one before it was computed, so a lone image is never held up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from chestxray.model.engines import Answer, Engine, Images


class _Job(NamedTuple):
    images: Images
    answer: Future[Answer]


class BatchingEngine:
    """An engine for many threads, run by one.

    Args:
        engine: what computes.
        most: images at once.
        observe: told the number of images of each batch.
    """

    def __init__(
        self, engine: Engine, most: int, observe: Callable[[int], object] = lambda _: None
    ) -> None:
        self.name = engine.name
        self._engine = engine
        self._most = most
        self._observe = observe
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether there is a thread that computes."""
        return self._thread.is_alive()

    def run(self, images: Images) -> Answer:
        """See `Engine.run`; waits for the images' turn."""
        answer: Future[Answer] = Future()
        self._jobs.put(_Job(images, answer))
        return answer.result()

    def close(self) -> None:
        """End the thread when all that waits is done."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            # Only this thread takes jobs, so what is not empty now can be taken at once.
            while len(jobs) < self._most and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    self._jobs.put(None)
                    break
                jobs.append(job)
            self._answer(jobs)

    def _answer(self, jobs: list[_Job]) -> None:
        images = np.concatenate([job.images for job in jobs])
        try:
            found = self._engine.run(images)
        except Exception as error:  # noqa: BLE001 (it is raised again where the answer is awaited)
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
            else:
                for job in jobs:  # one may fail, the others must not for its sake
                    self._answer([job])
            return
        self._observe(len(images))
        start = 0
        for job in jobs:
            part = slice(start, start + len(job.images))
            job.answer.set_result(Answer(*(array[part] for array in found)))
            start = part.stop
