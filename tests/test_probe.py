"""Probing: the head alone, fitted to a network's features; scikit-learn is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from chestxray.cli.main import app
from chestxray.errors import BundleError, RecipeError, TrainingError
from chestxray.model import bundle as bundles
from chestxray.model.torch_engine import batches
from chestxray.training import fit, probe, recipe
from chestxray.training.loop import Processes
from chestxray.training.probe import Probe
from command_line import run_command


def planted(n: int = 400, patients: int = 200, seed: int = 0):
    """Give features, labels of a strong, a weak and a one-sided finding, and patients."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 6)) * (1, 5, 0.1, 1, 1, 1) + 3
    strong = x[:, 0] - 3 + 0.3 * draw.normal(size=n) > 0
    weak = 0.1 * (x[:, 1] - 3) + draw.normal(size=n) > 0.5
    labels = np.column_stack([strong, weak, np.zeros(n)]).astype(np.float32)
    return x, labels, np.arange(n) % patients


@pytest.mark.parametrize("regression", ["ridge", "logistic"])
def test_each_strength_gives_scikit_learns_coefficients(regression):
    x, labels, _ = planted()
    z = (x - x.mean(0)) / x.std(0)
    y = labels[:, :2].astype(np.float64)
    fit, _ = probe._REGRESSIONS[regression]
    weights, biases = fit(z, y)
    for place in (3, 6, 9):
        strength = probe._STRENGTHS[place]
        for k in range(2):
            if regression == "ridge":
                theirs = Ridge(alpha=strength * len(z)).fit(z, y[:, k])
            else:
                theirs = LogisticRegression(C=1 / (strength * len(z)), tol=1e-10, max_iter=10_000)
                theirs.fit(z, y[:, k])
            assert weights[:, place, k] == pytest.approx(theirs.coef_.ravel(), abs=2e-4)
            assert biases[place, k] == pytest.approx(np.ravel(theirs.intercept_)[0], abs=2e-4)


@pytest.mark.parametrize("regression", ["ridge", "logistic"])
def test_logits_rank_and_predict_new_images(regression):
    found = Probe.fit(*planted(), regression)
    x, labels, _ = planted(seed=1)
    logits = x @ found.weights.T + found.biases
    assert roc_auc_score(labels[:, 0], logits[:, 0]) > 0.93
    assert roc_auc_score(labels[:, 1], logits[:, 1]) > 0.55
    said = 1 / (1 + np.exp(-logits))
    assert said[:, :2].mean(0) == pytest.approx(labels[:, :2].mean(0), abs=0.06)


@pytest.mark.parametrize("regression", ["ridge", "logistic"])
def test_a_finding_that_is_never_present_gets_its_prior_and_no_weights(regression):
    found = Probe.fit(*planted(), regression)
    assert not found.weights[2].any()
    assert found.biases[2] == pytest.approx(np.log(1 / 401))
    assert np.isnan(found.strengths[2])
    assert np.isfinite(found.held_out).all()


@pytest.mark.parametrize("regression", ["ridge", "logistic"])
def test_unknown_labels_are_left_out(regression):
    x, labels, patients = planted()
    labels[200:, 0] = np.nan
    known = probe._REGRESSIONS[regression][0]
    whole = known(x, labels.astype(np.float64))
    part = known(x[:200], labels[:200, :1].astype(np.float64))
    assert np.allclose(whole[0][:, :, 0], part[0][:, :, 0], atol=2e-3)
    assert np.isfinite(Probe.fit(x, labels, patients, regression).weights).all()


def test_features_that_only_tell_patients_apart_have_no_worth_on_held_out_images():
    draw = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 5)
    x = draw.normal(size=(60, 80))[patients] + 0.01 * draw.normal(size=(300, 80))
    labels = (draw.random(60) < 0.5)[patients][:, None].astype(np.float32)
    found = Probe.fit(x, labels, patients)
    assert roc_auc_score(labels[:, 0], found.held_out[:, 0]) < 0.65
    same = Probe.fit(x, labels, np.arange(300))  # the leak that folds by image would have
    assert roc_auc_score(labels[:, 0], same.held_out[:, 0]) > 0.95


def test_a_rare_finding_takes_the_strength_of_the_others():
    losses = np.array([[1.0, 1.0], [0.9, 1.0], [0.5, 0.99], [0.9, 0.98]])
    y = np.zeros((1000, 2))
    y[:500, 0], y[:3, 1] = 1, 1
    assert probe._chosen(losses, y).tolist() == [2, 2]
    y[:500, 1] = 1
    assert probe._chosen(np.array([[1, 1], [0.9, 1], [0.88, 0.7], [0.9, 0.1]]), y)[1] == 3


