"""Admission control: which requests are accepted, and which are rejected because of their number.

An upload counts with the bytes that have arrived, and takes one of few places when it is complete.
So a client that announces much and sends little, or sends it slowly, keeps nobody out. Bytes and
places are limited in total and for each client. They are released when the work has ended, also
where the client was answered earlier because of a timeout. So neither uploads nor work accumulate.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from chestxray.errors import DecoderError, ImageError, RefusedError, WorkerError
from chestxray.parallel import cores
from chestxray.reading.reader import Reader
from chestxray.serving.answers import Answer, answer, result_bytes
from chestxray.serving.batching import BatchingEngine
from chestxray.serving.http_errors import ProblemError
from chestxray.serving.middleware import Metrics
from chestxray.serving.read_options import ReadOptions
from chestxray.serving.responses import base64_text
from chestxray.serving.upload_decoding import DecoderPool, Extras
from chestxray.serving.upload_usage import Usage, UsageTable
from chestxray.serving.uploads import Upload

_State = Literal["starting", "ready", "stopping", "failed"]

_RETRY_SECONDS: Final = 1
_SECONDS_TO_KILL: Final = 0.2
_FULL_SIZE_UPLOADS: Final = 8
_FULL_SIZE_UPLOADS_PER_CLIENT: Final = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits that bound memory and waiting.

    Uploads in memory are bounded by number (`max_uploads`) and by their bytes together
    (`max_held_bytes`). A client is an address, or the /64 network of an IPv6 address; many people
    may share one.

    Attributes:
        max_upload_bytes: largest request body that is accepted.
        max_uploads: complete uploads in progress at once; further ones are answered with 429.
        max_uploads_per_client: the same for one client.
        timeout: seconds from the end of an upload to its answer.
        upload_timeout: seconds for receiving an upload.
        min_upload_rate: bytes per second that an upload must reach on average, after 5 seconds.
        max_batch: images that the model reads at once.
        decoders: decoder processes.
        max_connections: open connections; fewer where the process may not open as many files.
        max_connections_per_client: the same for one client.
        head_timeout: seconds that a connection may stay open without a complete request head.
        answer_timeout: seconds that a client may take to receive an answer.
    """

    max_upload_bytes: int = 64 * 2**20
    max_uploads: int = 64
    max_uploads_per_client: int = 32
    timeout: float = 60.0
    upload_timeout: float = 60.0
    min_upload_rate: int = 16 * 2**10
    max_batch: int = 16
    decoders: int = field(default_factory=cores)
    max_connections: int = 512
    max_connections_per_client: int = 128
    head_timeout: float = 10.0
    answer_timeout: float = 60.0

    @property
    def max_held_bytes(self) -> int:
        """Bytes of all request bodies in memory: few of the largest size, many of the usual."""
        return _FULL_SIZE_UPLOADS * self.max_upload_bytes

    @property
    def max_held_bytes_per_client(self) -> int:
        """Bytes of one client's request bodies in memory."""
        return _FULL_SIZE_UPLOADS_PER_CLIENT * self.max_upload_bytes


