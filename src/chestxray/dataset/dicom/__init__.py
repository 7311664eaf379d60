"""DICOM radiographs: a file to the grey array that it is meant to show, and what it says.

    bytes ─ elements ─ form ─ codecs ─ display ─ film.read → uint16 [h, w], Header

`elements` walks the file, `form` checks the image's size and bits, `codecs` decode the samples,
`display` turns them into grey, `header` gathers what the reading gate judges by.
"""

from chestxray.dataset.dicom.decode import Header, decode_dicom, read

__all__ = ["Header", "decode_dicom", "read"]
