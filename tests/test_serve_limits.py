"""The limits of the web service: memory, connections, hosts, and parts that fail."""

from __future__ import annotations

import contextlib
import gc
import http.client
import io
import re
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydicom import config, dcmread

import chestxray
from chestxray.errors import WorkerError
from chestxray.serving.admission import Limits
from chestxray.serving.batching import BatchingEngine
from chestxray.serving.middleware import _host_name
from chestxray.serving.web import create_app, example_png
from conftest import REPOSITORY
from dicom_files import dicom
from web_server import ready, wait_until

FORM = {"Content-Type": "multipart/form-data; boundary=b"}
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


@pytest.fixture(scope="module")
def reader(run: Path):
    return chestxray.load(run / "bundle", "torch")


@pytest.fixture(scope="module")
def client(reader):
    with ready(create_app(reader, Limits(max_upload_bytes=2**20, decoders=1))) as client:
        yield client


@pytest.fixture(scope="module")
def radiograph() -> bytes:
    return example_png("clear")


@pytest.fixture
def line(client) -> Iterator[http.client.HTTPConnection]:
    """A connection that sends what it is given, and stays open for more."""
    with contextlib.closing(http.client.HTTPConnection(*address(client))) as line:
        yield line


def read(client, data: bytes, **more) -> httpx.Response:
    return client.post("/v1/read", files={"file": data}, **more)


def read_from(source: str, client, data: bytes) -> httpx.Response:
    """Post from another address of this machine."""
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(base_url=client.base_url, timeout=60, transport=transport) as other:
        return read(other, data)


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def address(client) -> tuple[str, int]:
    return client.base_url.host, client.base_url.port


def is_idle(client) -> bool:
    return client.admission.usage.is_empty()


class Upload:
    """A request whose body stays where it was left."""

    def __init__(
        self, client, length: int | None, body: bytes = HEAD, source: str = "127.0.0.1"
    ) -> None:
        self.line = socket.create_connection(address(client), source_address=(source, 0))
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = f"POST /v1/read HTTP/1.1\r\nHost: localhost\r\n{size}\r\nContent-Type: "
        self.line.sendall(head.encode() + FORM["Content-Type"].encode() + b"\r\n\r\n")
        self.send(body, chunked=length is None)

    def send(self, data: bytes, chunked: bool) -> None:
        self.line.sendall(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)


def test_uploads_are_limited_by_their_bytes_together(client, radiograph):
    """Eight of the largest fill the memory for uploads, long before the 64 places are taken."""
    most = client.admission.limits.max_upload_bytes
    body = HEAD + bytes(most - len(HEAD))
    slow = [Upload(client, None, body, f"127.0.0.{2 + number % 2}") for number in range(8)]
    wait_until(lambda: client.admission.usage.held_bytes == 8 * most)
    assert problem(read(client, radiograph)) == (429, "busy")
    for upload in slow:
        upload.line.close()
    wait_until(lambda: is_idle(client))
    assert read(client, radiograph).status_code == 200


def test_one_client_can_use_half_of_the_memory_for_uploads(client, radiograph):
    most = client.admission.limits.max_upload_bytes
    body = HEAD + bytes(most - len(HEAD))
    slow = [Upload(client, None, body) for _ in range(4)]
    wait_until(lambda: client.admission.usage.held_bytes == 4 * most)
    answer = read(client, radiograph)
    assert problem(answer) == (429, "busy")
    assert "for this client" in answer.json()["detail"]
    assert read_from("127.0.0.2", client, radiograph).status_code == 200
    for upload in slow:
        upload.line.close()
    wait_until(lambda: is_idle(client))


def test_what_is_only_announced_keeps_nobody_out(client, radiograph):
    most = client.admission.limits.max_upload_bytes
    slow = [Upload(client, most) for _ in range(40)]
    wait_until(lambda: client.admission.usage.held_bytes == 40 * len(HEAD))
    assert read(client, radiograph).status_code == 200
    for upload in slow:
        upload.line.close()
    wait_until(lambda: is_idle(client))


def test_a_client_that_hangs_up_leaves_nothing_behind(client, radiograph, line):
    for _ in range(40):
        Upload(client, 10_000).line.close()
    # Not all have come in yet; had they kept their slots, none would be left.
    wait_until(lambda: is_idle(client) and read(client, radiograph).status_code == 200)
    line.request("POST", "/v1/read", HEAD + radiograph + TAIL, FORM)
    line.close()  # before the answer
    wait_until(lambda: is_idle(client) and read(client, radiograph).status_code == 200)


@pytest.mark.parametrize("tail", [TAIL, b"\r\n" + HEAD, b"\r\n--b"])
def test_an_upload_is_freed_with_its_answer_not_at_the_next_garbage_collection(client, tail):
    """Whether it was unreadable, one of several or cut off, at once."""
    body = HEAD + b"\x89PNG\r\n\x1a\n" + bytes(900_000) + tail
    assert client.post("/v1/read", content=body, headers=FORM).status_code in {400, 422}
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(6):
            client.post("/v1/read", content=body, headers=FORM)
        wait_until(lambda: is_idle(client))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < 2 * len(body)