class Slot:
    """The right of one request to send an upload and have it read.

    It is released once, by the handler or by the work.

    Attributes:
        client: whose limits apply.
        handed_over: whether the work releases it.
    """

    def __init__(self, admission: AdmissionControl, client: str) -> None:
        self._admission = admission
        self.client = client
        self._used = Usage()
        self._released = False
        self.handed_over = False

    def reserve(self, count: int) -> None:
        """Reserve memory for an upload of so many bytes in all, until the slot is released.

        Raises:
            ProblemError: other uploads use it (429).
        """
        if count > self._used.held_bytes:
            self._use(Usage(held_bytes=count - self._used.held_bytes))

    def reserve_more(self, count: int) -> None:
        """Reserve memory for so many bytes besides the upload, until the slot is released.

        Raises:
            ProblemError: both are more than one client may use (413), or other uploads use it
                (429).
        """
        self._check_possible(self._used.held_bytes + count)
        self._use(Usage(held_bytes=count))

    def hold_answer(self, count: int) -> None:
        """Count an answer of so many bytes that waits to be taken, until it is given back.

        Raises:
            ProblemError: it is more than one client may use (413), or other answers and uploads
                use the memory (429).
        """
        self._check_possible(count)
        self._use(Usage(held_bytes=count))

    def give_back(self, count: int) -> None:
        """Count so many bytes of answers less: the client takes them."""
        if not self._released:
            less = Usage(held_bytes=count)
            self._used.remove(less)
            self._admission.usage.remove(self.client, less)

    def take_places(self, count: int = 1) -> None:
        """Take places for complete uploads, until the slot is released.

        Raises:
            ProblemError: they are taken (429).
        """
        self._use(Usage(places=count))

    def split(self, count: int) -> Slot:
        """Give a slot of its own to one upload of so many bytes, with one of the places."""
        part = Slot(self._admission, self.client)
        part._used = Usage(places=1, held_bytes=count)
        self._used.remove(part._used)
        self._admission.metrics.uploads_in_progress.inc()
        return part

    def release(self) -> None:
        """Release the place and the memory, once."""
        if not self._released:
            self._released = True
            self._admission.release(self.client, self._used)

    def _check_possible(self, count: int) -> None:
        most = self._admission.limits.max_held_bytes_per_client
        if count > most:
            raise ProblemError(
                413,
                "answer-too-large",
                f"The answer would take {count / 2**20:.0f} MB of memory, but one client may use "
                f"{most / 2**20:.0f} MB: ask for fewer findings, DICOM objects or pictures.",
            )

    def _use(self, more: Usage) -> None:
        if self._released:  # by a client that has gone; nobody would count it less
            return
        reason = self._admission.usage.add(self.client, more)
        if reason is not None:
            raise _busy(reason)
        self._used.add(more)


