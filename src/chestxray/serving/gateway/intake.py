"""Taking a radiograph in: bytes to the disk, then its row, then whoever brought it may forget it.

Nothing is decoded here: a broken radiograph is durable first and judged later.
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

from chestxray import artifacts as durable
from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.config import Storage
from chestxray.serving.gateway.store import Image, Store

RADIOGRAPHS: Final[dict[str, str]] = {
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    DigitalXRayImageStorageForProcessing: "DX",
}
FOUND: Final = "found on the disk"
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")


class OutOfSpaceError(ChestXrayError):
    """The disk has less free space than the configuration asks for."""


class Intake:
    """The one way into the store, for all threads of the receiver.

    Args:
        store: that nobody else uses.
        storage: how much space must stay free.
    """

    def __init__(self, store: Store, storage: Storage) -> None:
        self._store = store
        self._storage = storage
        self._lock = threading.Lock()  # one image at a time: two of one UID must not mix

    def known(self, uid: str) -> bool:
        """Tell whether an image was received before, or is a result of ours."""
        with self._lock:
            return self._store.known(uid)

    def take(self, uid: str, content: bytes, source: str, modality: str) -> bool:
        """Make an image durable and enter it; False when it is known.

        One that was given up as dead is known by its bytes alone: sent again with others, after a
        broken transfer, it is taken in the place of the first.

        Args:
            uid: SOP instance UID.
            content: the DICOM file.
            source: calling AE title, or the DICOMweb address.
            modality: CR or DX.

        Raises:
            OutOfSpaceError: the disk is below the watermark.
            OSError: the disk is full or fails.
            sqlite3.Error: the same, when the row was to be written.
        """
        image = Image(uid, hashlib.sha256(content).hexdigest(), source, modality)
        with self._lock:
            if self._store.known(uid) and not self._replaces(image):
                return False
            free = durable.free_mib(self._store.images)
            if free < self._storage.free_mib:
                least = self._storage.free_mib
                raise OutOfSpaceError(f"{free} MiB are free, less than free_mib = {least}")
            durable.write(self._store.image_file(uid), content)
            self._store.add(image)
        return True

    def take_up(self) -> int:
        """Enter images whose receiver died between file and row; how many it were."""
        with self._lock:
            found = [path for path in self._store.without_row() if is_uid(path.stem)]
            for path in found:
                self._store.add(_found(path))
        return len(found)

    def _replaces(self, image: Image) -> bool:
        return self._store.gave_up(image.uid) and (
            self._store.image(image.uid).sha256 != image.sha256
        )


def is_uid(text: str) -> bool:
    """Tell whether a text is a UID (PS3.5 section 9.1), and so safe as a file's name."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _found(path: Path) -> Image:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        meta = read_file_meta_info(path)
        source = str(meta.get("SourceApplicationEntityTitle", FOUND)).strip()
        modality = RADIOGRAPHS.get(meta.MediaStorageSOPClassUID, "")
    except (InvalidDicomError, AttributeError, EOFError, ValueError, struct.error):
        source, modality = FOUND, ""  # the worker says what is wrong with it
    return Image(path.stem, digest, source, modality)
