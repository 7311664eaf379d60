from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr._concepts_dict import concepts

import chestxray
import dicom_files
from chestxray.dataset import pixels
from chestxray.errors import ImageError, RefusedError
from chestxray.findings import FINDINGS
from chestxray.notices import Notice
from chestxray.reading.reader import Reader, Reading

pytest.importorskip("highdicom", reason="highdicom is not installed: the extra `pacs` brings it")

from chestxray.serving.gateway import objects
from chestxray.serving.gateway.objects import canvas, codes, picture, ranking, scores
from chestxray.serving.gateway.objects.identity import Model

KINDS = {"sr", "sc", "regions"}
HEIGHT, WIDTH = 240, 320
THRESHOLDS = dict.fromkeys(FINDINGS, 0.2) | {"Hernia": None}
CALLED = ("Effusion", "Mass")
WARNING = "the image is darker than any of training"
USUAL = {
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.11",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.12",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.13",
    "PatientName": "Doe^Jane",
    "PatientID": "P-1",
    "PatientBirthDate": "19600101",
    "PatientSex": "F",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "StudyID": "S-1",
    "AccessionNumber": "A-1",
    "ReferringPhysicianName": "Doe^John",
    "BodyPartExamined": "CHEST",
}
NEEDED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
HEADERS = {
    "DX": {},
    "CR": {"Modality": "CR"},
    "only UIDs": dict.fromkeys(set(USUAL) - set(NEEDED)),
    "empty": dict.fromkeys(set(USUAL) - set(NEEDED), ""),
    "knee": {"BodyPartExamined": "KNEE"},
    "one name": {"PatientName": "Cher"},
    "Japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "Japanese in UTF-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "山田^太郎"},
    "German": {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Jörg",
        "StudyDescription": "Thorax, Übersicht",
    },
}


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    """A reader whose thresholds are `THRESHOLDS`."""
    loaded = chestxray.load(run / "bundle")
    card = loaded.bundle.card.model_copy(update={"thresholds": THRESHOLDS})
    return Reader(dataclasses.replace(loaded.bundle, card=card), loaded.engine)


@pytest.fixture(scope="module")
def model(reader: Reader) -> Model:
    return Model.of(reader)


def film(folder: Path, photometric: str = "MONOCHROME2", **more) -> Path:
    """A DICOM file of a ramp; `more` replaces attributes, None removes them."""
    ramp = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)
    header = {key: value for key, value in (USUAL | more).items() if value is not None}
    path = folder / "film.dcm"
    path.write_bytes(dicom_files.dicom(ramp, 8, photometric, **header))
    return path


def reading(called: tuple[str, ...] = CALLED, heat: np.ndarray | None = None) -> Reading:
    """Called findings have 0.9 and more, the others 0.1."""
    heat = np.eye(7, dtype=np.float32) if heat is None else heat
    odds = {f: 0.9 + 0.01 * called.index(f) if f in called else 0.1 for f in FINDINGS}
    return Reading(
        probabilities=odds,
        calls={f: None if f == "Hernia" else f in called for f in FINDINGS},
        heatmaps=dict.fromkeys(FINDINGS, heat),
        warnings=(WARNING,),
        model="a model",
    )


def refusal(path: Path) -> RefusedError:
    return RefusedError(
        path,
        [
            Notice("view-lateral", "the view is lateral, frontal ones are read", {}, refuses=True),
            Notice("dark", WARNING),
        ],
    )


def made(path: Path, outcome: Reading | RefusedError, reader: Reader) -> dict[str, Dataset]:
    results = list(objects.make(path, outcome, reader, KINDS))
    parsed = {result.kind: dcmread(io.BytesIO(result.content)) for result in results}
    assert [result.uid for result in results] == [d.SOPInstanceUID for d in parsed.values()]
    return parsed


def items(root: Dataset, meaning: str) -> list[Dataset]:
    """All content items under a root whose concept has this meaning, in order."""
    found = []
    for item in root.get("ContentSequence", []):
        named = item.get("ConceptNameCodeSequence")
        if named and named[0].CodeMeaning == meaning:
            found.append(item)
        found += items(item, meaning)
    return found


