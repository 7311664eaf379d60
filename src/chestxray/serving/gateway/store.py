"""What the gateway holds on disk: images, results, and the state of each.

    state/
      lock                  held by the running gateway
      intake.lock           held by a process that places an image
      queue.sqlite          images, results, tasks, figures, poll positions, audit record
      shadow.sqlite         figures of the shadow's readings
      audit-anchors.jsonl   last links of the audit record
      processes.json        processes that died
      images/               <SOP instance UID>.dcm as received
      outbox/               <SOP instance UID>.dcm as sent, written once
      backups/              the database of the last days
      damaged-<time>/       a database that a backup replaced

An image is a task of the queue `read`; a result is one of the queue `send:<destination>` for each
destination that receives it, in a dry run of `dry-run:<destination>`, where it is done at once.
Rows stay when files are removed, so an image that arrives again is recognised.

SQLite runs with a write-ahead log and synchronous FULL: what is committed is on the disk. Each
write is one transaction that takes the write lock when it begins, so processes wait for each other
and never see a partial change. `user_version` is the version of the tables.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from chestxray.artifacts import sync_folder
from chestxray.errors import ArtifactError
from chestxray.serving.gateway import audit, queue, readings
from chestxray.serving.gateway.access import require_private
from chestxray.serving.gateway.integrity import check_present
from chestxray.serving.gateway.queue import Task
from chestxray.serving.gateway.readings import Figures

if TYPE_CHECKING:
    from chestxray.model.model_card import ModelCard

READ: Final = "read"
"""Name of the queue of images to read."""

DRY_RUN: Final = "dry-run"
"""Beginning of the names of the queues of a dry run."""

VERSION: Final = 2  # raise it with each change of the tables, and migrate older ones
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS images (
    uid TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    source TEXT NOT NULL,
    modality TEXT NOT NULL,
    received REAL NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS images_here ON images (uid) WHERE NOT removed;
CREATE TABLE IF NOT EXISTS results (
    uid TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES images (uid),
    kind TEXT NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS results_image ON results (image);
CREATE TABLE IF NOT EXISTS tasks (
    queue TEXT NOT NULL,
    item TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'dead', 'discarded')),
    due REAL NOT NULL,
    holder TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    finished REAL,
    PRIMARY KEY (queue, item)
) STRICT;
CREATE INDEX IF NOT EXISTS tasks_due ON tasks (state, queue, due);
CREATE INDEX IF NOT EXISTS tasks_item ON tasks (item);
CREATE TABLE IF NOT EXISTS positions (
    source TEXT PRIMARY KEY,
    position TEXT NOT NULL,
    asked REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY,
    entry TEXT NOT NULL,
    link TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS audit_stays BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_remains BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END;
{readings.TABLES}
PRAGMA user_version = {VERSION};
COMMIT;
"""
_MIGRATIONS: Final = {
    1: f"""
BEGIN IMMEDIATE;
{readings.TABLES}
PRAGMA user_version = 2;
COMMIT;
""",
}
"""Version → SQL that makes the next one of it; nothing is lost, and the later version adds only."""
_LOCK_TIMEOUT: Final = 60.0  # seconds to wait for another process's transaction


def send_queue(destination: str) -> str:
    """Name the queue of a destination."""
    return f"send:{destination}"


def served_queues(destinations: Iterable[str]) -> set[str]:
    """Name the queues that a gateway with these destinations serves."""
    return {READ, *map(send_queue, destinations)}


def dry_run_queue(destination: str) -> str:
    """Name the queue of what a destination would have received; all its tasks are done."""
    return f"{DRY_RUN}:{destination}"


@dataclass(frozen=True)
class Image:
    """A received radiograph.

    Attributes:
        uid: SOP instance UID.
        sha256: of the file as received.
        source: calling AE title, or the DICOMweb URL.
        modality: CR or DX by its SOP class, of a secondary capture by its tag; empty where that is
            unknown.
    """

    uid: str
    sha256: str
    source: str
    modality: str


@dataclass(frozen=True)
class Result:
    """A result object in the outbox.

    Attributes:
        uid: SOP instance UID, derived, so that a second reading makes the same.
        kind: sr, sc, regions or seg.
        sha256: of the file.
        destinations: names of the destinations that receive it.
    """

    uid: str
    kind: str
    sha256: str
    destinations: Sequence[str]


