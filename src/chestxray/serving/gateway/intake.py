"""Intake: makes a received radiograph durable, then records it; only then may it be acknowledged.

Nothing is decoded here: a broken radiograph is stored like any other and fails in the worker.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import struct
import threading
from pathlib import Path
from typing import Final

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)

from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.config import Storage
from chestxray.serving.gateway.spool import Spool, data_set_starts
from chestxray.serving.gateway.store import Image, Store

RADIOGRAPHS: Final[dict[str, str]] = {
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    DigitalXRayImageStorageForProcessing: "DX",
}
"""SOP classes that are received, and the modality of each."""

_UNKNOWN_SOURCE: Final = "recovered from disk"
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_log = logging.getLogger(__name__)


class OutOfSpaceError(ChestXrayError):
    """The disk has less free space than `storage.free_mib`."""


class Intake:
    """The only way into the store, shared by all threads of the receiver's process.

    Args:
        store: a store that nothing else uses.
        storage: how much space must stay free.
    """

    def __init__(self, store: Store, storage: Storage) -> None:
        self._store = store
        self._storage = storage
        self._lock = threading.Lock()  # one image at a time: two with the same UID must not mix

    def is_known(self, uid: str) -> bool:
        """Tell whether an image was received before, or is a result of this gateway."""
        with self._lock:
            return self._store.is_known(uid)

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
            OutOfSpaceError: less than `storage.free_mib` is free.
            OSError: the disk is full or fails.
            sqlite3.Error: the row could not be written.
        """
        spool = content if isinstance(content, Spool) else self._spooled(content)
        try:
            with self._lock:
                return self._take(spool, Image(uid, spool.sha256, source, modality))
        finally:
            spool.discard()

    def recover(self) -> int:
        """Queue images whose receiver was killed between file and row; give how many."""
        with self._lock:
            found = [path for path in self._store.files_without_row() if is_uid(path.stem)]
            for path in found:
                self._store.add(_recovered(path))
        return len(found)

    def _spooled(self, content: bytes) -> Spool:
        start = data_set_starts(io.BytesIO(content))
        spool = self.spool(content[:start])
        spool.write(content[start:])
        return spool

    def _take(self, spool: Spool, image: Image) -> bool:
        path = self._store.image_file(image.uid)
        if self._store.is_known(image.uid) and not self._replaces(image):
            self._report_difference(spool, image, path)
            return False
        self._check_space()
        spool.move_to(path)
        self._store.add(image)
        return True

    def _check_space(self) -> None:
        free, required = self._store.free_mib(), self._storage.free_mib
        if free < required:
            raise OutOfSpaceError(f"{free} MiB are free, less than free_mib = {required}")

    def _report_difference(self, spool: Spool, image: Image, path: Path) -> None:
        """Say that a known image came with another data set, while the first is there to compare.

        The files of two senders differ in the sender's name, so that their hashes say nothing.
        """
        if (
            not self._store.is_image(image.uid)
            or self._store.image(image.uid).sha256 == image.sha256
        ):
            return
        try:
            if not spool.differs_from(path):
                return
        except (OSError, OutOfSpaceError):  # it was removed after its delivery, or has no space
            return
        self._store.record_difference(image)
        extra = {"event": "different", "uid": image.uid, "source": image.source}
        _log.warning("a known image came with another data set; the first one stays", extra=extra)

    def _replaces(self, image: Image) -> bool:
        return self._store.is_given_up(image.uid) and (
            self._store.image(image.uid).sha256 != image.sha256
        )


def is_uid(text: str) -> bool:
    """Tell whether text is a UID (PS3.5 section 9.1), and so is safe as a file name."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _recovered(path: Path) -> Image:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        meta = read_file_meta_info(path)
        source = str(meta.get("SourceApplicationEntityTitle", _UNKNOWN_SOURCE)).strip()
        modality = RADIOGRAPHS.get(meta.MediaStorageSOPClassUID, "")
    except (InvalidDicomError, AttributeError, EOFError, ValueError, struct.error):
        source, modality = _UNKNOWN_SOURCE, ""  # the worker reports what is wrong with the file
    return Image(path.stem, digest, source, modality)