def number(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def comments(root: Dataset) -> list[str]:
    return [item.TextValue for item in items(root, "Comment")]


# --- codes --------------------------------------------------------------------------------------


def verhoeff(digits: str) -> bool:
    """Whether the check digit of a SNOMED CT identifier is right (Verhoeff 1969)."""
    permute = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(permute) < 8:
        permute.append([permute[-1][permute[1][i]] for i in range(10)])

    def product(a: int, b: int) -> int:  # in the dihedral group of the pentagon
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
        return 5 + (a - b) % 5 if b < 5 else (a - b) % 5

    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = product(check, permute[place % 8][int(digit)])
    return check == 0


def test_every_finding_has_a_code_of_its_own():
    assert tuple(codes.FINDING) == FINDINGS
    assert len({(code.value, code.scheme_designator) for code in codes.FINDING.values()}) == 14


def test_snomed_codes_have_their_check_digits():
    used = [code for code in codes.FINDING.values() if code.scheme_designator == "SCT"]
    assert len(used) == 12
    for code in [*used, codes.YES, codes.NO, codes.PROCEDURE]:
        assert verhoeff(code.value), code.meaning
    assert not verhoeff("46621008")


def test_codes_mean_what_the_dictionary_of_the_standard_says():
    known = {
        (scheme, value): meaning
        for scheme in ("DCM", "SCT", "UCUM")
        for entries in concepts[scheme].values()
        for value, (meaning, _) in entries.items()
    }
    checked = 0
    constants = [code for code in vars(codes).values() if isinstance(code, codes.CodedConcept)]
    for code in [*constants, *codes.FINDING.values()]:
        if code.scheme_designator == "DCM":
            assert known[("DCM", code.value)].casefold() == code.meaning.casefold()
        elif (meaning := known.get((code.scheme_designator, code.value))) is not None:
            assert meaning.split(" (")[0].casefold() == code.meaning.casefold()
        else:
            continue
        checked += 1
    assert checked >= 12


# --- what all objects have in common ------------------------------------------------------------


def test_results_lie_in_the_study_of_their_image_and_point_to_it(tmp_path, reader):
    path = film(tmp_path)
    results = made(path, reading(), reader)
    assert set(results) == KINDS
    assert len({result.SeriesInstanceUID for result in results.values()}) == 3
    for result in results.values():
        for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "AccessionNumber"):
            assert result[keyword].value == USUAL[keyword]
        assert result.SeriesInstanceUID != USUAL["SeriesInstanceUID"]
        assert "research" in result.SeriesDescription
        assert result.ContentQualification == "RESEARCH"
        assert result.DeviceSerialNumber == reader.bundle.card.weights_sha256
        assert result.ManufacturerModelName == reader.bundle.identity
    source = results["sc"].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == USUAL["SOPInstanceUID"]
    for kind in ("sr", "regions"):
        (study,) = results[kind].CurrentRequestedProcedureEvidenceSequence
        (series,) = study.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == USUAL["SeriesInstanceUID"]
        (image,) = series.ReferencedSOPSequence
        assert image.ReferencedSOPInstanceUID == USUAL["SOPInstanceUID"]


@pytest.mark.parametrize("header", HEADERS)
def test_every_name_and_number_arrives_as_it_was(header, tmp_path, reader):
    path = film(tmp_path, **HEADERS[header])
    source = dcmread(path)
    for result in made(path, reading(), reader).values():
        for keyword in set(USUAL) - set(NEEDED) - {"BodyPartExamined"}:
            assert str(result[keyword].value or "") == str(source.get(keyword) or "")


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says what is wrong with them
def test_values_that_break_a_rule_are_copied_and_not_mended(tmp_path, reader):
    wrong = {"AccessionNumber": "A" * 20, "PatientID": "P" * 80, "StudyDate": "1.1.2026"}
    path = film(tmp_path, PatientSex="x", **wrong)
    for result in made(path, reading(), reader).values():
        assert {keyword: result[keyword].value for keyword in wrong} == wrong
        assert result.PatientSex == "x"


def test_an_image_in_no_study_has_no_results(tmp_path, reader):
    path = film(tmp_path, StudyInstanceUID=None)
    with pytest.raises(ImageError, match="has no StudyInstanceUID"):
        made(path, reading(), reader)


def uids(path: Path, reader: Reader, outcome: Reading | RefusedError) -> list[str]:
    results = made(path, outcome, reader).values()
    return [uid for d in results for uid in (d.SOPInstanceUID, d.SeriesInstanceUID)]


