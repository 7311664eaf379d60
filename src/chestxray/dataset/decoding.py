"""Decoding in isolated processes: a file that kills or hangs its decoder costs its own row only.

`Isolated` is one process that decodes on request, within limits of time and memory, and is replaced
when it dies. `DecoderPool` is several of them, for many files.

Two outcomes are kept apart. A file that breaks a rule, takes too long or needs too much memory is
refused (`ImageError`): another attempt would end the same way. A process that ends while it decodes
(`DecoderError`) may have been killed for another reason, such as the machine's memory: a pool tries
such a file once more, and refuses it when that process ends too.

A process is spawned, not forked, since the parent holds threads whose locks a fork would copy in
their locked state. What decodes is a function of a module, given by the caller; it and its
arguments and results are pickled.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Generic, NamedTuple, Self, TypeVar, cast

import cv2

from chestxray import process_limits
from chestxray.errors import DecoderError, DecodingTimeError, ImageError, WorkerError
from chestxray.parallel import Connection, check_main_module, die_with_parent

SECONDS_PER_FILE: Final = 60.0
_SECONDS_TO_START: Final = 300.0
_GRACE: Final = 5.0  # seconds that the parent has to end the process before the kernel does
_MEMORY: Final = 4 * 2**30  # bytes; the largest PNG, 80 megapixels of 4 × 16 bits, takes 2.2 GB

_T = TypeVar("_T")
_Call = tuple[Path | str, tuple[object, ...]]  # name of the file, arguments of the function


class _Answer(NamedTuple, Generic[_T]):
    """What comes back through the pipe: the result, or what is wrong with the file."""

    result: _T | None
    reason: str | None


class Isolated(Generic[_T]):
    """A function of an image file that runs in a process of its own, restarted after a failure.

    It belongs to one thread at a time. The process may use 4 GB of memory.

    Args:
        work: a function of a module, or a partial of one; it may raise `ImageError`.
        seconds: time limit of a call.
    """

    def __init__(self, work: Callable[..., _T], seconds: float = SECONDS_PER_FILE) -> None:
        self._work = work
        self._seconds = seconds
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def call(self, name: Path | str, *arguments: object) -> _T:
        """Run the function in the process.

        Args:
            name: of the file, for errors.
            arguments: of the function.

        Raises:
            ImageError: raised by the function; or the limit of memory was exceeded.
            DecodingTimeError: the limit of time was exceeded.
            DecoderError: the process ended.
            WorkerError: no process can be started.
        """
        (outcome,) = self.each([(name, arguments)])
        if isinstance(outcome, ImageError | DecoderError):
            try:
                raise outcome
            finally:
                # It holds this frame: together they would keep the arguments till gc.collect.
                del outcome
        return outcome

    def each(self, calls: Sequence[_Call]) -> Iterator[_T | ImageError | DecoderError]:
        """Run the function for several files, without a pause between them.

        A file whose process ends or is ended gives its error; a new process decodes those after it.

        Args:
            calls: for each file its name, for errors, and the arguments of the function.

        Raises:
            WorkerError: no process can be started.
        """
        done = 0
        while done < len(calls):
            pipe = self.ready()
            try:
                with suppress(OSError):  # the process has ended, as its answer will show
                    pipe.send([arguments for _, arguments in calls[done:]])
                while done < len(calls) and self._pipe is pipe:
                    outcome = self._outcome(pipe, calls[done][0])
                    done += 1
                    yield outcome
            finally:
                # After Ctrl-C too: a late answer must not be taken for the next file's.
                if done < len(calls) and self._pipe is pipe:
                    self.close()

    def ready(self) -> Connection:
        """Give the pipe of the process, which is started where none runs.

        One that died while idle did not die of a file.

        Raises:
            WorkerError: it does not start.
        """
        if self._pipe is None or self._process is None or not self._process.is_alive():
            return self.start()
        return self._pipe

    def _outcome(self, pipe: Connection, name: Path | str) -> _T | ImageError | DecoderError:
        """Wait for an answer; where none comes, the process is ended."""
        try:
            if not pipe.poll(self._seconds):
                self.close()
                return DecodingTimeError(name, f"decoding took more than {self._seconds:g} s")
            answer: _Answer[_T] = pipe.recv()
        except (EOFError, OSError):
            self.close()
            return DecoderError(name)
        if answer.reason is not None:
            return ImageError(name, answer.reason)
        return cast("_T", answer.result)

    def start(self) -> Connection:
        """Start the process and wait until it is ready.

        Raises:
            WorkerError: it does not start.
        """
        check_main_module()
        self.close()
        spawn = multiprocessing.get_context("spawn")
        pipe, theirs = spawn.Pipe()
        work = (theirs, self._work, self._seconds)
        process = spawn.Process(target=_serve, args=work, daemon=True)
        process.start()
        self._process, self._pipe = process, pipe
        theirs.close()
        try:
            ready = pipe.poll(_SECONDS_TO_START) and pipe.recv()
        except (EOFError, OSError):
            ready = False
        if not ready:
            self.close()
            raise WorkerError(
                "a decoder process did not start: check the free memory, and that a script which "
                "calls this has `if __name__ == '__main__':`, then run it again"
            )
        return pipe

    def kill(self) -> None:
        """End the process from another thread than the one that waits for its answer."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process, even while it decodes."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


