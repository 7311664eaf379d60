"""A finding without evidence in validation is never called, and every surface says so in words."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import chestxray
from chestxray.dataset import pixels
from chestxray.errors import BundleError
from chestxray.evaluation import fit_operating_points
from chestxray.model import bundle as bundles
from chestxray.model.export import export
from chestxray.model.parity import noise
from chestxray.reading.explanation import _panels, _title
from chestxray.reading.reader import Reader, Reading
from chestxray.serving import result_objects as objects
from chestxray.serving.result_objects import drawing
from chestxray.sources.nih import FINDINGS
from result_objects import comments, film, items, made

USELESS = "Mass"


def planted() -> dict[str, object]:
    """Operating points of validation logits that rank every finding but one, which is noise."""
    rng = np.random.default_rng(0)
    labels = (rng.random((300, len(FINDINGS))) < 0.1).astype(float)
    logits = 3 * labels + rng.normal(size=labels.shape)
    logits[:, FINDINGS.index(USELESS)] = 9 + rng.normal(size=300)  # high, and says nothing
    points = fit_operating_points(1 / (1 + np.exp(-logits)), labels, np.arange(300), FINDINGS)
    assert list(points.not_assessed) == [USELESS]
    every = {name: points.thresholds(name) for name in points.chosen}
    low = {name: {f: t and 1e-9 for f, t in of.items()} for name, of in every.items()}
    return {
        "thresholds": every["joint"],
        "operating_points": every | {"youden": low["youden"]},  # calls all that may be called
        "operating_point": "joint",
        "not_assessed": points.not_assessed,
    }


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "bundle"
    shutil.copytree(run / "bundle", folder)
    card = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    (folder / "bundle.json").write_text(json.dumps(card | planted()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "graph"
    export(bundles.load(bundle), out, "openvino", "fp32", noise(32))
    return out


@pytest.fixture(scope="module", params=["torch", "exported"])
def reader(request: pytest.FixtureRequest, bundle: Path) -> Reader:
    engine = request.getfixturevalue("exported") if request.param == "exported" else "torch"
    return chestxray.load(bundle, engine, operating_point="youden")


@pytest.fixture(scope="module")
def reading(reader: Reader, phantoms: Path) -> Reading:
    return reader.read(min((phantoms / "images_001/images").iterdir()))


def test_it_is_not_called_where_all_others_are(reading):
    assert reading.calls.pop(USELESS) is None
    assert all(reading.calls.values())
    reading.calls[USELESS] = None
    assert reading.thresholds[USELESS] is None
    assert "no evidence in validation" in reading.not_assessed[USELESS]


def test_no_operating_point_of_a_bundle_calls_it(bundle):
    card = bundles.load(bundle).card
    for name in card.operating_points:
        assert card.at(name).thresholds[USELESS] is None
        assert USELESS in card.at(name).unavailable
    with pytest.raises(BundleError, match=r"no operating point 'best': choose from joint, youden"):
        card.at("best")


def test_thresholds_of_another_operating_point_than_the_cards_are_refused(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    file = tmp_path / "bundle/bundle.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(card | {"operating_point": "f1"}), encoding="utf-8")
    with pytest.raises(BundleError, match="those of the operating point 'f1'"):
        chestxray.load(tmp_path / "bundle")


def test_the_reading_says_so_as_text_in_a_notebook_and_as_json(reading):
    assert "not assessed 1 of 14 findings" in repr(reading)
    assert USELESS not in repr(reading).partition("not assessed")[0]
    page = reading._repr_html_()
    rows = page.split("<tr")[2:]
    assert f"<td>{USELESS}</td>" in rows[-1]
    assert "<td>not assessed</td>" in rows[-1]
    (entry,) = [e for e in reading.to_dict()["findings"] if e["finding"] == USELESS]
    assert entry["called"] is entry["threshold"] is None
    assert entry["not_assessed"] == reading.not_assessed[USELESS]
    assert reading.to_dict()["operating_point"] == "youden"


def test_the_table_of_predictions_lists_it_apart(bundle, phantoms, tmp_path):
    image = min((phantoms / "images_001/images").iterdir())
    (tmp_path / "broken.png").write_bytes(b"no radiograph")
    for name in ("joint", "youden"):
        out = tmp_path / f"{name}.csv"
        chestxray.predict(bundle, [image, tmp_path / "broken.png"], out, operating_point=name)
        table = pd.read_csv(out, keep_default_na=False).set_index("status")
        assert table.loc["ok", "not_assessed"] == USELESS
        assert table.loc["error", "not_assessed"] == table.loc["error", "called"] == ""
        assert USELESS not in table.loc["ok", "called"].split("|")
        assert set(table["operating_point"]) == {name}


def test_the_sheet_of_heatmaps_says_so(reading, reader):
    panels = _panels(reading, reader.findings, per_image=False)
    titles = [_title(panel, 28) for panel in panels]
    assert [title for title in titles if "not assessed" in title] == [
        title for title in titles if title.startswith(USELESS)
    ]


def test_the_structured_report_codes_it_and_gives_the_reason(reading, reader, tmp_path):
    report = made(film(tmp_path), reading, reader)["sr"]
    group = items(report, "Measurement Group")[FINDINGS.index(USELESS)]
    (call,) = items(group, "Certainty reaches the threshold")
    assert call.ConceptCodeSequence[0].CodeValue == "NOT-ASSESSED"
    assert not items(group, "Certainty from which a finding is called")
    reason = reading.not_assessed[USELESS]
    assert f"Not assessed: {USELESS}: {reason}" in comments(report)


def test_the_picture_lists_it_last_and_shows_no_heat_of_it(reading, reader):
    thresholds = reader.bundle.card.thresholds
    assert drawing._ranked(reading, thresholds)[-1] == USELESS
    assert USELESS not in drawing.relevant(reading, thresholds, 3)
    written = []
    canvas = drawing.Canvas.blank(2000, 1200)
    canvas.text = lambda _at, text, *_: written.append(text)
    column = drawing.Column(1400, 560, 100, 1000)
    drawing.table(canvas, column, reading, thresholds)
    assert written.count("not assessed") == 1
    assert "none" not in written
    drawing.warnings(canvas, column, reading)
    assert any(text.startswith("Not assessed, for lack of evidence") for text in written)


def test_an_answer_of_the_web_service_says_so(reading, reader):
    from chestxray.serving.responses import _finding_result, model_card_result

    row = _finding_result(reader, reading, USELESS)
    assert (row.called, row.threshold) == (None, None)
    assert row.not_assessed == reading.not_assessed[USELESS]
    assert _finding_result(reader, reading, "Effusion").not_assessed is None
    card = model_card_result(reader)
    assert card.operating_point == "youden"
    assert [f.finding for f in card.findings if f.not_assessed] == [USELESS]


def test_no_region_is_sent_for_it(reading, reader, tmp_path):
    path = film(tmp_path)
    source = objects.SourceImage.read(path.read_bytes(), hashlib.sha256(b"").hexdigest())
    sent = list(
        objects.make(source, pixels.decode(path.read_bytes()), reading, reader, {"regions"})
    )
    assert all(USELESS.encode() not in result.content for result in sent)
