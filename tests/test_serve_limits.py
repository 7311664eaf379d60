"""What the service bounds and whom it serves: memory, connections, hosts, parts that fail."""

from __future__ import annotations

import contextlib
import gc
import http.client
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

import chestxray
from chestxray.errors import WorkerError
from chestxray.serving import web
from chestxray.serving import web as examples
from chestxray.serving.batching import BatchingEngine
from chestxray.serving.settings import Limits, host_of
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
    with ready(web.create(reader, Limits(upload_bytes=2**20, decoders=1))) as client:
        yield client


@pytest.fixture(scope="module")
def film() -> bytes:
    return examples.png("clear")


@pytest.fixture
def line(client) -> Iterator[http.client.HTTPConnection]:
    """A connection that sends what it is given, and stays open for more."""
    with contextlib.closing(http.client.HTTPConnection(*address(client))) as line:
        yield line


def read(client, data: bytes, **more) -> httpx.Response:
    return client.post("/v1/read", files={"file": data}, **more)


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def address(client) -> tuple[str, int]:
    return client.base_url.host, client.base_url.port


def nobody_is_in(client) -> bool:
    return client.desk._taken == client.desk._held == 0


class Upload:
    """A request whose body stays where it was left."""

    def __init__(self, client, length: int | None, body: bytes = HEAD) -> None:
        self.line = socket.create_connection(address(client))
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = f"POST /v1/read HTTP/1.1\r\nHost: localhost\r\n{size}\r\nContent-Type: "
        self.line.sendall(head.encode() + FORM["Content-Type"].encode() + b"\r\n\r\n")
        self.send(body, chunked=length is None)

    def send(self, data: bytes, chunked: bool) -> None:
        self.line.sendall(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)


@pytest.mark.parametrize("stated", [True, False])
def test_uploads_are_let_in_by_their_bytes_together(client, film, stated):
    """Eight of the largest fill the memory for uploads, long before the 32 places are taken."""
    most = client.desk.limits.upload_bytes
    if stated:  # it counts before its bytes come
        slow = [Upload(client, most) for _ in range(8)]
    else:
        slow = [Upload(client, None, HEAD + bytes(most - len(HEAD))) for _ in range(8)]
    wait_until(lambda: client.desk._held == 8 * most)
    assert problem(read(client, film)) == (429, "busy")
    for upload in slow:
        upload.line.close()
    wait_until(lambda: nobody_is_in(client))
    assert read(client, film).status_code == 200


def test_a_client_that_hangs_up_leaves_nothing_behind(client, film, line):
    for _ in range(40):
        Upload(client, 10_000).line.close()
    # Not all have come in yet; had they kept their places, none would be left.
    wait_until(lambda: nobody_is_in(client) and read(client, film).status_code == 200)
    line.request("POST", "/v1/read", HEAD + film + TAIL, FORM)
    line.close()  # before the answer
    wait_until(lambda: nobody_is_in(client) and read(client, film).status_code == 200)


@pytest.mark.parametrize("tail", [TAIL, b"\r\n" + HEAD, b"\r\n--b"])
def test_an_upload_is_forgotten_with_its_answer_not_some_time_later(client, tail):
    """Whether it was unreadable, one of several or cut off; garbage collection may be far away."""
    body = HEAD + b"\x89PNG\r\n\x1a\n" + bytes(900_000) + tail
    assert client.post("/v1/read", content=body, headers=FORM).status_code in {400, 422}
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(6):
            client.post("/v1/read", content=body, headers=FORM)
        wait_until(lambda: nobody_is_in(client))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < 2 * len(body)


def test_a_connection_serves_on_after_a_problem(line, film):
    statuses = []
    for body in (b"--b", HEAD + b"no image" + TAIL, bytes(2**20 + 1), HEAD + film + TAIL):
        line.request("POST", "/v1/read", body, FORM)
        answer = line.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert statuses == [400, 415, 413, 200]


def test_a_boundary_too_long_to_parse_is_the_clients_fault(client):
    headers = {"Content-Type": f"multipart/form-data; boundary={'b' * 257}"}
    assert problem(client.post("/v1/read", content=b"--b", headers=headers)) == (400, "broken-form")


