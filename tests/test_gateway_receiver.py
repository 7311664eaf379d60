"""The Storage SCP over real sockets: what it takes, what it answers, and whom it turns away."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    DigitalXRayImageStorageForProcessing,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from chestxray import artifacts
from chestxray.serving.gateway import audit, statistics
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.intake import Intake
from chestxray.serving.gateway.receiver import Receiver
from chestxray.serving.gateway.store import READ, Result, Store
from gateway_parts import (
    PATIENT,
    certificates,
    config,
    film,
    radiograph,
    small_disk,
    store,
    tool,
    wait_for,
)

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _collect_sockets():
    yield
    gc.collect()


SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700


class Node:
    """A receiver of this process, and its store."""

    def __init__(self, settings: Config) -> None:
        self.config = settings
        self.port = settings.receive.port
        self.store = Store(settings.state)
        self.intake = Intake(Store(settings.state), settings.storage)
        self.receiver = Receiver(settings.receive, self.intake)
        self.receiver.start()

    def queued(self) -> int:
        return statistics.counts(self.store.db)[READ]["queued"]


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest):
    made = Node(config(tmp_path, getattr(request, "param", "")))
    yield made
    made.receiver.stop()


@pytest.mark.parametrize(
    "kind",
    [
        {"Modality": "CR", "PresentationIntentType": None},
        {"Modality": "DX"},
        {"SOPClassUID": DigitalXRayImageStorageForProcessing},
    ],
)
def test_a_radiograph_is_kept_byte_for_byte_and_queued(node: Node, kind: dict) -> None:
    if "PresentationIntentType" in kind:
        kind = {key: value for key, value in kind.items() if value}
    image = radiograph(**kind)
    assert store(image, node.port) == SUCCESS
    path = node.store.image_file(image.SOPInstanceUID)
    assert dcmread(path).PixelData == image.PixelData
    kept = node.store.image(image.SOPInstanceUID)
    assert kept.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (kept.source, kept.modality) == ("SENDER", image.Modality)
    assert node.queued() == 1
    assert not list(node.store.images.glob(".*"))


def test_success_is_answered_only_after_file_and_row_are_durable(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace, add = os.fsync, Path.replace, Store.add

    def noted(what: str, function):
        def call(*arguments):
            found = function(*arguments)
            order.append(what)
            return found

        return call

    monkeypatch.setattr(os, "fsync", noted("sync", sync))
    monkeypatch.setattr(Path, "replace", noted("rename", replace))
    monkeypatch.setattr(Store, "add", noted("row", add))
    assert store(radiograph(), node.port) == SUCCESS
    assert order == ["sync", "rename", "sync", "row"]
    assert node.store.db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert node.store.db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_dcmtk_gets_its_echo(node: Node) -> None:
    command = [tool("echoscu"), "-aet", "SENDER", "-aec", "CHESTXRAY", "127.0.0.1"]
    assert subprocess.run([*command, str(node.port)], check=False, timeout=30).returncode == 0


@pytest.mark.parametrize(
    ("calling", "called", "why"),
    [
        ("STRANGER", "CHESTXRAY", "STRANGER is not in receive.allow"),
        ("SENDER", "OTHER", "it called OTHER, receive.ae_title is CHESTXRAY"),
    ],
)
def test_a_wrong_title_gets_no_association_and_the_log_says_which(
    node: Node, caplog: pytest.LogCaptureFixture, calling: str, called: str, why: str
) -> None:
    command = [tool("echoscu"), "-aet", calling, "-aec", called, "127.0.0.1", str(node.port)]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    assert store(radiograph(), node.port, calling, called) == -1
    assert f"association rejected: {why}" in caplog.text
    assert node.queued() == 0


def test_the_same_image_twice_is_queued_once(node: Node) -> None:
    image = radiograph(1)
    assert store(image, node.port) == SUCCESS
    image.PixelData = film(2).tobytes()
    assert store(image, node.port) == SUCCESS
    assert node.queued() == 1
    kept = dcmread(node.store.image_file(image.SOPInstanceUID))
    assert kept.PixelData == film(1).tobytes(), "what was acknowledged first stays"


def test_an_image_that_could_not_be_read_is_replaced_when_it_comes_again_otherwise(
    node: Node,
) -> None:
    image = radiograph(1)
    whole = image.PixelData
    image.PixelData = whole[:100]
    assert store(image, node.port) == SUCCESS
    uid = str(image.SOPInstanceUID)
    node.store.fail(node.store.claim(READ, 60, 5), "truncated", 0)
    assert store(image, node.port) == SUCCESS
    assert node.queued() == 0, "the same bytes are known"
    image.PixelData = whole
    assert store(image, node.port) == SUCCESS
    content = node.store.image_file(uid).read_bytes()
    assert node.store.image(uid).sha256 == hashlib.sha256(content).hexdigest()
    assert node.store.claim(READ, 60, 5).attempts == 1
    events = [
        json.loads(entry["entry"])["event"] for entry in audit.verified_entries(node.store.db)
    ]
    assert events == ["received", "dead", "received"]


def test_the_same_image_at_the_same_moment_is_queued_once_and_whole(node: Node) -> None:
    images = [radiograph(number, SOPInstanceUID="1.2.3") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda image: store(image, node.port), images)) == {SUCCESS}
    assert node.queued() == 1
    content = node.store.image_file("1.2.3").read_bytes()
    assert node.store.image("1.2.3").sha256 == hashlib.sha256(content).hexdigest()


def test_too_many_associations_are_turned_away_and_come_in_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(config(tmp_path, associations=2))
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(Verification)

    def associate():
        return ae.associate("127.0.0.1", node.port, ae_title="CHESTXRAY")

    held = [associate(), associate()]
    assert all(one.is_established for one in held)
    assert associate().is_rejected
    assert "2 are open already, see receive.associations" in caplog.text
    held.pop().release()
    time.sleep(0.5)
    again = associate()
    assert again.is_established
    for one in (again, *held):
        one.release()
    node.receiver.stop()


def test_one_title_cannot_take_all_associations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"associations": 4, "associations_per_title": 2, "associations_per_address": 3}
    node = Node(config(tmp_path, allow=["FIRST", "SECOND"], **limits))

    def associate(title: str):
        ae = AE(ae_title=title)
        ae.add_requested_context(Verification)
        return ae.associate("127.0.0.1", node.port, ae_title="CHESTXRAY")

    held = [associate("FIRST"), associate("FIRST")]
    assert associate("FIRST").is_rejected
    assert "2 of FIRST are open already, see receive.associations_per_title" in caplog.text
    held.append(associate("SECOND"))
    assert all(one.is_established for one in held)
    assert associate("SECOND").is_rejected
    assert "3 of 127.0.0.1 are open already, see receive.associations_per_addr" in caplog.text
    for one in held:
        one.release()
    node.receiver.stop()


def test_what_is_no_radiograph_is_not_taken(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    assert store(radiograph(SOPClassUID=SecondaryCaptureImageStorage), node.port) == 0x0122
    assert "Secondary Capture Image Storage rejected" in caplog.text
    assert store(radiograph(SOPClassUID=Comprehensive3DSRStorage), node.port) == 0x0122
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(CTImageStorage)
    assert not ae.associate("127.0.0.1", node.port, ae_title="CHESTXRAY").is_established
    assert node.queued() == 0
    assert not list(node.store.images.iterdir())


def test_an_image_of_another_class_than_its_context_is_not_taken(node: Node) -> None:
    image = radiograph()
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", node.port, ae_title="CHESTXRAY")
    contexts = association._accepted_cx
    for context in contexts.values():
        context.abstract_syntax = CTImageStorage
    image.SOPClassUID = CTImageStorage
    assert association.send_c_store(image).Status == 0x0122
    association.release()
    assert node.queued() == 0


def test_its_own_results_coming_back_are_taken_and_ignored(node: Node) -> None:
    image = radiograph()
    assert store(image, node.port) == SUCCESS
    task = node.store.claim(READ, 60, 5)
    result = radiograph(SOPClassUID=SecondaryCaptureImageStorage)
    made = Result(result.SOPInstanceUID, "sc", "ab", ["pacs"])
    node.store.finish_reading(task, "model", [made])
    assert store(result, node.port) == SUCCESS
    assert node.queued() == 0
    assert len(list(node.store.images.iterdir())) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["../../etc/passwd", "1..2", "1.2a"])
def test_an_instance_uid_that_is_none_is_no_file_name(node: Node, uid: str) -> None:
    image = radiograph()
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", node.port, ae_title="CHESTXRAY")
    try:
        image.SOPInstanceUID = uid
        answer = association.send_c_store(image)
    except ValueError:  # pynetdicom sends no such thing
        pytest.skip("the sender would not send it")
    finally:
        association.release()
    assert answer.Status == 0x0117
    assert node.queued() == 0


def test_below_the_watermark_images_are_refused_until_there_is_room(tmp_path: Path) -> None:
    node = Node(config(tmp_path, f"[storage]\nspare_mib = {2**40}\nfree_mib = {2**40}\n"))
    assert store(radiograph(), node.port) == OUT_OF_RESOURCES
    assert node.queued() == 0
    node.receiver.stop()


@pytest.fixture
def disk(tmp_path: Path):
    with small_disk(tmp_path, 3) as mounted:
        yield mounted


def test_on_a_full_disk_nothing_is_acknowledged_that_is_not_kept(disk: Path) -> None:
    node = Node(config(disk))
    answers = {}
    for number in range(12):
        image = radiograph(number, film(number, pixels=512))
        answers[image.SOPInstanceUID] = store(image, node.port)
    assert set(answers.values()) == {SUCCESS, OUT_OF_RESOURCES}
    kept = {uid for uid, answer in answers.items() if answer == SUCCESS}
    for uid in kept:
        content = node.store.image_file(uid).read_bytes()
        assert node.store.image(uid).sha256 == hashlib.sha256(content).hexdigest()
    assert node.queued() == len(kept)
    assert not list(node.store.images.glob(".*")), "no half-written file takes the last space"
    for uid in kept:
        node.store.image_file(uid).unlink()
    assert store(radiograph(99), node.port) == SUCCESS
    node.receiver.stop()


def test_a_file_without_a_row_is_taken_up_with_where_it_came_from(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise OSError("the receiver dies between file and row")

    image = radiograph(Modality="CR")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", die)
        assert store(image, node.port) == OUT_OF_RESOURCES
    assert node.queued() == 0
    (node.store.images / "1.2.3.dcm").write_bytes(b"not DICOM at all")
    artifacts.write_bytes(node.store.images / "not-a-uid.dcm", b"")
    assert node.intake.recover() == 2
    assert node.intake.recover() == 0
    kept = node.store.image(image.SOPInstanceUID)
    assert (kept.source, kept.modality) == ("SENDER", "CR")
    assert node.store.image("1.2.3").modality == ""
    assert store(image, node.port) == SUCCESS
    assert node.queued() == 2


def test_the_receiver_loads_no_model_and_no_tables() -> None:
    heavy = "import sys, chestxray.serving.gateway.receiver, chestxray.serving.gateway.polling\n"
    heavy += "import chestxray.serving.gateway.retention, chestxray.serving.gateway.statistics\n"
    heavy += "print({'torch', 'pandas', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", heavy], check=True, capture_output=True)
    assert done.stdout == b"set()\n"


def test_a_compressed_image_is_not_decoded_on_its_way_in(node: Node) -> None:
    image = radiograph()
    stream = b"not a JPEG at all"
    image.file_meta.TransferSyntaxUID = JPEGLSLossless
    from pydicom.encaps import encapsulate

    image.PixelData = encapsulate([stream])
    image["PixelData"].is_undefined_length = True
    assert store(image, node.port) == SUCCESS
    kept = dcmread(node.store.image_file(image.SOPInstanceUID))
    assert kept.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert stream in kept.PixelData


def test_the_audit_record_and_the_log_name_no_patient(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store(radiograph(), node.port)
    told = caplog.text + str(list(audit.verified_entries(node.store.db)))
    assert "received" in told
    assert PATIENT.split("^")[0] not in told


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(tmp_path: Path, authority: trustme.CA):
    ours = certificates(tmp_path, "gateway", authority)
    settings = config(tmp_path)
    receive = settings.receive.model_copy(update={"tls": ours})
    made = Node(settings.model_copy(update={"receive": receive}))
    yield made
    made.receiver.stop()


def echo(port: int, context: ssl.SSLContext | None) -> bool:
    ae = AE(ae_title="SENDER")
    ae.acse_timeout = ae.network_timeout = 5
    ae.add_requested_context(Verification)
    tls = (context, "127.0.0.1") if context else None
    association = ae.associate("127.0.0.1", port, ae_title="CHESTXRAY", tls_args=tls)
    try:
        return association.is_established and association.send_c_echo().get("Status") == 0
    finally:
        association.release() if association.is_established else None


def test_only_who_shows_a_certificate_of_the_authority_gets_in(
    secure: Node, tmp_path: Path, authority: trustme.CA
) -> None:
    friend = certificates(tmp_path, "friend", authority)
    stranger = certificates(tmp_path, "stranger", trustme.CA())
    strange = stranger.model_copy(update={"authority": friend.authority}).client_context()
    bare = ssl.create_default_context(cafile=str(friend.authority))
    assert echo(secure.port, friend.client_context())
    assert not echo(secure.port, bare), "no certificate"
    assert not echo(secure.port, strange), "of another authority"
    assert not echo(secure.port, None), "no TLS at all"
    assert not echo(secure.port, stranger.client_context()), "it does not trust us"
    assert echo(secure.port, friend.client_context())


def test_who_connects_and_keeps_silent_keeps_nobody_out(
    secure: Node, tmp_path: Path, authority: trustme.CA
) -> None:
    friend = certificates(tmp_path, "friend", authority).client_context()
    silent = [socket.create_connection(("127.0.0.1", secure.port)) for _ in range(3)]
    started = time.monotonic()
    assert echo(secure.port, friend)
    assert time.monotonic() - started < 5
    for one in silent:
        one.close()


def test_stopping_lets_an_open_association_end(node: Node) -> None:
    image: Dataset = radiograph()
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", node.port, ae_title="CHESTXRAY")
    stopping = threading.Thread(target=node.receiver.stop)
    stopping.start()

    def refuses() -> bool:
        with socket.socket() as new:
            return new.connect_ex(("127.0.0.1", node.port)) != 0

    wait_for(refuses, 60)
    assert association.send_c_store(image).Status == SUCCESS
    association.release()
    stopping.join(60)
    assert not stopping.is_alive()
    assert node.queued() == 1
