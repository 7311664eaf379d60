"""PNG and JPEG bytes to grey arrays, with how much colour they had; damaged files are refused.

The raw images of JSRT are read here too: 2048 × 2048 values of 12 bits, in two bytes each, the
higher first, without a header. They are densities of film, so that a high value is dark.

The container is walked first (every chunk and checksum of a PNG, the segments of a JPEG up to its
first scan), which tells the size before memory is taken for it and names the damage. The number of
chunks, segments and scans is limited: each costs time, and a scan of a few bytes as much as one of
a whole image.

PNG goes to OpenCV: on NIH's files of 1024 px it took 9.1 ms for 8 bits and 14.0 ms for 16 against
Pillow's 11.2 and 14.8. JPEG goes to Pillow (4.3 ms against OpenCV's 3.4), since OpenCV fills a
truncated JPEG with grey and returns it. What neither tells: a JPEG whose middle is missing while
its end is there; the format has no checksum.

References: PNG (W3C, third edition), sections 5 and 11; JPEG (ITU-T T.81), annex B.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from chestxray.errors import ImageError

# A radiograph of 35 × 43 cm scanned at 50 µm has 60 million pixels.
_PIXEL_LIMIT: Final = 80_000_000
# Every image is padded to a square: at this side that takes 400 MB.
_SIDE_LIMIT: Final = 20_000
# A progressive JPEG of libjpeg has 6 scans (grey) or 10 (colour); optimisers make up to 20.
_SCAN_LIMIT: Final = 100
# An ICC profile may fill 255 segments (ICC.1, annex B.4); a PNG of 80 megapixels has 20,000 chunks.
_SEGMENT_LIMIT: Final = 10_000
_CHUNK_LIMIT: Final = 200_000
# Second bytes of the frame markers of T.81, the lossless ones among them.
JPEG_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})

_JSRT_SIDE: Final = 2048  # pixels
_JSRT_TOP: Final = 4095  # 12 bits

_Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_PNG_SIGNATURE_LENGTH: Final = 8
# What colour management and text would do to the pixels is not wanted, nor libpng's complaints
# about them: NIH's RGBA files carry a grey ICC profile that it warns of on standard error.
_PNG_CHUNKS_USED: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_JPEG_SCAN: Final = 0xDA
_JPEG_SCAN_MARKER: Final = b"\xff\xda"
_CHROMA_SIDE: Final = 256  # pixels, at which the colour of an image is measured


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse what holds, or padded to a square would hold, too many pixels (`ImageError`)."""
    if not width or not height:
        raise ImageError(path, f"the header says {width} × {height} pixels")
    if max(width, height) > _SIDE_LIMIT:
        raise ImageError(
            path,
            f"the header says {width} × {height} pixels: no side may exceed {_SIDE_LIMIT}",
        )
    if width * height > _PIXEL_LIMIT:
        raise ImageError(
            path,
            f"the header says {width} × {height} pixels: at most {_PIXEL_LIMIT // 10**6} million "
            f"are read (a decompression bomb?)",
        )


