"""A spool: one object on the disk while it arrives, so that it is never whole in memory.

It lies beside the received images under a temporary name and becomes an image by a rename. What a
killed process leaves is removed by retention like any other temporary file.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import IO, Final

from chestxray.artifacts import PART, sync_folder

BEGINNING: Final = 2**16
"""Bytes of a data set that stay in memory, in which its SOP class and instance UID are."""

_CHUNK: Final = 2**20


class Spool:
    """A file that grows by fragments; a failure to write is raised when it shall become an image.

    Until then the rest is dropped, so that the sender can be answered.

    Args:
        folder: of the received images.
        head: what precedes the data set in the file.

    Attributes:
        head: what precedes the data set.
        beginning: the first bytes of the data set.
        error: why it could not be written.
    """

    def __init__(self, folder: Path, head: bytes) -> None:
        self.path = folder / f".{uuid.uuid4().hex}{PART}"
        self.beginning = bytearray()
        self.error: Exception | None = None
        self.head = head
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None
        try:
            self._file = self.path.open("xb")
        except OSError as error:
            self.error = error
        self._add(head)

    @property
    def sha256(self) -> str:
        """Give the SHA-256 of all that was written, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, fragment: bytes | memoryview) -> None:
        """Append a fragment of the data set."""
        room = BEGINNING - len(self.beginning)
        if room > 0:
            self.beginning += fragment[:room]
        self._add(fragment)

    def fail(self, error: Exception) -> None:
        """Drop what is here and what follows; the error is raised in the end."""
        self.error = error
        self.discard()

    def sync(self) -> None:
        """Make what was written durable.

        Raises:
            OSError: it could not be written.
            ChestXrayError: the error it failed with.
        """
        if self.error is None and self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.close()
        self.check()

    def check(self) -> None:
        """Raise the error that kept it from being written, where there is one."""
        if self.error is not None:
            raise self.error

    def move_to(self, path: Path) -> None:
        """Give it another name, durably, after `sync`.

        Raises:
            OSError: it cannot be renamed.
        """
        self.path.replace(path)
        sync_folder(path.parent)

    def differs_from(self, path: Path) -> bool:
        """Tell whether the data set of a DICOM file differs; the senders' names may differ.

        Raises:
            OSError: this or that cannot be read.
        """
        self.close()
        self.check()
        with self.path.open("rb") as ours, path.open("rb") as theirs:
            ours.seek(len(self.head))
            theirs.seek(data_set_starts(theirs))
            while (chunk := ours.read(_CHUNK)) == theirs.read(_CHUNK):
                if not chunk:
                    return False
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:  # the disk is full
            self.error = self.error or error
        self._file = None

    def discard(self) -> None:
        """Remove the file, unless it has become an image."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _add(self, content: bytes | memoryview) -> None:
        if self.error is not None or self._file is None:
            return
        try:
            self._file.write(content)
        except OSError as error:
            self.fail(error)
        else:
            self._digest.update(content)


def data_set_starts(file: IO[bytes]) -> int:
    """Give where the data set starts: after preamble, prefix and file meta (PS3.10 section 7.1)."""
    group_length = file.read(144)[140:144]
    return 144 + int.from_bytes(group_length, "little")
