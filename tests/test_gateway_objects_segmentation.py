"""The segmentation: its pixels, what it refers to, and what independent readers make of it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import highdicom
import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, dcmread
from pydicom.pixels import pixel_array

from chestxray.dataset.pixels import placement
from chestxray.errors import Notice
from chestxray.reading.reader import Reader, Reading
from chestxray.serving.result_objects import codes
from chestxray.serving.result_objects.instance import FORCED, NOTE
from chestxray.serving.result_objects.secondary_capture import SCALE
from result_objects import (
    CALLED,
    HEIGHT,
    KINDS,
    WARNING,
    WIDTH,
    comments,
    film,
    made,
    make,
    reader_of,
    reading,
)


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return reader_of(run)


def segments(path: Path, outcome: Reading, reader: Reader) -> Dataset | None:
    """The segmentation alone; None where there is none."""
    results = make(path, outcome, reader, {"seg"})
    return dcmread(io.BytesIO(results[0].content)) if results else None


def odd_heat() -> np.ndarray:
    """Heat on both sides of the contour, with its peak within the radiograph."""
    heat = np.random.default_rng(7).random((7, 7)).astype(np.float32) ** 4
    heat[3, 2] = 1.3
    return heat


def placed(size: tuple[int, int], heat: np.ndarray | None = None) -> Reading:
    return replace(reading(heat=heat), placement=placement(*size))


def enclosed(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Heat of at least 0.5, pixel by pixel: weights 3 s² - 2 s³ between the centres of cells."""
    left, top, wide, high = placement(*size)
    width, height = size

    def between(cells: int, fraction: np.ndarray):
        place = np.clip(fraction * cells - 0.5, 0, cells - 1)
        first = np.minimum(np.floor(place).astype(int), cells - 2)
        share = place - first
        return first, 3 * share**2 - 2 * share**3

    x, across = between(heat.shape[1], left + (np.arange(width) + 0.5) / width * wide)
    y, down = between(heat.shape[0], top + (np.arange(height) + 0.5) / height * high)
    values = heat.astype(float)
    across, down = across[None, :], down[:, None]
    upper = values[y][:, x] * (1 - across) + values[y][:, x + 1] * across
    lower = values[y + 1][:, x] * (1 - across) + values[y + 1][:, x + 1] * across
    found = upper * (1 - down) + lower * down
    assert (np.abs(found - 0.5) > 1e-6).all()  # no pixel on which rounding decides
    return found >= 0.5


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (301, 523), (64, 64)])
def test_its_pixels_are_those_that_the_first_contour_encloses(size, tmp_path, reader):
    """301 × 523 pixels are no whole number of bytes, so the second frame begins within one."""
    heat = odd_heat()
    result = segments(film(tmp_path, size=size), placed(size, heat), reader)
    expected = enclosed(heat, size)
    assert 0 < expected.sum() < expected.size
    assert (result.Columns, result.Rows) == size
    for frame in pixel_array(result):
        assert np.array_equal(frame.astype(bool), expected)


def test_highdicom_finds_a_segment_of_each_called_finding_in_the_image(tmp_path, reader):
    path = film(tmp_path)
    size, source = (WIDTH, HEIGHT), dcmread(path)
    (result,) = make(path, placed(size, odd_heat()), reader, {"seg"})
    read = highdicom.seg.segread(io.BytesIO(result.content))
    described = [read.get_segment_description(number) for number in read.segment_numbers]
    assert [each.segmented_property_type for each in described] == [*map(codes.finding, CALLED)]
    assert {str(each.algorithm_type) for each in described} == {
        "SegmentAlgorithmTypeValues.AUTOMATIC"
    }
    assert all(each.algorithm_identification.name == reader.bundle.identity for each in described)
    pixels = read.get_pixels_by_source_instance([source.SOPInstanceUID])
    assert pixels.shape == (1, HEIGHT, WIDTH, len(CALLED))
    for number in range(len(CALLED)):
        assert np.array_equal(pixels[0, :, :, number], enclosed(odd_heat(), size))


def test_it_has_patient_and_study_of_its_image_and_says_what_it_is(tmp_path, reader):
    path = film(tmp_path, PatientOrientation=["L", "F"])
    result, source = segments(path, placed((WIDTH, HEIGHT)), reader), dcmread(path)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "PatientOrientation"):
        assert result[keyword].value == source[keyword].value
    assert result.SeriesInstanceUID != source.SeriesInstanceUID
    assert result.SegmentationType == "BINARY"
    assert result.ContentQualification == "RESEARCH"
    assert "not outline" in result.ContentDescription


