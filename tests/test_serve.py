"""The web service: each answer and status, and what it does not disclose. Real server and model."""

from __future__ import annotations

import base64
import copy
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

import chestxray
from chestxray.dataset import pixels
from chestxray.dataset.pixels import placement
from chestxray.errors import ImageError, Notice, RefusedError
from chestxray.model.model_card import Recalibration
from chestxray.reading.overlay import blend
from chestxray.reading.reader import Reader
from chestxray.serving.admission import AdmissionControl, Limits
from chestxray.serving.responses import model_card_result
from chestxray.serving.web import create_app, example_png
from chestxray.sources.nih import FINDINGS
from dicom_files import dicom
from web_server import accepted, listening, ready, wait_until

NAME = "DOE_JANE_19610203.png"


@pytest.fixture(scope="module")
def reader(run: Path):
    return chestxray.load(run / "bundle", "torch")


@pytest.fixture(scope="module")
def client(reader):
    with ready(create_app(reader, Limits(max_upload_bytes=2**22, decoders=1))) as client:
        yield client


@pytest.fixture(scope="module")
def radiographs(reader, phantoms: Path) -> list[Path]:
    return accepted(reader, phantoms)


@pytest.fixture(scope="module")
def radiograph() -> np.ndarray:
    """A phantom, uint8 [640, 640]."""
    data = np.frombuffer(example_png("clear"), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def read(client, data: bytes | Path, **query):
    data = data.read_bytes() if isinstance(data, Path) else data
    return client.post("/v1/read", files={"file": (NAME, data)}, params=query)


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def test_an_answer_is_what_the_reader_says(client, reader, radiographs):
    check_answer(read(client, radiographs[0], heatmaps="json").json(), reader, radiographs[0])


def test_an_ensemble_answers_like_one_model(pair, radiographs):
    reader = chestxray.load(pair / "bundle", "torch")
    with ready(create_app(reader, Limits(decoders=1))) as client:
        answer = read(client, radiographs[0], heatmaps="json").json()
        check_answer(answer, reader, radiographs[0])
        assert len(client.get("/v1/model").json()["members"]) == 2


def check_answer(answer: dict[str, Any], reader: Reader, radiograph: Path) -> None:
    reading = reader.read(radiograph)
    assert [row["finding"] for row in answer["findings"]] == list(FINDINGS)
    for row in answer["findings"]:
        finding = row["finding"]
        assert row["probability"] == pytest.approx(reading.probabilities[finding], abs=1e-6)
        assert row["called"] == reading.calls[finding]
        assert row["threshold"] == reader.bundle.card.thresholds[finding]
        assert np.allclose(
            answer["heatmaps"]["maps"][finding], reading.heatmaps[finding], atol=1e-5
        )
    assert answer["model"] == reader.bundle.identity
    assert [notice["sentence"] for notice in answer["warnings"]] == [*map(str, reading.warnings)]
    assert "not a medical device" in answer["notice"]


def test_a_dicom_radiograph_is_displayed_as_decoded(client, radiograph):
    stored = 4095 - 16 * radiograph[:, 80:-80].astype(np.uint16)
    file = dicom(stored, 12, "MONOCHROME1")
    answer = read(client, file, display="true").json()
    shown = cv2.imdecode(
        np.frombuffer(base64.b64decode(answer["image"]["display"]), np.uint8), cv2.IMREAD_UNCHANGED
    )
    decoded = pixels.decode(file)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, np.rint(decoded / 257).astype(np.uint8))
    about = answer["image"]
    assert (about["kind"], about["width"], about["height"]) == ("DICOM", 480, 640)
    assert about["placement"] == pytest.approx(placement(480, 640))


def test_a_large_radiograph_is_displayed_smaller_but_read_at_full_size(client, reader, radiograph):
    large = cv2.resize(radiograph, (2560, 2400), interpolation=cv2.INTER_NEAREST)
    answer = read(client, png(large), display="true").json()
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(answer["image"]["display"]), np.uint8), -1)
    assert shown.shape == (1920, 2048)
    assert answer["image"]["width"] == 2560
    expected = reader.read(large).probabilities["Mass"]
    assert answer["findings"][4]["probability"] == pytest.approx(expected, abs=1e-6)


def test_inline_heatmaps_are_the_overlays_that_explain_draws(client, reader, radiographs):
    answer = read(client, radiographs[1], heatmaps="png").json()
    reading = reader.read(radiographs[1])
    image = pixels.canonical(pixels.decode(radiographs[1]), 512)
    drawn = base64.b64decode(answer["heatmaps"]["pictures"]["Effusion"])
    picture = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = blend(image, reading.heatmaps["Effusion"]).astype(int)
    assert np.abs(picture - expected).max() <= 1


