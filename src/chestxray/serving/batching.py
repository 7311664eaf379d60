"""Dynamic batching: many threads ask for one image each, one thread runs the model on all of them.

A `BatchingEngine` replaces the engine of a `Reader`, so that each request is read in the usual way
and only the network's work is shared. A batch never waits for more images: it is what arrived while
the batch before it was computed.
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
        engine: computes the batches.
        max_batch: jobs at once.
        observe: called with the number of images of each batch.
    """

    def __init__(
        self, engine: Engine, max_batch: int, observe: Callable[[int], object] = lambda _: None
    ) -> None:
        self.name = engine.name
        self._engine = engine
        self._max_batch = max_batch
        self._observe = observe
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread that computes is alive."""
        return self._thread.is_alive()

    def run(self, images: Images) -> Answer:
        """See `Engine.run`; waits until the images are computed."""
        answer: Future[Answer] = Future()
        self._jobs.put(_Job(images, answer))
        return answer.result()

    def close(self) -> None:
        """End the thread when all waiting jobs are done."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            # Only this thread takes jobs, so what is not empty now can be taken at once.
            while len(jobs) < self._max_batch and not self._jobs.empty():
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
                for job in jobs:  # an image that fails must not fail the others
                    self._answer([job])
            return
        self._observe(len(images))
        start = 0
        for job in jobs:
            part = slice(start, start + len(job.images))
            job.answer.set_result(Answer(*(array[part] for array in found)))
            start = part.stop