def test_a_finding_that_is_not_called_or_has_no_place_has_no_segment(tmp_path, reader):
    path, size = film(tmp_path), (WIDTH, HEIGHT)
    flat, weak = np.ones((7, 7), np.float32), 0.4 * np.eye(7, dtype=np.float32)
    for heat in (flat, weak):
        assert segments(path, placed(size, heat), reader) is None
    some = placed(size)
    one = replace(some, heatmaps=some.heatmaps | {"Mass": flat})
    (segment,) = segments(path, one, reader).SegmentSequence
    assert segment.SegmentLabel == "Effusion"
    nothing = replace(some, calls=dict.fromkeys(some.calls, False))
    assert segments(path, nothing, reader) is None


def test_evidence_in_the_padding_alone_has_no_segment(tmp_path, reader):
    """The square around a wide radiograph has black bands above and below."""
    heat = np.zeros((8, 8), np.float32)
    heat[0] = 1
    assert segments(film(tmp_path, size=(400, 100)), placed((400, 100), heat), reader) is None


def test_devices_are_objects_and_all_else_is_abnormal_structure():
    assert codes.category("Pacemaker").meaning == "Physical object"
    assert codes.category("pleural effusion") == codes.category("Mass")


def uids(results: list) -> dict[str, str]:
    return {result.kind: result.uid for result in results}


def test_results_of_some_findings_or_of_a_forced_reading_have_uids_of_their_own(tmp_path, reader):
    path, whole = film(tmp_path), placed((WIDTH, HEIGHT))
    some = whole.limited_to(CALLED)
    refused = Notice("view-lateral", "the view is lateral", {}, refuses=True)
    forced = replace(whole, warnings=(refused,))
    made_of = [uids(make(path, each, reader)) for each in (whole, some, forced)]
    assert uids(make(path, whole, reader)) == made_of[0]
    for kind in ("sr", "sc", "regions", "seg"):
        assert len({each[kind] for each in made_of}) == 3, kind


def test_a_reading_of_some_findings_reports_no_others(tmp_path, reader):
    whole = placed((WIDTH, HEIGHT))
    results = made(film(tmp_path), whole.limited_to(["Mass"]), reader)
    (segment,) = results["seg"].SegmentSequence
    assert segment.SegmentLabel == "Mass"
    assert "Effusion" not in str(results["sr"])


REFUSED = Notice("body-part-other", "BodyPartExamined is KNEE", {}, refuses=True)


def test_a_forced_reading_says_so_in_large_letters_in_its_picture(tmp_path, reader):
    """The lines of the sentence, as Pillow draws them at their size."""
    whole = placed((WIDTH, HEIGHT))
    for words in ("Refused by the gate, read", "anyway: do not rely on this"):
        for refuses in (True, False):
            outcome = replace(whole, warnings=(replace(REFUSED, refuses=refuses),))
            (capture,) = make(film(tmp_path), outcome, reader, {"sc"})
            picture = pixel_array(dcmread(io.BytesIO(capture.content)))
            assert (likeness(picture, words) > 0.95) == refuses, words


def likeness(picture: np.ndarray, words: str) -> float:
    """The highest correlation of a picture with words in bold letters of 30 pixels."""
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(
        fonts / "DejaVuSans-Bold.ttf", SCALE * 30, layout_engine=ImageFont.Layout.BASIC
    )
    left, top, right, bottom = map(round, font.getbbox(words))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), words, 255, font)
    red = np.ascontiguousarray(picture[..., 0])
    return float(cv2.matchTemplate(red, np.asarray(image), cv2.TM_CCOEFF_NORMED).max())


def test_each_object_of_a_forced_reading_begins_with_the_refusal_and_claims_no_chest(
    tmp_path, reader
):
    path = film(tmp_path, BodyPartExamined="KNEE", Laterality="L")
    trusted = made(path, placed((WIDTH, HEIGHT)), reader)
    forced = made(path, replace(placed((WIDTH, HEIGHT)), warnings=(REFUSED, WARNING)), reader)
    assert set(forced) == set(trusted) == KINDS
    for kind, result in forced.items():
        check_forced(result)
        assert "refused" not in str(trusted[kind]).lower()
    assert [each.SegmentLabel for each in trusted["seg"].SegmentSequence] == ["Effusion", "Mass"]


def check_forced(result: Dataset) -> None:
    """Whatever text a viewer shows of an object, it begins with the refusal."""
    assert result.SeriesDescription.startswith("Refused, read anyway: ")
    assert len(result.SeriesDescription) <= 64
    if result.Modality == "SR":
        first, second, *others = comments(result)
        assert first == FORCED
        assert second == "Refused (body-part-other): BodyPartExamined is KNEE"
        assert not any("refuse" in other.lower() for other in others)
        return
    assert result.BodyPartExamined == "KNEE"
    said = "Refused (body-part-other): BodyPartExamined is KNEE"
    assert result.ImageComments == f"{FORCED} {said} {NOTE}"
    if result.Modality == "SEG":
        assert result.ContentDescription == FORCED
        for segment in result.SegmentSequence:
            assert segment.SegmentLabel.startswith("Refused: ")
            assert segment.SegmentDescription.startswith(f"{FORCED} ")
            assert "AnatomicRegionSequence" not in segment
