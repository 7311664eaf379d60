"""Anchors: last links of the audit record, kept outside its database.

The chain shows that an entry was changed, but not that the record was replaced by an earlier copy,
or began anew after its database was deleted. For that, its last link is written now and then to a
file that only grows, `audit-anchors.jsonl`. An entry is durable before its link becomes an anchor,
so the record always has the entry of each anchor; where it has not, entries are missing.

A line is a JSON object: `number` and `link` of an entry, and the `time` of the anchor. After a
restoration the first anchor has `restored`: those before it with its number or a higher one are of
entries that are lost. A line that a power cut tore is skipped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from chestxray.artifacts import sync_folder

FILE: Final = "audit-anchors.jsonl"
"""Name of the file in the state folder."""

_TAIL_BYTES: Final = 2**16


class Anchor(NamedTuple):
    """The link of an entry, as it was when it was the last one.

    Attributes:
        number: of the entry.
        link: of the entry, SHA-256 in hexadecimal.
        time: of the anchor, seconds since 1970.
        restored: whether the entry records a restoration.
    """

    number: int
    link: str
    time: float
    restored: bool = False

    @classmethod
    def now(cls, number: int, link: str, *, restored: bool = False) -> Anchor:
        """Make an anchor of this moment."""
        return cls(number, link, round(time.time(), 3), restored)

    def line(self) -> str:
        """Write it as JSON."""
        kind = {"restored": True} if self.restored else {}
        values = {"number": self.number, "link": self.link, "time": self.time}
        return json.dumps(values | kind)


def append(folder: Path, anchor: Anchor) -> None:
    """Append an anchor to the file, durably.

    Raises:
        OSError: it could not be written.
    """
    path = folder / FILE
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        end = os.lseek(handle, 0, os.SEEK_END)
        torn = end > 0 and os.lseek(handle, -1, os.SEEK_END) >= 0 and os.read(handle, 1) != b"\n"
        line = ("\n" if torn else "") + anchor.line() + "\n"
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    if new:
        sync_folder(folder)


def last(folder: Path) -> Anchor | None:
    """Give the last anchor of the file; None where there is no file or no anchor in it."""
    try:
        with (folder / FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    return next(_parsed(reversed(lines)), None)


def valid(lines: Iterable[str]) -> list[Anchor]:
    """Give the anchors of some lines that a record must have, in order.

    Those of entries that a restoration lost are left out.
    """
    kept: list[Anchor] = []
    for anchor in _parsed(lines):
        while anchor.restored and kept and kept[-1].number >= anchor.number:
            kept.pop()
        kept.append(anchor)
    return kept


def _parsed(lines: Iterable[str]) -> Iterator[Anchor]:
    """Give the anchors among some lines; syslog writes time and host before each."""
    for line in lines:
        try:
            values = json.loads(line[max(0, line.find("{")) :])
            yield Anchor(
                int(values["number"]),
                str(values["link"]),
                float(values["time"]),
                values.get("restored") is True,
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
