"""The sender, against a real Storage SCP and a real HTTP server that misbehave on request."""

from __future__ import annotations

import gc
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import trustme
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from chestxray.serving.gateway import dead_letters, statistics
from chestxray.serving.gateway.config import TLS, Destination
from chestxray.serving.gateway.reachability import reach
from chestxray.serving.gateway.sender import (
    _CStoreTransport,
    _StowTransport,
    deliver,
    run,
)
from chestxray.serving.gateway.store import READ, Image, Result, Store, send_queue
from dicom_files import written
from gateway_parts import certificates, config, free_port, full_once, radiograph, wait_for

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _collect_sockets():
    yield
    gc.collect()


QUEUE = send_queue("pacs")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state")
    opened.add(Image("1.2", "ab", "SENDER", "DX"))
    yield opened
    opened.close()


def result(store: Store) -> bytes:
    """Lay one result for the PACS into the outbox; its bytes."""
    image = radiograph(SOPClassUID=SecondaryCaptureImageStorage, SOPInstanceUID="1.2.9")
    content = written(image)
    store.result_file("1.2.9").write_bytes(content)
    task = store.claim(READ, 60, 5)
    store.finish_reading(task, "model", [Result("1.2.9", "sc", "ab", ["pacs"])])
    return content


def destination(folder: Path, text: str) -> Destination:
    return config(folder, '[[destinations]]\nname = "pacs"\n' + text).destinations[0]


def dicom(folder: Path, port: int) -> Destination:
    text = f'kind = "dicom"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\nattempts = 3\n'
    return destination(folder, text)


class PACS:
    """A Storage SCP that answers with a status of our choice and keeps what it got."""

    def __init__(
        self, port: int, tls: TLS | None = None, syntaxes: Sequence[str] = (ExplicitVRLittleEndian,)
    ) -> None:
        self.status, self.got, self.associations = 0x0000, [], []
        ae = AE(ae_title="PACS")
        ae.add_supported_context(Verification)
        ae.add_supported_context(SecondaryCaptureImageStorage, list(syntaxes))
        handlers = [(evt.EVT_C_STORE, self._stored), (evt.EVT_ACCEPTED, self._accepted)]
        context = tls.server_context() if tls else None
        self._server = ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=context
        )

    def _stored(self, event: evt.Event) -> int:
        self.got.append(event.encoded_dataset(include_meta=False))
        return self.status

    def _accepted(self, event: evt.Event) -> None:
        self.associations.append(event.assoc)

    def stop(self) -> None:
        self._server.shutdown()


def attempt(store: Store, to: Destination, transport: _CStoreTransport | _StowTransport) -> bool:
    """Deliver once; whether the destination was reached."""
    store.db.execute("UPDATE tasks SET due = 0 WHERE state = 'queued'")
    task = store.claim(QUEUE, 60, to.attempts)
    assert task
    reached = deliver(task, transport, store, to)
    transport.release()
    return reached


def state(store: Store) -> str:
    counted = statistics.counts(store.db)[QUEUE]
    return next(name for name, count in counted.items() if count)


def referenced(uid: str = "1.2.9") -> dict:
    item = {"00081155": {"vr": "UI", "Value": [uid]}}
    return {"00081199": {"vr": "SQ", "Value": [item]}}


def failed(reason: int) -> dict:
    item = {"00081155": {"vr": "UI", "Value": ["1.2.9"]}}
    item["00081197"] = {"vr": "US", "Value": [reason]}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def picture(store: Store) -> tuple[bytes, np.ndarray]:
    """Lay one picture in JPEG into the outbox, as a worker does; its bytes, and its pixels."""
    result(store)
    image = dcmread(store.result_file("1.2.9"))
    drawn = np.zeros((40, 50, 3), np.uint8)
    drawn[:, 24:] = 200, 120, 40
    image.Rows, image.Columns, image.SamplesPerPixel = drawn.shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PhotometricInterpretation, image.PlanarConfiguration = "YBR_FULL_422", 0
    stream = io.BytesIO()
    PIL.Image.fromarray(drawn).save(stream, "JPEG", quality=100, subsampling=1)
    image.PixelData = encapsulate([stream.getvalue()])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    content = written(image)
    store.result_file("1.2.9").write_bytes(content)
    return content, drawn


