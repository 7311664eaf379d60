"""One radiograph: its bytes, their SHA-256, the decoded pixels and the header, made once.

Whoever needs more than one of these makes a `Radiograph` and passes it on, so that a file is read,
hashed and decoded once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from chestxray.dataset.dicom import Header
from chestxray.dataset.pixels import (
    Canonical,
    Grey,
    Kind,
    Placement,
    Source,
    canonical,
    contents,
    decode_bytes,
    placement,
)


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One decoded image file.

    Attributes:
        path: of the file; `<bytes>` where it has none.
        data: the file's bytes.
        kind: the file's format, decided by its content.
        pixels: grey uint8 or uint16 [h, w], over the type's whole nominal range, bright = dense.
        header: what a DICOM file says of its image; None of PNG and JPEG.
        chroma: mean difference of a pixel's strongest and weakest colour, from 0 (grey) to 1.
    """

    path: Path
    data: bytes = field(repr=False)
    kind: Kind
    pixels: Grey = field(repr=False)
    header: Header | None = field(repr=False)
    chroma: float

    @classmethod
    def read(cls, source: Source) -> Self:
        """Read and decode a PNG, JPEG or DICOM file.

        Args:
            source: the file's path, its bytes, or a binary file open at its beginning. The suffix
                of a name may be missing or unknown, but not that of another format.

        Raises:
            ImageError: missing, empty, truncated, corrupt, too large, of another format than its
                name says, or not a radiograph.
        """
        path, data = contents(source)
        decoded = decode_bytes(path, data)
        return cls(path, data, decoded.kind, decoded.pixels, decoded.header, decoded.chroma)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pixels_sha256(self) -> str:
        """SHA-256 over the type, the shape and the bytes of the decoded pixels, in hexadecimal.

        Equal for files that show the same pixels, whatever their format and their metadata.
        """
        digest = hashlib.sha256(f"{self.pixels.dtype.name} {self.pixels.shape}".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()

    @property
    def placement(self) -> Placement:
        """Where the image lies in its canonical square: x, y, w, h as fractions of its side."""
        height, width = self.pixels.shape
        return placement(width, height)

    def canonical(self, size: int) -> Canonical:
        """Give the square image that a model sees, uint8 [size, size]."""
        return canonical(self.pixels, size)