def test_only_what_is_asked_for_is_sent(client, radiographs):
    answer = read(client, radiographs[0]).json()
    assert answer["heatmaps"] is None
    assert answer["image"]["display"] is None


def test_the_model_card_has_the_model_and_its_training_data(client, reader):
    card = client.get("/v1/model").json()
    assert card["identity"] == reader.bundle.identity
    assert card["trained_on"] == reader.bundle.card.trained_on.model_dump(mode="json")
    assert [row["finding"] for row in card["findings"]] == list(FINDINGS)
    assert all(row["description"] for row in card["findings"])
    assert {row["finding"] for row in card["findings"] if not row["calibrated"]} == set(
        reader.bundle.card.calibration.unfitted
    )
    source = reader.bundle.card.trained_on.source
    for row in card["findings"]:
        assert row["calibrated_on"] == (source if row["calibrated"] else None)
    assert "not a medical device" in card["notice"]


def test_a_finding_names_the_site_that_it_was_calibrated_for(reader):
    card = reader.bundle.card
    fitted = card.calibration.model_copy(update={"unfitted": {}})
    site = fitted.model_copy(update={"unfitted": {"Hernia": "one class only"}})
    of = Recalibration(source="our hospital", images=90, patients=60, of=reader.bundle.identity)
    calibration = fitted.followed_by(site)
    moved = card.model_copy(update={"calibration": calibration, "recalibrated_on": of})
    found = model_card_result(Reader(replace(reader.bundle, card=moved), reader.engine)).findings
    sources = {row.finding: row.calibrated_on for row in found}
    assert sources.pop("Hernia") == card.trained_on.source
    assert set(sources.values()) == {"our hospital"}


def test_every_example_can_be_read(client):
    examples = client.get("/v1/examples").json()
    assert len(examples) >= 4
    for example in examples:
        image = client.get(f"/v1/examples/{example['name']}.png")
        assert image.headers["content-type"] == "image/png"
    assert read(client, image.content).status_code == 200
    assert problem(client.get("/v1/examples/nobody.png")) == (404, "not-found")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"%PDF-1.7 no radiograph", (415, "unsupported-format")),
        (b"", (415, "unsupported-format")),
        (b"\x89PNG\r\n\x1a\n and then nothing", (422, "unreadable")),
        (b"\0" * 128 + b"DICM", (422, "unreadable")),
        (b"\xff\xd8\xff\xe0", (422, "unreadable")),
        (bytes(2**22), (413, "too-large")),
    ],
)
def test_a_file_that_is_not_a_radiograph_is_rejected_with_a_reason(client, data, expected):
    answer = read(client, data)
    assert problem(answer) == expected
    assert len(answer.json()["detail"]) > 10


def test_a_request_that_is_not_a_form_with_one_file_is_rejected_with_a_reason(client, radiographs):
    image = radiographs[0].read_bytes()
    assert problem(client.post("/v1/read", content=image)) == (415, "not-multipart")
    assert problem(client.post("/v1/read", files={"other": image})) == (422, "file-count")
    twice = [("file", image), ("file", image)]
    assert problem(client.post("/v1/read", files=twice)) == (422, "file-count")
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (b"", b"--b", b"nonsense", b'--b\r\nContent-Disposition: form-data; name="file"'):
        assert problem(client.post("/v1/read", content=body, headers=form)) == (
            400,
            "invalid-multipart",
        )
    assert problem(read(client, image, heatmaps="pink")) == (422, "invalid-parameter")
    assert problem(client.get("/v1/read")) == (405, "http-405")
    assert problem(client.get("/v1/nothing")) == (404, "http-404")


def test_an_upload_without_a_stated_length_is_cut_off_at_the_limit(client):
    sent = 0

    def body():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        for _ in range(100):
            sent += 2**16
            yield bytes(2**16)

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert problem(client.post("/v1/read", content=body(), headers=form)) == (413, "too-large")
    assert sent > 2**22


def test_a_refused_radiograph_gives_reasons_and_no_probabilities(reader, radiographs, monkeypatch):
    notices = (
        Notice("view-lateral", "a lateral view", {"view": "LL"}, refuses=True),
        Notice("child", "the patient is 9 years old", {"age": 9.0}),
    )

    def refuse(*_, **__):
        raise RefusedError("upload", notices)

    monkeypatch.setattr(type(reader), "read", refuse)
    with ready(create_app(reader, Limits(decoders=1))) as client:
        answer = read(client, radiographs[0], display="true")
    assert problem(answer) == (422, "refused")
    body = answer.json()
    assert [notice["code"] for notice in body["notices"]] == ["view-lateral", "child"]
    assert body["notices"][1]["values"] == {"age": 9.0}
    assert "findings" not in body
    assert body["display"]


