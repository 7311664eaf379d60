"""One finding and forty train, are saved, exported and read as fourteen are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chestxray.dataset.store import Dataset
from chestxray.evaluation import predictions
from chestxray.findings import Findings
from chestxray.model import bundle as bundles
from chestxray.model.export import export
from chestxray.model.exported import open_engine
from chestxray.model.parity import Trial
from chestxray.model.torch_engine import TorchEngine
from chestxray.training import Run, recipe, train
from conftest import TINY

ONE = Findings(["Rib fracture"])  # has no code and stands in no other list
FORTY = Findings([f"Finding {number:02}" for number in range(40)])


def labelled(dataset: Dataset, findings: Findings) -> Dataset:
    """The same images with other findings: drawn labels, some of them unknown."""
    rng = np.random.default_rng(len(findings))
    labels = (rng.random((len(dataset.index), len(findings))) < 0.3).astype(float)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    about = dataset.index.drop(columns=[*dataset.findings, "split"])
    table = pd.DataFrame(labels, columns=list(findings), index=about.index)
    index = pd.concat([about, table, dataset.index[["split"]]], axis=1)
    manifest = dataset.manifest.model_copy(update={"findings": findings, "masks": ()})
    return dataclasses.replace(dataset, manifest=manifest, index=index, masks=None)


@pytest.fixture(scope="module", params=[ONE, FORTY], ids=["one", "forty"])
def trained(request, dataset, tmp_path_factory) -> tuple[Dataset, Run]:
    data = labelled(dataset, request.param)
    changes = [*TINY, "max_epochs=1", "sampling=balanced", "loss.class_weights=true"]
    out = tmp_path_factory.mktemp("run") / "run"
    return data, train(data, recipe.load("quick", changes), out)


def test_a_run_and_its_bundle_carry_the_findings_of_the_dataset(trained):
    data, run = trained
    assert run.summary["findings"] == list(data.findings)
    assert predictions.read(run.validation).findings == data.findings
    card = bundles.load(run.bundle).card
    assert card.findings == data.findings
    for of in (card.thresholds, card.calibration.calibrators, card.heat_scales):
        assert tuple(of) == data.findings


def test_a_bundle_answers_with_its_findings_and_is_saved_again_to_the_bit(trained, tmp_path):
    data, run = trained
    first = bundles.load(run.bundle)
    bundles.save(tmp_path / "again", first.classifier, first.card, first.detector)
    images = np.asarray(data.images[:5])
    logits, maps, features = TorchEngine(first.classifier).run(images)
    assert logits.shape == (5, len(data.findings))
    assert maps.shape[:2] == logits.shape
    again = TorchEngine(bundles.load(tmp_path / "again").classifier).run(images)
    assert all(np.array_equal(*pair) for pair in zip((logits, maps, features), again, strict=True))
    assert first.card.calibration.apply(logits.astype(float)).shape == logits.shape
    assert first.detector.feature_distance(features).shape == (5,)


def test_an_export_agrees_with_torch_for_each_finding(trained, tmp_path):
    pytest.importorskip("openvino", reason="needs the export extra")
    pytest.importorskip("onnx", reason="needs the export extra")
    data, run = trained
    rows = data.rows("val")
    trial = Trial("validation", np.asarray(data.images[rows]), data.labels(rows))
    loaded = bundles.load(run.bundle)
    record = export(loaded, tmp_path / "out", "openvino", "fp32", trial)
    assert record.misses == []
    assert tuple(record.parity.auroc or {}) == data.findings
    theirs = TorchEngine(loaded.classifier).run(trial.images)
    for ours, torchs in zip(open_engine(tmp_path / "out").run(trial.images), theirs, strict=True):
        assert np.abs(ours - torchs).max() < 1e-4


def test_a_dataset_with_no_known_label_to_validate_on_is_refused(dataset, tmp_path):
    from chestxray.errors import TrainingError

    data = labelled(dataset, ONE)
    data.index.loc[data.index["split"] == "val", ONE[0]] = np.nan
    with pytest.raises(TrainingError, match="no known labels in the val split"):
        train(data, recipe.load("quick", TINY), Path(tmp_path / "run"))
