"""Imported bundles by every command of a reading, as processes that a user types, on real films."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import httpx
import numpy as np
import pandas as pd
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

import torchxrayvision_wheel
from chestxray.sources.nih import FINDINGS
from dicom_files import written
from foreign_checkpoints import TORCHXRAYVISION, chexnet, old_checkpoint, old_state
from gateway_parts import Gateway, config, free_port, radiograph, running, store, wait_for
from test_import import film, published_models

pytestmark = pytest.mark.slow

FILMS = 24
NOT_CALIBRATED, NOT_DETECTED = "imported-not-calibrated", "gate-not-fitted"
TXV = "densenet121-res224-nih"
TABLE = "Data_Entry_2017_v2020.csv"


def typed(*words: object, status: int = 0, folder: Path | None = None) -> str:
    """Run a command as a process; give all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "chestxray", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=900, cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert done.returncode == status, said
    return said


class Site(NamedTuple):
    """Radiographs of a hospital: a raw tree, and the same prepared."""

    raw: Path
    dataset: Path
    films: list[Path]


@pytest.fixture(scope="module")
def site(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    raw = tmp_path_factory.mktemp("site") / "raw"
    images = raw / "images_001" / "images"
    images.mkdir(parents=True)
    given = real / "nih-sample"
    chosen = sorted((given / "images").glob("*.png"))[:: 1136 // FILMS][:FILMS]
    for path in chosen:
        shutil.copy(path, images)
    names = {path.name for path in chosen}
    with (given / TABLE).open(encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    with (raw / TABLE).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *(row for row in rows if row[0] in names)])
    dataset = raw.with_name("dataset")
    typed("prepare", raw, dataset, "--size", 224, "--split", "patient")
    return Site(raw, dataset, sorted(images.glob("*.png")))


@pytest.fixture(scope="module")
def bundle(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchxrayvision's own network, pickled by its own class: thresholds, one grey channel."""
    folder = tmp_path_factory.mktemp("torchxrayvision")
    np.save(folder / "images.npy", film(real, 224))
    torchxrayvision_wheel.answer(TORCHXRAYVISION, Path(__file__).parent, folder, TXV)
    file = folder / published_models()[TXV]["weights_url"].split("/")[-1]
    said = typed("import", file, "--from", "torchxrayvision", "--out", folder / "bundle")
    assert "a restricted reader converted it in a process of its own" in said
    assert "Not calibrated: run `chestxray calibrate`" in said
    return folder / "bundle"


@pytest.fixture(scope="module")
def table(bundle: Path, site: Site) -> Path:
    out = bundle.with_name("predictions.csv")
    said = typed("predict", bundle, site.raw / "images_001", "--out", out, "--heatmaps")
    check_said(said)
    return out


def check_said(said: str) -> None:
    assert "is not calibrated" in said
    assert "non-chest images are not detected; an imported model has no detector" in said


def check_rows(table: Path) -> None:
    rows = pd.read_csv(table)
    assert len(rows) == FILMS
    assert set(rows["status"]) == {"ok"}
    for code in (NOT_CALIBRATED, NOT_DETECTED):
        assert (rows["reason"].str.count(f"warning: {code}: ") == 1).all()
    assert rows[[f"prob_{finding}" for finding in FINDINGS]].notna().all(axis=None)


def test_each_row_says_that_it_is_not_calibrated_and_that_nothing_unusual_is_detected(table):
    check_rows(table)
    heat = np.load(table.with_name("heatmaps.npy"))
    assert heat.shape[:2] == (FILMS, len(FINDINGS))
    assert np.isfinite(heat).all()


def test_heatmaps_are_drawn_of_files_and_of_a_dataset(bundle, site, tmp_path):
    sheets, examples = tmp_path / "sheets", tmp_path / "examples"
    check_said(typed("explain", bundle, *site.films[:2], "--out", sheets))
    assert len(list(sheets.glob("*.findings.png"))) == 2
    check_said(typed("explain", bundle, site.dataset, "--split", "train", "--out", examples))
    assert list(examples.glob("*.png"))
    assert (examples / "explanations.json").exists()


def test_figures_are_those_of_an_uncalibrated_import_until_it_is_calibrated(
    bundle, site, table, tmp_path
):
    given = (table, "--labels", site.raw)
    said = typed("evaluate", *given, "--bundle", bundle, "--split", "unknown")
    assert "imported from torchxrayvision-nih and is not calibrated" in said
    said = typed(
        "calibrate", bundle, "--predictions", table, "--labels", site.raw, "--split", "unknown",
        "--out", tmp_path / "here",
    )  # fmt: skip
    assert "prevalence" in said
    again = tmp_path / "again.csv"
    said = typed("predict", tmp_path / "here", site.raw / "images_001", "--out", again)
    assert "imported and is not calibrated" not in said
    assert "non-chest images are not detected" in said
    reasons = pd.read_csv(again)["reason"]
    assert not reasons.str.contains(NOT_CALIBRATED).any()
    assert reasons.str.contains(NOT_DETECTED).all()


def test_a_graph_reads_as_the_bundle_and_says_the_same(bundle, site, table, tmp_path):
    graph, out = tmp_path / "graph", tmp_path / "by_graph.csv"
    typed("export", bundle, "--format", "onnx", "--out", graph)
    typed("predict", bundle, site.raw / "images_001", "--out", out, "--engine", graph)
    check_rows(out)
    columns = [f"prob_{finding}" for finding in FINDINGS]
    ours, theirs = (pd.read_csv(path)[columns].to_numpy() for path in (out, table))
    assert np.abs(ours - theirs).max() < 1e-3
    said = typed(
        "export", bundle, "--format", "openvino", "--precision", "bf16", "--calibrate-on",
        site.dataset, "--out", tmp_path / "bf16", status=1,
    )  # fmt: skip
    assert "the bf16 graph differs too much from the model" in said
    assert "give more validation images" in said


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """`chestxray serve` until the block ends, then SIGTERM; gives its address."""
    command = [sys.executable, "-m", "chestxray", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    watchdog = threading.Timer(500, process.kill)
    watchdog.start()
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if url := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        else:
            pytest.fail("".join(said))
        check_said("".join(said))
        yield url[0]
        process.terminate()
        _, rest = process.communicate(timeout=90)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def of_hospital(path: Path) -> Dataset:
    """A film as a hospital sends it: DICOM of 12 bits."""
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return radiograph(1, pixels.astype(np.uint16) * 16)


def test_the_service_says_it_in_every_form_also_of_a_film_upside_down(bundle, site):
    upright = cv2.imread(str(site.films[0]), cv2.IMREAD_GRAYSCALE)
    turned = cv2.imencode(".png", cv2.rotate(upright, cv2.ROTATE_180))[1].tobytes()
    with serving(bundle) as url, httpx.Client(base_url=url, timeout=200) as client:
        for content in (site.films[0].read_bytes(), turned):
            answer = client.post("v1/read", params={"heatmaps": "png"}, files={"file": content})
            assert answer.status_code == 200, answer.text
            codes = [notice["code"] for notice in answer.json()["warnings"]]
            assert codes.count(NOT_CALIBRATED) == codes.count(NOT_DETECTED) == 1
        about = client.get("v1/model").json()
        assert {NOT_CALIBRATED, NOT_DETECTED} <= {each["code"] for each in about["warnings"]}
        film = {"file": written(of_hospital(site.films[1]))}
        fhir = client.post("v1/read", files=film, headers={"Accept": "application/fhir+json"})
        assert fhir.status_code == 200, fhir.text
        check_said(fhir.text)
        parts = {"Accept": 'multipart/related; type="application/dicom"'}
        made = client.post("v1/read", files=film, headers=parts)
        assert made.status_code == 200, made.text
        check_said(made.content.decode("latin-1"))


class Sink:
    """A PACS that keeps what it gets."""

    def __init__(self) -> None:
        self.port, self.got = free_port(), []
        ae = AE(ae_title="PACS")
        ae.add_supported_context(Verification)
        for kind in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            ae.add_supported_context(kind, [ExplicitVRLittleEndian, RLELossless])
        self.server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
        )

    def _keep(self, event: evt.Event) -> int:
        self.got.append(event.dataset)
        return 0x0000


def test_the_gateway_says_it_in_the_report_that_it_sends(bundle, site, tmp_path):
    sink = Sink()
    place = f'ae_title = "PACS"\nhost = "127.0.0.1"\nport = {sink.port}\n'
    config(tmp_path, f'[[destinations]]\nname = "pacs"\nkind = "dicom"\n{place}')
    gateway = Gateway(tmp_path, bundle)
    try:
        with running(gateway):
            assert store(of_hospital(site.films[1]), gateway.config.receive.port) == 0
            wait_for(lambda: len(sink.got) == 2, 400)
            assert gateway.ask("check", str(bundle)).startswith("ok")
            assert "1 done, 0 dead" in gateway.ask("status")
            drift = gateway.ask("report")
            assert gateway.stop() == 0
    finally:
        sink.server.shutdown()
    (report,) = [one for one in sink.got if one.Modality == "SR"]
    check_said(report.to_json())
    assert "NOT COMPARED" in drift


def test_images_that_a_public_model_was_trained_on_are_no_calibration(site, tmp_path):
    """zoogzog's: no thresholds, ten crops, and a list of training images that is known."""
    file = old_checkpoint(tmp_path / "m-25012018-123527.pth.tar", old_state(chexnet()))
    typed("import", file, "--from", "zoogzog", "--out", tmp_path / "bundle")
    out = tmp_path / "predictions.csv"
    check_said(typed("predict", tmp_path / "bundle", site.raw / "images_001", "--out", out))
    check_rows(out)
    assert pd.read_csv(out)["called"].isna().all()
    said = typed(
        "calibrate", tmp_path / "bundle", "--predictions", out, "--labels", site.raw, "--split",
        "unknown", "--out", tmp_path / "here", status=1,
    )  # fmt: skip
    assert re.search(r"the bundle was trained on \d+ of the 24 images", said)
