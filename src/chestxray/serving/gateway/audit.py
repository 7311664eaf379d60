"""The audit record: an append-only log of what happened to each image, chained against tampering.

An entry is JSON: the event, its time, and the SHA-256 of image and results and the identity of the
model. Its link is SHA-256(link of the previous entry, newline, entry). Changing, removing or
inserting an entry breaks every link after it. Truncating or rewriting the whole chain shows against
an earlier export, which `chestxray gateway export-audit --against` compares. No patient's name or
number is recorded.
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

_FIRST_LINK: Final = hashlib.sha256(b"chestxray gateway audit").hexdigest()


def append(db: sqlite3.Connection, event: str, details: dict[str, Any]) -> None:
    """Add an entry, inside the transaction that does what the entry records."""
    last = db.execute("SELECT number, link FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, link = (last["number"], last["link"]) if last else (0, _FIRST_LINK)
    entry = json.dumps({"event": event, "time": round(time.time(), 3), **details}, sort_keys=True)
    db.execute("INSERT INTO audit VALUES (?, ?, ?)", (number + 1, entry, _link(link, entry)))


def verified_entries(db: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Give all entries with `number`, `link` and `entry`, in order, verifying each link.

    Raises:
        ArtifactError: an entry was changed, removed or inserted.
    """
    rows = db.execute("SELECT * FROM audit ORDER BY number")
    return _verified(map(dict, rows), "the audit record", "compare it with the last export")


def check_against(db: sqlite3.Connection, export: Path) -> None:
    """Check that an earlier export is intact and is still the beginning of the record.

    Raises:
        ArtifactError: it is not, it was altered, or the file is not an export.
    """
    try:
        lines = export.read_text(encoding="utf-8").splitlines()
        entries = _verified(map(json.loads, lines), str(export), "use another copy of it")
        last = list(entries)[-1]
    except OSError as error:
        raise ArtifactError(f"--against {export}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f"{export} is not an export of an audit record: write one with "
            "`chestxray gateway export-audit`"
        ) from error
    number = last["number"]
    row = db.execute("SELECT link FROM audit WHERE number = ?", (number,)).fetchone()
    if row is None or row["link"] != last["link"]:
        difference = "is missing from it" if row is None else "differs in it"
        raise ArtifactError(
            f"the audit record was truncated or rewritten: entry {number} of {export} {difference}"
        )


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
