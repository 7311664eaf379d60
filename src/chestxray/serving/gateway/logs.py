"""The log: one JSON object per line on standard error, without data of patients.

Each place in the code may write a bounded number of bytes per second, whatever peers do.

Only messages of this package are written, which contain UIDs and AE titles at most. Of records of
other packages only the place is written: pydicom quotes values of the file that it complains about.
"""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from typing import Final

from chestxray.serving.log_rate import RateLimitedHandler

# They report refused connections and rejected associations; our own record says where to.
_SILENCED: Final = ("pynetdicom.transport", "pynetdicom.acse")
_FIELDS: Final = ("event", "uid", "source", "destination", "seconds")


class _JSONLines(logging.Formatter):
    """Formats a record as JSON, with the fields that are meant for the log and no others."""

    def format(self, record: logging.LogRecord) -> str:
        """Give one line."""
        own = record.name.startswith("chestxray.")
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "process": record.processName,
            "pid": record.process,
            "message": record.getMessage() if own else f"message of {record.name}:{record.lineno}",
        }
        line |= {key: value for key in _FIELDS if (value := getattr(record, key, None)) is not None}
        return json.dumps(line, ensure_ascii=False)


def place(error: BaseException) -> str:
    """Describe an exception by type and place, without its message, which may quote a file."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno} in {frame.name}"


def set_up() -> None:
    """Write this package's records from level INFO on, and errors of other packages."""
    handler = RateLimitedHandler()
    handler.setFormatter(_JSONLines())
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    logging.getLogger("chestxray").setLevel(logging.INFO)
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
