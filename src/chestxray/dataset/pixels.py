"""The one decoder: a file becomes a grey array, a grey array becomes the canonical square image.

Training and reading turn files into pixels through this module alone, so that a model never sees
an image made in two ways. The same file gives the same bytes in every call and process.

The rule, whose name is `PIXEL_RULE`:

1. Content decides the format (PNG, JPEG, DICOM); a file name that says otherwise is refused.
2. Colour becomes luminance (ITU-R BT.601), transparency is laid over black.
3. The image is padded with black to a square, centred, and resized by area averaging; an image
   smaller than the square wanted is enlarged bilinearly.
4. 16 bits become 8 by the nominal range (65535 becomes 255), never by the image's own minimum and
   maximum.
5. DICOM is shown as its own display pipeline says (`dicom.display`).
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.dicom import Header, decode_dicom
from chestxray.dataset.radiograph import Source, contents
from chestxray.dataset.raster import decode_jpeg, decode_png
from chestxray.errors import ImageError

PIXEL_RULE: Final = "luminance-nominal-padblack-area-1"

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Canonical = npt.NDArray[np.uint8]

_READ: Final = frozenset({"PNG", "JPEG", "DICOM"})
_BY_SUFFIX: Final = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
}
_SIGNATURES: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (128, b"DICM", "DICOM"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (8, b"WEBP", "WebP"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "ZIP"),
)


def decode(source: Source) -> Grey:
    """Decode a PNG, JPEG or DICOM file; see `read`, which tells more of DICOM."""
    return read(source)[0]


def read(source: Source) -> tuple[Grey, Header | None]:
    """Decode a PNG, JPEG or DICOM file, and tell what a DICOM file says of its image.

    Args:
        source: the file's path, its bytes, or a binary file open at its beginning. The suffix of
            a name may be missing or unknown, but not that of another format.

    Returns:
        Grey uint8 or uint16 [h, w], over the type's whole nominal range, bright = dense; and the
        header, None of PNG and JPEG.

    Raises:
        ImageError: not there, empty, truncated, corrupt, too large, of another format than its
            name says, or no radiograph.
    """
    path, data = contents(source)
    kind = _format_of(data)
    named = _BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        what = "a damaged file" if named in _READ else "another format"
        raise ImageError(path, f"its content is no PNG, JPEG or DICOM: {what} or no image")
    if named is not None and named != kind:
        raise ImageError(
            path, f"the name says {named} ({path.suffix}), the content is {kind}: rename the file"
        )
    if kind == "DICOM":
        return decode_dicom(path, data)
    if kind not in _READ:
        raise ImageError(path, f"its content is {kind}: only PNG, JPEG and DICOM are read")
    return (decode_png if kind == "PNG" else decode_jpeg)(path, data), None


def canonical(image: Grey, size: int) -> Canonical:
    """Make the square image that the model sees.

    Args:
        image: grey uint8 or uint16 [h, w].
        size: side of the result, pixels.

    Returns:
        uint8 [size, size]; where the original lies in it is told by `placement`.
    """
    height, width = image.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    if height != width:
        right, bottom = side - width - left, side - height - top
        square = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    else:
        square = image
    if side != size:
        # OpenCV's area averaging is none when enlarging: it would repeat pixels in blocks.
        method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR_EXACT
        square = cv2.resize(square, (size, size), interpolation=method)
    if square.dtype == np.uint16:
        return ((square.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.array(square, dtype=np.uint8)


def load(source: Source, size: int) -> Canonical:
    """Decode a file into the canonical uint8 [size, size]; raises `ImageError`."""
    return canonical(decode(source), size)


def placement(width: int, height: int) -> tuple[float, float, float, float]:
    """Tell where an image of this size lies in its canonical square.

    Returns:
        x, y, w, h as fractions of the square's side, top-left origin.
    """
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return left / side, top / side, width / side, height / side


def _format_of(data: bytes) -> str | None:
    for offset, magic, name in _SIGNATURES:
        if data.startswith(magic, offset):
            return name
    return None