def test_a_second_image_ends_the_upload_before_it_is_kept(client, film):
    part = HEAD + film + b"\r\n"
    answer = client.post("/v1/read", content=part + HEAD + bytes(2**19) + TAIL, headers=FORM)
    assert problem(answer) == (422, "one-file")
    assert "several" in answer.json()["sentence"]


def test_other_fields_and_an_empty_file_name_do_no_harm(client, film):
    other = b'--b\r\nContent-Disposition: form-data; name="comment"\r\n\r\nDOE^JANE\r\n'
    answer = client.post("/v1/read", content=other + HEAD + film + TAIL, headers=FORM)
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
def test_without_a_token_other_sites_pages_are_not_served(client, film, headers):
    assert problem(read(client, film, headers=headers)) == (403, "elsewhere")
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
def test_a_host_that_only_looks_like_this_machine_is_another(client, header):
    assert host_of(header) not in {"localhost", "127.0.0.1"}
    assert client.get("/v1/model", headers={"Host": header}).status_code == 403


def test_who_shows_the_token_or_is_let_in_by_force_may_come_by_any_name(reader):
    word = "correct-horse-battery"
    shown = REBOUND | {"Authorization": f"Bearer {word}"}
    for app, headers in (
        (web.create(reader, Limits(decoders=1), word), shown),
        (web.create(reader, Limits(decoders=1), anyone=True), REBOUND | OTHER_SITE),
    ):
        with ready(app) as client:
            assert client.get("/v1/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/static/../web.py", "/static/%2e%2e/web.py", "/static/..%2fweb.py", "/static//etc/motd"],
)
def test_nothing_but_the_viewers_files_is_given_out(line, path):
    line.request("GET", path)
    answer = line.getresponse()
    assert answer.status == 404
    assert b"import" not in answer.read()


def test_answers_about_patients_are_kept_by_no_cache(client, film):
    assert read(client, film).headers["Cache-Control"] == "no-store"
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
    shared = BatchingEngine(engine, most=8)
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


def test_once_the_model_s_thread_is_gone_it_says_so(reader, film):
    with ready(web.create(reader, Limits(decoders=1))) as client:
        client.desk._engine.close()
        assert client.get("/readyz").json() == {"state": "failed"}
        assert client.get("/readyz").status_code == client.get("/healthz").status_code == 503
        assert problem(read(client, film)) == (503, "failed")


def test_without_a_decoder_it_is_the_services_fault_not_the_films(reader, film, monkeypatch):
    def fail(*_):
        raise WorkerError("no process")

    with ready(web.create(reader, Limits(decoders=1))) as client:
        monkeypatch.setattr(client.desk._decoders, "decode", fail)
        answer = read(client, film)
        assert problem(answer) == (503, "no-decoder")
        assert "Retry-After" in answer.headers
        wait_until(lambda: nobody_is_in(client))


def test_what_a_dicom_file_says_of_a_patient_reaches_no_log_and_no_answer(reader, caplog, capfd):
    """Values that break their own rules are those that a decoder might complain of aloud."""
    image = np.tile(np.arange(256, dtype=np.uint16) * 16, (256, 1))
    film = dicom(image, 12, PatientName="DOE^JANE", PatientAge="060Y", PatientBirthDate="19610203")
    film = film.replace(b"060Y", b"DOE9").replace(b"19610203", b"JANE\xff\x00^9")
    with ready(web.create(reader, Limits(decoders=1))) as client:
        answers = [read(client, data) for data in (film, film[:-9000])]
    assert {answer.status_code for answer in answers} <= {200, 422}
    said = "".join(capfd.readouterr()) + caplog.text + "".join(a.text for a in answers)
    assert "DOE" not in said
    assert "JANE" not in said


def test_metrics_are_named_as_prometheus_wants(client, film):
    read(client, film)
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


def test_every_answer_it_describes_has_its_model(client):
    described = client.get("/openapi.json").json()
    models = {path: set() for path in described["paths"]}
    for path, methods in described["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                (content,) = answer["content"].values()
                models[path].add((status, content.get("schema", {}).get("$ref", "").split("/")[-1]))
    reading = dict(models["/v1/read"])
    assert reading["200"] == "ReadResult"
    assert set(reading.values()) == {"ReadResult", "Problem"}
    assert ("503", "Health") in models["/readyz"]
