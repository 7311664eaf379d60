"""The model card in Markdown: what it says is what the files say, and it is read as it is meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from chestxray.errors import ArtifactError
from chestxray.evaluation import Predictions, evaluate, predictions
from chestxray.evaluation.bundle_thresholds import CARD, model_identity
from chestxray.findings import label
from chestxray.reporting import model_card
from fake_run import predicted, truth, write_training


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory) -> Path:
    """A run with an evaluation of planted quality."""
    folder = tmp_path_factory.mktemp("card") / "run"
    labels = truth(source="NIH ChestX-ray14")
    write_training(folder, labels)
    shutil.copy(run / "bundle" / CARD, folder / "bundle" / CARD)
    test = folder / "predictions.csv"
    predictions.write(test, Predictions(labels.findings, predicted(labels, "test")))
    evaluate(test, labels, resamples=20, out=folder / "evaluation")
    return folder


def parts(text: str) -> tuple[dict, str]:
    nothing, head, body = text.split("---\n", 2)
    assert not nothing
    return yaml.safe_load(head), body


def test_the_figures_are_those_of_the_evaluation(evaluated):
    metadata, body = parts(model_card(evaluated, licence="cc-by-4.0"))
    metrics = json.loads((evaluated / "evaluation/metrics.json").read_text(encoding="utf-8"))
    mass = metrics["findings"]["Mass"]
    auroc = mass["auroc"]
    line = next(line for line in body.splitlines() if line.startswith("| Mass | "))
    assert line.split(" | ")[1:3] == [
        str(mass["positives"]),
        f"{auroc['value']:.3f} ({auroc['low']:.3f}–{auroc['high']:.3f})",
    ]
    (result,) = metadata["model-index"][0]["results"]
    figures = {of["name"]: of["value"] for of in result["metrics"]}
    assert figures["AUROC Mass"] == round(auroc["value"], 4)
    assert figures["mean AUROC"] == round(metrics["mean"]["auroc"]["value"], 4)
    measured = [of for of in metrics["findings"].values() if of["auroc"]["value"] is not None]
    assert len(figures) == 2 + len(measured)
    assert result["dataset"]["name"] == "NIH ChestX-ray14"
    assert "official" in body
    assert "planted by a random generator" in body


def test_the_metadata_are_those_of_the_hub_and_the_licence_is_the_users(evaluated):
    card = json.loads((evaluated / "bundle" / CARD).read_text(encoding="utf-8"))
    metadata, body = parts(model_card(evaluated, licence="cc-by-4.0"))
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["library_name"] == "chestxray"
    assert metadata["pipeline_tag"] == "image-classification"
    assert {"chest-x-ray", "radiology"} <= set(metadata["tags"])
    assert metadata["datasets"] == ["planted"]
    assert metadata["model-index"][0]["name"] == model_identity(card)
    assert body.rstrip().endswith("## Licence\n\ncc-by-4.0")
    none, body = parts(model_card(evaluated))
    assert "license" not in none
    assert body.rstrip().endswith("Not stated by the authors.")


def test_a_bundle_alone_says_what_it_knows_and_that_it_was_not_evaluated(run, tmp_path):
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    card = json.loads((tmp_path / "bundle" / CARD).read_text(encoding="utf-8"))
    metadata, body = parts(model_card(tmp_path / "bundle", tmp_path / "README.md"))
    assert (tmp_path / "README.md").read_text(encoding="utf-8").endswith(body)
    assert "model-index" not in metadata
    assert "synthetic" in metadata["tags"]
    assert "does not say how the model was evaluated" in body
    assert card["weights_sha256"] in body
    for finding, reason in card["not_assessed"].items():
        assert f"- {label(finding)}: {reason[:20]}" in body


def test_another_bundle_in_the_folder_of_a_run_has_not_its_figures(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    about = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    (tmp_path / "run/run.json").write_text(json.dumps(about | {"model": "another-0123"}))
    metadata, body = parts(model_card(tmp_path / "run"))
    assert "model-index" not in metadata
    assert "NIH" not in body


def test_of_several_networks_it_is_said_what_each_started_from(pair, tmp_path):
    """Their licences are those of these weights; "Not recorded" was said where they differ."""
    folder = Path(shutil.copytree(pair / "bundle", tmp_path / "bundle"))
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    starts = [
        {"kind": "imagenet", "package": "weights-of-lite 0.1", "sha256": "0" * 64},
        {"kind": "hub", "repository": "someone/net@abc", "licence": "mit", "sha256": "0" * 64},
    ]
    card["trained_on"]["initial_weights"] = None
    for member, start in zip(card["members"], starts, strict=True):
        member["trained_on"]["initial_weights"] = start
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    metadata, body = parts(model_card(folder))
    assert metadata["base_model"] == "someone/net"
    assert "- resnet10t: Weights of ImageNet for this backbone, from the package" in body
    assert "- resnet10t: `hub:someone/net@abc`, licence mit." in body
    assert "Not recorded" not in body


def test_words_of_others_are_no_markup(run, tmp_path):
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    path = tmp_path / "bundle" / CARD
    card = json.loads(path.read_text(encoding="utf-8"))
    card["trained_on"]["source"] = "a <script>|\n# b [c](d)"
    path.write_text(json.dumps(card), encoding="utf-8")
    body = parts(model_card(tmp_path / "bundle"))[1]
    assert r"a \<script\>\|\\n\# b \[c\](d)" in body
    assert "<script>" not in body


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        model_card(tmp_path)
    (tmp_path / CARD).write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not understood"):
        model_card(tmp_path)
