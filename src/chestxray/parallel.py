"""Apply a function to many items on all cores, with results in the order of the items.

Workers are spawned, not forked: NumPy, Arrow and the progress bar have threads, and a fork would
copy their locks in the locked state. The function must therefore be defined at module level, and
the items must be picklable.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import TypeVar

import cv2

from chestxray.errors import WorkerError

# An end of a pipe between processes has another class on Windows.
if sys.platform == "win32":
    Connection = connection.PipeConnection
else:
    Connection = connection.Connection

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def process_count(items: int, chunk: int, workers: int | None = None) -> int:
    """Give the number of processes for items taken `chunk` at a time: one per core at most."""
    return max(1, min(workers or cores(), -(-items // chunk)))


def check_main_module() -> None:
    """Stop a worker process that runs its parent's script again, with the reason.

    Worker processes are spawned, so they import the script that started them; a script that does
    its work at the top level would start the work in each of them.

    Raises:
        WorkerError: this is such a process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkerError(
            "this script starts worker processes, which import it: put what it does under "
            "`if __name__ == '__main__':`"
        )


@contextmanager
def on_all_cores(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    chunk: int = 16,
    workers: int | None = None,
) -> Iterator[Iterator[_Result]]:
    """Yield an iterator over the results, in the order of the items, as they become available.

    Leaving the block, also by an exception, cancels the work that no worker has started.

    Args:
        work: the function; an exception is raised in place of the result.
        items: its arguments.
        chunk: items that a worker takes at a time. A single chunk is processed in the calling
            process.
        workers: number of processes; one per core when None.

    Raises:
        WorkerError: a worker process died.
    """
    check_main_module()
    count = process_count(len(items), chunk, workers)
    if count == 1:
        yield map(work, items)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_start_worker)
    try:
        yield pool.map(work, items, chunksize=chunk)
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process died: check the free memory, and that a script which calls this has "
            "`if __name__ == '__main__':`, then run it again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Set up a worker: one thread, Ctrl-C ignored, ends with its parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent() -> None:
    """Wait until the parent process ends, then end this one; runs in a thread of a worker.

    Without it, the workers of a parent killed by SIGKILL would never end.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