def test_a_retry_makes_the_same_objects_and_another_image_or_model_others(tmp_path, reader):
    path = film(tmp_path)
    first, again = (uids(path, reader, reading()) for _ in range(2))
    assert first == again
    card = reader.bundle.card.model_copy(update={"thresholds": dict.fromkeys(FINDINGS, 0.3)})
    other_model = Reader(dataclasses.replace(reader.bundle, card=card), reader.engine)
    stricter = uids(path, other_model, reading())
    other_image = uids(film(tmp_path, SOPInstanceUID="1.2.3"), reader, reading())
    assert len({*first, *stricter, *other_image}) == 18
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in first)


def test_only_the_kinds_that_are_wanted_are_made(tmp_path, reader):
    path = film(tmp_path)
    for wanted in (set(), {"sr"}, {"sc"}, {"regions"}, {"sr", "regions"}):
        assert {m.kind for m in objects.make(path, reading(), reader, wanted)} == wanted


# --- structured reports -------------------------------------------------------------------------


def test_the_report_ties_each_finding_to_its_certainty_threshold_and_call(tmp_path, reader):
    report = made(film(tmp_path), reading(), reader)["sr"]
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    groups = items(report, "Measurement Group")
    assert len(groups) == 14
    for finding, group in zip(FINDINGS, groups, strict=True):
        (named,) = items(group, "Finding")
        assert named.ConceptCodeSequence[0].CodeValue == codes.FINDING[finding].value
        (certainty,) = items(group, "Certainty of Finding")
        assert number(certainty) == pytest.approx(100 * reading().probabilities[finding])
        assert [number(i) for i in items(group, "Certainty from which a finding is called")] == (
            [] if finding == "Hernia" else [20]
        )
        (call,) = items(group, "Certainty reaches the threshold")
        expected = {True: "Yes", False: "No", None: "No threshold could be fitted"}
        assert call.ConceptCodeSequence[0].CodeMeaning == expected[reading().calls[finding]]
    assert f"Warning: {WARNING}" in comments(report)
    assert items(report, "Algorithm Name")[0].TextValue == reader.bundle.identity
    parameters = [item.TextValue for item in items(report, "Algorithm Parameters")]
    assert f"weights SHA-256 {reader.bundle.card.weights_sha256}" in parameters


def test_a_refusal_is_reported_with_its_reason_and_without_a_number(tmp_path, reader):
    path = film(tmp_path)
    results = made(path, refusal(path), reader)
    assert set(results) == {"sr", "sc"}
    said = comments(results["sr"])
    assert "Not read (view-lateral): the view is lateral, frontal ones are read" in said
    assert f"Warning: {WARNING}" in said
    assert not items(results["sr"], "Measurement Group")
    assert b"NumericValue" not in repr(results["sr"]).encode()


def test_regions_are_boxes_of_called_findings_in_pixels_of_the_image(tmp_path, reader):
    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 5:7] = 1  # of the square: x from 5/8 to 7/8, y from 2/8 to 4/8
    report = made(film(tmp_path), reading(heat=heat), reader)["regions"]
    groups = items(report, "Measurement Group")
    found = [items(g, "Finding")[0].ConceptCodeSequence[0].CodeMeaning for g in groups]
    assert found == [codes.FINDING[finding].meaning for finding in CALLED]
    top = (WIDTH - HEIGHT) / 2  # black above and below makes the film square
    left, right = 5 / 8 * WIDTH, 7 / 8 * WIDTH
    above, below = 2 / 8 * WIDTH - top, 4 / 8 * WIDTH - top
    corners = [left, above, right, above, right, below, left, below, left, above]
    for group in groups:
        (region,) = items(group, "Image Region")
        assert region.GraphicType == "POLYLINE"
        assert region.GraphicData == pytest.approx(corners, abs=WIDTH / 256)
        image = region.ContentSequence[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == USUAL["SOPInstanceUID"]


def test_nothing_called_and_nothing_hot_leave_no_report_of_regions(tmp_path, reader):
    path = film(tmp_path)
    assert set(made(path, reading(called=()), reader)) == {"sr", "sc"}
    cold = reading(heat=np.zeros((7, 7), np.float32))
    assert set(made(path, cold, reader)) == {"sr", "sc"}


# --- the picture --------------------------------------------------------------------------------


def test_the_capture_is_a_derived_rgb_picture_that_says_text_is_burned_in(tmp_path, reader):
    path = film(tmp_path)
    capture = made(path, reading(), reader)["sc"]
    assert capture.BurnedInAnnotation == "YES"
    assert capture.ImageType == ["DERIVED", "SECONDARY"]
    assert capture.BodyPartExamined == "CHEST"
    assert not capture.file_meta.TransferSyntaxUID.is_encapsulated
    drawn = picture.draw(pixels.decode(path), Model.of(reader), reading(), THRESHOLDS)
    assert np.array_equal(capture.pixel_array, drawn)


def test_what_was_lossy_once_is_called_lossy(tmp_path, reader):
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "9"}
    path = film(tmp_path, LossyImageCompressionMethod="ISO_10918_1", **lossy)
    capture = made(path, reading(), reader)["sc"]
    assert capture.LossyImageCompression == "01"
    assert float(capture.LossyImageCompressionRatio) == 9


