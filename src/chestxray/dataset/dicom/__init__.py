"""DICOM radiographs: a file to the grey array that it is meant to show, and its header.

    bytes ─ dicom_elements ─ pixel_data ─ display ─ decode → uint16 [h, w], Header

`chestxray.dicom_elements` walks the file, `pixel_data` checks the image's size and bits and decodes
the samples, `display` turns them into grey, `decode` puts these together and reads the header.
Names are loaded when they are first used: a process that only receives files decodes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.dataset.dicom.decode import Header, Spacing, decode_dicom

__all__ = ["Header", "Spacing", "decode_dicom"]

__getattr__ = exports(__name__, {"decode": ("Header", "Spacing", "decode_dicom")})
