"""The whole gateway as an operator runs it, with a real PACS on the other side."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from chestxray.serving.gateway.reachability import reach
from gateway_parts import (
    PATIENT,
    Gateway,
    Orthanc,
    config,
    free_port,
    radiograph,
    running,
    store,
    tool,
    wait_for,
    write_radiographs,
)


def destination(pacs: Orthanc, kind: str = "dicom") -> str:
    to = f'[[destinations]]\nname = "pacs-{kind}"\nkind = "{kind}"\n'
    if kind == "stow":
        return to + f'url = "{pacs.web}"\n'
    return to + f'ae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'


class Site:
    """A hospital: a PACS that routes what it gets to the gateway, and the gateway."""

    def __init__(self, folder: Path, bundle: Path, engine: Path) -> None:
        port, self.metrics = free_port(), free_port()
        self.pacs = Orthanc(folder / "orthanc", port, route=True)
        text = (
            f"[metrics]\nport = {self.metrics}\n"
            f'[read]\nengine = "{engine}"\n'
            + destination(self.pacs)
            + destination(self.pacs, "stow")
        )
        config(folder, text, port=port, allow=["PACS", "SENDER"])
        self.gateway = Gateway(folder, bundle)

    def send(self, *files: Path) -> None:
        """Send files to the PACS, as a modality does."""
        where = ["-aec", "PACS", "127.0.0.1", str(self.pacs.port)]
        subprocess.run(
            [tool("storescu"), "-aet", "SENDER", *where, *map(str, files)], check=True, timeout=60
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, run: Path, exported: Path):
    made = Site(tmp_path_factory.mktemp("site"), run / "bundle", exported)
    with running(made.pacs, made.gateway):
        yield made


def test_results_come_back_into_the_study_and_stay_one_set(site: Site, tmp_path: Path) -> None:
    files = write_radiographs(tmp_path / "in", 3)
    site.send(*files)
    wait_for(lambda: len(site.pacs.instances()) == 9, 400)
    web = DICOMwebClient(site.pacs.web)
    for file in files:
        image = dcmread(file)
        study = image.StudyInstanceUID
        found = [one for one in web.retrieve_study(study) if one.Modality != "DX"]
        assert sorted(one.Modality for one in found) == ["OT", "SR"]
        assert {(one.PatientName, one.PatientID) for one in found} == {
            (image.PatientName, image.PatientID)
        }
        picture = next(one for one in found if one.Modality == "OT")
        rendered = web.retrieve_instance_rendered(
            study, picture.SeriesInstanceUID, picture.SOPInstanceUID, media_types=("image/png",)
        )
        assert Image.open(io.BytesIO(rendered)).size == (picture.Columns, picture.Rows)

    # Each result was routed to the gateway again, and stays what it is.
    def returned() -> set[str]:
        log = site.gateway.log()
        return {line["uid"] for line in log if line.get("event") == "own-result"}

    wait_for(lambda: len(returned()) == 6, 60)
    site.send(*files)
    status = site.gateway.ask("status")
    assert "read: 0 queued, 3 done, 0 dead" in status
    assert "send:pacs-dicom: 0 queued, 6 done, 0 dead" in status
    assert "send:pacs-stow: 0 queued, 6 done, 0 dead" in status
    assert len(site.pacs.instances()) == 9


def test_check_beside_the_running_gateway_says_that_each_system_answers(site: Site) -> None:
    before = len(site.pacs.instances())
    said = site.gateway.ask("check", site.gateway.run_command()[1]).splitlines()
    assert [line.split()[0] for line in said] == ["ok", "ok", "ok"]
    assert "answered C-ECHO" in said[1]
    assert "accepts the results" in said[1]
    assert "answered a search" in said[2]
    assert len(site.pacs.instances()) == before, "and nothing was sent"


@pytest.mark.parametrize(
    ("place", "changed", "why"),
    [
        (0, {"ae_title": "OTHER"}, "rejected the association: make CHESTXRAY known there"),
        (0, {"port": 1}, "no connection (Connection refused): check host, port and"),
        (1, {"url": "http://127.0.0.1:1/dicom-web"}, "check the URL, and that it is running"),
    ],
)
def test_check_says_what_to_do_about_a_system_that_does_not_answer(
    site: Site, place: int, changed: dict, why: str
) -> None:
    to = site.gateway.config.destinations[place].model_copy(update=changed)
    (found,) = reach(site.gateway.config.model_copy(update={"destinations": [to]}))
    assert why in found.problem
    assert to.name in found.place


def test_check_says_which_class_of_results_a_pacs_does_not_accept(site: Site) -> None:
    ae = AE(ae_title="PICKY")
    ae.add_supported_context(Verification)
    ae.add_supported_context(SecondaryCaptureImageStorage)
    port = free_port()
    picky = ae.start_server(("127.0.0.1", port), block=False)
    to = site.gateway.config.destinations[0].model_copy(update={"port": port, "ae_title": "PICKY"})
    (found,) = reach(site.gateway.config.model_copy(update={"destinations": [to]}))
    picky.shutdown()
    assert found.problem.startswith("it does not accept Comprehensive 3D SR Storage in Explicit VR")


def test_report_of_a_running_gateway_says_what_was_read_and_what_is_kept(
    site: Site, tmp_path: Path
) -> None:
    said = site.gateway.ask("report")
    assert "radiographs as received (images/): 3, " in said
    assert "results as sent (outbox/): 6, " in said
    assert "removed: 7 days after the last delivery" in said
    assert ": 3 radiographs of 3 patients, " in said
    assert PATIENT.split("^")[0] not in said
    assert site.gateway.ask("report", "--out", str(tmp_path / "r.html")) == f"{tmp_path}/r.html\n"


def test_a_corrupt_image_is_a_dead_letter_that_the_operator_sees(site: Site) -> None:
    image = radiograph()
    image.Rows *= 2
    assert store(image, site.gateway.config.receive.port) == 0
    wait_for(lambda: site.gateway.counts()["read"]["dead"] == 1, 200)
    told = site.gateway.ask("dead")
    assert str(image.SOPInstanceUID) in told
    assert "1 attempt:" in told
    assert site.gateway.ask("retry") == "1 queued again\n"
    wait_for(lambda: site.gateway.counts()["read"]["dead"] == 1, 200)
    assert "name each one with --item" in site.gateway.complaint("discard")
    uid = str(image.SOPInstanceUID)
    assert site.gateway.ask("discard", "--item", uid) == "1 discarded\n"
    assert "0 dead letters" in site.gateway.ask("dead")
    assert "1 discarded" in site.gateway.ask("status")


def test_prometheus_is_told_how_it_stands(site: Site) -> None:
    said = httpx.get(f"http://127.0.0.1:{site.metrics}/metrics").text
    assert 'chestxray_gateway_tasks{queue="read",state="queued"} 0.0' in said
    assert 'chestxray_gateway_oldest_seconds{queue="read"} 0.0' in said
    assert "chestxray_gateway_free_mebibytes" in said


def test_the_audit_record_is_exported_and_its_alteration_told(site: Site, tmp_path: Path) -> None:
    lines = site.gateway.ask("export-audit").splitlines()
    export = tmp_path / "audit.jsonl"
    export.write_text("\n".join(lines))
    assert [json.loads(line)["number"] for line in lines] == list(range(1, len(lines) + 1))
    site.gateway.ask("export-audit", "--against", str(export))
    export.write_text("\n".join(lines).replace("received", "forgotten", 1))
    assert "was altered" in site.gateway.complaint("export-audit", "--against", str(export))


def test_nothing_it_says_names_a_patient(site: Site) -> None:
    told = site.gateway.text() + site.gateway.ask("export-audit") + site.gateway.ask("dead")
    for secret in (PATIENT.split("^")[0], "19600101"):
        assert secret.lower() not in told.lower()
    assert site.gateway.log()
    assert all({"time", "level", "message", "pid"} <= set(line) for line in site.gateway.log())


def test_a_port_or_a_state_that_is_taken_is_told_at_once(
    site: Site, tmp_path: Path, run: Path
) -> None:
    config(tmp_path, port=site.gateway.config.receive.port)
    second = Gateway(tmp_path, run / "bundle")
    said = second.complaint(*second.run_command())
    assert "Address already in use" in said
    assert "Traceback" not in said
    config(tmp_path)
    (tmp_path / "state").symlink_to(site.gateway.config.state)
    said = second.complaint(*second.run_command())
    assert "a gateway runs on" in said
    assert "Traceback" not in said


# The last two end it.


def test_its_processes_end_when_the_supervisor_is_killed(site: Site) -> None:
    members = site.gateway.members()
    assert set(members) == {
        "monitor",
        "receiver",
        "worker-0",
        "sender-pacs-dicom",
        "sender-pacs-stow",
    }
    os.kill(site.gateway.pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in members.values()), 60)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_it_resumes_and_stops_on_sigterm(site: Site) -> None:
    image = radiograph(7)
    read = site.gateway.counts()["read"]["done"]
    site.gateway.kill()
    site.gateway.start()
    members = site.gateway.members()
    assert store(image, site.gateway.config.receive.port) == 0
    assert site.gateway.stop() == 0
    assert not any(alive(pid) for pid in members.values())
    assert "process-killed" not in site.gateway.text()
    assert site.gateway.log()[-1]["event"] == "stopped"
    assert (
        site.gateway.counts()["read"]["queued"] + site.gateway.counts()["read"]["done"] == read + 1
    )
