"""Each limit on what a DICOMweb service answers, against a real server that exceeds it."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from chestxray.serving.gateway import dicom_json, http_client, polling
from chestxray.serving.gateway.config import Stow
from chestxray.serving.gateway.http_client import AnswerError
from chestxray.serving.gateway.intake import RADIOGRAPHS
from chestxray.serving.gateway.multipart import only_part
from chestxray.serving.gateway.polling import Instance, _DICOMwebService
from chestxray.serving.gateway.sender import _DeliveryError, _StowTransport, _UnreachableError
from chestxray.serving.gateway.spool import Spool
from dicom_files import written
from gateway_parts import config, radiograph, wait_for
from hostile_dicomweb import MIB, MULTIPART, Hostile, attribute, hostile, part, study

SLOW = "the answer takes too long"


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile() as made:
        yield made


class Service:
    """A client of one attack, as a poller has it."""

    def __init__(self, folder: Path, server: Hostile, attack: str) -> None:
        settings = config(folder, f'[[poll]]\nurl = "{server.url(attack)}"\n')
        self.stop = threading.Event()
        self.folder = folder
        self.image = server.image
        self._service = _DICOMwebService(settings.poll[0], 4 * MIB, self.stop, RADIOGRAPHS)

    def studies(self) -> int:
        return len(self._service.studies("20200101-"))

    def fetch(self) -> Spool:
        uid, kind = str(self.image.SOPInstanceUID), str(self.image.SOPClassUID)
        instance = Instance(uid, kind, f"/studies/1/series/1/instances/{uid}")
        return self._service.fetch(instance, lambda head: Spool(self.folder, head))

    def close(self) -> None:
        self._service.close()


@pytest.fixture
def ask(tmp_path: Path, server: Hostile) -> Iterator[Callable[[str], Service]]:
    made: list[Service] = []

    def asking(attack: str) -> Service:
        made.append(Service(tmp_path, server, attack))
        return made[-1]

    yield asking
    for one in made:
        one.close()


def _set_seconds(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Let time be short where it is the limit, and long where it is not."""
    monkeypatch.setattr(http_client, "_SECONDS", 1.0 if reason == SLOW else 120.0)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("deep", "more than 32 levels"),
        ("deep-objects", "more than 32 levels"),
        ("values", "more than 8388608 bytes"),
        ("bomb", "compressed"),
        ("endless-page", "more than 8388608 bytes"),
        ("pages", "more than 2000 results"),
        ("endless-head", "RemoteProtocolError"),
        ("drip", SLOW),
        ("drip-head", SLOW),
        ("informational", SLOW),
        ("silent", SLOW),
    ],
)
def test_a_search_ends_at_each_limit(
    ask, attack: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_seconds(monkeypatch, reason)
    monkeypatch.setattr(polling, "_MAX_RESULTS", 2000)
    with pytest.raises(AnswerError, match=reason):
        ask(attack).studies()


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("endless-file", "more than 4194304 bytes"),
        ("bomb-file", "compressed"),
        ("drip-file", SLOW),
        ("silent-file", SLOW),
        ("other-file", "of another instance"),
    ],
)
def test_a_file_ends_at_each_limit_and_leaves_nothing(
    ask, tmp_path: Path, attack: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_seconds(monkeypatch, reason)
    with pytest.raises(AnswerError, match=reason):
        ask(attack).fetch()
    assert not list(tmp_path.glob(".*"))


def test_a_search_ends_at_its_number_of_pages_and_at_its_time(
    ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(polling, "_MAX_PAGES", 3)
        with pytest.raises(AnswerError, match="more than 3 pages"):
            ask("pages").studies()
    monkeypatch.setattr(polling, "_SEARCH_SECONDS", 0.0)
    with pytest.raises(AnswerError, match="more than 0 s"):
        ask("pages").studies()


@pytest.mark.parametrize("attack", ["silent", "drip", "drip-head", "informational"])
def test_a_request_in_progress_ends_when_it_is_told_to_stop(ask, server, attack: str) -> None:
    service, asked = ask(attack), server.asked[attack]
    errors: list[Exception] = []

    def search() -> None:
        try:
            service.studies()
        except AnswerError as error:
            errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    wait_for(lambda: server.asked[attack] > asked, 60)
    service.stop.set()
    thread.join(60)
    assert [str(error) for error in errors] == ["the gateway stops"]


def test_a_slow_line_is_given_more_time_by_what_it_delivers(
    ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "_SECONDS", 2.0)
    monkeypatch.setattr(http_client, "_BYTES_PER_SECOND", 0.1)  # a byte is worth ten seconds
    service = ask("drip")

    def search() -> None:
        with pytest.raises(AnswerError):
            service.studies()

    thread = threading.Thread(target=search)
    thread.start()
    time.sleep(3)
    assert thread.is_alive()
    service.stop.set()
    thread.join(60)
    assert not thread.is_alive()


# --- DICOM JSON ---------------------------------------------------------------------------------


def test_an_honest_page_of_500_studies_is_far_within_the_limits() -> None:
    sequence = {"vr": "SQ", "Value": [{"00080100": attribute("SH", "a[{,")}]}
    one = study("1.2.3") | {f"0008{n:04X}": attribute("LO", "x" * 60) for n in range(30)}
    page = json.dumps([one | {"00081032": sequence}] * 500).encode()
    assert len(dicom_json.data_sets(page)) == 500
    assert len(page) < polling._MAX_PAGE_BYTES / 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'"' + b"\\" * (4 * MIB), "not valid JSON"),
        (b'\\"' * (2 * MIB), "not valid JSON"),
        (b"[" + b"{}," * 300_000 + b"{}]", "more than 300000 values"),
        (b'[{"a":"' + b"[" * 1000 + b'"},' + b"[" * 40, "more than 32 levels"),
        (b"[" + b"1" * 5000 + b"]", "not valid JSON"),
        (b"[1]", "no array of data sets"),
        (b"{}", "no array of data sets"),
        (b"\xff\xfe[\0", "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_json_is_refused_in_time_and_in_one_sentence(content: bytes, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(AnswerError, match=reason):
        dicom_json.data_sets(content)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "piece", [b'{"a":1},', b"[[]],", b'"\xf4\x8f\xbf\xbf\xf4\x8f\xbf\xbf",', b'{"\\u1234":[]},']
)
def test_a_page_at_the_limits_takes_some_tens_of_mebibytes(piece: bytes) -> None:
    count = min(299_000 // sum(piece.count(mark) for mark in b",[{"), 8 * MIB // len(piece))
    count //= 10  # as one tenth, since the measurement is slow
    content = b"[" + piece * count + b"0]"
    tracemalloc.start()
    try:
        with pytest.raises(AnswerError, match="no array of data sets"):
            dicom_json.data_sets(content)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_brackets_in_a_text_are_no_levels() -> None:
    told = [{"a": "[" * 100 + '\\"{' * 100}]
    assert dicom_json.data_sets(json.dumps(told).encode()) == told


@pytest.mark.parametrize("shape", [None, 1, "x", [], {"Value": None}, {"Value": [None]}, {}])
def test_an_attribute_of_any_shape_has_a_text(shape: object) -> None:
    assert dicom_json.text({"00080018": shape}, "00080018") == ""


# --- multipart ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 64, 100_000])
def test_a_part_is_the_same_bytes_in_whatever_pieces_it_arrives(size: int) -> None:
    content = b"\r\n--\r\n--a" + written(radiograph(1))[:3000] + b"\r\n--"
    answer = b"preamble\r\n" + part(content) + b"epilogue"
    pieces = (answer[at : at + size] for at in range(0, len(answer), size))
    assert b"".join(only_part(MULTIPART, pieces)) == content


@pytest.mark.parametrize(
    ("kind", "answer", "reason"),
    [
        ("application/dicom", part(b"x"), "not multipart"),
        ("", part(b"x"), "not multipart"),
        (MULTIPART + ";" * 100_000, part(b"x"), "not multipart"),
        ("multipart/related; boundary=\xfc", part(b"x"), "not multipart"),
        (MULTIPART, part(b"x")[:-8], "before its part is complete"),
        (
            MULTIPART,
            part(b"x").removesuffix(b"--\r\n") + b"\r\n\r\ny\r\n--b--",
            "more than one part",
        ),
        (MULTIPART, b"y" * 20_000, "has no part"),
        (MULTIPART, b"--b\r\n" + b"y" * 20_000, "has no part"),
        (MULTIPART, b"", "has no part"),
    ],
)
def test_an_answer_that_is_not_one_part_is_refused(kind: str, answer: bytes, reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        list(only_part(kind, iter([answer])))


# --- STOW-RS ------------------------------------------------------------------------------------


def sent(tmp_path: Path, url: str, stop: threading.Event) -> None:
    image = radiograph(SOPClassUID=SecondaryCaptureImageStorage, SOPInstanceUID="1.2.9")
    path = tmp_path / "1.2.9.dcm"
    path.write_bytes(written(image))
    transport = _StowTransport(Stow(name="pacs", kind="stow", url=url), stop)
    try:
        transport.send(path)
    finally:
        transport.close()


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("deep", "without valid DICOM JSON: the answer has more than 32 levels"),
        ("values", "more than 1048576 bytes"),
        ("bomb", "compressed"),
        ("drip", SLOW),
        ("drip-head", SLOW),
        ("informational", SLOW),
    ],
)
def test_what_a_stow_service_answers_is_limited(
    tmp_path: Path, server: Hostile, attack: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_seconds(monkeypatch, reason)
    with pytest.raises(_DeliveryError, match=reason):
        sent(tmp_path, server.url(attack), threading.Event())


def test_a_delivery_that_is_cut_by_a_stop_is_no_attempt(tmp_path: Path, server: Hostile) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(_UnreachableError, match="the gateway stops"):
        sent(tmp_path, server.url("silent"), stop)


def test_an_error_quotes_nothing_of_an_answer() -> None:
    error = httpx.RemoteProtocolError("illegal status line: Secretname^Patient")
    with pytest.raises(AnswerError) as raised, http_client._translated(http_client._Budget(1)):
        raise error
    assert str(raised.value) == "RemoteProtocolError"
