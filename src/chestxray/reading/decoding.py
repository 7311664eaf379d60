"""Decoding in processes of its own: a file that kills or hangs its decoder costs its own row alone.

A decoder belongs to one thread at a time, which waits for it while others compute. Its process is
spawned, not forked, since this one holds threads whose locks a fork would copy locked.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar, cast

import cv2

from chestxray.errors import ImageError, WorkerError
from chestxray.parallel import die_with_parent
from chestxray.reading import judged_image as film
from chestxray.reading.judged_image import JudgedImage

SECONDS_A_FILE: Final = 60.0
_SECONDS_TO_START: Final = 300.0
_GRACE: Final = 5.0  # seconds in which the parent sees for itself that a file takes too long
_MEMORY: Final = 4 * 2**30  # bytes; the largest PNG, 80 megapixels of 4 × 16 bits, takes 2.2 GB

T = TypeVar("T")


class _Answer(NamedTuple, Generic[T]):
    """What comes back through the pipe: what the function gave, or what is wrong with the file."""

    given: T | None
    wrong: str | None


class Isolated(Generic[T]):
    """A function of an image file that runs in a process, started anew after each mishap.

    The process is held to `_MEMORY` bytes.

    Args:
        work: a function that a process can be given (of a module, or a partial of one); it may
            raise `ImageError`.
        seconds: a call may take.
    """

    def __init__(self, work: Callable[..., T], seconds: float) -> None:
        self._work = work
        self._seconds = seconds
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def call(self, name: Path | str, *arguments: object) -> T:
        """Give what the function gives.

        Args:
            name: of the file, for errors.
            arguments: of the function.

        Raises:
            ImageError: what the function says is wrong, or it died of it, or took too long.
            WorkerError: no process can be started.
        """
        pipe = self._pipe
        if pipe is None or self._process is None or not self._process.is_alive():
            pipe = self.start()  # one that died idle died of no file
        answer: _Answer[T] | None = None
        reason = f"decoding took more than {self._seconds:g} s"
        try:
            pipe.send(arguments)
            if pipe.poll(self._seconds):
                answer = pipe.recv()
        except (EOFError, OSError):
            reason = "the decoder died of it"
        finally:
            if answer is None:  # after Ctrl-C too: what comes late is no other file's answer
                self.close()
        if answer is None or answer.wrong is not None:
            raise ImageError(name, reason if answer is None else str(answer.wrong))
        return cast("T", answer.given)

    def start(self) -> Connection:
        """Start the process and wait until it can work.

        Raises:
            WorkerError: it does not come up.
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
                "a decoder process could not be started (out of memory? a script that calls this "
                "without `if __name__ == '__main__'`?): mend that and run it again"
            )
        return pipe

    def kill(self) -> None:
        """End the process from another thread than the one that waits for it, which sees it die."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


class Decoder(Isolated[JudgedImage]):
    """Decodes files into films.

    Args:
        size: side of the canonical image, pixels.
        seconds: a file may take.
    """

    def __init__(self, size: int, seconds: float = SECONDS_A_FILE) -> None:
        super().__init__(partial(film.load, size=size), seconds)

    def load(self, path: Path) -> JudgedImage | ImageError:
        """Give a file's film, or what is wrong with it.

        Raises:
            WorkerError: no process can be started.
        """
        try:
            return self.call(path, path)
        except ImageError as error:
            return error


def _serve(pipe: Connection, work: Callable[..., object], seconds: float) -> None:
    """Answer what comes through the pipe, until it is closed."""
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
        # The kernel ends what hangs with the interpreter's lock held, when no parent is left to.
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
        try:
            answer = _Answer(work(*arguments), None)
        except ImageError as error:
            answer = _Answer(None, error.reason)
        except MemoryError:
            answer = _Answer(None, f"decoding takes more than {_MEMORY // 2**30} GB of memory")
        except Exception as error:  # noqa: BLE001 - its message could quote what is in the file
            answer = _Answer(None, f"the decoder failed on it ({type(error).__name__})")
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)
        del arguments, answer  # an upload is not kept until the next one comes


def _limit_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > _MEMORY:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, hard))