@pytest.mark.parametrize("accepts", [True, False])
def test_a_picture_is_decoded_only_for_a_pacs_that_does_not_accept_jpeg(
    store: Store, tmp_path: Path, accepts: bool
) -> None:
    content, drawn = picture(store)
    port = free_port()
    syntaxes = [ExplicitVRLittleEndian, *([JPEGBaseline8Bit] if accepts else [])]
    pacs, to = PACS(port, syntaxes=syntaxes), dicom(tmp_path, port)
    assert attempt(store, to, _CStoreTransport(to, "CHESTXRAY"))
    assert state(store) == "done"
    assert content.endswith(pacs.got[0]) == accepts
    got = dcmread(io.BytesIO(pacs.got[0]), force=True)
    if not accepts:
        got.file_meta = FileMetaDataset()
        got.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        assert got.PhotometricInterpretation == "RGB"
        assert np.abs(got.pixel_array.astype(int) - drawn).mean() < 1
    assert store.result_file("1.2.9").read_bytes() == content, "what is kept stays as it was made"
    pacs.stop()


def test_a_picture_that_an_earlier_version_left_in_rle_is_sent_decoded(
    store: Store, tmp_path: Path
) -> None:
    picture(store)
    image = dcmread(store.result_file("1.2.9"))
    image.decompress(generate_instance_uid=False)
    drawn = image.pixel_array.copy()
    image.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    store.result_file("1.2.9").write_bytes(written(image))
    port = free_port()
    pacs, to = PACS(port, syntaxes=[ExplicitVRLittleEndian]), dicom(tmp_path, port)
    assert attempt(store, to, _CStoreTransport(to, "CHESTXRAY"))
    got = dcmread(io.BytesIO(pacs.got[0]), force=True)
    got.file_meta = FileMetaDataset()
    got.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert np.array_equal(got.pixel_array, drawn)
    pacs.stop()


def test_a_stow_service_that_does_not_take_jpeg_gets_the_picture_decoded(
    store: Store, tmp_path: Path
) -> None:
    content, drawn = picture(store)
    answers = [(409, json.dumps(failed(0xC122))), (200, json.dumps(referenced()))]
    with web(*answers[0], later=answers[1]) as (url, got):
        to = destination(tmp_path, f'kind = "stow"\nurl = "{url}"\nattempts = 1\n')
        transport = _StowTransport(to, threading.Event())
        assert attempt(store, to, transport)
        transport.close()
    assert state(store) == "done"
    assert content in got[0]
    start = got[1].index(b"\r\n\r\n") + 4
    plain = dcmread(io.BytesIO(got[1][start:]))
    assert np.abs(plain.pixel_array.astype(int) - drawn).mean() < 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_check_approves_a_pacs_where_and_only_where_a_delivery_succeeds(
    store: Store, tmp_path: Path, syntax: str
) -> None:
    result(store)
    port = free_port()
    pacs, to = PACS(port, syntaxes=[syntax]), dicom(tmp_path, port)
    settings = config(tmp_path).model_copy(
        update={"destinations": [to.model_copy(update={"send": ["sc"]})]}
    )
    (found,) = reach(settings)
    attempt(store, to, _CStoreTransport(to, "CHESTXRAY"))
    assert (found.problem == "") == (state(store) == "done") == (syntax == ExplicitVRLittleEndian)
    assert found.problem == "" or "in Explicit VR Little Endian: allow" in found.problem
    pacs.stop()


@pytest.mark.parametrize(
    ("first", "sent"),
    [
        ((415, ""), 2),
        ((400, "<html>"), 2),
        ((404, ""), 1),
        ((413, ""), 1),
        ((302, ""), 1),
        ((409, json.dumps(failed(0xC122))), 2),
        ((500, ""), 1),
        ((200, "<html>"), 1),
        ((503, ""), 1),
        ((409, json.dumps(failed(0xA700))), 1),
    ],
)
def test_a_picture_is_sent_again_only_to_a_service_that_answered_that_it_does_not_store_it(
    store: Store, tmp_path: Path, first: tuple[int, str], sent: int
) -> None:
    picture(store)
    with web(*first, later=(409, json.dumps(failed(0xA900)))) as (url, got):
        to = destination(tmp_path, f'kind = "stow"\nurl = "{url}"\nattempts = 1\n')
        transport = _StowTransport(to, threading.Event())
        attempt(store, to, transport)
        transport.close()
    assert len(got) == sent
    rows = dead_letters.dead_letters(store.db) + statistics.retrying(store.db)
    reason = "".join(row["reason"] for row in rows)
    assert f"answered {first[0]}" in reason, "the first answer is told"
    assert ("without compression: the server answered 409" in reason) == (sent == 2)


# 0111: it has it already, of a sender that was killed before it noted the success.
@pytest.mark.parametrize(
    ("status", "found"), [(0x0000, "done"), (0xB000, "done"), (0x0111, "done"), (0xA700, "queued")]
)
def test_a_result_arrives_as_the_bytes_in_the_outbox(
    store: Store, tmp_path: Path, status: int, found: str
) -> None:
    content, port = result(store), free_port()
    pacs, to = PACS(port), dicom(tmp_path, port)
    pacs.status = status
    assert attempt(store, to, _CStoreTransport(to, "CHESTXRAY")) == (found == "done")
    assert state(store) == found
    assert len(pacs.got[0]) > 8000
    assert content.endswith(pacs.got[0])
    pacs.stop()


