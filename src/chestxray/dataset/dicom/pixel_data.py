"""Pixel data to stored samples, whatever the transfer syntax.

The form of the pixels (size, bits, sign, colour) is read and checked first, before memory is taken
for them. Each syntax has one decoder, so that a file gives the same samples wherever it is read. A
compressed stream's own header is read before it is decoded: a decoder is called only where the
stream has the size that the file claims and an end. Overlay bits above the sample are masked off.

Not here: multiple frames, colour of more than 8 bits, palettes.

References: PS3.3 section C.7.6.3 (image pixel); PS3.5 sections 8.1, 8.2, A.4 and annex G (RLE);
ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import config, uid

from chestxray.dataset.raster import JPEG_FRAMES, check_size, jpeg_excess, jpeg_frame, luminance
from chestxray.dicom_elements import Elements, MalformedError

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_OTHER_COLOUR: Final = frozenset(
    {"PALETTE COLOR", "HSV", "ARGB", "CMYK", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "XYB"}
)

_NATIVE: Final = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
_LOSSLESS_JPEG: Final = frozenset({0xC3})
_JPEG_LS: Final = frozenset({0xF7})
_END: Final = b"\xff\xd9"
_J2K: Final = b"\xff\x4f\xff\x51"

# What decoders raise for streams that are damaged.
_DAMAGED: Final = (
    ArithmeticError,
    EOFError,
    IndexError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Form:
    """The image pixel attributes.

    Attributes:
        rows: height, pixels.
        columns: width, pixels.
        photometric: MONOCHROME1 or 2, or a colour space.
        allocated: bits of a stored cell, 8 or 16.
        stored: bits of a sample within it, 1 to 16.
        high: position of a sample's highest bit, from 0.
        signed: whether samples are two's complement.
        by_plane: whether colours are stored plane after plane.
    """

    rows: int
    columns: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    by_plane: bool

    @property
    def samples(self) -> int:
        """Samples of a pixel: 1 grey, 3 colour."""
        return 1 if self.photometric in _GREY else 3

    @property
    def nbytes(self) -> int:
        """Size of the uncompressed frame."""
        return self.rows * self.columns * self.samples * self.allocated // 8


def form_of(path: Path, elements: Elements) -> Form:
    """Read and check the form of an image.

    Raises:
        ImageError: too large.
        MalformedError: no pixels, several frames, or a form that radiographs do not have.
    """
    if "PixelData" not in elements:
        raise MalformedError("a DICOM object without pixels, or truncated before them")
    form = Form(
        rows=elements.word("Rows"),
        columns=elements.word("Columns"),
        photometric=elements.text("PhotometricInterpretation"),
        allocated=elements.word("BitsAllocated"),
        stored=elements.word("BitsStored"),
        high=elements.word("HighBit", elements.word("BitsStored") - 1),
        signed=bool(elements.word("PixelRepresentation", 0)),
        by_plane=bool(elements.word("PlanarConfiguration", 0)),
    )
    check_size(path, form.columns, form.rows)
    frames = elements.numbers("NumberOfFrames")
    if frames and frames[0] != 1:
        raise MalformedError(f"the file has {frames[0]:g} frames: a radiograph has exactly one")
    _check_colour(elements, form)
    if form.allocated not in {8, 16} or not 0 < form.stored <= form.high + 1 <= form.allocated:
        raise MalformedError(
            f"{form.allocated} bits allocated, {form.stored} stored, high bit {form.high}: "
            f"8 or 16 bits must be allocated, and the stored bits must lie within them"
        )
    return form


def _check_colour(elements: Elements, form: Form) -> None:
    samples = elements.word("SamplesPerPixel", 1)
    if form.photometric not in _GREY | _COLOUR:
        found = form.photometric if form.photometric in _OTHER_COLOUR else "unknown"
        found = found if form.photometric else "missing"
        raise MalformedError(
            f"PhotometricInterpretation is {found}: a radiograph has MONOCHROME1 or MONOCHROME2"
        )
    if samples != form.samples:
        raise MalformedError(f"SamplesPerPixel is {samples}, {form.photometric} has {form.samples}")
    if form.samples == 3 and (form.allocated, form.stored, form.high) != (8, 8, 7):
        raise MalformedError(
            f"{form.photometric} with {form.stored} bits: only 8 bits are supported"
        )


def samples(syntax: str, elements: Elements, form: Form) -> tuple[Samples, tuple[str, ...]]:
    """Decode the one frame.

    Args:
        syntax: transfer syntax UID.
        elements: the data set.
        form: its image pixel attributes.

    Returns:
        The bits of each sample read as unsigned, uint8 or uint16 [rows, columns], all within
        2 ** form.stored; of colour the luminance. And notes of what is doubtful.

    Raises:
        MalformedError: truncated, damaged, of another size than the file claims, or encoded in a
            way that is not supported.
    """
    if syntax in _NATIVE:
        cells, precision, notes = *_native(elements, form), _excess(elements, form)
    elif syntax in _DECODERS:
        notes = ()
        stream = _stream(elements)
        try:
            cells, precision = _DECODERS[syntax](stream, form)
        except _DAMAGED as error:
            raise MalformedError(f"the {_name(syntax)} stream is damaged: {error}") from error
    else:
        raise MalformedError(f"the transfer syntax {_name(syntax)} is not supported")
    wanted = (form.rows, form.columns) + ((3,) if form.samples == 3 else ())
    if cells.shape != wanted:
        raise MalformedError(f"the pixels decode to {cells.shape}, the header says {wanted}")
    if form.samples == 3:
        return _grey(cells, syntax, form), notes
    shift = max(0, min(precision, form.high + 1) - form.stored)
    if precision < form.stored:
        notes += (f"the stream has {precision} bits, BitsStored is {form.stored}",)
    mask = min(2**form.stored - 1, np.iinfo(cells.dtype).max)
    return (cells >> shift) & mask, notes


def _grey(cells: npt.NDArray[np.uint8], syntax: str, form: Form) -> npt.NDArray[np.uint8]:
    """Give the luminance of colour; Y is the luminance where the decoder keeps YBR."""
    if form.photometric == "YBR_FULL" and _DECODERS.get(syntax) is not _jpeg:
        return cells[..., 0]
    return np.asarray(luminance(cells, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _native(elements: Elements, form: Form) -> tuple[npt.NDArray[Any], int]:
    """Give uncompressed samples; 8-bit ones in big-endian words are swapped (PS3.5 annex A.3)."""
    swapped = elements.order == ">" and elements.vr("PixelData") == b"OW" and form.allocated == 8
    words = form.allocated == 16 or swapped
    cells: npt.NDArray[Any] = elements.array("PixelData", "u2" if words else "u1")
    if swapped:
        cells = cells.view(np.uint8)
    count = form.rows * form.columns * form.samples
    if len(cells) < count:
        raise MalformedError(
            f"truncated: {form.rows} × {form.columns} pixels need {form.nbytes} bytes, the "
            f"file has {cells.nbytes}"
        )
    return _planes(cells[:count], form, by_plane=form.by_plane), form.allocated


def _excess(elements: Elements, form: Form) -> tuple[str, ...]:
    excess = len(elements.value("PixelData")) - form.nbytes
    if excess >= form.nbytes:
        raise MalformedError(
            f"PixelData holds {excess + form.nbytes} bytes, one frame has {form.nbytes}: "
            f"it has several frames, or the header is wrong"
        )
    return (f"{excess} bytes follow the pixels",) if excess > 1 else ()


def _stream(elements: Elements) -> bytes:
    offsets, *fragments = elements.fragments() or [b""]
    if len(offsets) > 4:
        raise MalformedError(
            f"the offset table lists {len(offsets) // 4} frames: a radiograph has exactly one"
        )
    if not any(fragments):
        raise MalformedError("the compressed pixels are empty")
    return b"".join(fragments)


def _planes(cells: npt.NDArray[Any], form: Form, *, by_plane: bool) -> npt.NDArray[Any]:
    """Shape a flat array as [rows, columns] or [rows, columns, 3]."""
    if form.samples == 1:
        return cells.reshape(form.rows, form.columns)
    if form.photometric == "YBR_FULL_422":
        raise MalformedError("YBR_FULL_422 is only supported in JPEG")
    if by_plane:
        return np.moveaxis(cells.reshape(3, form.rows, form.columns), 0, -1)
    return cells.reshape(form.rows, form.columns, 3)


def _rle(stream: bytes, form: Form) -> tuple[npt.NDArray[Any], int]:
    """Decode PackBits segments, one for each byte of a pixel, the most significant first."""
    width = form.allocated // 8
    (count, *offsets) = struct.unpack_from("<16I", stream)
    if count != width * form.samples:
        raise MalformedError(f"it has {count} RLE segments instead of {width * form.samples}")
    ends = [*offsets[1:count], len(stream)]
    size = form.rows * form.columns
    parts = [
        _unpacked(stream[start:end], size) for start, end in zip(offsets[:count], ends, strict=True)
    ]
    cells = np.stack(parts).reshape(form.samples, width, size)
    words = np.ascontiguousarray(np.moveaxis(cells, 1, -1)).view(f">u{width}")
    return _planes(words.astype(f"u{width}").ravel(), form, by_plane=True), form.allocated


def _unpacked(segment: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Expand one segment to at most `size` bytes (PS3.5 G.3.2).

    Not pydicom's decoder: it expands a segment without a limit, up to 64 times a hostile file.
    """
    plain, at = bytearray(), 0
    while at < len(segment) - 1 and len(plain) < size:
        head = segment[at]
        if head < 128:
            plain += segment[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:
            plain += segment[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    if len(plain) < size:
        raise MalformedError(f"truncated: an RLE segment gives {len(plain)} of {size} bytes")
    return np.frombuffer(plain, np.uint8, size)


def _jpeg_bits(stream: bytes, form: Form, kinds: frozenset[int]) -> int:
    """Check a JPEG stream's frame header and end, and give its precision."""
    found = jpeg_frame(stream, kinds)
    if found is None:
        raise MalformedError("the JPEG stream has no frame header matching its transfer syntax")
    excess = jpeg_excess(stream)
    if excess:
        raise MalformedError(excess)
    bits, height, width, components = found
    _check_claims(form, height, width, components)
    _check_end(stream)
    # A Huffman code has a bit at least, for each sample or, of lossy ones, for each block of 64;
    # libjpeg makes up what is missing.
    codes = {_LOSSLESS_JPEG: height * width, JPEG_FRAMES: height * width // 64}
    if len(stream) * 8 < codes.get(kinds, 0):
        raise MalformedError(f"truncated: {len(stream)} bytes for {width} × {height} pixels")
    return bits


def _check_claims(form: Form, height: int, width: int, components: int) -> None:
    if (height, width, components) != (form.rows, form.columns, form.samples):
        raise MalformedError(
            f"the stream has {width} × {height} pixels of {components} samples, the header says "
            f"{form.columns} × {form.rows} of {form.samples}"
        )


def _check_end(stream: bytes) -> None:
    if not stream.rstrip(b"\0").endswith(_END):
        raise MalformedError("truncated: the compressed pixels have no end marker")


def _jpeg(stream: bytes, form: Form) -> tuple[npt.NDArray[Any], int]:
    """Decode baseline and extended JPEG, as JPEG files are decoded; Pillow has no 12 bits."""
    bits = _jpeg_bits(stream, form, JPEG_FRAMES)
    if bits == 12 and form.samples == 1:
        return imagecodecs.jpeg8_decode(stream), bits
    if bits != 8:
        raise MalformedError(f"the JPEG stream has {bits} bits: only 8 and 12 are supported")
    with Image.open(io.BytesIO(stream), formats=["JPEG"]) as image:
        if form.photometric == "RGB" and "adobe_transform" not in image.info:
            image.draft("YCbCr", image.size)  # no conversion: the file says that it is RGB already
        return np.asarray(image), bits


def _jpeg_lossless(stream: bytes, form: Form) -> tuple[npt.NDArray[Any], int]:
    bits = _jpeg_bits(stream, form, _LOSSLESS_JPEG)
    return imagecodecs.jpeg8_decode(stream), bits


def _jpeg_ls(stream: bytes, form: Form) -> tuple[npt.NDArray[Any], int]:
    bits = _jpeg_bits(stream, form, _JPEG_LS)
    return imagecodecs.jpegls_decode(stream), bits


def _jpeg_2000(stream: bytes, form: Form) -> tuple[npt.NDArray[Any], int]:
    at = stream.find(_J2K, 0, 1024)  # some writers put the file format's boxes around the stream
    if at < 0 or len(stream) < at + 43:
        raise MalformedError("the JPEG 2000 stream has no size marker")
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    (components,) = struct.unpack_from(">H", stream, at + 40)
    _check_claims(form, bottom - top, right - left, components)
    _check_end(stream)
    cells = imagecodecs.jpeg2k_decode(stream[at:])
    unsigned = cells.view(f"u{cells.dtype.itemsize}")
    return unsigned, int(stream[at + 42] & 0x7F) + 1


def _name(syntax: str) -> str:
    """Name a transfer syntax; one that is unknown is not quoted."""
    name = uid.UID(syntax, config.IGNORE).name
    return "(unknown)" if name == syntax else name


_DECODERS: Final[dict[str, Callable[[bytes, Form], tuple[npt.NDArray[Any], int]]]] = {
    uid.RLELossless: _rle,
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: _jpeg,
    uid.JPEGLossless: _jpeg_lossless,
    uid.JPEGLosslessSV1: _jpeg_lossless,
    uid.JPEGLSLossless: _jpeg_ls,
    uid.JPEGLSNearLossless: _jpeg_ls,
    uid.JPEG2000Lossless: _jpeg_2000,
    uid.JPEG2000: _jpeg_2000,
}
