"""The audit record: an append-only log of what happened to each image, chained against tampering.

An entry is JSON: the event, its time, and the SHA-256 of image and results and the identity of the
model. Its link is SHA-256(link of the previous entry, newline, entry). Changing, removing or
inserting an entry breaks every link after it. Truncating or rewriting the whole chain shows against
the anchors (`anchors.py`), or against an earlier export, which `chestxray gateway export-audit
--against` compares. No patient's name or number is recorded.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import anchors
from chestxray.serving.gateway.anchors import Anchor

DATABASE: Final = "queue.sqlite"
"""Name of the file in the state folder that holds the record, beside queue and images."""

_FIRST_LINK: Final = hashlib.sha256(b"chestxray gateway audit").hexdigest()


def append(db: sqlite3.Connection, event: str, details: dict[str, Any]) -> None:
    """Add an entry, inside the transaction that does what the entry records."""
    number, link = last(db)
    entry = json.dumps({"event": event, "time": round(time.time(), 3), **details}, sort_keys=True)
    db.execute("INSERT INTO audit VALUES (?, ?, ?)", (number + 1, entry, _link(link, entry)))


def last(db: sqlite3.Connection) -> tuple[int, str]:
    """Give number and link of the last entry; 0 and the link before the first where none is."""
    row = db.execute("SELECT number, link FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, _FIRST_LINK)


def link_of(db: sqlite3.Connection, number: int) -> str | None:
    """Give the link of an entry; None where the record does not have it.

    Number 0 is the link before the first entry.
    """
    if number == 0:
        return _FIRST_LINK
    row = db.execute("SELECT link FROM audit WHERE number = ?", (number,)).fetchone()
    return None if row is None else str(row[0])


def has(db: sqlite3.Connection, event: str) -> bool:
    """Tell whether an event was recorded."""
    written = json.dumps({"event": event})[1:-1]
    found = db.execute("SELECT 1 FROM audit WHERE instr(entry, ?) LIMIT 1", (written,))
    return found.fetchone() is not None


def verified_entries(db: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Give all entries with `number`, `link` and `entry`, in order, verifying each link.

    Raises:
        ArtifactError: an entry was changed, removed or inserted.
    """
    rows = db.execute("SELECT * FROM audit ORDER BY number")
    return _verified(map(dict, rows), "the audit record", "compare it with the last export")


def check_against(db: sqlite3.Connection, export: Path) -> None:
    """Check that an earlier export, or a file of anchors, agrees with the record.

    An export must be intact and still the beginning of the record; the record must have the entry
    of each anchor, with its link.

    Raises:
        ArtifactError: it does not agree, the export was altered, or the file is neither.
    """
    try:
        lines = export.read_text(encoding="utf-8").splitlines()
        kept = anchors.valid(lines) or [_end_of_export(lines, export)]
    except OSError as error:
        raise ArtifactError(f"--against {export}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f"{export} is not an export of an audit record or a file of anchors: write one with "
            "`chestxray gateway export-audit`"
        ) from error
    check_anchors(db, kept, str(export))


def check_anchors(db: sqlite3.Connection, kept: Iterable[Anchor], where: str) -> None:
    """Check that the record has the entry of each anchor, with its link.

    An anchor of a restoration makes those of the entries that it lost invalid, so its own entry
    must record a restoration. Otherwise one forged line would do away with all anchors before it.

    Args:
        db: the database.
        kept: the anchors.
        where: name of what holds them, for the error.

    Raises:
        ArtifactError: it does not have one.
    """
    for anchor in kept:
        link = link_of(db, anchor.number)
        if link != anchor.link:
            difference = "is missing from it" if link is None else "differs in it"
            raise ArtifactError(
                "the audit record was truncated or rewritten: "
                f"entry {anchor.number} of {where} {difference}"
            )
        if anchor.restored and not _is_restoration(db, anchor.number):
            raise ArtifactError(
                f"{where} was altered: it says that entry {anchor.number} records a restoration, "
                "but the audit record does not; compare it with another copy of the anchors"
            )


def _is_restoration(db: sqlite3.Connection, number: int) -> bool:
    row = db.execute("SELECT entry FROM audit WHERE number = ?", (number,)).fetchone()
    return row is not None and json.loads(row[0]).get("event") == "restored"


def _end_of_export(lines: Iterable[str], export: Path) -> Anchor:
    entries = _verified(map(json.loads, lines), str(export), "use another copy of it")
    end = list(entries)[-1]
    return Anchor.now(end["number"], end["link"])


def _link(previous: str, entry: str) -> str:
    return hashlib.sha256(f"{previous}\n{entry}".encode()).hexdigest()


def _verified(
    rows: Iterable[dict[str, Any]], what: str, next_step: str
) -> Iterator[dict[str, Any]]:
    """Give the rows, checking that each follows the previous one and matches its link."""
    link = _FIRST_LINK
    for expected, row in enumerate(rows, start=1):
        link = _link(link, row["entry"])
        if row["number"] != expected or row["link"] != link:
            raise ArtifactError(
                f"{what} was altered at or before entry {row['number']}: its link should be "
                f"{link[:12]}…, it is {str(row['link'])[:12]}…; {next_step}"
            )
        yield {"number": expected, "link": link, "entry": row["entry"]}