def decode_png(path: Path, data: bytes) -> tuple[_Grey, float]:
    """Decode a PNG of 1 to 16 bits, grey, colour or palette, with or without transparency.

    Args:
        path: named in errors.
        data: the file's bytes.

    Returns:
        uint8 [h, w], or uint16 [h, w] of a 16-bit file; and the chroma, 0 (grey) to 1.

    Raises:
        ImageError: truncated, a wrong checksum, damaged data, or too large.
    """
    kept = [data[:_PNG_SIGNATURE_LENGTH]]
    for kind, chunk in _png_chunks(path, data):
        if kind in _PNG_CHUNKS_USED:
            kept.append(chunk)
        if kind == b"IHDR":
            check_size(path, *struct.unpack_from(">II", chunk, 8))
    image = cv2.imdecode(np.frombuffer(b"".join(kept), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError(path, "the PNG data are damaged")
    pixels = np.asarray(image)
    return luminance(pixels, cv2.COLOR_BGR2GRAY), _chroma(pixels)


def decode_jpeg(path: Path, data: bytes) -> tuple[_Grey, float]:
    """Decode a JPEG of 8 bits, grey or colour, turned as its EXIF orientation says.

    Args:
        path: named in errors.
        data: the file's bytes.

    Returns:
        uint8 [h, w], and the chroma, 0 (grey) to 1.

    Raises:
        ImageError: truncated, damaged, too large, of more than 8 bits, or CMYK.
    """
    frame = jpeg_frame(data, JPEG_FRAMES)
    excess = jpeg_excess(data)
    if excess:
        raise ImageError(path, excess)
    if frame is None:
        raise ImageError(path, "truncated or damaged: the JPEG has no frame header")
    bits, height, width, components = frame
    check_size(path, width, height)
    if bits != 8 or components not in {1, 3}:
        raise ImageError(
            path,
            f"a JPEG of {bits} bits and {components} components: it must be 8-bit grey or colour",
        )
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as file:
            image = np.asarray(ImageOps.exif_transpose(file))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ImageError(path, f"the JPEG data are truncated or damaged: {error}") from error
    return luminance(image, cv2.COLOR_RGB2GRAY), _chroma(image)


def decode_jsrt(path: Path, data: bytes) -> npt.NDArray[np.uint16]:
    """Decode a raw image of JSRT (Shiraishi et al., AJR 174(1), 2000).

    Args:
        path: named in errors.
        data: the file's bytes.

    Returns:
        uint16 [2048, 2048], bright where the film is, over the whole nominal range.

    Raises:
        ImageError: another size, or a value of more than 12 bits.
    """
    if len(data) != 2 * _JSRT_SIDE**2:
        raise ImageError(
            path,
            f"a raw image of JSRT has {2 * _JSRT_SIDE**2} bytes, not {len(data)}; convert other "
            f"raw images to PNG",
        )
    stored = np.frombuffer(data, ">u2").reshape(_JSRT_SIDE, _JSRT_SIDE)
    if stored.max() > _JSRT_TOP:
        raise ImageError(
            path,
            f"a raw image of JSRT has values of up to {_JSRT_TOP}, not {stored.max()}: the file is "
            f"damaged, or its bytes are in another order",
        )
    bright = np.uint32(_JSRT_TOP) - stored.astype(np.uint32)
    return ((bright * 65535 + _JSRT_TOP // 2) // _JSRT_TOP).astype(np.uint16)


def _png_chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and bytes of each chunk, up to IEND, its checksum verified."""
    at, kind, first, left = _PNG_SIGNATURE_LENGTH, b"", True, _CHUNK_LIMIT
    while kind != b"IEND":
        left -= 1
        if left < 0:
            raise ImageError(path, f"the PNG has more than {_CHUNK_LIMIT} chunks")
        if len(data) < at + 12:
            raise ImageError(path, f"truncated: the PNG ends after {len(data)} bytes without IEND")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if len(data) < end:
            raise ImageError(path, f"truncated: the PNG ends after {len(data)} bytes without IEND")
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(data[at + 4 : end - 4]) != checksum:
            raise ImageError(path, f"corrupt: wrong checksum of PNG chunk {kind!r} at byte {at}")
        if first and (kind != b"IHDR" or length != 13):
            raise ImageError(path, "corrupt: the PNG does not begin with a header")
        yield kind, data[at:end]
        at, first = end, False


def jpeg_frame(data: bytes, kinds: frozenset[int]) -> tuple[int, int, int, int] | None:
    """Find a JPEG stream's frame header.

    Args:
        data: the stream.
        kinds: second bytes of the frame markers that are wanted.

    Returns:
        Bits, height, width and components; None where there is no such header before the scan.
    """
    for marker, at in _jpeg_segments(data):
        if marker in kinds and at + 10 <= len(data):
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return bits, height, width, components
    return None


def jpeg_excess(data: bytes) -> str:
    """Say what a JPEG stream has too much of to be decoded, "" where it may be decoded.

    A decoder works through the whole image for each scan, even for one of a few bytes. Where bytes
    look like a scan but are part of metadata, such as a thumbnail's, they are counted too.
    """
    scans = data.count(_JPEG_SCAN_MARKER)
    if scans > _SCAN_LIMIT:
        return f"the JPEG has {scans} scans: at most {_SCAN_LIMIT} are decoded"
    if sum(1 for _ in _jpeg_segments(data)) > _SEGMENT_LIMIT:
        return f"the JPEG has more than {_SEGMENT_LIMIT} segments before its first scan"
    return ""


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield marker and place of each segment before the first scan, one more than is allowed.

    Bytes between segments, which decoders skip one by one, count as segments.
    """
    at = 2
    for _ in range(_SEGMENT_LIMIT + 1):
        if at + 4 > len(data):
            return
        marker = data[at + 1] if data[at] == 0xFF else 0xFF
        if marker == _JPEG_SCAN:
            return
        yield marker, at
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def luminance(image: npt.NDArray[Any], to_grey: int) -> _Grey:
    """Give the luminance over black of [h, w], [h, w, 3] or [h, w, 4], by OpenCV's conversion code.

    Where red, green and blue are equal, as in NIH's RGBA files, they are the luminance exactly.
    """
    if image.ndim == 2:
        return image
    grey: npt.NDArray[Any] = np.asarray(cv2.cvtColor(np.ascontiguousarray(image[..., :3]), to_grey))
    if image.shape[2] == 4:
        alpha, opaque = image[..., 3], np.iinfo(image.dtype).max
        if (alpha != opaque).any():
            blended = grey.astype(np.uint64) * alpha + opaque // 2
            grey = (blended // opaque).astype(image.dtype)
    return grey


def _chroma(image: npt.NDArray[Any]) -> float:
    """Give the mean difference of a pixel's strongest and weakest colour, 0 (grey) to 1.

    It is measured on means of blocks, so that noise of single pixels does not count as colour.

    Args:
        image: uint8 or uint16 [h, w], [h, w, 3] or [h, w, 4] with transparency last.
    """
    if image.ndim == 2:
        return 0.0
    colours = np.ascontiguousarray(image[..., :3])
    height, width = colours.shape[:2]
    block = max(1, max(height, width) // _CHROMA_SIDE)
    size = (max(1, width // block), max(1, height // block))
    small = np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_AREA), np.float32)
    spread = small.max(axis=2) - small.min(axis=2)
    return float(spread.mean() / np.iinfo(image.dtype).max)
