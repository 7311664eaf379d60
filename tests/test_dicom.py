"""What dcmtk is no oracle of: padding, pixel shape, colour, frames, header, refusals."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate

from chestxray.dataset.dicom.display import _windowed
from chestxray.dataset.radiograph import Radiograph
from chestxray.dicom_elements import parse
from chestxray.errors import ImageError
from dicom_files import (
    RAMP12,
    dataset,
    dicom,
    encapsulated,
    jpeg_2000,
    jpeg_lossless,
    jpeg_ls,
    lut,
    rle,
    written,
)

RGB = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
LUMINANCE = np.rint(RGB @ [0.299, 0.587, 0.114])  # ITU-R BT.601


def shown(data: bytes) -> np.ndarray:
    return Radiograph.read(data).pixels


def notes(data: bytes) -> str:
    return "; ".join(Radiograph.read(data).header.notes)


# --- display ------------------------------------------------------------------------------------


def test_windows_follow_the_formulas_of_the_standard():
    x = np.arange(-50.0, 151.0)
    c, w = 50.0, 40.0
    linear = np.array([min(max((v - (c - 0.5)) / (w - 1) + 0.5, 0), 1) for v in x])
    exact = np.array([min(max((v - c) / w + 0.5, 0), 1) for v in x])
    sigmoid = np.array([1 / (1 + np.exp(-4 * (v - c) / w)) for v in x])
    assert np.allclose(_windowed(x, c, w, "LINEAR"), linear)
    assert np.allclose(_windowed(x, c, w, "LINEAR_EXACT"), exact)
    assert np.allclose(_windowed(x, c, w, "SIGMOID"), sigmoid)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_padding_is_black_whatever_the_polarity_and_the_rest_is_as_without_it(photometric, dtype):
    stored = (RAMP12.astype(int) - (2048 if dtype == np.int16 else 0)).astype(dtype)
    low, high = int(stored[10, 0]), int(stored[12, 0])
    plain = shown(dicom(stored, 12, photometric))
    padded = dataset(stored, 12, photometric)
    vr = "SS" if dtype == np.int16 else "US"
    padded.add_new("PixelPaddingValue", vr, high)
    padded.add_new("PixelPaddingRangeLimit", vr, low)
    result = shown(written(padded))
    inside = (stored >= low) & (stored <= high)
    assert 100 < inside.sum() < 200
    assert (result[inside] == 0).all()
    assert np.array_equal(result[~inside], plain[~inside])


def test_one_padding_value_blackens_that_value_alone():
    result = shown(dicom(RAMP12, 12, "MONOCHROME1", PixelPaddingValue=0))
    assert result[0, 0] == 0
    assert result[0, 1] > 65000


def test_a_voi_table_goes_before_a_window():
    table = lut(np.arange(4096) // 8, 0, 10)
    data = dicom(RAMP12, 12, VOILUTSequence=table, WindowCenter=10, WindowWidth=4)
    assert np.array_equal(shown(data), np.rint((RAMP12 // 8) / 1023 * 65535))


def test_an_impossible_window_is_left_out_and_noted():
    data = dicom(RAMP12, 12, WindowCenter=100, WindowWidth=0)
    assert np.array_equal(shown(data), shown(dicom(RAMP12, 12)))
    assert "WindowWidth 0" in notes(data)


def test_a_presentation_shape_that_contradicts_is_noted():
    assert "INVERSE" in notes(dicom(RAMP12, 12, PresentationLUTShape="INVERSE"))
    assert not notes(dicom(RAMP12, 12, "MONOCHROME1", PresentationLUTShape="INVERSE"))


def test_overlay_planes_are_not_drawn():
    drawn = dataset(RAMP12, 12)
    drawn.add_new(0x60000010, "US", 64)
    drawn.add_new(0x60000011, "US", 64)
    drawn.add_new(0x60003000, "OW", b"\xff" * 512)
    assert np.array_equal(shown(written(drawn)), shown(dicom(RAMP12, 12)))


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, (128, 64)),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, (64, 128)),
        ({"PixelAspectRatio": [3, 2]}, (96, 64)),
        ({"PixelSpacing": [0.1, 0.1], "PixelAspectRatio": [3, 2]}, (64, 64)),
        ({"ImagerPixelSpacing": [1.2, 1.2012]}, (64, 64)),
    ],
)
def test_pixels_that_are_not_square_are_made_square(attributes, shape):
    data = dicom(RAMP12, 12, **attributes)
    radiograph = Radiograph.read(data)
    result, header = radiograph.pixels, radiograph.header
    assert result.shape == shape
    assert (header.rows, header.columns) == (64, 64)
    assert bool(header.notes) == (shape != (64, 64))
    assert abs(result.mean() - 32767) < 300


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"PixelSpacing": [0.14, 0.14]}, (0.14, 0.14, "unknown")),
        ({"ImagerPixelSpacing": [0.14, 0.14]}, (0.14, 0.14, "detector")),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1, "detector")),
        (
            {"PixelSpacing": [0.14, 0.14], "ImagerPixelSpacing": [0.14, 0.14]},
            (0.14, 0.14, "detector"),
        ),
        (
            {"PixelSpacing": [0.12, 0.12], "ImagerPixelSpacing": [0.14, 0.14]},
            (0.12, 0.12, "patient"),
        ),
        (
            {"PixelSpacing": [0.12, 0.12], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.12, 0.12, "patient"),
        ),
        (  # rounded
            {"PixelSpacing": [0.144, 0.144], "ImagerPixelSpacing": [0.1437, 0.1437]},
            (0.144, 0.144, "detector"),
        ),
        (
            {"PixelSpacing": [0.14, 0.14], "NominalScannedPixelSpacing": [0.1409, 0.1409]},
            (0.14, 0.14, "detector"),
        ),
        (  # no magnification makes the shadow smaller than the part
            {"PixelSpacing": [0.28, 0.28], "ImagerPixelSpacing": [0.14, 0.14]},
            (0.28, 0.28, "unknown"),
        ),
        (
            {"PixelSpacing": [0.12, 0.12], "ImagerPixelSpacing": [0.14, 0.12]},
            (0.12, 0.12, "unknown"),
        ),
        (
            {
                "PixelSpacing": [0.16, 0.16],
                "ImagerPixelSpacing": [0.14, 0.14],
                "PixelSpacingCalibrationType": "FIDUCIAL",
            },
            (0.16, 0.16, "patient"),
        ),
        ({"PixelSpacing": [0.2, 0.1]}, (0.1, 0.1, "unknown")),  # made square: rows are doubled
        ({"ImagerPixelSpacing": [0.1, 0.1002]}, (0.1, 0.1002, "detector")),
        ({"PixelAspectRatio": [3, 2]}, None),
        ({"ImagerPixelSpacing": [14, 14]}, None),
        ({"ImagerPixelSpacing": [0, 0]}, None),
    ],
)
def test_the_spacing_is_that_of_the_decoded_pixels_and_says_where_it_holds(attributes, expected):
    spacing = Radiograph.read(dicom(RAMP12, 12, **attributes)).header.spacing
    found = spacing and (pytest.approx(spacing.row), pytest.approx(spacing.column), spacing.plane)
    assert found == expected


# --- colour and frames --------------------------------------------------------------------------


def coloured(photometric: str, by_plane: int = 0) -> bytes:
    pixels = RGB if not by_plane else np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    more = {"SamplesPerPixel": 3, "PlanarConfiguration": by_plane, "Rows": 32, "Columns": 48}
    return dicom(pixels, 8, photometric, **more)


COLOURED = {
    "by pixel": coloured("RGB"),
    "by plane": coloured("RGB", by_plane=1),
    "RLE": rle(coloured("RGB")),
    "JPEG 2000": jpeg_2000(coloured("RGB")),
}


@pytest.mark.parametrize("data", COLOURED.values(), ids=COLOURED)
def test_colour_is_read_as_luminance_and_noted(data):
    assert np.abs(shown(data) / 257 - LUMINANCE).max() <= 1
    assert "colour" in notes(data)


def test_the_y_of_ybr_is_the_luminance():
    assert np.array_equal(shown(coloured("YBR_FULL")), RGB[..., 0].astype(int) * 257)


def test_colour_jpeg_is_read_as_luminance():
    smooth = np.asarray(Image.fromarray(RGB).resize((4, 3)).resize((48, 32)))
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95, subsampling=0)
    data = encapsulated(coloured("YBR_FULL_422"), uid.JPEGBaseline8Bit, buffer.getvalue())
    assert np.abs(shown(data) / 257 - smooth @ [0.299, 0.587, 0.114]).max() <= 4


def test_one_frame_of_a_multi_frame_object_is_read_with_its_functional_groups():
    window, macro = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 2048, 1024
    macro.FrameVOILUTSequence = [window]
    data = dicom(RAMP12, 12, NumberOfFrames=1, SharedFunctionalGroupsSequence=[macro])
    expected = shown(dicom(RAMP12, 12, WindowCenter=2048, WindowWidth=1024))
    assert np.array_equal(shown(data), expected)
    assert not np.array_equal(expected, shown(dicom(RAMP12, 12)))


@pytest.mark.parametrize("make", [jpeg_2000, jpeg_ls, jpeg_lossless])
def test_a_stream_of_fewer_bits_than_the_header_says_keeps_its_values_and_is_noted(make):
    narrow = np.arange(256, dtype=np.uint8).reshape(16, 16)
    file = dcmread(io.BytesIO(make(dicom(narrow, 8))))
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    assert np.array_equal(shown(written(file)), np.rint(narrow / 4095 * 65535))
    assert "8 bits" in notes(written(file))


def test_fragments_of_one_frame_are_joined():
    file = dcmread(io.BytesIO(jpeg_2000(dicom(RAMP12, 12))))
    stream = parse(written(file))[1].fragments()[1]
    file.PixelData = encapsulate([stream], fragments_per_frame=3)
    assert np.array_equal(shown(written(file)), shown(dicom(RAMP12, 12)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dicom(np.zeros((3, 8, 8), np.uint8), 8, NumberOfFrames=3), "3 frames"),
        (dicom(RAMP12, 12, "PALETTE COLOR"), "PhotometricInterpretation is PALETTE COLOR"),
        (dicom(RAMP12, 12, PixelData=None), "without pixels"),
        (dicom(RAMP12, 12, BitsStored=17), "17 stored"),
        (dicom(RAMP12, 12, BitsAllocated=32), "32 bits allocated"),
        (dicom(RAMP12, 12, Rows=None), "Rows is missing"),
        (dicom(RAMP12, 12, PixelSpacing=[1, 100]), "pixel aspect ratio 0.01 is implausible"),
        (dicom(RAMP12, 12, RescaleSlope=0), "RescaleSlope 0"),
        (dicom(RAMP12, 12, WindowCenter=1, WindowWidth=2, VOILUTFunction="CUBIC"), "VOILUTFunc"),
        (encapsulated(dicom(RAMP12, 12), uid.MPEG2MPML, b"\0" * 64), "MPEG2"),
        (encapsulated(dicom(RAMP12, 12), uid.JPEG2000, b"\0" * 64), "size marker"),
        (jpeg_2000(dicom(RAMP12, 12)).replace(b"\xff\xd9", b"\0\0"), "no end marker"),
        (b"\0" * 200, "not PNG, JPEG or DICOM"),
    ],
)  # fmt: skip
def test_what_is_no_radiograph_is_refused_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        Radiograph.read(data)


def test_a_value_of_the_wrong_vr_is_refused_or_read_never_misread():
    data = dicom(RAMP12, 12)
    assert data.count(b"\x28\x00\x10\x00US") == 1
    renamed = data.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00SS")
    assert np.array_equal(shown(renamed), shown(data))
    with pytest.raises(ImageError):
        Radiograph.read(data.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00OB"))


# --- header -------------------------------------------------------------------------------------


def test_the_header_tells_what_the_file_says():
    header = Radiograph.read(
        dicom(
            RAMP12,
            12,
            "MONOCHROME1",
            Modality="CR",
            BodyPartExamined="CHEST",
            ViewPosition="AP ",
            PatientOrientation=["L", "F"],
            PresentationIntentType="FOR PRESENTATION",
            BurnedInAnnotation="YES",
            PatientAge="018M",
        )
    ).header
    assert (header.modality, header.body_part, header.view_position) == ("CR", "CHEST", "AP")
    assert header.patient_orientation == ("L", "F")
    assert header.presentation_intent == "FOR PRESENTATION"
    assert header.burned_in_annotation is True
    assert header.patient_age == 1.5
    assert (header.photometric, header.rows, header.columns, header.bits) == (
        "MONOCHROME1",
        64,
        64,
        12,
    )
    assert header.sop_instance_uid == "1.2.826.0.1.3680043.8.498.1"
    assert header.transfer_syntax_uid == uid.ExplicitVRLittleEndian


def test_what_the_file_does_not_say_is_empty():
    header = Radiograph.read(dicom(RAMP12, 12)).header
    assert header.body_part == header.view_position == header.presentation_intent == ""
    assert header.patient_age is None
    assert header.burned_in_annotation is None


def test_codes_stand_in_for_missing_body_part_and_view():
    view, region = Dataset(), Dataset()
    view.CodeMeaning, region.CodeMeaning = "postero-anterior", "Chest"
    data = dicom(RAMP12, 12, ViewCodeSequence=[view], AnatomicRegionSequence=[region])
    header = Radiograph.read(data).header
    assert (header.view_position, header.body_part) == ("POSTERO-ANTERIOR", "CHEST")


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "062Y"}, 62),
        ({"PatientAge": "010D"}, 10 / 365.25),
        ({"PatientBirthDate": "20100101", "StudyDate": "20200101"}, 10),
        ({"PatientBirthDate": "20200101", "StudyDate": "20100101"}, None),
        ({"PatientAge": ""}, None),
    ],
)
def test_age_is_in_years(attributes, years):
    age = Radiograph.read(dicom(RAMP12, 12, **attributes)).header.patient_age
    assert age == years if years is None else age == pytest.approx(years, abs=0.01)


def test_a_bare_number_is_an_age_in_years(real):
    path = next((real / "dicom").glob("1.2.*.dcm"))
    assert dcmread(path).get_item("PatientAge").value == b"62"
    assert Radiograph.read(path).header.patient_age == 62
