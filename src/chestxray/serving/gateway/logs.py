"""A JSON object a line on standard error, without name, number or birth date of any patient.

Only our own messages are quoted, which name UIDs and AE titles at most. Of other packages' records
the place alone is told: pydicom quotes values of the file that it complains about.
"""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from typing import Final

# That a connection was refused or an association rejected; our own record says where to.
_TOLD_BY_US: Final = ("pynetdicom.transport", "pynetdicom.acse")
_FIELDS: Final = ("event", "uid", "source", "destination", "seconds")


class JSONLines(logging.Formatter):
    """Formats a record as JSON; only fields that are meant to be logged get in."""

    def format(self, record: logging.LogRecord) -> str:
        """Give one line."""
        ours = record.name.startswith("chestxray.")
        place = f"{record.name}:{record.lineno} has something to say"
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "process": record.processName,
            "pid": record.process,
            "message": record.getMessage() if ours else place,
        }
        line |= {key: value for key in _FIELDS if (value := getattr(record, key, None)) is not None}
        return json.dumps(line, ensure_ascii=False)


def place(error: BaseException) -> str:
    """Say what failed and where; not the message, in which a decoder may quote the file."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno} in {frame.name}"


def set_up() -> None:
    """Send our records of level INFO and above to standard error, and others' errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    logging.getLogger("chestxray").setLevel(logging.INFO)
    for name in _TOLD_BY_US:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
