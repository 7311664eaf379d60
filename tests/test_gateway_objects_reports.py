from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from chestxray.dataset import pixels
from chestxray.findings import label, term
from chestxray.reading.reader import Reader
from chestxray.serving.dicom_writing import encode
from chestxray.serving.result_objects import codes
from chestxray.serving.result_objects import content_items as content
from chestxray.sources.nih import FINDINGS
from result_objects import (
    CALLED,
    HEADERS,
    KINDS,
    SETS,
    USUAL,
    WARNING,
    comments,
    film,
    items,
    made,
    make,
    number,
    reader_of,
    reading,
    refusal,
)

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed: `dev` brings it")


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return reader_of(run)


def test_the_report_ties_each_finding_to_its_certainty_threshold_and_call(tmp_path, reader):
    report = made(film(tmp_path), reading(), reader)["sr"]
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    groups = items(report, "Measurement Group")
    assert len(groups) == 14
    for finding, group in zip(FINDINGS, groups, strict=True):
        (named,) = items(group, "Finding")
        assert named.ConceptCodeSequence[0].CodeValue == codes.finding(finding).value
        (certainty,) = items(group, "Certainty of Finding")
        assert number(certainty) == pytest.approx(100 * reading().probabilities[finding])
        assert [number(i) for i in items(group, "Certainty from which a finding is called")] == (
            [] if finding == "Hernia" else [20]
        )
        (call,) = items(group, "Certainty reaches the threshold")
        expected = {True: "Yes", False: "No", None: "Not assessed"}
        assert call.ConceptCodeSequence[0].CodeMeaning == expected[reading().calls[finding]]
    assert f"Warning (dark): {WARNING}" in comments(report)
    assert items(report, "Algorithm Name")[0].TextValue == reader.bundle.identity
    parameters = [item.TextValue for item in items(report, "Algorithm Parameters")]
    assert f"weights SHA-256 {reader.bundle.card.weights_sha256}" in parameters
    assert "operating point joint" in parameters


@pytest.mark.parametrize("name", SETS)
def test_a_report_names_and_codes_whatever_findings_a_model_has(name, tmp_path, run):
    findings = SETS[name]
    said = reading(findings[:2], findings=findings)
    (result,) = make(
        film(tmp_path), said, reader_of(run, dict.fromkeys(findings, 0.2)), kinds={"sr"}
    )
    report = highdicom.sr.srread(io.BytesIO(result.content))
    groups = report.content.get_image_measurement_groups()
    assert [group.finding_type for group in groups] == [codes.finding(f) for f in findings]
    assert len({(g.finding_type.value, g.finding_type.scheme_designator) for g in groups}) == len(
        findings
    )
    assert [group.tracking_identifier for group in groups] == [label(f) for f in findings]
    public = [
        f
        for f, g in zip(findings, groups, strict=True)
        if g.finding_type.scheme_designator != codes.SCHEME
    ]
    assert public == [f for f in findings if (known := term(f)) and known.codes]
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == codes.SCHEME


def test_a_refusal_is_reported_with_its_reason_and_without_a_number(tmp_path, reader):
    path = film(tmp_path)
    results = made(path, refusal(path), reader)
    assert set(results) == {"sr", "sc"}
    said = comments(results["sr"])
    assert "Not read (view-lateral): the view is lateral, frontal ones are read" in said
    assert f"Warning (dark): {WARNING}" in said
    assert not items(results["sr"], "Measurement Group")
    assert b"NumericValue" not in repr(results["sr"]).encode()