def test_results_that_follow_each_other_go_over_one_association(
    store: Store, tmp_path: Path
) -> None:
    result(store)
    port = free_port()
    pacs, to = PACS(port), dicom(tmp_path, port)
    transport = _CStoreTransport(to, "CHESTXRAY")
    for _ in range(3):
        transport.send(store.result_file("1.2.9"))
        transport.release(held=60)
    assert len(pacs.got) == 3
    (association,) = pacs.associations
    assert association.is_established
    transport.release(held=0)
    wait_for(lambda: association.is_released, 10)
    pacs.stop()


def test_a_sender_killed_before_it_noted_a_success_sends_the_same_bytes_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    result(store)
    port = free_port()
    pacs, to = PACS(port), dicom(tmp_path, port)
    transport = _CStoreTransport(to, "CHESTXRAY")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish_sending", kill)
        with pytest.raises(Killed):
            attempt(store, to, transport)
    transport.release()
    assert store.release(QUEUE, "", died=True) == 1
    assert attempt(store, to, transport)
    assert state(store) == "done"
    assert len(pacs.got) == 2
    assert pacs.got[0] == pacs.got[1]
    pacs.stop()


def test_a_result_that_is_turned_down_is_offered_some_times_and_given_up(
    store: Store, tmp_path: Path
) -> None:
    result(store)
    port = free_port()
    pacs, to = PACS(port), dicom(tmp_path, port)
    pacs.status = 0xA900
    transport = _CStoreTransport(to, "CHESTXRAY")
    for number in range(3):
        assert state(store) == "queued", number
        assert attempt(store, to, transport)
    assert state(store) == "dead"
    assert "A900" in dead_letters.dead_letters(store.db)[0]["reason"]
    pacs.status = 0
    dead_letters.retry(store.db)
    assert attempt(store, to, transport)
    assert state(store) == "done"
    pacs.stop()


def test_while_nobody_answers_nothing_is_given_up(store: Store, tmp_path: Path) -> None:
    result(store)
    port = free_port()
    to = dicom(tmp_path, port)
    transport = _CStoreTransport(to, "CHESTXRAY")
    for _ in range(to.attempts + 2):
        assert not attempt(store, to, transport)
    assert state(store) == "queued"
    pacs = PACS(port)
    assert attempt(store, to, transport)
    assert state(store) == "done"
    pacs.stop()


def test_an_archive_whose_name_is_not_found_is_waited_for(store: Store, tmp_path: Path) -> None:
    result(store)
    to = dicom(tmp_path, 104).model_copy(update={"host": "no-such-host.invalid"})
    for _ in range(to.attempts + 2):
        assert not attempt(store, to, _CStoreTransport(to, "CHESTXRAY"))
    assert state(store) == "queued"


