"""Typed results: read and written without loss, described by a published JSON Schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import chestxray.evaluation
from chestxray.errors import ArtifactError
from chestxray.evaluation.bootstrap import Bounds, Interval
from chestxray.evaluation.evaluation import evaluate
from chestxray.evaluation.metrics import METRICS
from chestxray.evaluation.result_details import MeanInterval
from chestxray.evaluation.results import Comparison, Results, schema
from chestxray.sources.nih import FINDINGS
from evaluation_parts import dumped, write
from fake_run import predicted, truth, write_run

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
PARTS = ("curves", "reliability", "subgroups", "localization", "reference", "benchmarks")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation with everything in it."""
    return write_run(tmp_path_factory.mktemp("results") / "run") / "evaluation"


@pytest.mark.parametrize("name", ["metrics", "comparison"])
def test_the_published_schema_is_that_of_the_models_and_valid_itself(name: str) -> None:
    published = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert published == schema(Results if name == "metrics" else Comparison), (
        "run `python -m chestxray.evaluation.results docs/schemas`"
    )
    jsonschema.Draft202012Validator.check_schema(published)


def test_the_schemas_are_written_by_the_module(tmp_path: Path) -> None:
    module = "chestxray.evaluation.results"
    subprocess.run([sys.executable, "-W", "error", "-m", module, str(tmp_path)], check=True)
    for file in SCHEMAS.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["metrics", "comparison"])
def test_real_results_satisfy_the_published_schema(evaluation: Path, name: str) -> None:
    published = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    content = json.loads((evaluation / f"{name}.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(published)
    validator.validate(content)
    for wrong in (content | {"images": "many"}, content | {"strange": 1}):
        assert not validator.is_valid(wrong)
    del content["findings"]["Mass"]["positives"]
    assert not validator.is_valid(content)


def test_every_metric_is_described_in_the_schema() -> None:
    described = schema()["$defs"]
    for name, metric in METRICS.items():
        for model in ("FindingResult", "MeanResult", "MicroResult"):
            assert described[model]["properties"][name]["title"] == metric.label
            assert described[model]["properties"][name]["description"] == metric.meaning
            assert name in described[model]["required"]
        assert (name in described["OperatingPoint"]["properties"]) == metric.needs_threshold


def test_what_is_read_back_is_what_was_written(evaluation: Path, tmp_path: Path) -> None:
    results = Results.read(evaluation)
    assert results == Results.read(evaluation / "metrics.json")
    results.write(tmp_path)
    for name in ("metrics", *PARTS):
        before, after = (
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for folder in (evaluation, tmp_path)
        )
        assert after == before, name
    compared = Comparison.read(evaluation)
    assert dumped(compared) == json.loads((evaluation / "comparison.json").read_text("utf-8"))


def test_results_are_reached_by_attribute(evaluation: Path) -> None:
    results = Results.read(evaluation)
    assert list(results.findings) == list(FINDINGS)
    assert isinstance(results.mean.auroc, Interval)
    assert results.mean.auroc.low < results.mean.auroc.value < results.mean.auroc.high
    assert isinstance(results.findings["Mass"].auroc.delong, Bounds)
    assert results.findings["Mass"].operating_points["joint"].recall == (
        results.findings["Mass"].recall
    )
    assert results.findings["Hernia"].auroc.reason == "no positives"
    assert results.subgroups.axes["sex"].findings["Mass"]["female"].auroc.value > 0.5
    assert results.localization.all.cases > 0
    assert results.reference.labels["Pneumothorax"].auroc.value > 0.5
    assert results.benchmarks.note is not None
    assert len(results.curves["Mass"].roc.fpr) > 2
    assert results.reliability["Mass"].as_given.bins
    with pytest.raises(AttributeError):
        _ = results.mean.no_such_metric


def test_an_interval_is_shown_as_papers_write_it() -> None:
    assert str(Interval(value=0.814, low=0.7981, high=0.8319)) == "0.814 (0.798–0.832)"
    assert repr(MeanInterval(value=0.5, findings=3)) == "0.500"
    assert repr(Interval(value=None, reason="no positive")) == "not defined (no positive)"
    assert repr(Interval(value=None)) == "not defined"


def test_the_repr_is_short_and_says_what_was_measured(evaluation: Path) -> None:
    shown = repr(Results.read(evaluation))
    assert "split test: 400 images of 200 patients; mean AUROC 0.8" in shown
    assert "14 findings: Atelectasis, " in shown
    assert len(shown) < 400


def test_parts_that_were_not_asked_for_are_none(tmp_path: Path) -> None:
    labels = truth()
    path = write(tmp_path / "p.csv", predicted(labels, "test"))
    evaluate(path, labels, resamples=0, out=tmp_path / "out")
    results = Results.read(tmp_path / "out")
    assert results.localization is results.reference is None
    assert results.subgroups is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, this version reads format 1: run `chestxray evaluate`"),
        ({"format": None}, "has format None"),
        ({"images": "many"}, "is not valid at images"),
        ({"mean": {"auroc": {"value": "high", "findings": 3}}}, r"is not valid at mean\.auroc"),
    ],
)
def test_a_file_that_is_not_such_results_is_refused_with_the_place(
    evaluation: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    (tmp_path / "metrics.json").write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(ArtifactError, match=message):
        Results.read(tmp_path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="chestxray evaluate"):
        Results.read(tmp_path)
    with pytest.raises(ArtifactError, match="chestxray compare"):
        Comparison.read(tmp_path)


def test_every_public_name_of_the_room_exists() -> None:
    for name in chestxray.evaluation.__all__:
        assert getattr(chestxray.evaluation, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'strange'"):
        _ = chestxray.evaluation.strange