# Of 8 × 8 cells those from column 5 to 7, from row 2 to 4, as shares of the padded square.
HOT = (5 / 8, 2 / 8, 7 / 8, 4 / 8)


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (256, 256), (301, 222), (150, 401)])
def test_regions_are_boxes_of_called_findings_in_pixels_of_the_image(size, tmp_path, reader):
    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 5:7] = 1
    said = dataclasses.replace(reading(heat=heat), placement=pixels.placement(*size))
    report = made(film(tmp_path, size=size), said, reader)["regions"]
    groups = items(report, "Measurement Group")
    found = [items(g, "Finding")[0].ConceptCodeSequence[0].CodeMeaning for g in groups]
    assert found == [codes.finding(finding).meaning for finding in CALLED]
    side = max(size)
    padded = [(side - length) // 2 for length in size]  # black around makes the film square
    left, above, right, below = (
        min(max(share * side - padded[axis % 2], 0), size[axis % 2])
        for axis, share in enumerate(HOT)
    )
    corners = [left, above, right, above, right, below, left, below, left, above]
    for group in groups:
        (region,) = items(group, "Image Region")
        assert region.GraphicType == "POLYLINE"
        assert region.GraphicData == pytest.approx(corners, abs=side / 256)
        image = region.ContentSequence[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == USUAL["SOPInstanceUID"]


@pytest.mark.parametrize(
    ("aspect", "size", "rows"),
    [([2, 1], (400, 200), (200 / 7, 400 / 7)), ([1, 2], (200, 400), (400 / 7, 800 / 7))],
)
def test_regions_lie_right_where_pixels_are_not_square(aspect, size, rows, tmp_path, reader):
    path = film(tmp_path, size=size, PixelAspectRatio=aspect)
    heat = np.zeros((7, 7), np.float32)
    heat[1] = 1
    said = dataclasses.replace(
        reading(heat=heat), placement=reader.read(path, force=True).placement
    )
    (region, *_) = items(made(path, said, reader)["regions"], "Image Region")
    expected = [0, rows[0], size[0], rows[0], size[0], rows[1], 0, rows[1], 0, rows[0]]
    assert region.GraphicData == pytest.approx(expected, abs=1)


def test_nothing_called_and_nothing_hot_leave_no_report_of_regions(tmp_path, reader):
    path = film(tmp_path)
    assert set(made(path, reading(called=()), reader)) == {"sr", "sc"}
    cold = reading(heat=np.zeros((7, 7), np.float32))
    assert set(made(path, cold, reader)) == {"sr", "sc"}


def test_no_certainty_is_rounded_to_none_or_to_its_threshold(tmp_path, reader):
    odds = dict.fromkeys(FINDINGS, 1e-7) | {"Mass": 0.2 - 1e-9}
    small = dataclasses.replace(reading(called=()), probabilities=odds)
    report = made(film(tmp_path), small, reader)["sr"]
    for finding, item in zip(FINDINGS, items(report, "Certainty of Finding"), strict=True):
        (measured,) = item.MeasuredValueSequence
        assert measured.NumericValue > 0
        assert measured.FloatingPointValue == 100 * odds[finding]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_never_reported_as_one(value):
    with pytest.raises(ValueError, match="is not a finite number"):
        content.number(codes.CERTAINTY, value, codes.PERCENT)


# --- the encoding -------------------------------------------------------------------------------


def built_again(data: Dataset) -> Dataset:
    """The same attributes in a new data set, of which pydicom has no bytes."""
    again = Dataset()
    for element in data:
        value = element.value
        if element.VR == "SQ":
            value = [built_again(item) for item in value]
        setattr(again, element.keyword, value)
    return again


@pytest.mark.parametrize("header", ["DX", "Japanese"])
def test_reports_are_encoded_as_pydicom_encodes_them(header, tmp_path, reader):
    path = film(tmp_path, **HEADERS[header])
    for outcome in (reading(), refusal(path)):
        for result in make(path, outcome, reader, KINDS - {"sc", "seg"}):
            parsed = highdicom.sr.srread(io.BytesIO(result.content))
            again = built_again(parsed)
            again.file_meta = parsed.file_meta
            buffer = io.BytesIO()
            again.save_as(buffer, enforce_file_format=True)
            assert buffer.getvalue() == result.content


def test_highdicom_reads_what_the_report_says(tmp_path, reader):
    made_of = make(film(tmp_path), reading(), reader, {"sr"})
    (report,) = (highdicom.sr.srread(io.BytesIO(result.content)) for result in made_of)
    groups = report.content.get_image_measurement_groups()
    assert [group.finding_type.value for group in groups] == [
        codes.finding(finding).value for finding in FINDINGS
    ]
    for finding, group in zip(FINDINGS, groups, strict=True):
        (certainty,) = group.get_measurements(codes.CERTAINTY)
        assert certainty.value == pytest.approx(100 * reading().probabilities[finding])
        assert certainty.unit == codes.PERCENT
        (call,) = group.get_qualitative_evaluations(codes.CALLED)
        assert call.value == codes.CALLS[reading().calls[finding]]


def test_highdicom_reads_the_outlines_of_regions(tmp_path, reader):
    made_of = make(film(tmp_path), reading(), reader, {"regions"})
    (report,) = (highdicom.sr.srread(io.BytesIO(result.content)) for result in made_of)
    groups = report.content.get_planar_roi_measurement_groups()
    assert [group.finding_type.value for group in groups] == [
        codes.finding(finding).value for finding in CALLED
    ]
    for group in groups:
        assert np.array_equal(group.roi.value[0], group.roi.value[-1])


def test_what_cannot_be_encoded_is_said():
    with pytest.raises(KeyError, match="PatientNmae"):
        encode(PatientNmae="Doe")
    with pytest.raises(ValueError, match="cannot be encoded as US"):
        encode(Rows="1")
    with pytest.raises(ValueError, match="encoded items"):
        encode(ContentSequence=[1.0])
    with pytest.raises(ValueError, match="at most 65535"):
        encode(CodeMeaning="m" * 70_000)
    assert len(content.text("CONTAINS", codes.COMMENT, "m" * 70_000)) > 70_000
