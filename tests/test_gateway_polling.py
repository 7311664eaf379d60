"""Polling a real DICOMweb server: what is new is taken once, what failed is asked for again."""

from __future__ import annotations

import datetime as dt
import threading
import time
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from chestxray.serving.gateway import polling, statistics
from chestxray.serving.gateway.http_client import AnswerError
from chestxray.serving.gateway.intake import Intake, OutOfSpaceError
from chestxray.serving.gateway.polling import (
    Instance,
    Poller,
    _DICOMwebService,
    _save_position,
    position,
)
from chestxray.serving.gateway.secondary_captures import CaptureRule
from chestxray.serving.gateway.spool import Spool
from chestxray.serving.gateway.store import Store
from dicom_files import written
from gateway_parts import (
    Orthanc,
    config,
    free_port,
    full_once,
    radiograph,
    running,
    wait_for,
)

TODAY = dt.datetime.now().astimezone().date()
DAYS = dt.timedelta(days=3)  # that each question looks back, unless told otherwise
LONG_AGO = "20200101"
NONE = CaptureRule()


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

    def asking(more: str = "", captures: CaptureRule = NONE) -> Asking:
        made.append(Asking(tmp_path, empty, more, captures))
        return made[-1]

    yield asking
    for one in made:
        one.poller.close()


class Asking:
    """A poller of its own state, which a new one of the same folder finds again."""

    def __init__(
        self, folder: Path, pacs: Orthanc, more: str = "", captures: CaptureRule = NONE
    ) -> None:
        settings = config(folder, f'[[poll]]\nurl = "{pacs.web}/"\n{more}\n')
        self.store = Store(settings.state)
        self.intake = Intake(Store(settings.state), settings.storage)
        self.stop = threading.Event()
        own = Store(settings.state)
        self.poller = Poller(settings.poll[0], self.intake, own, 2**28, self.stop, captures)
        self.url = pacs.web

    def poll(self) -> int:
        return self.poller.poll()

    def position(self) -> str | None:
        return position(self.store.db, self.url)

    def held(self) -> set[str]:
        return {path.stem for path in self.store.images.iterdir()}


def test_new_radiographs_are_taken_once_and_nothing_else(empty: Orthanc, ask) -> None:
    here, old = radiograph(1), radiograph(2, Modality="CR", StudyDate=LONG_AGO)
    foreign = radiograph(3, Modality="OT", SOPClassUID=SecondaryCaptureImageStorage)
    give(empty, here, old, foreign)
    asking = ask()
    assert asking.poll() == 1
    assert asking.poll() == 0
    assert asking.held() == {here.SOPInstanceUID}
    kept = asking.store.image(here.SOPInstanceUID)
    assert (kept.source, kept.modality) == (empty.web, "DX")
    more = {"StudyInstanceUID": here.StudyInstanceUID, "PatientID": here.PatientID}
    later = radiograph(4, Modality="CR", **more)
    give(empty, later)
    assert asking.poll() == 1, "a study that grew"


def test_secondary_captures_that_are_radiographs_are_taken_where_that_is_allowed(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "CR"}
    film, screenshot = radiograph(1, **more), radiograph(2, BurnedInAnnotation="YES", **more)
    picture = radiograph(3, **more | {"Modality": "OT"})
    give(empty, film, screenshot, picture)
    assert ask().poll() == 0, "off by default"
    asking = ask(captures=CaptureRule(accepted=True))
    fetched, fetch = [], _DICOMwebService.fetch

    def counted(service: _DICOMwebService, instance: Instance, open_spool) -> Spool:
        fetched.append(instance.uid)
        return fetch(service, instance, open_spool)

    monkeypatch.setattr(_DICOMwebService, "fetch", counted)
    assert asking.poll() == 1
    asking.poller._complete.clear()
    assert asking.poll() == 0
    assert asking.held() == {film.SOPInstanceUID}
    assert asking.store.image(film.SOPInstanceUID).modality == "CR"
    assert sorted(fetched) == sorted([film.SOPInstanceUID, screenshot.SOPInstanceUID]), "once each"


