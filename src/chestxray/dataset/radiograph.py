"""A path, bytes or an open file become a name for messages and bytes in memory, never too many."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

from chestxray.errors import ImageError

# The largest image that is read, 80 million pixels of 3 × 16 bits, has 480 MB.
BYTE_LIMIT: Final = 512 * 2**20

Source = str | Path | bytes | BinaryIO


def contents(source: Source) -> tuple[Path, bytes]:
    """Give the name and the bytes of an image file.

    Args:
        source: the file's path, its bytes, or a binary file open at its beginning.

    Raises:
        ImageError: it cannot be read, is empty, or has more than `BYTE_LIMIT` bytes.
    """
    path = name_of(source)
    try:
        if isinstance(source, bytes):
            data = source
        elif isinstance(source, str | Path):
            with path.open("rb") as file:
                data = file.read(BYTE_LIMIT + 1)
        else:
            data = source.read(BYTE_LIMIT + 1)
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError(path, "the file is empty")
    if len(data) > BYTE_LIMIT:
        raise ImageError(path, f"more than {BYTE_LIMIT // 2**20} MB: no radiograph is that large")
    return path, data


def name_of(source: Source) -> Path:
    """Give the path, or what stands for it in a message."""
    if isinstance(source, str | Path):
        return Path(source)
    name = getattr(source, "name", None)
    return Path(name) if isinstance(name, str) else Path("<bytes>")