def test_a_refused_radiograph_is_read_by_force_only_where_the_operator_allows_it(client, reader):
    blank = png(np.full((640, 640), 128, np.uint8))
    assert read(client, blank).json()["force_allowed"] is False
    forbidden = read(client, blank, force="true")
    assert problem(forbidden) == (403, "force-not-allowed")
    assert "--allow-force" in forbidden.json()["detail"]
    with ready(create_app(reader, Limits(decoders=1), allow_force=True)) as allowing:
        refusal = read(allowing, blank)
        assert problem(refusal) == (422, "refused")
        assert refusal.json()["force_allowed"] is True
        answer = read(allowing, blank, force="true").json()
    assert answer["refused"] is True
    assert "blank" in [notice["code"] for notice in answer["warnings"] if notice["refuses"]]
    assert len(answer["findings"]) == len(FINDINGS)


def test_the_spacing_of_the_pixels_is_answered_in_mm(client, radiograph):
    stated = dicom(radiograph, 8, ViewPosition="PA", BodyPartExamined="CHEST")
    assert read(client, stated).json()["image"]["spacing"] is None
    stated = dicom(radiograph, 8, ViewPosition="PA", ImagerPixelSpacing=[0.2, 0.2])
    spacing = read(client, stated).json()["image"]["spacing"]
    assert spacing == {"row": 0.2, "column": 0.2, "plane": "detector"}


class HeldEngine:
    """Computes only while it may."""

    def __init__(self, engine) -> None:
        self.name = engine.name
        self.may = threading.Event()
        self.may.set()
        self._engine = engine

    def run(self, images):
        assert self.may.wait(30)
        return self._engine.run(images)


@pytest.fixture
def held(reader):
    """A reader whose engine can be stopped."""
    held = copy.copy(reader)
    held.engine = HeldEngine(reader.engine)
    yield held
    held.engine.may.set()


def test_too_many_uploads_are_rejected_and_one_that_timed_out_keeps_its_slot(held, radiographs):
    app = create_app(held, Limits(max_uploads=2, timeout=0.5, decoders=1))
    with ready(app) as client, ThreadPoolExecutor(2) as pool:
        held.engine.may.clear()
        late = [pool.submit(read, client, radiographs[0]) for _ in range(2)]
        assert [problem(answer.result()) for answer in late] == [(503, "timeout")] * 2
        busy = read(client, radiographs[0])
        assert problem(busy) == (429, "busy")
        assert int(busy.headers["Retry-After"]) >= 1
        held.engine.may.set()
        wait_until(lambda: "chestxray_uploads_in_progress 0.0" in client.get("/metrics").text)
        assert read(client, radiographs[0]).status_code == 200


def test_it_reports_when_it_is_starting_and_stopping(reader, radiographs, monkeypatch):
    go = threading.Event()
    started = AdmissionControl.start
    monkeypatch.setattr(
        AdmissionControl, "start", lambda admission: go.wait(30) and started(admission)
    )
    app = create_app(reader, Limits(decoders=1))
    with listening(app) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json() == {"state": "starting"}
        assert client.get("/readyz").status_code == 503
        assert problem(read(client, radiographs[0])) == (503, "starting")
        go.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        app.state.admission.stop()
        assert client.get("/readyz").json() == {"state": "stopping"}
        assert problem(read(client, radiographs[0])) == (503, "stopping")


def test_a_slow_upload_is_ended(reader):
    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        time.sleep(0.6)
        yield b"more"

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    with ready(create_app(reader, Limits(upload_timeout=0.2, decoders=1))) as client:
        answer = client.post("/v1/read", content=body(), headers=form)
        assert problem(answer) == (408, "upload-timeout")
        assert client.get("/readyz").status_code == 200


def test_a_decoder_that_is_killed_is_no_fault_of_the_image(reader, radiographs):
    with ready(create_app(reader, Limits(decoders=1))) as client, ThreadPoolExecutor(1) as pool:
        (decoder,) = client.admission._decoders._all
        os.kill(decoder._process.pid, signal.SIGSTOP)
        hung = pool.submit(read, client, radiographs[0])
        wait_until(lambda: not client.admission._decoders._fair._free)
        decoder._process.kill()
        answer = hung.result()
        assert problem(answer) == (503, "decoder-ended")
        assert int(answer.headers["Retry-After"]) >= 1
        assert read(client, radiographs[0]).status_code == 200
        decoder._process.kill()  # idle, it dies of no upload
        decoder._process.join()
        assert read(client, radiographs[0]).status_code == 200


