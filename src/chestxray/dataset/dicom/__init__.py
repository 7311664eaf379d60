"""DICOM radiographs: a file to the grey array that it is meant to show, and what it says.

    bytes ─ elements ─ form ─ codecs ─ display ─ film.read → uint16 [h, w], Header

`elements` walks the file, `form` checks the image's size and bits, `codecs` decode the samples,
`display` turns them into grey, `header` gathers what the reading gate judges by.
"""

from chestxray.dataset.dicom.film import decode_dicom, read
from chestxray.dataset.dicom.header import Header

__all__ = ["Header", "decode_dicom", "read"]
