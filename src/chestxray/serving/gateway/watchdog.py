"""A process that hangs ends itself, so that another takes up what it held."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End this process, telling where it was, when what is inside takes longer.

    It needs nothing of what hangs: a decoder that never gives Python its turn is ended too.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