def test_a_refusal_shows_the_plain_film_and_claims_no_chest(tmp_path, reader):
    path = film(tmp_path, BodyPartExamined="KNEE", Laterality="L")
    capture = made(path, refusal(path), reader)["sc"]
    assert (capture.BodyPartExamined, capture.Laterality) == ("KNEE", "L")
    side = picture._MAIN
    shown = capture.pixel_array[picture._TOP :, picture._MARGIN :][:side, :side]
    plain = pixels.canonical(pixels.decode(path), side)
    assert np.array_equal(shown, np.repeat(plain[..., None], 3, axis=2))


def test_heat_lies_where_the_heatmap_is_hot_and_nowhere_else(model):
    heat = np.zeros((8, 8), np.float32)
    heat[6, 1] = 1
    image = np.full((400, 400), 90, np.uint8)
    drawn = picture.draw(image, model, reading(heat=heat), THRESHOLDS)
    side = picture._MAIN
    main = drawn[picture._TOP :, picture._MARGIN :][:side, :side].astype(int)
    rows, columns = np.nonzero(np.ptp(main, axis=2))
    assert (rows.min(), rows.max()) == pytest.approx((5.5 / 8 * side, 7.5 / 8 * side), abs=3)
    assert (columns.min(), columns.max()) == pytest.approx((0.5 / 8 * side, 2.5 / 8 * side), abs=3)


def test_called_findings_stand_out_in_the_table(model):
    image = np.zeros((64, 64), np.uint8)
    counts = []
    for called in ((), ("Effusion",), CALLED):
        outcome = dataclasses.replace(reading(called=called), warnings=())
        drawn = picture.draw(image, model, outcome, THRESHOLDS)
        table = drawn[picture._TOP :, picture._COLUMN - 20 :]
        counts.append(int(np.all(table == (255, 194, 74), axis=2).sum()))
    assert counts[0] == 0 < counts[1] < counts[2]


def test_long_sentences_stay_within_the_picture(model):
    image = np.zeros((64, 64), np.uint8)
    endless = tuple(f"{'long ' * n}{'w' * 10 * n}" for n in range(1, 30))
    read = dataclasses.replace(reading(), warnings=endless)
    refused = RefusedError("film", [Notice("c", text, {}, refuses=True) for text in endless])
    dark = (16, 17, 20)
    for outcome in (read, refused):
        drawn = picture.draw(image, model, outcome, THRESHOLDS)
        assert np.all(drawn[:, -16:] == dark)
        assert np.all(drawn[-10:] == dark)


def test_wrapped_text_loses_no_letter_and_no_line_is_too_long():
    style = canvas.Style(20)
    text = "a few words and aVeryLongWordThatFitsInNoLineOfThisWidth at the end"
    lines = canvas.wrapped(text, 120, style, 99)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(canvas._width(line, style) <= 120 for line in lines)
    assert canvas.wrapped(text, 120, style, 2)[1].endswith("…")


def test_called_findings_come_first_by_probability_over_threshold():
    thresholds = dict.fromkeys(FINDINGS, 0.5) | {"Mass": 0.1, "Hernia": None}
    order = ranking.ranked(reading(), thresholds)
    assert order[:2] == ["Mass", "Effusion"]
    assert order[-1] == "Hernia"
    assert ranking.relevant(reading(), thresholds, 1) == ["Mass"]
    assert ranking.relevant(reading(called=()), thresholds, 3) == ["Mass"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (0, "0.0 %"),
        (1e-9, "<0.1 %"),
        (0.0005, "0.1 %"),
        (0.1234, "12.3 %"),
        (0.99949, "99.9 %"),
        (0.9999, ">99.9 %"),
        (1, "100.0 %"),
    ],
)
def test_no_probability_is_rounded_to_certainty(value, text):
    assert scores.share(value) == text


