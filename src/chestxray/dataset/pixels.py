"""The one decoder: a file becomes a grey array, a grey array becomes the canonical square image.

Training and reading turn files into pixels through this module alone, so that a model never sees
an image made in two ways. The same file gives the same bytes in every call and process.

The rule, whose name is `PIXEL_RULE`:

1. Content decides the format (PNG, JPEG, DICOM); a file name that says otherwise is refused. A raw
   image of JSRT, which has no header, is known by its suffix `.img` and its size.
2. Colour becomes luminance (ITU-R BT.601), transparency is laid over black.
3. The image is padded with black to a square, centred, and resized by area averaging; an image
   smaller than the square wanted is enlarged bilinearly.
4. 16 bits become 8 by the nominal range (65535 becomes 255), never by the image's own minimum and
   maximum.
5. DICOM is shown as its own display pipeline says (`dicom.display`).

`dataset.radiograph.Radiograph` holds everything that is known of one file; use it where more than
the pixels is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.dicom import Header, decode_dicom
from chestxray.dataset.raster import decode_jpeg, decode_jsrt, decode_png
from chestxray.dicom_elements import is_dicom
from chestxray.errors import ImageError

PIXEL_RULE: Final = "luminance-nominal-padblack-area-1"
# The largest image that is read, 80 million pixels of 3 × 16 bits, has 480 MB.
_BYTE_LIMIT: Final = 512 * 2**20

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Canonical = npt.NDArray[np.uint8]
Kind = Literal["PNG", "JPEG", "DICOM", "JSRT"]
Placement = tuple[float, float, float, float]
Source = str | Path | bytes | BinaryIO

_SUPPORTED: Final = frozenset({"PNG", "JPEG", "DICOM"})
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
_RAW_SUFFIX: Final = ".img"
_SIGNATURES: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (8, b"WEBP", "WebP"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "ZIP"),
)


class _Decoded(NamedTuple):
    """What decoding a file gives.

    Attributes:
        kind: the file's format.
        pixels: grey uint8 or uint16 [h, w], over the type's whole nominal range, bright = dense.
        header: of a DICOM file, None of PNG and JPEG.
        chroma: mean difference of a pixel's strongest and weakest colour, from 0 (grey) to 1; 0 of
            DICOM.
    """

    kind: Kind
    pixels: Grey
    header: Header | None
    chroma: float


def contents(source: Source) -> tuple[Path, bytes]:
    """Give the name and the bytes of an image file.

    Args:
        source: the file's path, its bytes, or a binary file open at its beginning.

    Raises:
        ImageError: it cannot be read, is empty, or is larger than 512 MB.
    """
    path = name_of(source)
    try:
        if isinstance(source, bytes):
            data = source
        elif isinstance(source, str | Path):
            with path.open("rb") as file:
                data = file.read(_BYTE_LIMIT + 1)
        else:
            data = source.read(_BYTE_LIMIT + 1)
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError(path, "the file is empty")
    if len(data) > _BYTE_LIMIT:
        raise ImageError(
            path, f"the file is larger than {_BYTE_LIMIT // 2**20} MB, the most that is read"
        )
    return path, data


def name_of(source: Source) -> Path:
    """Give the path, or a name to use in messages where there is none."""
    if isinstance(source, str | Path):
        return Path(source)
    name = getattr(source, "name", None)
    return Path(name) if isinstance(name, str) else Path("<bytes>")


def _kind_of(data: bytes) -> str | None:
    """Name the format that a file's first bytes show, such as PNG, DICOM or TIFF; else None."""
    if is_dicom(data):
        return "DICOM"
    return next((name for at, magic, name in _SIGNATURES if data.startswith(magic, at)), None)


def decode_bytes(path: Path, data: bytes) -> _Decoded:
    """Decode the bytes of a PNG, JPEG or DICOM file, or of a raw image of JSRT.

    Args:
        path: named in errors. Its suffix may be missing or unknown, but not that of another format.
        data: the file.

    Raises:
        ImageError: truncated, corrupt, too large, of another format than its name says, or not a
            radiograph.
    """
    kind, named = _kind_of(data), _BY_SUFFIX.get(path.suffix.lower())
    if kind is None and path.suffix.lower() == _RAW_SUFFIX:
        return _Decoded("JSRT", decode_jsrt(path, data), None, 0.0)
    if kind is None:
        cause = "the file is damaged or not an image" if named in _SUPPORTED else "not supported"
        raise ImageError(path, f"the content is not PNG, JPEG or DICOM: {cause}")
    if named is not None and named != kind:
        raise ImageError(
            path,
            f"the name says {named} ({path.suffix}), but the content is {kind}: rename the file",
        )
    if kind == "DICOM":
        return _Decoded("DICOM", *decode_dicom(path, data), 0.0)
    if kind not in _SUPPORTED:
        raise ImageError(
            path, f"the content is {kind}: only PNG, JPEG and DICOM files are supported"
        )
    pixels, chroma = (decode_png if kind == "PNG" else decode_jpeg)(path, data)
    return _Decoded(cast("Kind", kind), pixels, None, chroma)


def decode(source: Source) -> Grey:
    """Decode a PNG, JPEG or DICOM file to grey uint8 or uint16 [h, w]; raises `ImageError`."""
    return decode_bytes(*contents(source)).pixels


def canonical(image: Grey, size: int) -> Canonical:
    """Make the square image that the model sees.

    Args:
        image: grey uint8 or uint16 [h, w].
        size: side of the result, pixels.

    Returns:
        uint8 [size, size]; `placement` says where the original lies in it.
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
        # OpenCV's area averaging repeats pixels in blocks when it enlarges.
        method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR_EXACT
        square = cv2.resize(square, (size, size), interpolation=method)
    if square.dtype == np.uint16:
        return ((square.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.array(square, dtype=np.uint8)


def placement(width: int, height: int) -> Placement:
    """Say where an image of this size lies in its canonical square.

    Returns:
        x, y, w, h as fractions of the square's side, top-left origin.
    """
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return left / side, top / side, width / side, height / side