class DecoderPool(Generic[_T]):
    """Several isolated processes; a context manager that ends them, even while they decode.

    Args:
        work: a function of a module, or a partial of one; it may raise `ImageError`.
        processes: how many. They start when the first files come, or with `start`.
        seconds: time limit per file.
    """

    def __init__(
        self, work: Callable[..., _T], processes: int, seconds: float = SECONDS_PER_FILE
    ) -> None:
        self._all = [Isolated(work, seconds) for _ in range(max(1, processes))]
        self._free: SimpleQueue[Isolated[_T]] = SimpleQueue()
        for decoder in self._all:
            self._free.put(decoder)
        self._threads = ThreadPoolExecutor(len(self._all))
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all processes now instead of with the first files; raises `WorkerError`."""
        for decoder in self._all:
            decoder.start()

    def begin(self) -> None:
        """Start all processes in the background; the first files wait for them.

        One that cannot be started is tried again with a file, which raises `WorkerError`.
        """
        for _ in self._all:
            self._threads.submit(self._begun)

    def map(
        self, items: Iterable[object], ahead: int | None = None, chunk: int = 1
    ) -> Iterator[_T | ImageError]:
        """Give the function's result for each item, or what is wrong with the file, in their order.

        A file during which a process ended is decoded once more, in a new process.

        Args:
            items: paths, or others whose text names the file; each is the function's only argument.
            ahead: items that are decoded in advance while a result is being used; all when None.
            chunk: items that a process takes at a time.

        Raises:
            WorkerError: no process can be started.
        """
        waiting: deque[Future[list[_T | ImageError]]] = deque()
        rest = iter(items)
        while part := list(islice(rest, chunk)):
            waiting.append(self._threads.submit(self._decoded, part))
            if ahead is not None and len(waiting) * chunk > ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def close(self) -> None:
        """End the processes, even while they decode; files that wait are dropped."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._all:
            decoder.kill()  # nobody waits for a file that hangs
        self._threads.shutdown()
        for decoder in self._all:
            decoder.close()

    def _begun(self) -> None:
        with self._one() as decoder:
            decoder.ready()

    def _decoded(self, items: list[object]) -> list[_T | ImageError]:
        """Decode files one after the other in the same process."""
        with self._one() as decoder:
            outcomes = decoder.each([(str(item), (item,)) for item in items])
            return [
                self._again(decoder, item) if isinstance(outcome, DecoderError) else outcome
                for item, outcome in zip(items, outcomes, strict=True)
            ]

    def _again(self, decoder: Isolated[_T], item: object) -> _T | ImageError:
        """Decode a file during which a process ended."""
        name = str(item)
        if self._closed:  # `close` ended the process
            raise DecoderError(name)
        try:
            return decoder.call(name, item)
        except DecoderError:
            return ImageError(name, "the decoder ended unexpectedly on this file, twice")
        except ImageError as error:
            return error

    @contextmanager
    def _one(self) -> Iterator[Isolated[_T]]:
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)


def _serve(pipe: Connection, work: Callable[..., object], seconds: float) -> None:
    """Run the function for each call that comes through the pipe, until it is closed."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=die_with_parent, daemon=True).start()
    process_limits.lower("RLIMIT_DATA", _MEMORY)
    process_limits.keep_freed_memory()
    pipe.send(True)
    while True:
        try:
            calls = pipe.recv()
        except EOFError:
            return
        calls.reverse()
        while calls:
            _end_after(seconds + _GRACE)
            answer = _answer(work, calls.pop())
            _end_after(0)
            pipe.send(answer)
            del answer  # an upload is not kept until the next one comes


def _answer(work: Callable[..., _T], arguments: tuple[object, ...]) -> _Answer[_T]:
    try:
        return _Answer(work(*arguments), None)
    except ImageError as error:
        return _Answer(None, error.reason)
    except MemoryError:
        return _Answer(None, f"decoding needs more than {_MEMORY // 2**30} GB of memory")
    except Exception as error:  # noqa: BLE001 - its message could quote the file's content
        return _Answer(None, f"the decoder failed on this file ({type(error).__name__})")


def _end_after(seconds: float) -> None:
    """Let the kernel end this process after some seconds; 0 takes that back.

    So ends a process that hangs with the interpreter's lock held, without parent. Windows has no
    such timer: there only the parent ends it.
    """
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)