class Store:
    """The state folder and its database; each process and each thread opens its own.

    Raises:
        OSError: the folder cannot be made.
        ArtifactError: other users can access the folder, or the database cannot be opened, is
            missing, or was made by a later version of this package.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.outbox = folder / "outbox"
        new = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds patients' images
        require_private(folder)
        check_present(folder)
        for made in (self.images, self.outbox):
            made.mkdir(mode=0o700, exist_ok=True)
        self.db = connect(folder / audit.DATABASE)
        self._remembered: set[str] = set()
        for made in (folder, folder.parent) if new else (folder,):
            sync_folder(made)

    @classmethod
    def existing(cls, folder: Path) -> Self:
        """Open the state folder of a gateway that has run before.

        Raises:
            ArtifactError: there is none, or it cannot be opened.
        """
        if not folder.is_dir():
            raise ArtifactError(f"{folder} does not exist: no gateway has run with this `state`")
        try:
            return cls(folder)
        except OSError as error:
            raise ArtifactError(f"state: {folder}: {error.strerror}") from error

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def image_file(self, uid: str) -> Path:
        """Give the path of a received image."""
        return self.images / f"{uid}.dcm"

    def result_file(self, uid: str) -> Path:
        """Give the path of a result."""
        return self.outbox / f"{uid}.dcm"

    def free_mib(self) -> int:
        """Give the free space of the disk, MiB."""
        return shutil.disk_usage(self.images).free // 2**20

    def add(self, image: Image) -> None:
        """Record and queue an image whose file is durable; it replaces one that was given up."""
        with transaction(self.db):
            if self.is_given_up(image.uid):
                queue.remove(self.db, READ, image.uid)
                self.db.execute("DELETE FROM images WHERE uid = ?", (image.uid,))
            self.db.execute(
                "INSERT INTO images (uid, sha256, source, modality, received) "
                "VALUES (?, ?, ?, ?, ?)",
                (image.uid, image.sha256, image.source, image.modality, time.time()),
            )
            queue.add(self.db, READ, image.uid)
            entry = {"image": image.uid, "sha256": image.sha256, "source": image.source}
            audit.append(self.db, "received", entry)

    def record_difference(self, image: Image) -> None:
        """Record that a known image came with another data set, which was not taken."""
        entry = {"image": image.uid, "sha256": image.sha256, "source": image.source}
        with transaction(self.db):
            audit.append(self.db, "different", entry)

    def is_image(self, uid: str) -> bool:
        """Tell whether a UID is that of a received image."""
        return self.db.execute("SELECT 1 FROM images WHERE uid = ?", (uid,)).fetchone() is not None

    def is_result(self, uid: str) -> bool:
        """Tell whether a UID is that of a result of this gateway."""
        found = self.db.execute("SELECT 1 FROM results WHERE uid = ?", (uid,))
        return found.fetchone() is not None

    def is_known(self, uid: str) -> bool:
        """Tell whether a UID is that of a received image or of a result of this gateway."""
        found = self.db.execute(
            "SELECT 1 FROM images WHERE uid = ? UNION SELECT 1 FROM results WHERE uid = ?",
            (uid, uid),
        )
        return found.fetchone() is not None

    def is_given_up(self, uid: str) -> bool:
        """Tell whether reading an image was given up, so that it is dead or discarded."""
        found = self.db.execute(
            "SELECT 1 FROM tasks WHERE queue = ? AND item = ? AND state IN ('dead', 'discarded')",
            (READ, uid),
        )
        return found.fetchone() is not None

    def image(self, uid: str) -> Image:
        """Give a received image."""
        row = self.db.execute("SELECT * FROM images WHERE uid = ?", (uid,)).fetchone()
        return Image(row["uid"], row["sha256"], row["source"], row["modality"])

    def files_without_row(self) -> Iterator[Path]:
        """Give image files without a row: the receiver was killed between file and row."""
        for path in sorted(self.images.glob("*.dcm")):
            if not self.is_known(path.stem):
                yield path

    def claim(
        self, queue_name: str, lease: float, max_attempts: int, holder: str = ""
    ) -> Task | None:
        """Claim a task; see `queue.claim`."""
        if not queue.has_due(self.db, queue_name, lease):
            return None
        with transaction(self.db):
            return queue.claim(self.db, queue_name, lease, max_attempts, holder)

    def release(self, queue_name: str, holder: str, *, died: bool) -> int:
        """Make all tasks of a holder due; see `queue.release`."""
        with transaction(self.db):
            return queue.release(self.db, queue_name, holder, died=died)

    def fail(self, task: Task, reason: str, max_attempts: int) -> bool:
        """Retry a task later or mark it dead; see `queue.fail`."""
        with transaction(self.db):
            return queue.fail(self.db, task, reason, max_attempts)

    def defer(self, task: Task, reason: str, seconds: float) -> None:
        """Retry a task later without counting the attempt; see `queue.defer`."""
        with transaction(self.db):
            queue.defer(self.db, task, reason, seconds)

    def remember_model(self, identity: str, card: ModelCard) -> None:
        """Keep what the report needs to know of a model, once in the life of this store."""
        if identity not in self._remembered:
            with transaction(self.db):
                readings.remember_model(self.db, identity, card)
            self._remembered.add(identity)

    def finish_reading(
        self,
        task: Task,
        model: str,
        results: Sequence[Result],
        refusal: str = "",
        *,
        dry_run: bool = False,
        figures: Figures | None = None,
    ) -> bool:
        """Record results, deliveries and audit entry of a reading in one transaction.

        Args:
            task: the claimed task.
            model: identity of the model.
            results: result objects in the outbox.
            refusal: reason of the refusal, where the gate refused the image.
            dry_run: the results are kept and not sent, now or later.
            figures: of the reading, for drift and the report.

        Returns:
            False when another worker was first, after this one's lease expired.
        """
        with transaction(self.db):
            if not queue.finish(self.db, task, refusal):
                return False
            for result in results:
                self.db.execute(
                    "INSERT INTO results VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (result.uid, task.item, result.kind, result.sha256),
                )
                for destination in result.destinations:
                    if dry_run:
                        queue.add_done(self.db, dry_run_queue(destination), result.uid)
                    else:
                        queue.add(self.db, send_queue(destination), result.uid)
            if figures is not None:
                readings.record(self.db, task.item, model, figures)
            self._audit_reading(task, model, results, refusal, dry_run=dry_run)
        return True

    def finish_sending(self, task: Task) -> None:
        """Record that a destination has a result."""
        with transaction(self.db):
            if queue.finish(self.db, task):
                audit.append(self.db, "sent", {"queue": task.queue, "item": task.item})

    def _audit_reading(
        self, task: Task, model: str, results: Sequence[Result], refusal: str, *, dry_run: bool
    ) -> None:
        image = self.image(task.item)
        entry: dict[str, Any] = {"image": image.uid, "sha256": image.sha256, "model": model}
        entry["outcome"] = "refused" if refusal else "read"
        if refusal:
            entry["reason"] = refusal
        if dry_run:
            entry["dry_run"] = True
        entry["results"] = {result.uid: result.sha256 for result in results}
        audit.append(self.db, "read", entry)


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, creating it where there is none; single statements commit at once.

    Raises:
        ArtifactError: it cannot be opened, or a later version of this package made it.
    """
    db = None
    try:
        _create(path)
        db = sqlite3.connect(
            path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")  # what is removed is not left in free pages
        _check_version(db, path)
    except (sqlite3.Error, OSError) as error:
        if db is not None:
            db.close()
        raise ArtifactError(f"{path} cannot be opened: {error}") from error
    return db


def check_version(folder: Path) -> None:
    """Check that this package supports the database of a state folder, and change nothing.

    Raises:
        ArtifactError: it does not, or the database cannot be opened.
    """
    path = folder / audit.DATABASE
    if not path.exists():
        return
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT)) as db:
            found, filled = _version(db)
    except sqlite3.Error as error:
        raise ArtifactError(f"{path} cannot be opened: {error}") from error
    if (found or filled) and found != VERSION and found not in _MIGRATIONS:
        raise _unsupported(path, found)


def _create(path: Path) -> None:
    """Make the file of a new database, whose log and index get its mode.

    A file that exists must not be opened but by SQLite: to close it would release all locks that
    this process holds on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit all of the block durably, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    found, filled = _version(db)
    if found == 0 and not filled:
        db.executescript(_SCHEMA)
        return
    while found in _MIGRATIONS:
        db.executescript(_MIGRATIONS[found])  # another process may do so too: it adds what lacks
        found += 1
    if found != VERSION:
        db.close()
        raise _unsupported(path, found)


def _version(db: sqlite3.Connection) -> tuple[int, bool]:
    """Give the version of the tables, and whether there are any."""
    found, filled = db.execute(  # in one statement: another process may be creating the tables
        "SELECT user_version, EXISTS (SELECT 1 FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    return int(found), bool(filled)


def _unsupported(path: Path, found: int) -> ArtifactError:
    return ArtifactError(
        f"{path} has tables of version {found}, this package supports version {VERSION}: use "
        "the package version that made it, or another `state` folder"
    )
