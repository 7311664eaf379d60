"""Intake: makes a received radiograph durable, then records it; only then may it be acknowledged.

Nothing is decoded here: a broken radiograph is stored like any other and fails in the worker.
"""

from __future__ import annotations

import hashlib
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

from chestxray.artifacts import write_bytes
from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.config import Storage
from chestxray.serving.gateway.store import Image, Store

RADIOGRAPHS: Final[dict[str, str]] = {
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    DigitalXRayImageStorageForProcessing: "DX",
}
"""SOP classes that are received, and the modality of each."""

_UNKNOWN_SOURCE: Final = "recovered from disk"
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")


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

    def accept(self, uid: str, content: bytes, source: str, modality: str) -> bool:
        """Make an image durable and queue it; give False when it is known already.

        An image that was given up is replaced when it arrives with other bytes, such as after a
        broken transfer.

        Args:
            uid: SOP instance UID.
            content: the DICOM file.
            source: calling AE title, or the DICOMweb URL.
            modality: CR or DX.

        Raises:
            OutOfSpaceError: less than `storage.free_mib` is free.
            OSError: the disk is full or fails.
            sqlite3.Error: the row could not be written.
        """
        image = Image(uid, hashlib.sha256(content).hexdigest(), source, modality)
        with self._lock:
            if self._store.is_known(uid) and not self._replaces(image):
                return False
            free, required = self._store.free_mib(), self._storage.free_mib
            if free < required:
                raise OutOfSpaceError(f"{free} MiB are free, less than free_mib = {required}")
            write_bytes(self._store.image_file(uid), content)
            self._store.add(image)
        return True

    def recover(self) -> int:
        """Queue images whose receiver was killed between file and row; give how many."""
        with self._lock:
            found = [path for path in self._store.files_without_row() if is_uid(path.stem)]
            for path in found:
                self._store.add(_recovered(path))
        return len(found)

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
