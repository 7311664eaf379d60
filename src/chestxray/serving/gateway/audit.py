"""An append-only record of what became of each image, in a chain that shows tampering.

An entry is JSON: what happened, when, with hashes of what went in, of the model and of what came
out. Its link is SHA-256(link of the entry before, newline, the entry). Changing, removing or
inserting an entry breaks every link after it. Cutting the end off, or making the whole chain anew,
shows against an earlier export, which `chestxray gateway export-audit --against` compares. No
patient's name or number stands in it.
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

START: Final = hashlib.sha256(b"chestxray gateway audit").hexdigest()


def append(db: sqlite3.Connection, event: str, about: dict[str, Any]) -> None:
    """Add an entry; call it inside the transaction that does what it tells of."""
    last = db.execute("SELECT number, link FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, link = (last["number"], last["link"]) if last else (0, START)
    entry = json.dumps({"event": event, "time": round(time.time(), 3), **about}, sort_keys=True)
    db.execute("INSERT INTO audit VALUES (?, ?, ?)", (number + 1, entry, linked(link, entry)))


def linked(before: str, entry: str) -> str:
    """Give the link of an entry after another's."""
    return hashlib.sha256(f"{before}\n{entry}".encode()).hexdigest()


def verified(db: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Give all entries with number, link and text, first to last, checking each link.

    Raises:
        ArtifactError: an entry was changed, removed or put in.
    """
    rows = db.execute("SELECT * FROM audit ORDER BY number")
    return _chained(map(dict, rows), "the audit record", "compare with the last export")


def check_against(db: sqlite3.Connection, export: Path) -> None:
    """Check that an earlier export is whole, and still stands at the beginning of the record.

    Raises:
        ArtifactError: it does not, it was altered, or the file is no export.
    """
    try:
        lines = export.read_text(encoding="utf-8").splitlines()
        entries = _chained(map(json.loads, lines), str(export), "take another copy of it")
        last = list(entries)[-1]
    except OSError as error:
        raise ArtifactError(f"--against {export}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ArtifactError(f"{export} is no export of an audit record") from error
    number = last["number"]
    row = db.execute("SELECT link FROM audit WHERE number = ?", (number,)).fetchone()
    if row is None or row["link"] != last["link"]:
        raise ArtifactError(
            f"the audit record was cut off or made anew: entry {number} of {export} "
            f"{'is missing' if row is None else 'is another now'}"
        )


def _chained(rows: Iterable[dict[str, Any]], what: str, then: str) -> Iterator[dict[str, Any]]:
    """Give rows on, checking that each follows the one before and is what its link says."""
    link = START
    for expected, row in enumerate(rows, start=1):
        link = linked(link, row["entry"])
        if row["number"] != expected or row["link"] != link:
            raise ArtifactError(
                f"{what} was altered at or before entry {row['number']}: its link should be "
                f"{link[:12]}…, it is {str(row['link'])[:12]}…; {then}"
            )
        yield {"number": expected, "link": link, "entry": row["entry"]}
