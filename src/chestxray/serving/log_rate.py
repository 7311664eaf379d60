"""A log that no client can fill: each place in the code may write so many bytes per second.

What is left out is counted, and the count is written before the next record of that place.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final, TextIO

_BURST: Final = 64 * 1024  # bytes
_RATE: Final = 4 * 1024  # bytes per second; about 50 requests


class _Budget:
    """Bytes that a place may write."""

    def __init__(self, now: float) -> None:
        self.bytes = float(_BURST)
        self.left_out = 0
        self._filled = now

    def fill(self, now: float) -> None:
        self.bytes = min(_BURST, self.bytes + (now - self._filled) * _RATE)
        self._filled = now


class RateLimitedHandler(logging.StreamHandler[TextIO]):
    """Writes records to standard error, a bounded number of bytes per second and place.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._budgets: defaultdict[tuple[str, int], _Budget] = defaultdict(lambda: _Budget(clock()))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it where its place has written too much."""
        budget = self._budgets[record.name, record.lineno]
        budget.fill(self._clock())
        if budget.bytes <= 0:
            budget.left_out += 1
            return
        if budget.left_out:
            super().emit(_left_out(budget.left_out, record))
            budget.left_out = 0
        budget.bytes -= len(self.format(record))
        super().emit(record)


def _left_out(count: int, like: logging.LogRecord) -> logging.LogRecord:
    return logging.LogRecord(
        __name__,
        logging.WARNING,
        __file__,
        0,
        "%d records like the next one were left out (%s:%d)",
        (count, like.name, like.lineno),
        None,
    )