class AdmissionControl:
    """Accepts requests and has their images read.

    Args:
        reader: reads the images; its engine is shared by batching.
        limits: see there.
        allow_force: whether clients may have read what the gate refuses.

    Attributes:
        started: done when `start` has ended; its exception is the reason of a failed start.
        metrics: counts what happens.
        usage: of the uploads in progress.
    """

    def __init__(self, reader: Reader, limits: Limits, *, allow_force: bool = False) -> None:
        self.limits = limits
        self.allow_force = allow_force
        self.metrics = Metrics(reader.bundle.identity, reader.engine.name)
        self.started: Future[None] = Future()
        self._engine = BatchingEngine(
            reader.engine, limits.max_batch, self.metrics.batch_images.observe
        )
        self.reader = copy.copy(reader)
        self.reader.engine = self._engine
        self._decoders = DecoderPool(limits.decoders, reader.size, limits.timeout)
        # One for each complete upload, which waits for its client's turn with a decoder.
        self._threads = ThreadPoolExecutor(limits.max_uploads, "read")
        self._state: _State = "starting"
        self.usage = UsageTable(
            Usage(limits.max_uploads, limits.max_held_bytes),
            Usage(limits.max_uploads_per_client, limits.max_held_bytes_per_client),
        )

    @property
    def state(self) -> _State:
        """Whether requests are accepted."""
        return self._state if self._engine.alive or self._state == "stopping" else "failed"

    @property
    def alive(self) -> bool:
        """Whether images can be read, now or soon."""
        return self.state != "failed"

    def start(self) -> None:
        """Start the decoders and run the model once: the first run is the slowest."""
        try:
            self._decoders.start()
            self.reader.read_batch(np.zeros((1, self.reader.size, self.reader.size), np.uint8))
        except Exception as error:  # noqa: BLE001 (who waits for `started` raises it)
            if self._state == "stopping":  # `close` has ended the decoders
                self.started.set_result(None)
            else:
                self._state = "failed"
                self.started.set_exception(error)
            return
        if self._state == "starting":
            self._state = "ready"
        self.started.set_result(None)

    def stop(self) -> None:
        """Reject new requests; those in progress are completed."""
        self._state = "stopping"

    def close(self) -> None:
        """End threads and processes, also those that are still starting."""
        self.stop()
        while not self.started.done():
            self._decoders.kill()
            wait([self.started], _SECONDS_TO_KILL)
        self._threads.shutdown(cancel_futures=True)
        self._engine.close()
        self._decoders.close()

    @contextmanager
    def slot(self, client: str) -> Iterator[Slot]:
        """Take a slot; it is released here unless work has begun, which then releases it.

        Args:
            client: whose limits apply.

        Raises:
            ProblemError: the service is not ready (503), or all places are taken (429).
        """
        state = self.state
        if state != "ready":
            raise ProblemError(503, state, f"The service is {state}.", retry_seconds=_RETRY_SECONDS)
        if reason := self.usage.full(client):
            raise _busy(reason)
        self.metrics.uploads_in_progress.inc()
        slot = Slot(self, client)
        try:
            yield slot
        finally:
            if not slot.handed_over:
                slot.release()

    def release(self, client: str, used: Usage) -> None:
        """Release what an upload used."""
        self.usage.remove(client, used)
        self.metrics.uploads_in_progress.dec()

    async def read(self, slot: Slot, upload: Upload, options: ReadOptions) -> Answer:
        """Have an upload read.

        Args:
            slot: of the upload.
            upload: the file and its format.
            options: what is wanted.

        Raises:
            ProblemError: the image is unreadable or refused, or no source of DICOM objects (422);
                these take too much memory (413), or other uploads use it (429); or the service
                timed out, its decoder ended, or none can be started (503).
        """
        self.metrics.upload_bytes.inc(len(upload.data))
        work: Future[Answer] = self._threads.submit(self._read, slot, upload, options)
        slot.handed_over = True
        work.add_done_callback(lambda _: slot.release())
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await asyncio.wrap_future(work)
        except TimeoutError as error:
            raise ProblemError(
                503,
                "timeout",
                f"The image was not read within {self.limits.timeout:g} s.",
                retry_seconds=_RETRY_SECONDS,
            ) from error
        except ImageError as error:
            raise ProblemError(422, "unreadable", error.reason) from error
        except DecoderError as error:
            raise ProblemError(
                503,
                "decoder-ended",
                "The decoder process ended while it worked on this image, which may not be the "
                "cause.",
                retry_seconds=_RETRY_SECONDS,
            ) from error
        except WorkerError as error:
            raise ProblemError(
                503,
                "decoder-unavailable",
                "No decoder process could be started.",
                retry_seconds=_RETRY_SECONDS,
            ) from error
        finally:
            # Its exception holds this frame: together they would keep the upload till gc.collect.
            del work

    def _read(self, slot: Slot, upload: Upload, options: ReadOptions) -> Answer:
        extras = Extras(options.heatmaps == "png", options.display, not options.is_json)
        decoded = self._decoders.decode(slot.client, upload.data, extras)
        try:
            reading = self.reader.read(decoded.radiograph, options.force)
        except RefusedError as error:
            refused = ProblemError(422, "refused", error.reason, error.notices)
            refused.problem.display = base64_text(decoded.display)
            refused.problem.force_allowed = self.allow_force
            raise refused from error
        slot.reserve_more(result_bytes(decoded, reading, options))
        made = answer(self.reader, reading, upload, decoded, options)
        if reading.forced:
            reason = next(notice.code for notice in reading.warnings if notice.refuses)
            self.metrics.forced_readings.labels(reason).inc()
        return made


def _busy(reason: str) -> ProblemError:
    return ProblemError(
        429,
        "busy",
        f"{reason}. Retry after {_RETRY_SECONDS} s.",
        retry_seconds=_RETRY_SECONDS,
    )
