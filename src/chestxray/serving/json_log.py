"""A log for programs: one JSON object per line, without data of patients.

Only messages of this package are written. Of records of other packages only the place is written:
they quote values of the files that they complain about.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence


class JSONLines(logging.Formatter):
    """Formats a record as JSON, with the fields that are meant for the log and no others.

    Args:
        fields: attributes of a record that are written where it has them.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__()
        self._fields = fields

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
        found = ((field, getattr(record, field, None)) for field in self._fields)
        line |= {field: value for field, value in found if value is not None}
        return json.dumps(line, ensure_ascii=False)
