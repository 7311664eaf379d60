"""Decoding in isolated processes: a file that kills or hangs its decoder costs its own row only.

`Isolated` is one process that decodes on request, within limits of time and memory, and is replaced
when it dies. `DecoderPool` is several of them, for many files or for the threads of a server.

A process is spawned, not forked, since the parent holds threads whose locks a fork would copy in
their locked state. What decodes is a function of a module, given by the caller; it and its
arguments and results are pickled.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Generic, NamedTuple, Self, TypeVar, cast

import cv2

from chestxray.errors import ImageError, WorkerError
from chestxray.parallel import die_with_parent

SECONDS_PER_FILE: Final = 60.0
_SECONDS_TO_START: Final = 300.0
_GRACE: Final = 5.0  # seconds that the parent has to end the process before the kernel does
_MEMORY: Final = 4 * 2**30  # bytes; the largest PNG, 80 megapixels of 4 × 16 bits, takes 2.2 GB

_T = TypeVar("_T")


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
            ImageError: raised by the function; or the process died, or exceeded the time limit.
            WorkerError: no process can be started.
        """
        pipe = self._pipe
        if pipe is None or self._process is None or not self._process.is_alive():
            pipe = self.start()  # one that died while idle did not die of a file
        answer: _Answer[_T] | None = None
        reason = f"decoding took more than {self._seconds:g} s"
        try:
            pipe.send(arguments)
            if pipe.poll(self._seconds):
                answer = pipe.recv()
        except (EOFError, OSError):
            reason = "the decoder crashed on this file"
        finally:
            if (
                answer is None
            ):  # after Ctrl-C too: a late answer must not be taken for the next file's
                self.close()
        if answer is None or answer.reason is not None:
            raise ImageError(name, reason if answer is None else str(answer.reason))
        return cast("_T", answer.result)

    def start(self) -> Connection:
        """Start the process and wait until it is ready.

        Raises:
            WorkerError: it does not start.
        """
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all processes now instead of with the first files; raises `WorkerError`."""
        for decoder in self._all:
            decoder.start()

    def call(self, name: Path | str, *arguments: object) -> _T:
        """Run the function in a process, waiting until one is free; see `Isolated.call`."""
        with self._one() as decoder:
            return decoder.call(name, *arguments)

    def submit(self, name: Path | str, *arguments: object) -> Future[_T]:
        """Run the function as soon as a process is free, without waiting for it."""
        return self._threads.submit(self.call, name, *arguments)

    def map(self, files: Iterable[Path], ahead: int) -> Iterator[_T | ImageError]:
        """Give the function's result for each file, or what is wrong with it, in their order.

        Args:
            files: paths, each the function's only argument.
            ahead: files that are decoded in advance while a result is being used.

        Raises:
            WorkerError: no process can be started.
        """
        waiting: deque[Future[_T]] = deque()
        for path in files:
            waiting.append(self.submit(path, path))
            if len(waiting) > ahead:
                outcome = _outcome(waiting.popleft())
                yield outcome
        while waiting:
            outcome = _outcome(waiting.popleft())
            yield outcome

    def close(self) -> None:
        """End the processes, even while they decode; files that wait are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._all:
            decoder.kill()  # nobody waits for a file that hangs
        self._threads.shutdown()
        for decoder in self._all:
            decoder.close()

    @contextmanager
    def _one(self) -> Iterator[Isolated[_T]]:
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)


def _outcome(future: Future[_T]) -> _T | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error


def _serve(pipe: Connection, work: Callable[..., object], seconds: float) -> None:
    """Run the function for each call that comes through the pipe, until it is closed."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=die_with_parent, daemon=True).start()
    _limit_memory()
    pipe.send(True)
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        # The kernel ends a process that hangs with the interpreter's lock held and has no parent.
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
        try:
            answer = _Answer(work(*arguments), None)
        except ImageError as error:
            answer = _Answer(None, error.reason)
        except MemoryError:
            answer = _Answer(None, f"decoding needs more than {_MEMORY // 2**30} GB of memory")
        except Exception as error:  # noqa: BLE001 - its message could quote the file's content
            answer = _Answer(None, f"the decoder failed on this file ({type(error).__name__})")
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)
        del arguments, answer  # an upload is not kept until the next one comes


def _limit_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > _MEMORY:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, hard))