def test_the_sender_outlives_a_full_disk_and_a_pacs_that_is_down(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result(store)
    port, stop = free_port(), threading.Event()
    text = f'kind = "dicom"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n'
    settings = config(tmp_path, '[[destinations]]\nname = "pacs"\n' + text)
    monkeypatch.setattr(Store, "claim", full_once(Store.claim))
    sender = threading.Thread(target=run, args=(settings, settings.destinations[0], stop))
    sender.start()
    wait_for(lambda: statistics.retrying(store.db), 60)
    assert (
        "could not be opened: there is no connection" in statistics.retrying(store.db)[0]["reason"]
    )
    pacs = PACS(port)
    wait_for(lambda: state(store) == "done", 60)
    stop.set()
    sender.join(60)
    assert not sender.is_alive()
    pacs.stop()


def test_a_pacs_that_wants_tls_gets_it_both_ways(store: Store, tmp_path: Path) -> None:
    result(store)
    authority, port = trustme.CA(), free_port()
    files = certificates(tmp_path, "ours", authority)
    pacs, plain = PACS(port, files), dicom(tmp_path, port)
    assert not attempt(store, plain, _CStoreTransport(plain, "CHESTXRAY"))
    strange = certificates(tmp_path, "strange", trustme.CA())
    for wrong in (
        strange,  # each distrusts the other
        files.model_copy(update={"authority": strange.authority}),  # we distrust the PACS
        files.model_copy(update={"certificate": tmp_path / "gone.pem"}),
    ):
        to = plain.model_copy(update={"tls": wrong})
        assert not attempt(store, to, _CStoreTransport(to, "CHESTXRAY"))
    secured = plain.model_copy(update={"tls": files})
    assert attempt(store, secured, _CStoreTransport(secured, "CHESTXRAY"))
    assert state(store) == "done"
    pacs.stop()


def test_a_pacs_under_another_name_than_its_certificate_says_gets_nothing(
    store: Store, tmp_path: Path
) -> None:
    result(store)
    authority, port = trustme.CA(), free_port()
    pacs = PACS(port, certificates(tmp_path, "other", authority, "pacs.example"))
    ours = certificates(tmp_path, "ours", authority)
    to = dicom(tmp_path, port).model_copy(update={"tls": ours})
    assert not attempt(store, to, _CStoreTransport(to, "CHESTXRAY"))
    assert not pacs.got
    pacs.stop()


HANGS = """
import sys, threading, time
from pathlib import Path
from chestxray.serving.gateway import config, sender

sender.deliver = lambda *_: time.sleep(60)
settings = config.load(Path(sys.argv[1]))
sender.run(settings, settings.destinations[0], threading.Event())
"""


def test_a_delivery_that_hangs_ends_its_sender_and_is_freed_by_the_next(
    store: Store, tmp_path: Path
) -> None:
    result(store)
    text = '[[destinations]]\nname = "pacs"\nkind = "stow"\nurl = "http://x"\nlease = 1.0\n'
    config(tmp_path, text)
    command = [sys.executable, "-c", HANGS, str(tmp_path / "gateway.toml")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=300)
    assert done.returncode == 1
    assert b"Timeout" in done.stderr
    store.release(QUEUE, "pacs", died=True)
    assert store.claim(QUEUE, 60, 5).attempts == 2


# --- STOW-RS ------------------------------------------------------------------------------------


@contextmanager
def web(
    status: int, body: str, later: tuple[int, str] | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server with one answer, `later` another one; its address, and what it got."""
    got: list[bytes] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            code, said = later if later and got else (status, body)
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(code)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "found", "reason"),
    [
        (200, json.dumps(referenced()), "done", ""),
        (202, json.dumps(referenced()), "done", ""),
        (202, json.dumps(referenced() | failed(0xA900)), "dead", "A900"),
        (409, json.dumps(failed(0xA700)), "queued", "A700"),
        (409, json.dumps(failed(0x0111)), "done", ""),
        (409, json.dumps(failed(0)), "dead", "0000"),
        (409, json.dumps(failed(0x0110)), "dead", "0110"),
        (200, json.dumps(referenced("1.2.8")), "dead", "did not store it"),
        (200, "{}", "dead", "did not store it"),
        (200, "<html>", "dead", "without valid DICOM JSON"),
        (200, "[]", "dead", "without valid DICOM JSON"),
        (500, "", "dead", "answered 500"),
        (503, "", "queued", "answered 503"),
        (401, "", "queued", "answered 401"),
        (404, "<html>", "dead", "answered 404 (check the URL)"),
        (413, "", "dead", "answered 413 (the result is too large for it)"),
        (308, "", "dead", "answered 308 (redirects are not followed: check the URL)"),
    ],
)
def test_what_stow_answers_is_believed_by_its_body(
    store: Store, tmp_path: Path, status: int, body: str, found: str, reason: str
) -> None:
    content = result(store)
    with web(status, body) as (url, got):
        to = destination(tmp_path, f'kind = "stow"\nurl = "{url}"\nattempts = 1\n')
        transport = _StowTransport(to, threading.Event())
        reached = attempt(store, to, transport)
        transport.close()
    assert state(store) == found
    assert reached == (found != "queued")
    assert content in got[0]
    rows = dead_letters.dead_letters(store.db) + statistics.retrying(store.db)
    assert reason in "".join(row["reason"] for row in rows)


def test_a_web_server_that_is_silent_is_waited_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hang, with its connections still accepted by the system."""
    monkeypatch.setattr("chestxray.serving.gateway.http_client._TIMEOUT", 0.3)
    result(store)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        to = destination(tmp_path, f'kind = "stow"\nurl = "{url}"\nattempts = 2\n')
        for _ in range(4):
            transport = _StowTransport(to, threading.Event())
            assert not attempt(store, to, transport)
            transport.close()
    assert state(store) == "queued"


def test_a_web_server_that_is_down_is_waited_for(store: Store, tmp_path: Path) -> None:
    result(store)
    url = f"http://127.0.0.1:{free_port()}"
    to = destination(tmp_path, f'kind = "stow"\nurl = "{url}"\nattempts = 1\n')
    transport = _StowTransport(to, threading.Event())
    for _ in range(3):
        assert not attempt(store, to, transport)
    transport.close()
    assert state(store) == "queued"
