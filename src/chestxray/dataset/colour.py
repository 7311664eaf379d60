"""How much colour a file's picture has, which its luminance no longer tells."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image

from chestxray.dataset.intake import Source, contents

_GREY: Final = ("1", "L", "I", "F")  # Pillow's grey modes begin so: also LA, I;16
_SIDE: Final = 256


def chroma(source: Source) -> float:
    """Give the mean difference of a pixel's strongest and weakest colour, from 0 (grey) to 1.

    A file that says it is grey is not decoded. A DICOM file counts as grey.

    Args:
        source: a PNG or JPEG that `pixels.read` has read, as its path, bytes, or an open file.
    """
    data = contents(source)[1]
    if data[128:132] == b"DICM":
        return 0.0
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
        if picture.mode.startswith(_GREY):
            return 0.0
        picture.draft("RGB", (_SIDE, _SIDE))
        small = picture.convert("RGB").reduce(max(1, max(picture.size) // _SIDE))
    channels = np.asarray(small, np.float32)
    return float((channels.max(axis=2) - channels.min(axis=2)).mean() / 255)
