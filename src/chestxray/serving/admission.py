"""The desk between clients and the model: who may come in, who waits, who is sent away.

A request takes a place before its body is read and gives it back when its work has ended, also
where the client was answered earlier because time ran out. So neither uploads nor work pile up.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Literal

import numpy as np

from chestxray.errors import ImageError, RefusedError, WorkerError
from chestxray.reading.reader import Reader
from chestxray.serving import responses as answers
from chestxray.serving.batching import BatchingEngine
from chestxray.serving.http_errors import ProblemError
from chestxray.serving.middleware import Metrics
from chestxray.serving.responses import Heatmaps, ReadResult
from chestxray.serving.settings import Limits
from chestxray.serving.uploads import Decoders

State = Literal["starting", "ready", "stopping", "failed"]

_RETRY: Final = 1  # seconds
_log = logging.getLogger(__name__)


class Place:
    """The right to have one upload in the house; given back once, by the handler or the work."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._bytes = 0
        self.handed_over = False

    def hold(self, count: int) -> None:
        """Keep memory for an upload of so many bytes, until the place is given back.

        Raises:
            ProblemError: the uploads in the house have taken it (429).
        """
        if count > self._bytes:
            self._desk.hold(count - self._bytes)
            self._bytes = count

    def release(self) -> None:
        """Give it back."""
        self._desk.leave(self._bytes)


class Desk:
    """Lets requests in and has them read.

    Args:
        reader: what reads; its engine is shared by batching.
        limits: see there.
    """

    def __init__(self, reader: Reader, limits: Limits) -> None:
        self.limits = limits
        self.metrics = Metrics(reader.bundle.identity, reader.engine.name)
        self._engine = BatchingEngine(reader.engine, limits.batch, self.metrics.batches.observe)
        self.reader = copy.copy(reader)
        self.reader.engine = self._engine
        self._decoders = Decoders(limits.decoders, reader.size, limits.seconds)
        # A thread waits for a decoder, then for the model: enough of them to fill a batch.
        self._threads = ThreadPoolExecutor(limits.batch + limits.decoders, "read")
        self._state: State = "starting"
        self._taken = 0
        self._held = 0
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """Whether requests are let in."""
        return self._state if self._engine.alive or self._state == "stopping" else "failed"

    @property
    def alive(self) -> bool:
        """Whether images can be read, now or soon."""
        return self.state != "failed"

    def start(self) -> None:
        """Start the decoders and let the model read once, which is the slowest time."""
        try:
            self._decoders.start()
            self.reader.read_batch(np.zeros((1, self.reader.size, self.reader.size), np.uint8))
        except BaseException:
            self._state = "failed"
            raise
        if self._state == "starting":
            self._state = "ready"
            _log.info("ready: %s by %s", self.reader.bundle.identity, self._engine.name)

    def stop(self) -> None:
        """Let nobody in any more; who is in is served."""
        self._state = "stopping"

    def close(self) -> None:
        """End threads and processes."""
        self.stop()
        self._threads.shutdown(cancel_futures=True)
        self._engine.close()
        self._decoders.close()

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Take a place; it is given back here unless work was begun, which then does so.

        Raises:
            ProblemError: not ready (503), or no place is free (429).
        """
        state = self.state
        if state != "ready":
            raise ProblemError(503, state, f"The service is {state}.", retry_seconds=_RETRY)
        with self._lock:
            if self._taken >= self.limits.places:
                raise self._busy()
            self._taken += 1
        self.metrics.in_progress.inc()
        place = Place(self)
        try:
            yield place
        finally:
            if not place.handed_over:
                place.release()

    def hold(self, count: int) -> None:
        """Keep memory for more bytes of an upload.

        Raises:
            ProblemError: there is none left (429).
        """
        with self._lock:
            if self._held + count > self.limits.held_bytes:
                raise self._busy()
            self._held += count

    def leave(self, held: int) -> None:
        """Give a place back, and the bytes that were held with it."""
        with self._lock:
            self._taken -= 1
            self._held -= held
        self.metrics.in_progress.dec()

    def _busy(self) -> ProblemError:
        return ProblemError(
            429,
            "busy",
            f"{self._taken} uploads of {self._held / 2**20:.0f} MB are in the house; come back.",
            retry_seconds=_RETRY,
        )

    async def read(
        self, place: Place, upload: tuple[bytes, str], heatmaps: Heatmaps, display: bool
    ) -> ReadResult:
        """Have an upload read.

        Args:
            place: the request's.
            upload: the file's bytes and its format.
            heatmaps: whether as numbers, or as pictures too.
            display: whether the picture for a screen is wanted.

        Raises:
            ProblemError: unreadable or refused (422), out of time or nothing to decode with (503).
        """
        work: Future[ReadResult] = self._threads.submit(self._read, *upload, heatmaps, display)
        place.handed_over = True
        work.add_done_callback(lambda _: place.release())
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.wrap_future(work)
        except TimeoutError as error:
            raise ProblemError(
                503,
                "out-of-time",
                f"Not read within {self.limits.seconds:g} s.",
                retry_seconds=_RETRY,
            ) from error
        except ImageError as error:
            raise ProblemError(422, "unreadable", error.reason) from error
        except WorkerError as error:
            raise ProblemError(
                503, "no-decoder", "No decoder could be started.", retry_seconds=_RETRY
            ) from error
        finally:
            # Its exception holds this frame: together they would keep the upload till gc.collect.
            del work

    def _read(self, data: bytes, kind: str, heatmaps: Heatmaps, display: bool) -> ReadResult:
        decoded = self._decoders.decode(data, display)
        try:
            reading = self.reader.read(decoded.film)
        except RefusedError as error:
            refused = ProblemError(422, "refused", error.reason, error.notices)
            refused.problem.display = answers.png_text(decoded.display)
            raise refused from error
        return answers.answer(self.reader, reading, kind, decoded, heatmaps)