def test_a_connection_can_be_used_again_after_a_problem(line, radiograph):
    statuses = []
    for body in (b"--b", HEAD + b"no image" + TAIL, bytes(2**20 + 1), HEAD + radiograph + TAIL):
        line.request("POST", "/v1/read", body, FORM)
        answer = line.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert statuses == [400, 415, 413, 200]


def test_a_boundary_too_long_to_parse_is_a_client_error(client):
    headers = {"Content-Type": f"multipart/form-data; boundary={'b' * 257}"}
    assert problem(client.post("/v1/read", content=b"--b", headers=headers)) == (
        400,
        "invalid-multipart",
    )


def test_a_second_image_ends_the_upload_before_it_is_stored(client, radiograph):
    part = HEAD + radiograph + b"\r\n"
    answer = client.post("/v1/read", content=part + HEAD + bytes(2**19) + TAIL, headers=FORM)
    assert problem(answer) == (422, "file-count")
    assert "several" in answer.json()["detail"]


def test_other_fields_and_an_empty_file_name_do_no_harm(client, radiograph):
    other = b'--b\r\nContent-Disposition: form-data; name="comment"\r\n\r\nDOE^JANE\r\n'
    answer = client.post("/v1/read", content=other + HEAD + radiograph + TAIL, headers=FORM)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/model", "/static/main.js"])
def test_head_is_get_without_a_body(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


REBOUND = {"Host": "evil.example:8000"}
OTHER_SITE = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
OTHER_PORT = {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9999"}

OLD_BROWSER = {"Origin": "https://evil.example"}
SANDBOX = {"Origin": "null"}


@pytest.mark.parametrize("headers", [REBOUND, OTHER_SITE, OTHER_PORT, OLD_BROWSER, SANDBOX])
def test_without_a_token_pages_of_other_sites_are_not_served(client, radiograph, headers):
    assert problem(read(client, radiograph, headers=headers)) == (403, "not-local")
    for path in ("/v1/model", "/metrics"):
        assert client.get(path, headers=headers).status_code == 403
    assert client.get("/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_this_machine_is_served_under_all_its_names(client, host):
    headers = {"Host": host, "Origin": f"http://{host}"}
    for more in ({}, {"Sec-Fetch-Site": "same-origin"}):
        assert client.get("/v1/model", headers=headers | more).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "[::1", "[x]:y", "localhost.evil.example", "127.0.0.1.x.io"]
)
def test_a_host_that_only_resembles_this_machine_is_rejected(client, header):
    assert _host_name(header) not in {"localhost", "127.0.0.1"}
    assert client.get("/v1/model", headers={"Host": header}).status_code == 403


def test_with_the_token_or_remote_access_any_host_name_is_served(reader):
    word = "correct-horse-battery"
    shown = REBOUND | {"Authorization": f"Bearer {word}"}
    for app, headers in (
        (create_app(reader, Limits(decoders=1), word), shown),
        (create_app(reader, Limits(decoders=1), allow_remote=True), REBOUND | OTHER_SITE),
    ):
        with ready(app) as client:
            assert client.get("/v1/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/static/../web.py", "/static/%2e%2e/web.py", "/static/..%2fweb.py", "/static//etc/motd"],
)
def test_only_the_viewers_files_are_served(line, path):
    line.request("GET", path)
    answer = line.getresponse()
    assert answer.status == 404
    assert b"import" not in answer.read()