def test_a_token_is_required_for_all_but_the_viewers_files_and_health(reader, radiographs):
    word = "correct-horse-battery"
    with ready(create_app(reader, Limits(decoders=1), word)) as client:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {word}"}):
            client.headers.pop("Authorization", None)
            client.headers.update(header)
            refused = read(client, radiographs[0])
            assert problem(refused) == (401, "unauthorized")
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            for path in ("/v1/model", "/v1/examples", "/v1/examples/clear.png", "/metrics"):
                assert client.get(path).status_code == 401
            for path in ("/", "/healthz", "/readyz"):
                assert client.get(path).status_code == 200
        client.headers["Authorization"] = f"Bearer {word}"
        assert read(client, radiographs[0]).status_code == 200
        assert client.get("/metrics").status_code == 200


def test_answers_forbid_other_hosts_and_embedding(client):
    for path in ("/", "/v1/model", "/v1/nothing"):
        headers = client.get(path, headers={"Origin": "https://elsewhere.example"}).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert not any(name.startswith("access-control") for name in headers)
    assert client.get("/v1/model").headers["Cache-Control"] == "no-store"


def test_the_log_names_no_file_and_no_patient(client, radiographs, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    read(client, radiographs[0])
    read(client, b"\x89PNG\r\n\x1a\n")
    client.get(f"/{NAME}", params={"patient": NAME})
    logged = "\n".join(
        f"{r.name} {r.getMessage()}" for r in caplog.records if "httpx" not in r.name
    )
    said = "".join(capfd.readouterr())
    assert "POST /v1/read 200" in logged
    assert "POST /v1/read 422" in logged
    assert "DOE" not in logged + said


def test_an_internal_error_is_logged_without_its_message(reader, radiographs, caplog, monkeypatch):
    patient = NAME.removesuffix(".png")

    def fail(*_):
        raise ValueError(patient)

    with ready(create_app(reader, Limits(decoders=1))) as client:
        monkeypatch.setattr(client.admission, "_read", fail)
        answer = read(client, radiographs[0])
        assert problem(answer) == (500, "internal-error")
        assert client.get("/readyz").status_code == 200
    assert "ValueError" in caplog.text
    assert patient not in caplog.text + answer.text


def test_nothing_is_written_to_disk(reader, radiograph, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    opened = []

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            opened.append(arguments[0])

    with ready(create_app(reader, Limits(decoders=1))) as client:
        sys.addaudithook(watch)
        noise = np.random.default_rng(0).integers(0, 16, (1920, 1920), dtype=np.uint8)
        large = png(np.repeat(np.repeat(radiograph, 3, 0), 3, 1) // 2 + noise)
        assert len(large) > 2**21
        assert read(client, large, heatmaps="png", display="true").status_code == 200
        written, opened = list(opened), []
    assert written == []
    assert list(tmp_path.iterdir()) == []


def test_metrics_count_what_happened(reader, radiographs):
    with ready(create_app(reader, Limits(decoders=1))) as client:
        for _ in range(3):
            read(client, radiographs[0])
        read(client, b"nothing")
        page = client.get("/metrics").text
    assert 'chestxray_requests_total{route="/v1/read",status="200"} 3.0' in page
    assert 'chestxray_problems_total{code="unsupported-format"} 1.0' in page
    assert f"chestxray_upload_bytes_total {3.0 * radiographs[0].stat().st_size}" in page
    assert "chestxray_batch_images_count 4.0" in page  # three, and the first at the start
    assert reader.bundle.identity in page
    assert "chestxray_uploads_in_progress 0.0" in page


def test_it_accepts_the_formats_that_the_decoder_reads(client, radiographs):
    image = cv2.imread(str(radiographs[0]), cv2.IMREAD_GRAYSCALE)
    assert read(client, cv2.imencode(".jpg", image)[1].tobytes()).json()["image"]["kind"] == "JPEG"
    for suffix in (".bmp", ".tiff", ".webp"):
        data = cv2.imencode(suffix, image)[1].tobytes()
        with pytest.raises(ImageError):
            pixels.decode(data)
        assert problem(read(client, data)) == (415, "unsupported-format")


def test_the_interface_is_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    statuses = paths["/v1/read"]["post"]["responses"]
    problems = {"400", "401", "403", "406", "408", "413", "415", "422", "429", "500", "503"}
    assert set(statuses) == {"200", "204"} | problems
    forms = {"application/json", "application/fhir+json", "application/dicom", "multipart/related"}
    assert set(statuses["200"]["content"]) == forms
    assert "multipart/form-data" in paths["/v1/read"]["post"]["requestBody"]["content"]


def test_a_stopped_server_completes_open_requests(held, radiographs):
    app = create_app(held, Limits(decoders=1))
    with listening(app) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        held.engine.may.clear()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(read, client, radiographs[0])
            wait_until(lambda: "chestxray_uploads_in_progress 1.0" in client.get("/metrics").text)
            server.handle_exit(signal.SIGTERM, None)
            held.engine.may.set()
            assert answer.result().status_code == 200
