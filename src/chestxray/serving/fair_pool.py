"""A few workers lent to many clients in turn.

First come, first served would let one client that sends many slow images keep all others waiting
until the last of them is done. Here each client that waits has its turn after at most one image of
each other client, however many the others have sent (round robin).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")


class FairPool(Generic[_T]):
    """Lends workers to the threads of many clients.

    Args:
        workers: that are free.
    """

    def __init__(self, workers: Iterable[_T]) -> None:
        self._free = deque(workers)
        # The client whose turn is next comes first.
        self._waiting: dict[str, deque[Future[_T]]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lent(self, client: str, seconds: float) -> Iterator[_T]:
        """Lend a worker; waits for the client's turn.

        Args:
            client: who wants it.
            seconds: to wait at most.

        Raises:
            TimeoutError: its turn did not come in time.
        """
        worker = self._take(client, seconds)
        try:
            yield worker
        finally:
            self._give_back(worker)

    def _take(self, client: str, seconds: float) -> _T:
        with self._lock:
            if self._free:  # then nobody waits
                return self._free.popleft()
            turn: Future[_T] = Future()
            self._waiting.setdefault(client, deque()).append(turn)
        try:
            return turn.result(seconds)
        except TimeoutError:
            with self._lock:
                if turn.done():  # meanwhile
                    return turn.result()
                self._forget(client, turn)
            raise

    def _give_back(self, worker: _T) -> None:
        with self._lock:
            client = next(iter(self._waiting), None)
            if client is None:
                self._free.append(worker)
                return
            turns = self._waiting.pop(client)
            turns.popleft().set_result(worker)
            if turns:
                self._waiting[client] = turns  # behind all others

    def _forget(self, client: str, turn: Future[_T]) -> None:
        self._waiting[client].remove(turn)
        if not self._waiting[client]:
            del self._waiting[client]
