"""Intake: makes a received radiograph durable, then records it; only then may it be acknowledged.

Nothing is decoded here: a broken radiograph is stored like any other and fails in the worker.

The receiver and each poller are processes of their own with an intake each. The state folder is
what they share: whoever decides whether an image is new, places its file and writes its row holds
the lock of the file `intake.lock`, which the kernel releases with a process that dies.
"""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)

from chestxray import file_locks
from chestxray.artifacts import sha256
from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.config import Storage
from chestxray.serving.gateway.secondary_captures import SECONDARY_CAPTURE, recovered_modality
from chestxray.serving.gateway.spool import Spool, data_set_starts
from chestxray.serving.gateway.store import Image, Store

RADIOGRAPHS: Final[dict[str, str]] = {
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    DigitalXRayImageStorageForProcessing: "DX",
}
"""SOP classes that are received, and the modality of each."""

_UNKNOWN_SOURCE: Final = "recovered from disk"
_LOCK_SECONDS: Final = 60.0
_LOCK_INTERVAL: Final = 0.005
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_log = logging.getLogger(__name__)


class OutOfSpaceError(ChestXrayError):
    """The disk has less free space than `storage.free_mib`."""


class Intake:
    """The only way into the store, shared by all threads of a process.

    Args:
        store: a store that nothing else uses.
        storage: how much space must stay free.
        can_wait: whether what comes may be asked for again. Then it leaves more space free, so that
            it cannot keep out what is sent.
    """

    def __init__(self, store: Store, storage: Storage, *, can_wait: bool = False) -> None:
        self._store = store
        self._required = (
            (storage.free_mib + storage.spare_mib) // 2 if can_wait else storage.free_mib
        )
        self._lock = threading.Lock()  # of the database's connection
        path = store.images.parent / "intake.lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # open as long as the process

    def is_known(self, uid: str) -> bool:
        """Tell whether an image was received before, or is a result of this gateway."""
        with self._lock:
            return self._store.is_known(uid)

    def is_result(self, uid: str) -> bool:
        """Tell whether a UID is that of a result of this gateway."""
        with self._lock:
            return self._store.is_result(uid)

    def spool(self, head: bytes) -> Spool:
        """Open a spool for an image that arrives.

        Args:
            head: what precedes the data set in the file.
        """
        spool = Spool(self._store.images, head)
        try:
            self._check_space()
        except (OutOfSpaceError, OSError) as error:
            spool.fail(error)
        return spool

    def accept(self, uid: str, content: bytes | Spool, source: str, modality: str) -> bool:
        """Make an image durable and queue it; give False when it is known already.

        An image that was given up is replaced when it arrives with other bytes, such as after a
        broken transfer. Where any other known image arrives with another data set, the first one
        stays, and the audit record says so.

        Args:
            uid: SOP instance UID.
            content: the DICOM file, or the spool that has it.
            source: calling AE title, or the DICOMweb URL.
            modality: CR or DX.

        Raises:
            OutOfSpaceError: less free space is left than must stay.
            OSError: the disk is full or fails.
            sqlite3.Error: the row could not be written.
        """
        spool = content if isinstance(content, Spool) else self._spooled(content)
        image = Image(uid, spool.sha256, source, modality)
        try:
            if self._is_wanted(image) and self._take(spool, image):
                return True
            self._report_difference(spool, image)
        finally:
            spool.discard()
        return False

    def recover(self) -> int:
        """Queue images whose process was killed between file and row; give how many."""
        with self._alone():
            found = [path for path in self._store.files_without_row() if is_uid(path.stem)]
            for path in found:
                self._store.add(_recovered(path))
        return len(found)

    def _spooled(self, content: bytes) -> Spool:
        start = data_set_starts(io.BytesIO(content))
        spool = self.spool(content[:start])
        spool.write(content[start:])
        return spool

    def _is_wanted(self, image: Image) -> bool:
        """Tell whether an image is new, or replaces one that was given up."""
        with self._lock:
            return not self._store.is_known(image.uid) or self._replaces(image)

    def _take(self, spool: Spool, image: Image) -> bool:
        """Place file and row; give False where another thread or process was first."""
        spool.sync()  # before the lock, since it takes longest
        with self._alone():
            if self._store.is_known(image.uid) and not self._replaces(image):
                return False
            self._check_space()
            spool.move_to(self._store.image_file(image.uid))
            self._store.add(image)
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other thread or process places an image.

        Raises:
            OSError: one does so for too long.
        """
        end = time.monotonic() + _LOCK_SECONDS
        with self._lock:
            while not file_locks.take(self._file):
                if time.monotonic() > end:
                    raise BlockingIOError("another process has placed an image for too long")
                time.sleep(_LOCK_INTERVAL)
            try:
                yield
            finally:
                file_locks.release(self._file)

    def _check_space(self) -> None:
        free = self._store.free_mib()
        if free < self._required:
            raise OutOfSpaceError(f"{free} MiB are free, less than {self._required} must stay free")

    def _report_difference(self, spool: Spool, image: Image) -> None:
        """Say that a known image came with another data set, while the first is there to compare.

        The files of two senders differ in the sender's name, so that their hashes say nothing.
        """
        if self._is_the_same(image):
            return
        try:
            if not spool.differs_from(self._store.image_file(image.uid)):
                return
        except (OSError, OutOfSpaceError):  # it was removed after its delivery, or has no space
            return
        with self._lock:
            self._store.record_difference(image)
        extra = {"event": "different", "uid": image.uid, "source": image.source}
        _log.warning("a known image came with another data set; the first one stays", extra=extra)

    def _is_the_same(self, image: Image) -> bool:
        """Tell whether a known UID is a result's, or the image's with the same bytes."""
        with self._lock:
            return (
                not self._store.is_image(image.uid)
                or self._store.image(image.uid).sha256 == image.sha256
            )

    def _replaces(self, image: Image) -> bool:
        return self._store.is_given_up(image.uid) and (
            self._store.image(image.uid).sha256 != image.sha256
        )


def is_uid(text: str) -> bool:
    """Tell whether text is a UID (PS3.5 section 9.1), and so is safe as a file name."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _recovered(path: Path) -> Image:
    digest = sha256(path)
    try:
        meta = read_file_meta_info(path)
        source = str(meta.get("SourceApplicationEntityTitle", _UNKNOWN_SOURCE)).strip()
        modality = RADIOGRAPHS.get(meta.MediaStorageSOPClassUID, "")
        if meta.MediaStorageSOPClassUID == SECONDARY_CAPTURE:
            modality = recovered_modality(path)
    except Exception:  # noqa: BLE001 (whatever a hostile file raises)
        source, modality = _UNKNOWN_SOURCE, ""  # the worker reports what is wrong with the file
    return Image(path.stem, digest, source, modality)