def test_the_viewer_opens_no_file_for_a_request(client, monkeypatch):
    """A client that does not take its answer would keep it open: descriptors would run out."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.stat", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    for path in ("/", "/static/main.js", "/static/style.css", "/docs", "/docs/swagger-ui.css"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert len(answer.content) == int(answer.headers["Content-Length"]) > 100


def test_a_file_of_the_viewer_that_the_browser_has_is_not_sent_again(client):
    first = client.get("/static/main.js")
    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    again = client.get("/static/main.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/static/main.js", headers={"If-None-Match": '"other"'})
    assert other.content == first.content


def test_readings_are_not_cached(client, radiograph):
    assert read(client, radiograph).headers["Cache-Control"] == "no-store"
    assert read(client, b"nothing").headers["Cache-Control"] == "no-store"
    assert client.get("/static/main.js").headers["Cache-Control"] == "no-cache"


class UnluckyEngine:
    """Holds its first batch back until others wait, and fails on every batch with a black image."""

    name = "unlucky"

    def __init__(self, engine) -> None:
        self.began, self.may = threading.Event(), threading.Event()
        self.batches: list[int] = []
        self._engine = engine

    def run(self, images):
        self.began.set()
        assert self.may.wait(30)
        self.batches.append(len(images))
        if not images.any(axis=(1, 2)).all():
            raise RuntimeError("black")
        return self._engine.run(images)


def test_one_image_that_fails_in_a_batch_fails_alone(reader):
    engine = UnluckyEngine(reader.engine)
    shared = BatchingEngine(engine, max_batch=8)
    images = np.full((4, 1, reader.size, reader.size), 90, np.uint8)
    images[2] = 0
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(shared.run, images[0])]
        assert engine.began.wait(30)
        asked += [pool.submit(shared.run, image) for image in images[1:]]
        wait_until(lambda: shared._jobs.qsize() == 3)
        engine.may.set()
        failed = [future.exception() is not None for future in asked]
    shared.close()
    assert failed == [False, False, True, False]
    assert engine.batches == [1, 3, 1, 1, 1]


def test_it_reports_that_the_models_thread_has_ended(reader, radiograph):
    with ready(create_app(reader, Limits(decoders=1))) as client:
        client.admission._engine.close()
        assert client.get("/readyz").json() == {"state": "failed"}
        assert client.get("/readyz").status_code == client.get("/healthz").status_code == 503
        assert problem(read(client, radiograph)) == (503, "failed")


def test_a_missing_decoder_is_a_server_error(reader, radiograph, monkeypatch):
    def fail(*_):
        raise WorkerError("no process")

    with ready(create_app(reader, Limits(decoders=1))) as client:
        monkeypatch.setattr(client.admission._decoders, "decode", fail)
        answer = read(client, radiograph)
        assert problem(answer) == (503, "decoder-unavailable")
        assert "Retry-After" in answer.headers
        wait_until(lambda: is_idle(client))


def test_patient_data_of_a_dicom_file_reaches_no_log_and_no_answer(reader, caplog, capfd):
    """Values that break their own rules are those that a decoder might complain of aloud."""
    image = np.tile(np.arange(256, dtype=np.uint16) * 16, (256, 1))
    radiograph = dicom(
        image, 12, PatientName="DOE^JANE", PatientAge="060Y", PatientBirthDate="19610203"
    )
    radiograph = radiograph.replace(b"060Y", b"DOE9").replace(b"19610203", b"JANE\xff\x00^9")
    with ready(create_app(reader, Limits(decoders=1))) as client:
        answers = [read(client, data) for data in (radiograph, radiograph[:-9000])]
        # These are for the patient's record; where they cannot be made, the answer says no name.
        for form in ("application/fhir+json", "application/dicom"):
            kept = read(client, with_uids(radiograph), headers={"Accept": form})
            assert kept.status_code in {200, 422}
            answers.append(read(client, radiograph, headers={"Accept": form}))
    assert {answer.status_code for answer in answers} <= {200, 422}
    said = "".join(capfd.readouterr()) + caplog.text + "".join(a.text for a in answers)
    assert "DOE" not in said
    assert "JANE" not in said


def with_uids(radiograph: bytes) -> bytes:
    """The same file with the UIDs that results refer to, and its malformed values as they are."""
    with config.disable_value_validation():
        file = dcmread(io.BytesIO(radiograph))
        file.StudyInstanceUID, file.SeriesInstanceUID = "1.2.3.4", "1.2.3.5"
        buffer = io.BytesIO()
        file.save_as(buffer)
    return buffer.getvalue()


def test_metrics_follow_prometheus_naming(client, radiograph):
    read(client, radiograph)
    page = client.get("/metrics").text
    for name in (
        "chestxray_requests_total",
        "chestxray_request_duration_seconds_bucket",
        "chestxray_uploads_in_progress",
        "chestxray_upload_bytes_total",
        "chestxray_model_info",
        "process_resident_memory_bytes",
    ):
        assert re.search(rf"^{name}[ {{]", page, re.MULTILINE), name
    counters = re.findall(r"^# TYPE (\S+) counter$", page, re.MULTILINE)
    assert all(name.endswith(("_total", "_created")) for name in counters)


def test_each_metric_is_documented_and_each_that_is_documented_exists(client):
    page = client.get("/metrics").text
    served = re.findall(r"^# TYPE (chestxray_\S+)", page, re.MULTILINE)
    table = (REPOSITORY / "docs/web_service.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(chestxray_\w+)", table, re.MULTILINE)
    assert {name for name in served if not name.endswith("_created")} == {*documented}


def test_every_described_answer_has_its_schema_and_media_type(client):
    described = client.get("/openapi.json").json()
    models = {path: set() for path in described["paths"]}
    kinds = set()
    for path, methods in described["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():
                    name = content.get("schema", {}).get("$ref", "").split("/")[-1]
                    models[path].add((status, name))
                    kinds |= {kind} if name == "ProblemDetails" else set()
    for path, line in (("/v1/read", "ReadResult"), ("/v1/read/batch", "BatchLine")):
        assert ("200", line) in models[path]
        assert {name for _, name in models[path]} <= {line, "ProblemDetails", ""}
    assert ("503", "Health") in models["/readyz"]
    assert kinds == {"application/problem+json"}


def test_a_problem_is_that_of_rfc_9457(client):
    answer = read(client, b"nothing")
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "about:blank"
    assert problem["title"] == "Unsupported Media Type"
    assert problem["status"] == answer.status_code == 415
    assert problem["detail"] == "The file is neither PNG, JPEG nor DICOM."
