"""Several radiographs in one request: order, problems in place, limits, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from chestxray.reading.reader import Reader
from chestxray.serving.admission import AdmissionControl, Limits
from chestxray.serving.content_negotiation import JSON_LINES
from chestxray.serving.read_options import ReadOptions
from chestxray.serving.reading_routes import _Batch
from chestxray.serving.upload_usage import Usage
from chestxray.serving.web import create_app
from viewer_parts import planted, write_radiographs
from web_server import ready, wait_until

LIMITS = Limits(max_upload_bytes=2**20, max_uploads_per_client=6, decoders=1)


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return planted(run)


@pytest.fixture(scope="module")
def client(reader) -> Iterator[httpx.Client]:
    with ready(create_app(reader, LIMITS)) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_left_behind(client) -> Iterator[None]:
    """A request gives its places back a moment after its answer: the next test has to wait."""
    yield
    wait_until(client.admission.usage.is_empty)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    made = write_radiographs(tmp_path_factory.mktemp("films"))
    return {name: path.read_bytes() for name, path in made.items()}


def form(files: Sequence[bytes]) -> list:
    return [("file", (f"DOE_JANE_{number}.png", data)) for number, data in enumerate(files)]


def batch(client, files: Sequence[bytes], **query) -> httpx.Response:
    return client.post("/v1/read/batch", files=form(files), params=query)


def lines(answer: httpx.Response) -> list[dict]:
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_each_file_has_the_answer_that_it_has_alone_in_the_order_of_the_files(client, films):
    sent = [films[name] for name in ("a", "text", "refused", "b", "a")]
    answer = batch(client, sent, heatmaps="json", findings="Mass,Effusion")
    assert answer.status_code == 200
    found = lines(answer)
    assert [line["index"] for line in found] == [0, 1, 2, 3, 4]
    assert [line["status"] for line in found] == [200, 415, 422, 200, 200]
    for data, line in zip(sent, found, strict=True):
        query = {"heatmaps": "json", "findings": "Mass,Effusion"}
        alone = client.post("/v1/read", files={"file": data}, params=query)
        assert line["status"] == alone.status_code
        assert line["reading" if line["status"] == 200 else "problem"] == alone.json()
        assert line["problem" if line["status"] == 200 else "reading"] is None
    assert found[2]["problem"]["notices"][0]["code"] == "rotated"
    assert "DOE" not in answer.text


def test_a_batch_counts_as_many_uploads_as_it_has_files(client, films):
    over = batch(client, [films["a"]] * 7)
    assert (over.status_code, over.json()["code"]) == (422, "file-count")
    assert "1 to 6 images" in over.json()["detail"]
    with client.admission.slot("127.0.0.1") as slot:
        slot.take_places(2)
        busy = batch(client, [films["a"]] * 5)
        assert (busy.status_code, busy.json()["code"]) == (429, "busy")
        assert batch(client, [films["a"]] * 4).status_code == 200


def test_a_file_or_a_form_that_is_too_large_is_refused(client):
    one = batch(client, [bytes(2**20 + 1)])
    assert (one.status_code, one.json()["code"]) == (413, "too-large")
    many = batch(client, [bytes(2**20)] * 5)
    assert (many.status_code, many.json()["code"]) == (413, "too-large")


def test_a_form_without_a_file_or_another_answer_is_refused(client, films):
    none = client.post("/v1/read/batch", files={"other": b"x"})
    assert (none.status_code, none.json()["code"]) == (422, "file-count")
    other = client.post(
        "/v1/read/batch", files=form([films["a"]]), headers={"Accept": "application/dicom"}
    )
    assert (other.status_code, other.json()["code"]) == (406, "not-acceptable")


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(client, films):
    with client.stream("POST", "/v1/read/batch", files=form([films["a"]] * 6)) as answer:
        assert next(answer.iter_lines())
    wait_until(client.admission.usage.is_empty)
    wait_until(lambda: "chestxray_uploads_in_progress 0.0" in client.get("/metrics").text)
    assert batch(client, [films["a"]] * 6).status_code == 200


def test_many_decoders_do_not_make_many_lines_at_once(client, films, monkeypatch):
    monkeypatch.setattr(client.admission, "limits", replace(LIMITS, decoders=32))
    with client.admission.slot("192.0.2.1") as slot:
        slot.take_places(6)
        batch = _Batch(client.admission, slot, [films["a"]] * 6, ReadOptions(JSON_LINES, ()), "")
        slot.handed_over = True
    assert batch._most == 8
    batch.close()
    assert client.admission.usage.is_empty()


def test_no_more_files_are_in_work_than_two_for_each_decoder(client, films, monkeypatch):
    """So the answers that a slow client does not take stay few, whatever the batch holds."""
    begun, go = [], threading.Event()
    read = AdmissionControl._read

    def held(admission, slot, upload, options):
        begun.append(upload.kind)
        assert go.wait(60)
        return read(admission, slot, upload, options)

    monkeypatch.setattr(AdmissionControl, "_read", held)
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(batch(client, [films["a"]] * 6)))
    thread.start()
    wait_until(lambda: len(begun) == 2)
    assert client.admission.usage.full("127.0.0.1") is not None  # all six have a place
    thread.join(0.2)
    assert len(begun) == 2
    go.set()
    thread.join(60)
    assert [line["status"] for line in lines(answers[0])] == [200] * 6


async def first_line(admission: AdmissionControl, files: Sequence[bytes]) -> tuple[_Batch, bytes]:
    """The first line of a batch with films for display, when the second file is read too."""
    options = ReadOptions(JSON_LINES, tuple(admission.reader.findings), display=True)
    with admission.slot("192.0.2.1") as slot:
        slot.reserve(sum(map(len, files)))
        slot.take_places(len(files))
        batch = _Batch(admission, slot, files, options, "request")
        slot.handed_over = True
    batch.taken = batch.lines()
    line = await anext(batch.taken)
    await batch._in_work[1][0]
    return batch, line


def test_a_finished_line_counts_as_memory_until_it_is_taken(client, films):
    usage = client.admission.usage

    async def held() -> None:
        batch, first = await first_line(client.admission, [films["a"]] * 3)
        try:
            waiting = len(films["a"])
            assert usage.held_bytes == 2 * len(first) + waiting
            assert len(first) > waiting
            rest = [line async for line in batch.taken]
            assert [len(line) for line in rest] == [len(first)] * 2
            assert usage.held_bytes == 0
        finally:
            batch.close()

    asyncio.run(held())
    assert usage.is_empty()


def test_lines_that_nobody_takes_leave_no_memory_to_further_ones(client, films, monkeypatch):
    usage = client.admission.usage

    async def second(most: int | None = None) -> tuple[int, dict]:
        if most is not None:
            monkeypatch.setattr(usage, "_most_per_client", Usage(6, most))
        batch, first = await first_line(client.admission, [films["a"]] * 2)
        try:
            return len(first), json.loads(await anext(batch.taken))
        finally:
            batch.close()

    size, line = asyncio.run(second())
    assert line["status"] == 200
    _, line = asyncio.run(second(2 * size - 1))
    assert (line["index"], line["status"], line["problem"]["code"]) == (1, 429, "busy")
    assert usage.is_empty()


def test_an_internal_error_of_one_file_is_in_its_place(client, films, monkeypatch, caplog):
    read, patient = AdmissionControl._read, "DOE_JANE"

    def fail(admission, slot, upload, options):
        if upload.data == films["b"]:
            raise ValueError(patient)
        return read(admission, slot, upload, options)

    monkeypatch.setattr(AdmissionControl, "_read", fail)
    answer = batch(client, [films["a"], films["b"], films["a"]])
    assert [line["status"] for line in lines(answer)] == [200, 500, 200]
    assert lines(answer)[1]["problem"]["code"] == "internal-error"
    wait_until(client.admission.usage.is_empty)
    assert f"ValueError {answer.headers['X-Request-ID']}" in caplog.text
    assert patient not in caplog.text + answer.text