def test_the_position_is_saved_and_found_by_the_next_one(empty: Orthanc, ask) -> None:
    old = radiograph(1, StudyDate=LONG_AGO)
    give(empty, old)
    first = ask(f"since = {LONG_AGO[:4]}-01-01")
    assert first.poll() == 1
    assert first.position() == f"{TODAY - DAYS:%Y%m%d}"
    give(empty, radiograph(2, StudyDate=LONG_AGO), radiograph(3))
    second = ask(f"since = {LONG_AGO[:4]}-01-01")
    assert second.poll() == 1, "it asks from the position on"


def test_what_came_before_the_source_first_answered_is_asked_for(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(empty, radiograph(1, StudyDate=LONG_AGO))

    def down(*_: object) -> set:
        raise AnswerError("the source is down")

    with monkeypatch.context() as patch:
        patch.setattr(_DICOMwebService, "studies", down)
        with pytest.raises(AnswerError):
            ask("since = 2020-01-01").poll()
    assert ask().poll() == 1, "from the day on which it was asked first, as it was then"


def test_while_something_is_left_behind_the_position_stays(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [radiograph(number, StudyDate=LONG_AGO) for number in range(3)]
    give(empty, *images)
    asking = ask(f"since = {LONG_AGO[:4]}-01-01")
    take = asking.intake.accept

    def full(uid: str, spool: Spool, *arguments: object) -> bool:
        if uid == images[1].SOPInstanceUID:
            spool.fail(OutOfSpaceError("full"))
        return take(uid, spool, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(asking.intake, "accept", full)
        assert asking.poll() == 2, "one that fails keeps no other back"
    assert asking.position() == LONG_AGO
    assert asking.poll() == 1
    assert asking.held() == {str(image.SOPInstanceUID) for image in images}
    assert asking.position() == f"{TODAY - DAYS:%Y%m%d}"


def test_a_source_that_gives_fewer_a_page_than_asked_for_is_asked_for_all(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = _DICOMwebService._page

    def one_a_page(self: _DICOMwebService, path: str, query: dict):
        return page(self, path, query | {"limit": "1"})

    monkeypatch.setattr(_DICOMwebService, "_page", one_a_page)
    study = generate_uid()
    give(empty, *(radiograph(number, StudyInstanceUID=study, PatientID="P") for number in range(2)))
    give(empty, *(radiograph(number) for number in range(2, 4)))
    assert ask().poll() == 4


def test_a_study_that_cannot_be_listed_keeps_no_other_back(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [radiograph(number) for number in range(3)]
    give(empty, *images)
    asking, radiographs = ask(), _DICOMwebService.radiographs
    broken = min(str(image.StudyInstanceUID) for image in images)

    def fail(self: _DICOMwebService, study: str) -> list[Instance]:
        if study == broken:
            raise AnswerError("n/a")
        return radiographs(self, study)

    with monkeypatch.context() as patch:
        patch.setattr(_DICOMwebService, "radiographs", fail)
        assert asking.poll() == 2
    asking.store.db.execute("UPDATE positions SET asked = asked - 100")
    assert 100 <= statistics.polled(asking.store.db)[asking.url] < 160
    assert asking.poll() == 1
    assert statistics.polled(asking.store.db)[asking.url] < 60


def test_a_study_that_the_source_tells_badly_keeps_no_other_back(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(empty, radiograph(1))
    pages = _DICOMwebService._search

    def badly(self: _DICOMwebService, path: str, query: dict[str, str]):
        yield {"00080020": {"vr": "DA"}}
        for study in pages(self, path, query):
            yield study | {"00201208": {"vr": "IS", "Value": ["n/a"]}}

    monkeypatch.setattr(_DICOMwebService, "_search", badly)
    assert _DICOMwebService.studies(ask().poller._service, f"{LONG_AGO}-")


def test_a_poller_that_is_told_to_stop_takes_no_further_image(empty: Orthanc, ask) -> None:
    image = radiograph(1)
    give(empty, image)
    asking = ask()
    asking.stop.set()
    assert asking.poller._take_study(str(image.StudyInstanceUID), time.monotonic() + 60) == (
        0,
        False,
    )


def test_an_image_that_took_another_one_s_place_is_seen(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = radiograph(1)
    give(empty, first)
    asking = ask()
    assert asking.poll() == 1
    httpx.delete(f"{empty.url}/instances/{empty.instances()[0]['ID']}").raise_for_status()
    same = {"StudyInstanceUID": first.StudyInstanceUID, "PatientID": first.PatientID}
    give(empty, radiograph(2, **same))
    assert asking.poll() == 0, "as many as before"
    monkeypatch.setattr(asking.poller, "_forget_at", 0.0)
    assert asking.poll() == 1


def test_a_position_saved_by_a_clock_that_was_wrong_hides_nothing(empty: Orthanc, ask) -> None:
    asking = ask()
    _save_position(asking.store.db, asking.url, f"{TODAY + 1000 * DAYS:%Y%m%d}")
    give(empty, radiograph(1), radiograph(2, StudyDate=f"{TODAY - DAYS:%Y%m%d}"))
    assert asking.poll() == 2
    assert asking.position() == f"{TODAY - DAYS:%Y%m%d}"


def test_a_study_that_comes_days_late_is_seen(empty: Orthanc, ask) -> None:
    first = ask(f"since = {LONG_AGO[:4]}-01-01\ndays = 5")
    assert first.poll() == 0
    give(empty, *(radiograph(n, StudyDate=f"{TODAY - n * DAYS / 3:%Y%m%d}") for n in (5, 6)))
    assert first.poll() == 1, "five days, not six"


def test_a_queue_that_cannot_be_written_ends_no_poller(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    give(empty, radiograph(1))
    asking = ask("seconds = 0.05")
    monkeypatch.setattr(polling, "_save_position", full_once(_save_position))
    thread = threading.Thread(target=asking.poller.run)
    thread.start()
    wait_for(lambda: asking.held() and statistics.polled(asking.store.db), 60)
    asking.stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert "disk is full" in caplog.text


def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    give(empty, radiograph(1))
    asking = ask()
    with monkeypatch.context() as patch:
        patch.setattr(asking.poller._service, "_max_bytes", 1000)
        assert asking.poll() == 0
    assert "could not be taken in: the answer has more than 1000 bytes" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(polling, "_MAX_PAGE_BYTES", 100)
        with pytest.raises(AnswerError, match="more than 100 bytes"):
            asking.poll()
    assert asking.poll() == 1


def test_a_service_that_does_not_answer_is_polled_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = f'[[poll]]\nurl = "http://127.0.0.1:{free_port()}"\nseconds = 0.05\n'
    settings = config(tmp_path, text)
    intake = Intake(Store(settings.state), settings.storage)
    stop = threading.Event()
    poller = Poller(settings.poll[0], intake, Store(settings.state), 2**28, stop)
    thread = threading.Thread(target=poller.run)
    thread.start()
    wait_for(lambda: caplog.text.count("could not be polled") >= 2, 60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_years_are_asked_for_by_the_month_and_nothing_is_left_out() -> None:
    behind = dt.date(2026, 3, 10)
    found = list(polling._windows(dt.date(2025, 11, 30), behind))
    assert [first for first, _ in found[1:]] == [last for _, last in found[:-1]]
    assert found[0][0] == dt.date(2025, 11, 30)
    assert found[-1][1] is None
    assert found[-1][0] <= behind
    assert list(polling._windows(behind, behind)) == [(behind, None)]


def test_a_file_of_another_instance_is_not_taken_and_asked_for_again(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = [radiograph(number) for number in range(2)]
    give(empty, *images)
    asking, radiographs = ask(), _DICOMwebService.radiographs

    def exchanged(self: _DICOMwebService, study: str) -> list[Instance]:
        [one] = radiographs(self, study)
        [other] = [image for image in images if image.StudyInstanceUID != study]
        return [one._replace(uid=str(other.SOPInstanceUID))]

    with monkeypatch.context() as patch:
        patch.setattr(_DICOMwebService, "radiographs", exchanged)
        assert asking.poll() == 0
    assert caplog.text.count("the file is of another instance") == 2
    assert not asking.held()
    assert asking.poll() == 2


def test_a_poll_that_takes_too_long_is_continued_by_the_next(
    empty: Orthanc, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(empty, radiograph(1, StudyDate=LONG_AGO))
    asking = ask(f"since = {LONG_AGO[:4]}-01-01")
    with monkeypatch.context() as patch:
        patch.setattr(polling, "_POLL_SECONDS", -1.0)
        assert asking.poll() == 0
    assert asking.position() == LONG_AGO
    assert asking.poll() == 1
