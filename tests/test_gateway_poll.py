"""Polling a real DICOMweb server: what is new is taken once, what failed is asked for again."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from chestxray.serving.gateway.intake import Intake, OutOfSpaceError
from chestxray.serving.gateway.poll import Poller
from chestxray.serving.gateway.store import Store
from dicom_files import written
from gateway_parts import Orthanc, config, free_port, radiograph, running

TODAY = dt.datetime.now().astimezone().date()
YESTERDAY, LONG_AGO = TODAY - dt.timedelta(days=1), "20200101"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory):
    made = Orthanc(tmp_path_factory.mktemp("orthanc"), free_port())
    with running(made):
        yield made


@pytest.fixture
def empty(pacs: Orthanc) -> Orthanc:
    for one in pacs.instances():
        httpx.delete(f"{pacs.url}/instances/{one['ID']}").raise_for_status()
    return pacs


def give(pacs: Orthanc, *images: Dataset) -> None:
    for image in images:
        httpx.post(f"{pacs.url}/instances", content=written(image)).raise_for_status()


@pytest.fixture
def ask(tmp_path: Path, empty: Orthanc):
    """Give a poller of the same state at each call."""
    made = []

    def asking(more: str = "") -> Asking:
        made.append(Asking(tmp_path, empty, more))
        return made[-1]

    yield asking
    for one in made:
        one.poller.close()


class Asking:
    """A poller of its own state, which a new one of the same folder finds again."""

    def __init__(self, folder: Path, pacs: Orthanc, more: str = "") -> None:
        settings = config(folder, f'[[poll]]\nurl = "{pacs.web}/"\n{more}\n')
        self.store = Store(settings.state)
        self.intake = Intake(Store(settings.state), settings.storage)
        self.poller = Poller(settings.poll[0], self.intake, Store(settings.state))
        self.url = pacs.web

    def ask(self) -> int:
        return self.poller.ask(threading.Event())

    def held(self) -> set[str]:
        return {path.stem for path in self.store.images.iterdir()}


def test_new_radiographs_are_taken_once_and_nothing_else(empty: Orthanc, ask) -> None:
    here, old = radiograph(1), radiograph(2, Modality="CR", StudyDate=LONG_AGO)
    foreign = radiograph(3, Modality="OT", SOPClassUID=SecondaryCaptureImageStorage)
    give(empty, here, old, foreign)
    asking = ask()
    assert asking.ask() == 1
    assert asking.ask() == 0
    assert asking.held() == {here.SOPInstanceUID}
    kept = asking.store.image(here.SOPInstanceUID)
    assert (kept.source, kept.modality) == (empty.web, "DX")
    more = {"StudyInstanceUID": here.StudyInstanceUID, "PatientID": here.PatientID}
    later = radiograph(4, Modality="CR", **more)
    give(empty, later)
    assert asking.ask() == 1, "a study that grew"


def test_the_position_is_saved_and_found_by_the_next_one(empty: Orthanc, ask) -> None:
    old = radiograph(1, StudyDate=LONG_AGO)
    give(empty, old)
    first = ask(f"since = {LONG_AGO[:4]}-01-01")
    assert first.ask() == 1
    assert first.store.position(first.url) == f"{YESTERDAY:%Y%m%d}"
    give(empty, radiograph(2, StudyDate=LONG_AGO), radiograph(3))
    second = ask(f"since = {LONG_AGO[:4]}-01-01")
    assert second.ask() == 1, "it asks from the position on"


def test_while_something_is_left_behind_the_position_stays(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [radiograph(number, StudyDate=LONG_AGO) for number in range(3)]
    give(empty, *images)
    asking = ask(f"since = {LONG_AGO[:4]}-01-01")
    take = asking.intake.take

    def full(uid: str, *arguments: object) -> bool:
        if uid == images[1].SOPInstanceUID:
            raise OutOfSpaceError("full")
        return take(uid, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(asking.intake, "take", full)
        assert asking.ask() == 2, "one that fails keeps no other back"
    assert asking.store.position(asking.url) == ""
    assert asking.ask() == 1
    assert asking.held() == {str(image.SOPInstanceUID) for image in images}
    assert asking.store.position(asking.url)


def test_a_source_that_does_not_answer_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = f'[[poll]]\nurl = "http://127.0.0.1:{free_port()}"\nseconds = 0.05\n'
    settings = config(tmp_path, text)
    intake = Intake(Store(settings.state), settings.storage)
    poller = Poller(settings.poll[0], intake, Store(settings.state))
    stop = threading.Event()
    thread = threading.Thread(target=poller.run, args=(stop,))
    thread.start()
    stop.wait(1)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert caplog.text.count("could not be asked") >= 2
