"""The same work on many items, on all cores, in the items' order.

Workers are spawned, not forked: NumPy, Arrow and the progress bar hold threads, whose locks a fork
would copy locked. So the work must be a function of a module, and it and the items picklable.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import cv2

from chestxray.errors import WorkerError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def on_all_cores(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    chunk: int = 16,
    workers: int | None = None,
) -> Iterator[Iterator[_Result]]:
    """Give the results of the work on each item, in the items' order, as they come.

    Leaving the block, also by an exception, drops the work that no worker has begun.

    Args:
        work: what is done with an item; its exceptions come out where its result would.
        items: all of them.
        chunk: items that a worker takes at a time. No more than one chunk is not worth a process
            and is done in this one.
        workers: processes; all cores when None.

    Raises:
        WorkerError: a worker process died.
    """
    count = min(workers or cores(), -(-len(items) // chunk))
    if count <= 1:
        yield map(work, items)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin_work)
    try:
        yield pool.map(work, items, chunksize=chunk)
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process died: check the free memory, and that a script which calls this has "
            "`if __name__ == '__main__':`, then run it again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_work() -> None:
    """Set up a worker: one thread, deaf to Ctrl-C, and gone when its parent is."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent() -> None:
    """Wait for the parent's end, then end this process: the work of a worker's own thread.

    After a kill -9 of the parent nobody would end its workers: they'd wait, or hang, for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
