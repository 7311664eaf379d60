"""Files into one array on disk, on all cores, to be stopped and resumed at any moment.

The array has a row for every file. Worker processes decode a chunk of files and write it straight
to its place; this process only counts. Every few seconds it syncs the array and then notes the
chunks that were finished by then in the journal, so what the journal names is on the disk. A later
call does the chunks that the journal does not name; done once or twice, a chunk has the same bytes.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from chestxray.dataset import journal
from chestxray.dataset.journal import Chunks, Packed
from chestxray.dataset.pixels import canonical, decode
from chestxray.errors import ArtifactError, ImageError
from chestxray.progress import Advance, progress

CHUNK: Final = 16
_SECONDS_BETWEEN_SYNCS: Final = 2.0


def pack(paths: Sequence[str], size: int, array: Path, notes: Path) -> list[Packed]:
    """Decode files into an array on disk, going on where an earlier call was stopped.

    Args:
        paths: files, a row each; the same in every call.
        size: side of the canonical image, pixels; the same in every call.
        array: uint8 [N, size, size] as NPY; the row of a file that can't be read stays zero.
        notes: the journal.

    Returns:
        What became of each file.

    Raises:
        ArtifactError: the disk is full or gone, or a worker died; a later call goes on.
    """
    try:
        offset = _allocate(array, (len(paths), size, size), notes)
        done = journal.read(notes)
        before = sum(map(len, done.values()))
        with _workers() as pool, progress("prepare", len(paths), done=before) as advance:
            chunks = {
                pool.submit(_pack_chunk, paths[row : row + CHUNK], size, array, offset, row): row
                for row in range(0, len(paths), CHUNK)
                if row not in done
            }
            done |= _collect(chunks, array, notes, advance)
    except BrokenProcessPool as error:
        raise ArtifactError(
            "a worker process of prepare died (out of memory? a script that calls it without "
            "`if __name__ == '__main__'`?): run it again to go on"
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"{array} cannot be written ({error}): run it again to go on"
        ) from error
    return [file for row in sorted(done) for file in done[row]]


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _allocate(array: Path, shape: tuple[int, int, int], notes: Path) -> int:
    """Make the array, of zeros, unless it is there; give the bytes before its first row."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    offset = len(header.getvalue())
    total = offset + math.prod(shape)
    if not array.exists() or array.stat().st_size != total:
        notes.unlink(missing_ok=True)
        with array.open("wb") as file:
            file.write(header.getvalue())
            file.truncate(total)
    return offset


def _collect(
    chunks: dict[Future[list[Packed]], int], array: Path, notes: Path, advance: Advance
) -> Chunks:
    """Await chunks; note them a few at a time, each time after their pixels are on the disk."""
    done: Chunks = {}
    fresh: Chunks = {}
    synced = time.monotonic()
    for chunk in as_completed(chunks):
        fresh[chunks[chunk]] = chunk.result()
        advance(len(chunk.result()))
        done |= fresh
        if time.monotonic() - synced > _SECONDS_BETWEEN_SYNCS or len(done) == len(chunks):
            with array.open("rb") as file:
                os.fsync(file.fileno())
            journal.append(notes, fresh)
            fresh, synced = {}, time.monotonic()
    return done


@contextmanager
def _workers() -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: NumPy and Arrow hold threads, whose locks a fork would copy locked.
    pool = ProcessPoolExecutor(
        cores(), mp_context=multiprocessing.get_context("spawn"), initializer=_begin_work
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_work() -> None:
    """Set up a worker: one thread, deaf to Ctrl-C, and gone when its parent is."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # After a kill -9 of the parent nobody would end its workers: they'd wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _pack_chunk(
    paths: Sequence[str], size: int, array: Path, offset: int, row: int
) -> list[Packed]:
    """Decode a chunk of files and write it to the array from a row on."""
    block = np.zeros((len(paths), size, size), dtype=np.uint8)
    files: list[Packed] = []
    for place, path in enumerate(paths):
        try:
            image = decode(Path(path))
        except ImageError as error:
            files.append(error.reason)
            continue
        block[place] = canonical(image, size)
        height, width = image.shape
        files.append((width, height))
    with array.open("r+b") as file:
        file.seek(offset + row * size**2)
        file.write(block.data)
    return files
