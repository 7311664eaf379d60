"""ChestX-ray14 from NIH's Box: twelve archives, the label table and the official lists.

An archive goes through `fetch`, size and MD5, `unpack`; then it is deleted, because archives and
images together would take 90 GB. `download.json` records every step after it is durable, so that
the next call skips what is done and goes on with the rest.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from chestxray.artifacts import read_json, write_json
from chestxray.errors import DownloadError
from chestxray.progress import progress
from chestxray.sources.download.catalogue import ARCHIVES, BY_HAND, FOLDER, TABLES, Archive, Table
from chestxray.sources.download.fetch import (
    MEGABYTE,
    Digests,
    Pause,
    digests,
    fetch,
    make_folder,
    new_client,
    part_of,
)
from chestxray.sources.download.unpack import unpack

JOURNAL: Final = "download.json"
_COMMAND: Final = "chestxray download OUT --from nih"


def download_nih(
    out: Path,
    archives: Sequence[Archive] = ARCHIVES,
    tables: Sequence[Table] = TABLES,
    pause: Pause = time.sleep,
) -> dict[str, str]:
    """Fetch, check and unpack everything that is not there yet.

    Args:
        out: folder of the tree; made where it is missing.
        archives: what to fetch and unpack.
        tables: what to fetch beside them; a file of that name put there by hand is left alone.
        pause: waits that many seconds between attempts.

    Returns:
        Files that are still to be fetched by hand, with the reason.

    Raises:
        DownloadError: an archive can't be fetched or is not what NIH published, a file was changed
            since it was fetched, or there is no room.
    """
    make_folder(out)
    journal = _Journal(out / JOURNAL)
    missing = [archive for archive in archives if not _is_done(out, archive, journal)]
    _require_room(out, missing)
    with new_client() as client:
        for archive in missing:
            _archive(out, archive, client, journal, pause)
        lacking = [name for name in BY_HAND if not (out / name).exists()]
        by_hand = dict.fromkeys(lacking, "no link to the file itself is known")
        for table in tables:
            if not _is_there(out / table.name, journal):
                try:
                    _table(out / table.name, table, client, journal, pause)
                except DownloadError as error:
                    by_hand[table.name] = str(error)
    return by_hand


class _Journal:
    """`download.json`: what was fetched, its checksums, and whether it was unpacked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        value = read_json(path, _COMMAND) if path.exists() else {}
        self.files: dict[str, dict[str, Any]] = value.get("files", {})

    def record(self, name: str, **facts: str | int | bool) -> None:
        self.files[name] = self.files.get(name, {}) | facts
        write_json(self.path, {"source": FOLDER, "files": self.files})

    def check(self, name: str, found: Digests) -> None:
        recorded = self.files.get(name, {}).get("sha256", found.sha256)
        if recorded != found.sha256:
            raise DownloadError(
                f"{self.path.parent / name} was changed since it was fetched (SHA-256 "
                f"{found.sha256[:12]}…, recorded {recorded[:12]}…): delete it and run the same "
                "command again"
            )


def _is_done(out: Path, archive: Archive, journal: _Journal) -> bool:
    """Tell whether an archive was unpacked before, and still is."""
    folder, entry = out / archive.folder, journal.files.get(archive.name)
    if not folder.exists():
        return False
    if entry is None:
        raise DownloadError(
            f"{folder} exists, but {journal.path.name} does not know it: move it away, or give "
            "another folder"
        )
    if not entry["unpacked"]:  # stopped after the folder got its name, which it gets when whole
        journal.record(archive.name, unpacked=True)
    (out / archive.name).unlink(missing_ok=True)  # stopped after the record
    count = sum(path.is_file() for path in folder.rglob("*"))
    if count != archive.images:
        raise DownloadError(
            f"{folder} holds {count} of {archive.images} images: delete it and run the same "
            "command again"
        )
    return True


def _require_room(out: Path, missing: Sequence[Archive]) -> None:
    """Images take about as much as their archives, one of which lies there in addition."""
    if not missing:
        return
    have = sum(
        path.stat().st_size
        for archive in missing
        for path in (out / archive.name, part_of(out / archive.name))
        if path.exists()
    )
    need = (
        sum(archive.size for archive in missing) + max(archive.size for archive in missing) - have
    )
    free = shutil.disk_usage(out).free
    if free < need:
        raise DownloadError(
            f"{out} has room for {free / 1e9:.1f} GB, the rest needs {need / 1e9:.1f} GB: make "
            "room, or give a folder on another disk"
        )


def _archive(
    out: Path, archive: Archive, client: httpx.Client, journal: _Journal, pause: Pause
) -> None:
    path = out / archive.name
    if not path.exists():
        done = part_of(path).stat().st_size // MEGABYTE if part_of(path).exists() else 0
        with progress(archive.name, archive.size // MEGABYTE, "MB", done) as advance:
            fetch(archive.url, path, client, size=archive.size, advance=advance, pause=pause)
    found = digests(path)
    if found.md5 != archive.md5:
        path.unlink()
        raise DownloadError(
            f"{archive.name} came with MD5 {found.md5}, NIH publishes {archive.md5}: deleted, run "
            "the same command again"
        )
    journal.check(archive.name, found)
    journal.record(
        archive.name, url=archive.url, size=archive.size, md5=found.md5, sha256=found.sha256,
        images=archive.images, unpacked=False,
    )  # fmt: skip
    unpack(path, out / archive.folder, archive.images)
    journal.record(archive.name, unpacked=True)
    path.unlink()


def _is_there(path: Path, journal: _Journal) -> bool:
    """Tell whether a table lies there, put by hand or fetched and unchanged since."""
    if path.exists() and path.name in journal.files:
        journal.check(path.name, digests(path))
    return path.exists()


def _table(path: Path, table: Table, client: httpx.Client, journal: _Journal, pause: Pause) -> None:
    fetch(table.url, path, client, pause=pause)
    with path.open("rb") as file:
        lines = sum(1 for line in file if line.strip())
    if lines != table.lines:
        path.unlink()
        raise DownloadError(f"a file of {lines} lines came, {table.lines} were expected")
    found = digests(path)
    journal.record(
        table.name, url=table.url, size=path.stat().st_size, md5=found.md5, sha256=found.sha256
    )
