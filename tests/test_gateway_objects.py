from __future__ import annotations

import dataclasses
import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import dsutils

import dicom_files
from chestxray.dataset import pixels
from chestxray.errors import ImageError, RefusedError
from chestxray.findings import vocabulary
from chestxray.reading.reader import Reader, Reading
from chestxray.serving import dicom_writing, result_objects
from chestxray.serving.gateway import config, reachability
from chestxray.serving.gateway.receiver import RESULT_CLASSES
from chestxray.serving.result_objects import (
    codes,
    secondary_capture,
    segmentation,
    structured_report,
)
from chestxray.serving.result_objects.instance import Model
from chestxray.sources.nih import FINDINGS
from result_objects import (
    HEADERS,
    KINDS,
    NEEDED,
    THRESHOLDS,
    USUAL,
    film,
    issuer,
    made,
    make,
    reader_of,
    reading,
    refusal,
)


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return reader_of(run)


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


CODED = [codes.finding(name) for name in vocabulary()]


def test_every_finding_has_a_code_of_its_own():
    names = [*vocabulary(), *(f"Finding number {n}" for n in range(2000)), "肺炎", "气胸"]
    found = {(code.value, code.scheme_designator) for code in map(codes.finding, names)}
    assert len(found) == len(names)


# Private codes must not change: archives hold them.
PRIVATE = {
    "Pleural_Thickening": "PLEURAL-THICKEN",
    "Mediastinal widening": "MEDIASTI-ISGRQNA",
    "气胸": "FINDING-MLKND7C",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_a_finding_without_a_public_code_has_the_same_private_one_for_ever(name):
    code = codes.finding(name)
    assert (code.value, code.scheme_designator) == (PRIVATE[name], codes.SCHEME)
    assert code.meaning == {"Pleural_Thickening": "Pleural thickening"}.get(name, name)


def test_a_finding_has_one_code_under_all_its_spellings():
    assert codes.finding("rib_fracture") == codes.finding("Rib Fracture")
    assert codes.finding("Pleural Effusion") == codes.finding("Effusion")


@pytest.mark.parametrize("name", ["N" * 64, "Ö" * 64, "a", "4th rib / 5th rib", *vocabulary()])
def test_a_code_keeps_the_rules_of_its_value_representations(name):
    code = codes.finding(name)
    assert re.fullmatch(r"[A-Z0-9][A-Z0-9-]{0,15}", code.value)
    assert 0 < len(code.meaning) <= 64


def test_snomed_codes_have_their_check_digits():
    used = [code for code in CODED if code.scheme_designator == "SCT"]
    assert len(used) >= 12
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
    constants = [code for code in vars(codes).values() if isinstance(code, codes.Code)]
    for code in [*constants, *CODED]:
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
    assert len({result.SeriesInstanceUID for result in results.values()}) == len(KINDS)
    for result in results.values():
        for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "AccessionNumber"):
            assert result[keyword].value == USUAL[keyword]
        assert result.SeriesInstanceUID != USUAL["SeriesInstanceUID"]
        assert "research" in result.SeriesDescription
        assert result.ContentQualification == "RESEARCH"
        assert result.DeviceSerialNumber == reader.bundle.card.weights_sha256
        assert result.ManufacturerModelName == reader.bundle.identity
        (algorithm,) = result.ContributingEquipmentSequence
        assert algorithm.DeviceUID == result.DeviceUID
        assert algorithm.ManufacturerModelName == reader.bundle.identity
    source = results["sc"].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == USUAL["SOPInstanceUID"]
    for kind in ("sr", "regions"):
        (study,) = results[kind].CurrentRequestedProcedureEvidenceSequence
        (series,) = study.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == USUAL["SeriesInstanceUID"]
        (image,) = series.ReferencedSOPSequence
        assert image.ReferencedSOPInstanceUID == USUAL["SOPInstanceUID"]


def test_every_kind_of_result_can_be_configured_and_sent(tmp_path, reader):
    assert set(get_args(config._ResultKind)) == set(result_objects.KINDS) == KINDS
    results = made(film(tmp_path), reading(), reader)
    classes = {result.SOPClassUID for result in results.values()}
    assert classes == set(RESULT_CLASSES)
    asked = {kind: result.SOPClassUID for kind, result in results.items()}
    assert asked == reachability._CLASSES, "and `check` asks whether it is accepted"