@pytest.fixture(scope="module")
def probed(run: Path, dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("probe") / "run"
    done = run_command("probe", run / "bundle", dataset.folder, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_probe_of_a_bundle_keeps_its_backbone_and_is_an_ordinary_run(probed, run, dataset):
    before, after = bundles.load(run / "bundle"), bundles.load(probed / "bundle")
    theirs = before.classifier.state_dict()
    same = {
        name: torch.equal(of, theirs[name]) for name, of in after.classifier.state_dict().items()
    }
    assert {name for name, equal in same.items() if not equal} == {"head.weight", "head.bias"}
    logits, maps, _ = next(batches(after.classifier, dataset.images[:8]))
    bias = after.classifier.head.bias.detach().numpy()
    assert maps.mean((2, 3)) + bias == pytest.approx(logits, abs=1e-4)
    summary = json.loads((probed / "run.json").read_text(encoding="utf-8"))
    assert summary["initial_weights"]["model"] == before.identity
    history = (probed / "history.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in history[1:]] == [["0", "train"], ["0", "val"]]


def test_a_probe_fits_its_training_images_better_than_chance(probed, dataset):
    rows = dataset.rows("train")
    classifier = bundles.load(probed / "bundle").classifier
    logits = np.concatenate([logits for logits, *_ in batches(classifier, dataset.images[rows])])
    labels = dataset.labels(rows)
    both = [k for k in range(labels.shape[1]) if len(np.unique(labels[:, k])) == 2]
    assert np.mean([roc_auc_score(labels[:, k], logits[:, k]) for k in both]) > 0.6


@pytest.mark.parametrize(
    ("key", "value"),
    [("loss", {"kind": "focal"}), ("mask_weight", 0.3), ("ema", 0.9), ("progressive", [[64, 1]]),
     ("augment", {"flip": 0}), ("sampling", "balanced"), ("max_epochs", 3)],
)  # fmt: skip
def test_a_probe_refuses_what_only_training_by_gradients_uses(key, value):
    """With `ema` the bundle got the head of the average, which was never fitted."""
    with pytest.raises(RecipeError, match=rf"method = 'ridge': .* does not use {key};"):
        recipe.load("probe", {key: value})
    assert recipe.load("quick", {key: value}).method == "gradient"


def test_a_probe_takes_all_that_concerns_the_network_and_the_machine():
    changes = {"head": "multiscale", "size": 320, "tta": [], "threads": 1, "precision": "float32"}
    assert recipe.load("probe", {**changes, "seed": 4, "weights": "none"}).seed == 4


def test_a_probe_has_one_process(dataset, tmp_path):
    chosen = recipe.load("probe", {"backbone": "resnet10t", "weights": "none", "size": 32})
    with pytest.raises(TrainingError, match="method = ridge fits the head in one process"):
        fit.train(dataset, chosen, tmp_path / "run", processes=Processes(devices=2))
    assert not (tmp_path / "run").exists()


def test_a_training_can_start_from_the_head_that_a_probe_fits(run, dataset, tmp_path):
    same = {"backbone": "resnet10t", "size": 32, "weights": str(run / "bundle"), "tta": []}
    same["precision"] = "float32"  # of the features, to 1e-6
    probed = fit.train(dataset, recipe.load("probe", same), tmp_path / "probed")
    still = {**same, "initial_head": "ridge", "learning_rate": 1e-9, "max_epochs": 1}
    trained = fit.train(dataset, recipe.load("quick", still), tmp_path / "trained")
    heads = [bundles.load(of.bundle).classifier.head for of in (probed, trained)]
    assert torch.allclose(heads[0].weight, heads[1].weight, atol=1e-6)
    assert torch.allclose(heads[0].bias, heads[1].bias, atol=1e-6)
    before = bundles.load(run / "bundle").classifier.head
    assert not torch.allclose(heads[0].weight, before.weight, atol=1e-3)


def test_a_folder_that_is_not_there_is_not_taken_for_a_backbone(dataset, tmp_path):
    command = ["probe", str(tmp_path / "bundle"), str(dataset.folder), "--out", "run"]
    with pytest.raises(BundleError, match="is not a folder: give the folder of a bundle"):
        CliRunner().invoke(app, command, catch_exceptions=False)
