"""Decoding in processes of its own: a file that kills or hangs its decoder costs its own row alone.

A `Decoder` belongs to one thread, which waits for it while others compute. Its process is spawned,
not forked, since this one holds threads whose locks a fork would copy locked.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import cv2

from chestxray.errors import ImageError, WorkerError
from chestxray.reading import film
from chestxray.reading.film import Film

SECONDS_A_FILE: Final = 60.0
_SECONDS_TO_START: Final = 300.0


class Decoder:
    """One process that decodes files, started when it is first needed and after each mishap.

    Args:
        size: side of the canonical image, pixels.
        seconds: a file may take.
    """

    def __init__(self, size: int, seconds: float = SECONDS_A_FILE) -> None:
        self.size = size
        self.seconds = seconds
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def load(self, path: Path) -> Film | ImageError:
        """Give a file's film, or what is wrong with it.

        Raises:
            WorkerError: no process can be started.
        """
        pipe = self._pipe or self._start()
        try:
            pipe.send(path)
            if pipe.poll(self.seconds):
                found = pipe.recv()
                return ImageError(path, found) if isinstance(found, str) else found
            reason = f"decoding took more than {self.seconds:g} s"
        except (EOFError, OSError):
            reason = "the decoder died of it"
        self.close()
        return ImageError(path, reason)

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_decode, args=(theirs, self.size), daemon=True)
        self._process.start()
        theirs.close()
        pipe = self._pipe
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


def _decode(pipe: Connection, size: int) -> None:
    """Decode the files whose paths come through the pipe, until it is closed."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    pipe.send(True)
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(film.load(path, size))
        except ImageError as error:
            pipe.send(error.reason)


def _die_with_parent() -> None:
    # A decoder that hangs would outlive a parent that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
