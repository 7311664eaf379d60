"""Whether the gateway is well, for `chestxray gateway status` and for the health endpoint.

The supervisor keeps a record of processes that died, `processes.json` in the state folder, since a
process that dies again and again is not seen in the queue.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from chestxray.artifacts import write_json
from chestxray.serving.gateway import backups
from chestxray.serving.gateway.access import is_locked

SHADOW: Final = "shadow"
"""Name of the process whose deaths are no problem of the gateway."""

_FILE: Final = "processes.json"
_KEPT: Final = 100
_RECENT_SECONDS: Final = 600.0
_MANY: Final = 3  # deaths of one process within that time
_DAY: Final = 86400.0
_log = logging.getLogger(__name__)


class ProcessRecord:
    """The deaths of this gateway's processes, and why it halted.

    Args:
        state: state folder; the record of an earlier gateway is replaced.
        dry_run: whether this gateway sends nothing.
    """

    def __init__(self, state: Path, *, dry_run: bool = False) -> None:
        self._path = state / _FILE
        self._dry_run = dry_run
        self._deaths: deque[tuple[str, float]] = deque(maxlen=_KEPT)
        self._halted = ""
        self._write()

    def died(self, name: str) -> None:
        """Record that a process ended unasked."""
        self._deaths.append((name, time.time()))
        self._write()

    def halt(self, reason: str) -> None:
        """Record that the gateway halted."""
        self._halted = reason
        self._write()

    def _write(self) -> None:
        try:
            known = {"halted": self._halted, "deaths": list(self._deaths)}
            write_json(self._path, {**known, "dry_run": self._dry_run})
        except OSError as error:  # a full disk
            extra = {"event": "postponed"}
            _log.error("the record of processes cannot be written: %s", error, extra=extra)


def forget(state: Path) -> None:
    """Remove the record of an earlier gateway, such as after what halted it was mended."""
    (state / _FILE).unlink(missing_ok=True)


def halted(state: Path) -> str:
    """Give why the gateway halted; empty text where it did not."""
    return str(_recorded(state).get("halted", ""))


def is_dry_run(state: Path) -> bool:
    """Tell whether the gateway that runs, or ran last, sends nothing."""
    return bool(_recorded(state).get("dry_run", False))


def problems(state: Path) -> Iterator[str]:
    """Give what is wrong with a gateway, apart from its database, one sentence each."""
    if reason := halted(state):
        yield f"halted: {reason}"
    for name, count in _recent_deaths(state).items():
        if count >= _MANY and name != SHADOW:
            yield f"{name} died {count} times within ten minutes: see the log"
    age = backups.seconds_since(state)
    if age is not None and age > 2 * _DAY:
        yield f"the newest backup of the database is {age / _DAY:.0f} days old: see the log"


def _recent_deaths(state: Path) -> Counter[str]:
    since = time.time() - _RECENT_SECONDS
    return Counter(name for name, when in _recorded(state).get("deaths", []) if when > since)


def status_lines(state: Path) -> Iterator[str]:
    """Write whether the gateway runs and what is wrong with it, one sentence per line."""
    running = is_locked(state)
    dry = ", dry run: nothing is sent" if running and is_dry_run(state) else ""
    yield f"gateway: {'running' if running else 'not running'}{dry}"
    for problem in problems(state):
        yield f"problem: {problem}"
    if count := _recent_deaths(state)[SHADOW]:
        yield f"shadow: it died {count} times within ten minutes: see the log"


def _recorded(state: Path) -> dict[str, Any]:
    try:
        found = json.loads((state / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no gateway has run, or a power cut
        return {}
    return found if isinstance(found, dict) else {}