# --- validators ---------------------------------------------------------------------------------


def dciodvfy(path: Path) -> list[str]:
    """The errors that dicom3tools' verifier finds."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is not there: install Debian's dicom3tools")
    told = subprocess.run([tool, path], capture_output=True, text=True, timeout=60, check=False)
    lines = (told.stdout + told.stderr).splitlines()
    assert any(line in {"SCImage", "Comprehensive3DSR"} for line in lines), lines
    return [line for line in lines if line.startswith(("Error", "Abort"))]


def pixelmed(path: Path) -> list[str]:
    """What PixelMed's validator of structured reports finds fault with.

    Its templates are older than the coded evaluations of TID 1501, which it warns of.
    """
    java, jar = shutil.which("java"), Path("/usr/share/java/pixelmed.jar")
    if java is None or not jar.exists():
        pytest.skip("PixelMed is not there: install default-jre-headless and libpixelmed-java")
    limits = (f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprOp", "TotalOp", "ExprGrp"))
    command = [java, "-XX:TieredStopAtLevel=1", *limits, "-cp", f"{jar.parent}/*"]
    command += ["com.pixelmed.validate.DicomSRValidator", "-checkcontentitemorder", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = told.stdout.splitlines()
    heads = ("Found ", "Root Template Validation Complete", "IOD validation complete")
    assert "Found Root Template TID_1500 (MeasurementReport)" in lines, told.stderr
    assert heads[-1] in lines
    newer = f'CODE ({codes.CALLED.value},{codes.SCHEME},"{codes.CALLED.meaning}")'
    return [line for line in lines if not line.startswith(heads) and newer not in line]


def files(folder: Path, path: Path, reader: Reader) -> dict[str, Path]:
    """All five objects of an image as files, by kind."""
    out = {}
    for prefix, outcome in (("", reading()), ("refused ", refusal(path))):
        for result in objects.make(path, outcome, reader, KINDS):
            out[prefix + result.kind] = folder / f"{prefix}{result.kind}.dcm"
            out[prefix + result.kind].write_bytes(result.content)
    assert len(out) == 5
    return out


@pytest.mark.parametrize(
    ("header", "photometric"),
    [("DX", "MONOCHROME1"), ("CR", "MONOCHROME1"), *((name, "MONOCHROME2") for name in HEADERS)],
)
def test_dciodvfy_finds_no_error(header, photometric, tmp_path, reader):
    path = film(tmp_path, photometric, **HEADERS[header])
    for kind, result in files(tmp_path, path, reader).items():
        assert dciodvfy(result) == [], kind


def test_dciodvfy_finds_no_error_in_results_of_real_files(real, tmp_path, reader):
    for path in sorted((real / "dicom").glob("*.dcm")):
        for kind, result in files(tmp_path, path, reader).items():
            assert dciodvfy(result) == [], (path.name, kind)


def test_dciodvfy_would_find_an_error(tmp_path, reader):
    capture = made(film(tmp_path), reading(), reader)["sc"]
    del capture.BitsStored
    capture.save_as(tmp_path / "broken.dcm")
    assert dciodvfy(tmp_path / "broken.dcm")


@pytest.mark.parametrize("kind", ["sr", "regions"])
def test_pixelmed_finds_no_error(kind, tmp_path, reader):
    path = film(tmp_path, **HEADERS["Japanese"])
    assert pixelmed(files(tmp_path, path, reader)[kind]) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sr", "regions", "refused sr"])
@pytest.mark.parametrize("header", HEADERS)
def test_pixelmed_finds_no_error_with_any_header(header, kind, tmp_path, reader):
    path = film(tmp_path, **HEADERS[header])
    assert pixelmed(files(tmp_path, path, reader)[kind]) == []


@pytest.mark.slow
def test_pixelmed_would_find_an_error(tmp_path, reader):
    report = made(film(tmp_path), reading(), reader)["sr"]
    (device,) = items(report, "Device Observer UID")
    report.ContentSequence.remove(device)
    report.save_as(tmp_path / "broken.dcm")
    assert pixelmed(tmp_path / "broken.dcm")