@pytest.mark.parametrize("header", HEADERS)
def test_every_name_and_number_arrives_as_it_was(header, tmp_path, reader):
    path = film(tmp_path, **HEADERS[header])
    source = dcmread(path)
    for result in made(path, reading(), reader).values():
        for keyword in set(USUAL) - set(NEEDED) - {"BodyPartExamined"}:
            assert str(result[keyword].value or "") == str(source.get(keyword) or "")
        for keyword in ("IssuerOfPatientID", "DeidentificationMethod", "TimezoneOffsetFromUTC"):
            assert result.get(keyword) == source.get(keyword)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says what is wrong with them
def test_values_that_break_a_rule_are_copied_and_not_mended(tmp_path, reader):
    wrong = {"AccessionNumber": "A" * 20, "PatientID": "P" * 80, "StudyDate": "1.1.2026"}
    path = film(tmp_path, PatientSex="x", **wrong)
    for result in made(path, reading(), reader).values():
        assert {keyword: result[keyword].value for keyword in wrong} == wrong
        assert result.PatientSex == "x"


# As the encoder of another would write it, who says no character set, or one that there is not.
TEXTS = {
    "Korean": ("\\ISO 2022 IR 149", "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9", None),
    "Chinese": ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c", None),
    "Greek": ("ISO_IR 126", "\u0394\u03b9\u03bf\u03bd\u03c5\u03c3\u03b9\u03bf\u03c2", None),
    "Russian": ("ISO_IR 144", "\u041b\u044e\u043ace\u043c\u0431yp\u0433", None),
    "not said": (None, "M\u00fcller^J\u00f6rg", "latin-1"),
    "empty": ("", "M\u00fcller^J\u00f6rg", "latin-1"),
    "unknown": ("ISO_IR 999", "M\u00fcller^J\u00f6rg", "latin-1"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says that it knows no ISO_IR 999
@pytest.mark.parametrize("script", TEXTS)
def test_names_of_every_script_arrive_in_unicode(script, tmp_path, reader):
    charset, name, raw = TEXTS[script]
    path = film(tmp_path, PatientName="N" * 11 if raw else name, SpecificCharacterSet=charset)
    if raw:  # bytes that pydicom would not write
        path.write_bytes(path.read_bytes().replace(b"N" * 11, name.encode(raw), 1))
    for result in made(path, reading(), reader).values():
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert str(result.PatientName) == name


def test_who_gave_the_numbers_is_said_in_unicode(tmp_path, reader):
    german = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "M\u00fcller"}
    path = film(tmp_path, IssuerOfAccessionNumberSequence=[issuer("Universit\u00e4t")], **german)
    for result in made(path, reading(), reader).values():
        (item,) = result.IssuerOfAccessionNumberSequence
        assert item.LocalNamespaceEntityID == "Universit\u00e4t"
        assert str(result.PatientName) == "M\u00fcller"


def test_times_are_those_of_the_clock_that_the_image_was_made_by(tmp_path, reader):
    path = film(tmp_path, TimezoneOffsetFromUTC="-1130")
    before = datetime.now(UTC)
    for result in made(path, reading(), reader).values():
        said = result.ContentDate + result.ContentTime + result.TimezoneOffsetFromUTC
        at = datetime.strptime(said, "%Y%m%d%H%M%S.%f%z")
        assert before <= at <= datetime.now(UTC)


@pytest.mark.parametrize("wrong", ["+9900", "CET", "+1"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_offset_that_is_none_is_not_said_of_the_times_of_results(wrong, tmp_path, reader):
    for result in made(film(tmp_path, TimezoneOffsetFromUTC=wrong), reading(), reader).values():
        assert "TimezoneOffsetFromUTC" not in result


def test_an_image_in_no_study_has_no_results(tmp_path, reader):
    path = film(tmp_path, StudyInstanceUID=None)
    with pytest.raises(ImageError, match="it has no StudyInstanceUID"):
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
    assert len({*first, *stricter, *other_image}) == 24
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in first)


def test_an_image_replaced_under_its_uid_makes_other_objects(tmp_path, reader):
    first = uids(film(tmp_path), reader, reading())
    replaced = uids(film(tmp_path, "MONOCHROME1"), reader, reading())
    assert len({*first, *replaced}) == 16


def test_only_the_kinds_that_are_wanted_are_made(tmp_path, reader):
    path = film(tmp_path)
    for wanted in (set(), {"sr"}, {"sc"}, {"regions"}, {"sr", "regions"}):
        assert {m.kind for m in make(path, reading(), reader, wanted)} == wanted


# --- files ------------------------------------------------------------------------------------


def by_pydicom(result: Dataset) -> bytes:
    buffer = io.BytesIO()
    result.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("header", HEADERS)
def test_files_have_the_bytes_that_pydicom_writes(header, tmp_path, reader):
    path = film(tmp_path, **HEADERS[header])
    source = result_objects.SourceImage.read(path.read_bytes(), "ab")
    model, said = Model.of(reader), reading()
    drawn = np.zeros((8, 8, 3), np.uint8)
    made_of_each = [
        structured_report.report(source, model, said, THRESHOLDS),
        structured_report.report(source, model, refusal(path), THRESHOLDS),
        secondary_capture.capture(source, model, said, drawn),
        secondary_capture.capture(source, model, said, drawn, compressed=False),
        structured_report.regions(source, model, said),
        segmentation.segmentation(source, model, said, THRESHOLDS),
    ]
    for result in made_of_each:
        assert dicom_writing.file(result) == by_pydicom(result)


def test_files_have_the_bytes_that_pydicom_writes_of_whatever_an_image_brings():
    item, odd = Dataset(), Dataset()
    item.PatientName = ["Yamada^Tarou=山田^太郎", "Doe^Jane"]
    item.CodeValue, item.LongCodeValue, item.URNCodeValue = "1", "a longer one", "urn:x:y"
    item.PatientSize, item.PatientWeight = "1.70", None
    item.ImagePositionPatient, item.ReferencedFrameNumber = ["1.0", "-2e3", "3"], [1, 22]
    item.GraphicData, item.SelectorFDValue = [1.5, 2.5], [0.1, 0.2]
    item.SimpleFrameList, item.DimensionIndexValues = [1, 2], [1, 2, 3]
    item.DimensionIndexPointer = 0x00209056
    item.PixelAspectRatio, item.SelectorUSValue, item.SelectorSSValue = ["1", "2"], [1, 2], -1
    item.EncapsulatedDocument, item.PurposeOfReferenceCodeSequence = b"\0\1", []
    item.add_new(0x00091001, "UN", b"abcd")
    item.add_new(0x00091002, "OW", b"abcd")
    item.StudyDate, item.StudyTime, item.AcquisitionDateTime = "20260101", "", "20260101120000"
    odd.SOPClassUID, odd.SOPInstanceUID = "1.2", "1.2.3"
    odd.SpecificCharacterSet = "ISO_IR 192"
    odd.PatientSpeciesCodeSequence = [item, Dataset()]
    odd.file_meta = FileMetaDataset()
    odd.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert dicom_writing.file(odd) == by_pydicom(odd)


@pytest.mark.parametrize("title", ["SENDER", "ODD"])
def test_the_head_of_a_received_image_has_the_bytes_that_pynetdicom_writes(title):
    meta = dsutils.create_file_meta(
        sop_class_uid=UID("1.2.840.10008.5.1.4.1.1.1.1"),
        sop_instance_uid=UID("1.2.34"),
        transfer_syntax=ExplicitVRLittleEndian,
    )
    meta.SourceApplicationEntityTitle = title
    maker = meta.ImplementationClassUID, meta.ImplementationVersionName
    head = dicom_writing.file_meta(
        meta.MediaStorageSOPClassUID, "1.2.34", ExplicitVRLittleEndian, maker, title
    )
    assert head == b"\0" * 128 + b"DICM" + dsutils.encode_file_meta(meta)


@pytest.mark.filterwarnings("ignore:The value for the data element:UserWarning")
def test_a_text_that_is_too_long_for_its_vr_is_written_as_pydicom_writes_it(tmp_path, reader):
    """UTF-8 takes three bytes for a letter that took one, so that 65,535 are exceeded."""
    path = film(tmp_path)
    source = result_objects.SourceImage.read(path.read_bytes(), "ab")
    long = dataclasses.replace(source, values={**source.values, "StudyDescription": "ก" * 30_000})
    result = secondary_capture.capture(
        long, Model.of(reader), reading(), np.zeros((8, 8, 3), np.uint8)
    )
    assert dicom_writing.file(result) == by_pydicom(result)


# --- the secondary capture ----------------------------------------------------------------------


def test_the_capture_is_a_derived_rgb_picture_that_says_text_is_burned_in(tmp_path, reader):
    path = film(tmp_path)
    capture = made(path, reading(), reader)["sc"]
    assert capture.BurnedInAnnotation == "YES"
    assert capture.ImageType == ["DERIVED", "SECONDARY"]
    assert capture.BodyPartExamined == "CHEST"
    assert capture.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert capture.PhotometricInterpretation == "YBR_FULL_422"
    scale = secondary_capture.SCALE
    drawn = secondary_capture.draw(
        pixels.decode(path), Model.of(reader), reading(), THRESHOLDS, scale
    )
    assert drawn.shape == (840, 1400, 3)
    frame = get_frame(capture.PixelData, 0, number_of_frames=1)
    assert np.abs(capture.pixel_array.astype(int) - drawn).mean() < 2, "as pydicom decodes it"
    assert len(frame) < drawn.size / 10
    assert capture.LossyImageCompressionMethod == "ISO_10918_1"
    assert capture.LossyImageCompressionRatio == pytest.approx(drawn.size / len(frame), abs=0.1)


def test_a_picture_without_compression_has_each_pixel_and_loses_nothing(tmp_path, reader) -> None:
    path = film(tmp_path)
    (plain,) = make(path, reading(), reader, ("sc",), compressed=False)
    capture = dcmread(io.BytesIO(plain.content))
    drawn = secondary_capture.draw(
        pixels.decode(path), Model.of(reader), reading(), THRESHOLDS, secondary_capture.SCALE
    )
    assert np.array_equal(capture.pixel_array, drawn)
    assert "LossyImageCompression" not in capture
    (lossy,) = make(path, reading(), reader, ("sc",))
    assert lossy.uid != plain.uid, "one UID is not of two different pictures"


def test_text_of_the_smaller_picture_stays_inside_its_columns(reader) -> None:
    """What is measured in the layout's pixels is drawn in fewer, by fonts of whole pixels."""
    image = np.full((64, 64), 90, np.uint8)
    drawn = secondary_capture.draw(image, Model.of(reader), reading(), THRESHOLDS, 0.7)
    whole = secondary_capture.draw(image, Model.of(reader), reading(), THRESHOLDS)
    for picture in (drawn, whole):
        edge = round(picture.shape[1] * (1 - 8 / 2000))
        assert (picture[:, edge:] == picture[-1, -1]).all(), "the margin on the right is free"
    small = cv2.resize(whole, drawn.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - drawn).mean() < 4, "the same picture"


def test_what_was_lossy_once_is_called_lossy(tmp_path, reader):
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "9"}
    path = film(tmp_path, LossyImageCompressionMethod="ISO_10918_1", **lossy)
    capture = made(path, reading(), reader)["sc"]
    assert capture.LossyImageCompression == "01"
    before, now = capture.LossyImageCompressionRatio
    assert before == 9
    assert now > 10
    assert capture.LossyImageCompressionMethod == ["ISO_10918_1", "ISO_10918_1"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("ratio", "kept"),
    [("10:1", []), ("12,5", []), ("9\\x", []), ("9.5", [9.5]), (" 9\\12.", [9, 12])],
)
def test_a_ratio_that_is_no_number_is_left_out(ratio, kept, tmp_path, reader):
    written = "12345678"  # pydicom would write no other
    methods = ["ISO_10918_1"] * max(1, len(kept))
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": written}
    path = film(tmp_path, LossyImageCompressionMethod=methods, **lossy)
    path.write_bytes(path.read_bytes().replace(written.encode(), ratio.ljust(8).encode(), 1))
    capture = made(path, reading(), reader)["sc"]
    assert capture.LossyImageCompression == "01"
    *before, _ = np.atleast_1d(capture.LossyImageCompressionRatio)
    assert before == kept
    assert len(np.atleast_1d(capture.LossyImageCompressionMethod)) == len(kept) + 1


@pytest.mark.parametrize(
    "stated",
    [
        {"LossyImageCompression": "01", "LossyImageCompressionMethod": "ISO_10918_1"},
        {"LossyImageCompression": "01", "LossyImageCompressionRatio": "9"},
        {"LossyImageCompression": "00", "LossyImageCompressionRatio": "1"},
        {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": ["9", "8"],
            "LossyImageCompressionMethod": "ISO_10918_1",
        },
    ],
)
def test_each_ratio_of_compression_has_its_method(stated, tmp_path, reader):
    """PS3.3 C.7.6.1.1.5: the values of one correspond to those of the other."""
    capture = made(film(tmp_path, **stated), reading(), reader)["sc"]
    assert capture.LossyImageCompression == "01"
    assert capture.LossyImageCompressionRatio > 10
    assert capture.LossyImageCompressionMethod == "ISO_10918_1"


def test_a_film_in_a_syntax_that_loses_is_called_lossy_though_it_does_not_say_so(tmp_path, reader):
    path = film(tmp_path)
    stream = cv2.imencode(".jpg", pixels.decode(path).astype(np.uint8))[1].tobytes()
    path.write_bytes(dicom_files.encapsulated(path.read_bytes(), JPEGBaseline8Bit, stream))
    capture = made(path, reading(), reader)["sc"]
    assert capture.LossyImageCompression == "01"
    assert capture.LossyImageCompressionMethod == "ISO_10918_1"
