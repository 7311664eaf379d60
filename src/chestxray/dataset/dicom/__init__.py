"""DICOM radiographs: a file to the grey array that it is meant to show, and its header.

    bytes ─ elements ─ pixel_data ─ display ─ decode → uint16 [h, w], Header

`elements` walks the file, `pixel_data` checks the image's size and bits and decodes the samples,
`display` turns them into grey, `decode` puts these together and reads the header.
"""

from chestxray.dataset.dicom.decode import Header, decode_dicom
from chestxray.dataset.dicom.elements import is_dicom

__all__ = ["Header", "decode_dicom", "is_dicom"]
