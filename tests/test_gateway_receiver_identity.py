"""Who sends what: titles and addresses, and UIDs that contradict each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    generate_uid,
)
from pynetdicom import AE
from pynetdicom.dsutils import encode

from chestxray.errors import ConfigError
from chestxray.serving.gateway import audit
from chestxray.serving.gateway.intake import Intake
from chestxray.serving.gateway.receiver import Receiver
from chestxray.serving.gateway.sop_uids import sop_uids
from chestxray.serving.gateway.store import Store
from gateway_parts import config, film, radiograph, store

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)

SUCCESS, MISMATCH = 0x0000, 0xA900


class Node:
    """A receiver of this process, and its store."""

    def __init__(self, folder: Path, **receive: object) -> None:
        settings = config(folder, **receive)
        self.port = settings.receive.port
        self.store = Store(settings.state)
        self._receiver = Receiver(settings.receive, Intake(Store(settings.state), settings.storage))
        self._receiver.start()

    def events(self) -> list[dict]:
        entries = audit.verified_entries(self.store.db)
        return [json.loads(entry["entry"]) for entry in entries]

    def stop(self) -> None:
        self._receiver.stop()


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    made = Node(tmp_path, **getattr(request, "param", {}))
    yield made
    made.stop()


def send_as(image: Dataset, port: int, **command: str) -> int:
    """Send a data set under a C-STORE request that says something else."""
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="CHESTXRAY")
    sent = encode(image, False, True)
    lie = Dataset()
    lie.update(image)
    lie.file_meta = image.file_meta
    for keyword, value in command.items():
        setattr(lie, keyword, value)
    original = association.send_c_store.__globals__["encode"]
    association.send_c_store.__globals__["encode"] = lambda *_: sent
    try:
        return int(association.send_c_store(lie).Status)
    finally:
        association.send_c_store.__globals__["encode"] = original
        association.release()


def test_an_instance_uid_that_differs_between_command_and_data_set_is_refused(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    image = radiograph()
    assert send_as(image, node.port, SOPInstanceUID=generate_uid()) == MISMATCH
    assert "SOP class or instance UID differ" in caplog.text
    assert not list(node.store.images.iterdir())
    assert not node.events()
    assert send_as(image, node.port) == SUCCESS


@pytest.mark.parametrize("inside", [CTImageStorage, ""])
def test_a_ct_image_that_is_announced_as_a_radiograph_is_refused(node: Node, inside: str) -> None:
    image = radiograph()
    announced = image.SOPClassUID
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(announced, ExplicitVRLittleEndian)
    if inside:
        image.SOPClassUID = inside
    else:
        del image.SOPClassUID
    association = ae.associate("127.0.0.1", node.port, ae_title="CHESTXRAY")
    names = association.send_c_store.__globals__
    original, sent = names["encode"], encode(image, False, True)
    image.SOPClassUID = announced
    names["encode"] = lambda *_: sent
    try:
        assert association.send_c_store(image).Status == MISMATCH
    finally:
        names["encode"] = original
        association.release()
    assert not list(node.store.images.iterdir())


def test_a_known_uid_with_another_patient_is_reported_and_recorded(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    image = radiograph(1)
    assert store(image, node.port) == SUCCESS
    image.PatientName, image.PatientID = "Othername^Patient", "P2"
    assert store(image, node.port) == SUCCESS, "the first one stays"
    kept = dcmread(node.store.image_file(image.SOPInstanceUID))
    assert kept.PatientID == "P1"
    assert "a known image came with another data set" in caplog.text
    first, second = node.events()
    assert (first["event"], second["event"]) == ("received", "different")
    assert second["image"] == image.SOPInstanceUID
    assert second["sha256"] != first["sha256"]
    assert "Othername" not in caplog.text + json.dumps(node.events())


@pytest.mark.parametrize("node", [{"allow": ["SENDER", "PACS"]}], indirect=True)
def test_the_same_image_from_another_sender_is_no_difference(node: Node) -> None:
    image = radiograph()
    assert store(image, node.port) == SUCCESS
    assert store(image, node.port) == SUCCESS
    assert store(image, node.port, "PACS") == SUCCESS
    assert [event["event"] for event in node.events()] == ["received"]


@pytest.mark.parametrize(
    ("networks", "answer"),
    [(["127.0.0.1"], SUCCESS), (["127.0.0.0/8", "::1"], SUCCESS), (["10.1.2.3"], -1)],
)
def test_a_title_with_addresses_comes_in_from_these_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, networks: list[str], answer: int
) -> None:
    given = f"[receive.addresses]\nSENDER = {json.dumps(networks)}\n"
    settings = config(tmp_path, given, allow=["SENDER", "OTHER"])
    receiver = Receiver(settings.receive, Intake(Store(settings.state), settings.storage))
    receiver.start()
    assert store(radiograph(), settings.receive.port) == answer
    assert ("SENDER came from 127.0.0.1, see receive.addresses" in caplog.text) == (answer == -1)
    assert store(radiograph(), settings.receive.port, "OTHER") == SUCCESS
    receiver.stop()


def test_an_ipv4_address_on_an_ipv6_socket_is_the_same_address(tmp_path: Path) -> None:
    settings = config(tmp_path, '[receive.addresses]\nSENDER = ["10.1.2.0/24"]\n')
    assert settings.receive.may_come_from("SENDER", "::ffff:10.1.2.3")
    assert not settings.receive.may_come_from("SENDER", "::ffff:10.1.3.3")
    assert not settings.receive.may_come_from("SENDER", "fe80::1%eth0")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('SENDER = ["somewhere"]', "must be an IP address"),
        ("SENDER = []", "must not be empty"),
        ('STRANGER = ["10.1.2.3"]', "addresses has titles that are not in allow: ['STRANGER']"),
    ],
)
def test_wrong_addresses_are_reported_with_their_key(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"receive") as found:
        config(tmp_path, f"[receive.addresses]\n{text}\n")
    assert why in str(found.value)


SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("undefined", [False, True])
def test_the_uids_of_a_data_set_are_found_in_every_encoding(
    syntax: type(ImplicitVRLittleEndian), undefined: bool
) -> None:
    image = radiograph(stored=film(pixels=16))
    language = Dataset()
    language.CodeValue, language.CodeMeaning = "de", "German"
    language.SOPInstanceUID = "9.9.9"  # an inner one, which is not the image's
    image.LanguageCodeSequence = [language]
    image["LanguageCodeSequence"].is_undefined_length = undefined
    content = encode(
        image, syntax.is_implicit_VR, syntax.is_little_endian, deflated=syntax.is_deflated
    )
    assert sop_uids(content, syntax) == (image.SOPClassUID, image.SOPInstanceUID)
    for end in range(0, len(content) if syntax.is_deflated else 400, 3):
        sop_uids(content[:end], syntax)


def test_a_bomb_is_not_inflated_to_find_the_uids() -> None:
    import tracemalloc
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(64 * 2**20)) + packer.flush()
    tracemalloc.start()
    assert sop_uids(bomb[:65536], DeflatedExplicitVRLittleEndian) == ("", "")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
