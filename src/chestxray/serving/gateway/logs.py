"""The log: one JSON object per line on standard error, without data of patients.

Each place in the code may write a bounded number of bytes per second, whatever peers do.

Only messages of this package are written, which contain UIDs and AE titles at most. Of records of
other packages only the place is written: pydicom quotes values of the file that it complains about.

Whoever can cause a line by a connection or an answer could fill the disk with them. Of such lines
one of each kind and peer is written in some seconds; the next one says how many it stands for.
"""

from __future__ import annotations

import copy
import logging
import threading
import traceback
import warnings
from typing import Final

from chestxray.serving.json_log import JSONLines
from chestxray.serving.log_rate import RateLimitedHandler

# They report refused connections and rejected associations; our own record says where to.
_SILENCED: Final = ("pynetdicom.transport", "pynetdicom.acse")
_FIELDS: Final = ("event", "uid", "source", "address", "destination", "seconds", "repeated")
_LIMITED: Final = frozenset(
    {
        "connection-failed",
        "connection-refused",
        "foreign-result",
        "mismatch",
        "not-stored",
        "poll-failed",
        "rejected",
    }
)
"""Events that a peer can cause as often as it likes."""

_INTERVAL: Final = 10.0
_MAX_KINDS: Final = 256


class _LimitedHandler(RateLimitedHandler):
    """Writes records, repeated ones once in `_INTERVAL` seconds with their number."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[tuple[str, str], tuple[logging.LogRecord, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        kind = _kind(record)
        if kind is not None and len(self._held) >= _MAX_KINDS and kind not in self._held:
            kind = (kind[0], "others")  # so many peers that they cannot be told apart
        if kind is None:
            super().emit(record)
        elif kind in self._held:
            self._held[kind] = (record, self._held[kind][1] + 1)
        else:
            self._hold(kind, record)
            super().emit(record)

    def _hold(self, kind: tuple[str, str], record: logging.LogRecord) -> None:
        if not self._held:
            self._start_timer()
        self._held[kind] = (record, 0)

    def _start_timer(self) -> None:
        timer = threading.Timer(_INTERVAL, self._write_held)
        timer.daemon = True
        timer.start()

    def _write_held(self) -> None:
        """Write the last record of each kind that was repeated."""
        self.acquire()
        try:
            held, self._held = self._held, {}
            for kind, (record, count) in held.items():
                if count:
                    last = copy.copy(record)
                    last.repeated = count
                    self._hold(kind, record)
                    super().emit(last)
        finally:
            self.release()


def _kind(record: logging.LogRecord) -> tuple[str, str] | None:
    """Give what is the same in repeated records; None for a record that is always written."""
    if not record.name.startswith("chestxray."):
        return record.name, str(record.lineno)
    event = getattr(record, "event", "")
    if event not in _LIMITED:
        return None
    return event, str(getattr(record, "address", None) or getattr(record, "source", ""))


def place(error: BaseException) -> str:
    """Describe an exception by type and place, without its message, which may quote a file."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno} in {frame.name}"


def set_up() -> None:
    """Write this package's records from level INFO on, and errors of other packages."""
    handler = _LimitedHandler()
    handler.setFormatter(JSONLines(_FIELDS))
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    logging.getLogger("chestxray").setLevel(logging.INFO)
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
