"""What the gateway holds: images, their results, and where each of them stands.

    state/
      lock              held by the gateway that runs on it
      queue.sqlite      images, results, tasks, positions of sources, audit record
      images/           <SOP instance UID>.dcm as received
      outbox/           <SOP instance UID>.dcm as sent, bytes written once

An image is a task of the queue `read`; a result is one of the queue `send:<destination>` for each
destination that gets it. Rows stay when files go, so what comes again is known.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chestxray.artifacts import sync_folder
from chestxray.serving.gateway import audit
from chestxray.serving.gateway import queue as tasks
from chestxray.serving.gateway.database import connect, transaction
from chestxray.serving.gateway.queue import Task

READ: Final = "read"


def sending(destination: str) -> str:
    """Name the queue of a destination."""
    return f"send:{destination}"


@dataclass(frozen=True)
class Image:
    """A received radiograph.

    Attributes:
        uid: SOP instance UID.
        sha256: of the file as received.
        source: calling AE title, or the DICOMweb address.
        modality: CR or DX by its SOP class; empty where that is not known.
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
        kind: sr, sc or regions.
        sha256: of the file.
        destinations: names of where it goes.
    """

    uid: str
    kind: str
    sha256: str
    destinations: Sequence[str]


class Store:
    """The folder and its database; open one in each process and thread."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.outbox = folder / "outbox"
        new = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # patients' images: ours alone
        for made in (self.images, self.outbox):
            made.mkdir(exist_ok=True)
        self.db = connect(folder / "queue.sqlite")
        for made in (folder, folder.parent) if new else (folder,):
            sync_folder(made)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def image_file(self, uid: str) -> Path:
        """Name the file of a received image."""
        return self.images / f"{uid}.dcm"

    def result_file(self, uid: str) -> Path:
        """Name the file of a result."""
        return self.outbox / f"{uid}.dcm"

    def add(self, image: Image) -> None:
        """Enter and queue an image whose file is durable, in the place of one that was given up."""
        with transaction(self.db):
            if self.gave_up(image.uid):
                tasks.remove(self.db, READ, image.uid)
                self.db.execute("DELETE FROM images WHERE uid = ?", (image.uid,))
            self.db.execute(
                "INSERT INTO images (uid, sha256, source, modality, received) "
                "VALUES (?, ?, ?, ?, ?)",
                (image.uid, image.sha256, image.source, image.modality, time.time()),
            )
            tasks.add(self.db, READ, image.uid)
            about = {"image": image.uid, "sha256": image.sha256, "source": image.source}
            audit.append(self.db, "received", about)

    def known(self, uid: str) -> bool:
        """Tell whether an image was entered before, or is a result of ours."""
        found = self.db.execute(
            "SELECT 1 FROM images WHERE uid = ? UNION SELECT 1 FROM results WHERE uid = ?",
            (uid, uid),
        )
        return found.fetchone() is not None

    def gave_up(self, uid: str) -> bool:
        """Tell whether an image was entered and could not be read."""
        found = self.db.execute(
            "SELECT 1 FROM tasks WHERE queue = ? AND item = ? AND state IN ('dead', 'discarded')",
            (READ, uid),
        )
        return found.fetchone() is not None

    def image(self, uid: str) -> Image:
        """Give an image that is known."""
        row = self.db.execute("SELECT * FROM images WHERE uid = ?", (uid,)).fetchone()
        return Image(row["uid"], row["sha256"], row["source"], row["modality"])

    def without_row(self) -> Iterator[Path]:
        """Give files of images that no row names: the receiver died between file and row."""
        for path in sorted(self.images.glob("*.dcm")):
            if not self.known(path.stem):
                yield path

    def claim(self, queue: str, lease: float, most: int, holder: str = "") -> Task | None:
        """Take a task; see `tasks.claim`."""
        return tasks.claim(self.db, queue, lease, most, holder)

    def release(self, queue: str, holder: str, *, died: bool) -> int:
        """Free what a holder held; see `tasks.release`."""
        with transaction(self.db):
            return tasks.release(self.db, queue, holder, died=died)

    def fail(self, task: Task, reason: str, most: int) -> bool:
        """Try a task again later or give it up; see `tasks.fail`."""
        with transaction(self.db):
            return tasks.fail(self.db, task, reason, most)

    def give_back(self, task: Task, reason: str, seconds: float) -> None:
        """Try a task again later, without counting; see `tasks.give_back`."""
        with transaction(self.db):
            tasks.give_back(self.db, task, reason, seconds)

    def finish_reading(
        self, task: Task, model: str, results: Sequence[Result], refusal: str = ""
    ) -> bool:
        """Note that an image was read: its results, deliveries and audit entry, together and once.

        Args:
            task: that was claimed.
            model: identity of what read it.
            results: what lies in the outbox.
            refusal: why the gate refused it, where it did.

        Returns:
            False when another worker, after this one's lease ran out, was first.
        """
        with transaction(self.db):
            if not tasks.finish(self.db, task, refusal):
                return False
            for result in results:
                self.db.execute(
                    "INSERT INTO results VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (result.uid, task.item, result.kind, result.sha256),
                )
                for destination in result.destinations:
                    tasks.add(self.db, sending(destination), result.uid)
            self._audit_reading(task, model, results, refusal)
        return True

    def finish_sending(self, task: Task) -> None:
        """Note that a destination has a result."""
        with transaction(self.db):
            if tasks.finish(self.db, task):
                audit.append(self.db, "sent", {"queue": task.queue, "item": task.item})

    def _audit_reading(
        self, task: Task, model: str, results: Sequence[Result], refusal: str
    ) -> None:
        image = self.image(task.item)
        about: dict[str, Any] = {"image": image.uid, "sha256": image.sha256, "model": model}
        about["outcome"] = "refused" if refusal else "read"
        if refusal:
            about["reason"] = refusal
        audit.append(
            self.db, "read", about | {"results": {made.uid: made.sha256 for made in results}}
        )
