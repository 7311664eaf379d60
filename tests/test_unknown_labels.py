"""Two sources with different findings: what one cannot say moves nothing, and both are predicted.

Unknown labels are NaN. Where a claim is that they are left out, what the model says of them is
replaced by something absurd, and the result must stay the same to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import chestxray
from chestxray.dataset.store import Dataset
from chestxray.evaluation.calibration import fit_calibration
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.thresholds import fit_operating_points
from chestxray.findings import Findings
from chestxray.model import model_card
from chestxray.model.network import to_input
from chestxray.training import recipe as recipes
from chestxray.training.data import Part
from chestxray.training.loop import task_of
from chestxray.training.losses import class_weights
from chestxray.training.sampling import Sampling
from conftest import TINY
from evaluation_parts import dumped, pairs_of

HERE = ("Effusion", "Pneumothorax", "Mass")
THERE = ("Mass", "Pacemaker", "Rib Fracture")
UNION = Findings((*HERE, *THERE[1:]))
N = 400


def two_sources(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, 5] of which each half of the rows knows three, and probabilities that rank."""
    rng = np.random.default_rng(seed)
    y = (rng.random((N, len(UNION))) < 0.3).astype(float)
    p = 1 / (1 + np.exp(-(2 * y - 1.5 + rng.normal(0, 1, y.shape))))
    y[: N // 2, 3:] = np.nan
    y[N // 2 :, :2] = np.nan
    return y, p


def absurd(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The same probabilities but for other ones where the label is unknown."""
    other = np.random.default_rng(1).random(p.shape)
    return np.where(np.isnan(y), np.where(other < 0.5, 0.001, 0.999), p)


PATIENTS = np.arange(N) // 2


def test_class_weights_of_a_finding_are_those_of_the_images_that_know_it():
    y, _ = two_sources()
    draws = np.random.default_rng(2).uniform(0.5, 2, N)
    found = class_weights(y.astype(np.float32), draws)
    for finding, column in enumerate(y.T):
        known = ~np.isnan(column)
        alone = class_weights(column[known, None].astype(np.float32), draws[known])
        assert found[finding].tolist() == alone[0].tolist()


def test_balanced_sampling_draws_each_finding_as_often_whoever_labels_it():
    """One finding an image; ten times as many images come from the source of the last two."""
    shown = np.r_[np.arange(20) % 3, 3 + np.arange(200) % 2]
    labels = np.full((220, 5), np.nan, np.float32)
    labels[:20, :3], labels[20:, 3:] = 0, 0
    labels[np.arange(220), shown] = 1
    balanced = recipes.load("quick", ["sampling=balanced", "max_draws=1000000"])
    draws = Sampling.fit(balanced, labels).draws(labels)
    of_each = [draws[shown == finding].sum() for finding in range(5)]
    assert np.allclose(of_each, 220 / 5)


def test_sampling_by_sources_draws_each_source_as_often_up_to_the_limit():
    """A source of 20 images beside one of 200; two images of the small one have no label."""
    labels = np.zeros((220, 2), np.float32)
    labels[:2] = np.nan
    sources = np.array(["small"] * 20 + ["large"] * 200, dtype=object)
    free, limited = (
        Sampling.fit(
            recipes.load("quick", ["sampling=sources", f"max_draws={most}"]), labels, sources
        )
        for most in (1000, 4)
    )
    draws = free.draws(labels, sources)
    assert draws[:20].sum() == pytest.approx(110)
    assert draws[20:].sum() == pytest.approx(110)
    assert (draws[:2] == 0).all()
    assert np.ptp(draws[2:20]) == np.ptp(draws[20:]) == 0
    assert limited.draws(labels, sources).max() == pytest.approx(4)
    assert limited.draws(labels, sources).sum() == pytest.approx(220)
    other = np.array(["elsewhere"], dtype=object)
    assert free.draws(labels[:1], other).tolist() == [1]


def test_the_validation_loss_weights_sources_as_training_draws_them(both):
    """By hand: each image of validation counts as often as training draws one of its source."""
    changes = [*TINY, "sampling=sources", "max_draws=4"]
    task = task_of(both, recipes.load("quick", changes), resumed=False)
    val = Part(both, "val")
    logits = torch.randn(len(val), len(UNION), generator=torch.Generator().manual_seed(0))
    task.outputs["val"].add(logits, torch.from_numpy(val.labels))
    train = both.index[both.index["split"] == "train"]["source"].value_counts()
    weight = np.array([train.sum() / 2 / train[of] for of in val.sources])
    expected = task.loss(logits, torch.from_numpy(val.labels), torch.from_numpy(weight))
    assert task.measures("val")["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_thresholds_and_calibration_do_not_see_what_is_said_of_unknown_labels():
    y, p = two_sources()
    logits = np.log(p / (1 - p))
    strange = absurd(y, p)
    points, others = (fit_operating_points(of, y, PATIENTS, UNION) for of in (p, strange))
    assert all(chosen.threshold is not None for chosen in points.chosen["youden"].values())
    assert points == others
    fitted = fit_calibration(logits, y, PATIENTS, UNION)
    again = fit_calibration(np.log(strange / (1 - strange)), y, PATIENTS, UNION)
    assert fitted == again
    assert not fitted.unfitted


@pytest.fixture(scope="module")
def measured() -> list[dict[str, object]]:
    """Results for the same labels, of the probabilities and of the absurd ones."""
    y, p = two_sources()
    return [_results(pairs_of(y, of, PATIENTS, UNION)) for of in (p, absurd(y, p))]


def _results(pairs: Pairs) -> dict[str, object]:
    from chestxray.evaluation.bootstrap import Draws
    from chestxray.evaluation.curves import curves, reliability
    from chestxray.evaluation.scoring import mean_of, micro_of, score
    from chestxray.evaluation.workload import Images, workloads

    draws = Draws.of(pairs.patients, 50)
    points = fit_operating_points(pairs.probabilities, pairs.labels, pairs.patients, UNION)
    on = Images.of_validation(pairs, points)
    scores = {name: score(pairs, draws, name, points, on, "joint") for name in UNION}
    at = {
        name: {finding: of.called[name] for finding, of in scores.items() if name in of.called}
        for name in points.chosen
    }
    columns = zip(UNION, pairs.labels.T, pairs.probabilities.T, strict=True)
    return {
        "findings": dumped({name: of.result for name, of in scores.items()}),
        "mean": dumped(mean_of(scores, draws)),
        "micro": dumped(micro_of(pairs, draws, scores)),
        "curves": dumped({name: curves(y, p, draws) for name, y, p in columns}),
        "reliability": dumped(
            reliability(pairs, pairs, draws, dict.fromkeys(UNION, 0.2)),
        ),
        "workload": dumped(workloads(points, on, Images(pairs, draws, at))),
    }


@pytest.mark.parametrize("part", ["findings", "mean", "micro", "curves", "reliability"])
def test_no_metric_sees_what_is_said_of_unknown_labels(measured, part):
    assert measured[0][part] == measured[1][part]


def test_of_the_workload_only_the_number_of_calls_counts_images_with_unknown_labels(measured):
    for point, work in measured[0]["workload"].items():
        other = measured[1]["workload"][point]
        for where in ("validation", "evaluated"):
            assert work[where].pop("calls_per_image") != other[where].pop("calls_per_image")
        assert work == other


def _tree(out: Path, findings: tuple[str, ...], seed: int, images: int = 60) -> Path:
    """A hospital's table with its radiographs; a finding is a bright stripe at its own height."""
    out.mkdir()
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, len(findings))) < 0.4).astype(int)
    rows = []
    for image, shown in enumerate(labels):
        pixels = rng.integers(40, 90, (40, 40), np.uint8)
        for finding in np.array(findings)[shown == 1]:
            pixels[6 * UNION.index(finding) + 4 :][:4] += 120
        Image.fromarray(pixels).save(out / f"{image}.png")
        rows.append([f"{image}.png", f"p{image // 2}", *shown])
    table = pd.DataFrame(rows, columns=["image", "patient", *findings])
    table.to_csv(out / "labels.csv", index=False)
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Dataset:
    base = tmp_path_factory.mktemp("sources")
    trees = [_tree(base / "here", HERE, 0), _tree(base / "there", THERE, 1)]
    return chestxray.prepare(trees, base / "dataset", size=32, split="patient")


@pytest.mark.parametrize(
    ("kind", "weights"), [("bce", "false"), ("focal", "true"), ("asymmetric", "opposite")]
)
def test_a_batch_gives_no_gradient_to_findings_that_its_source_cannot_say(both, kind, weights):
    """Exactly zero: for the logits, and for the weights and biases of these findings."""
    changes = [*TINY, f"loss.kind={kind}", f"loss.class_weights={weights}", "loss.smoothing=0.1"]
    task = task_of(both, recipes.load("quick", changes), resumed=False)
    part = Part(both, "train")
    source = both.index["source"].iloc[part.rows].to_numpy()
    for name, unknown in (("here", [3, 4]), ("there", [0, 1])):
        images, labels = part[np.flatnonzero(source == name)[:16].tolist()]
        assert torch.isnan(labels[:, unknown]).all()
        assert both.findings == UNION
        task.zero_grad()
        logits = task.classifier(to_input(images).contiguous(memory_format=torch.channels_last))
        logits.retain_grad()
        task.loss(logits, labels).backward()
        known = [k for k in range(5) if k not in unknown]
        assert (logits.grad[:, unknown] == 0).all()
        assert (logits.grad[:, known] != 0).any(dim=0).all()
        for weight in _of_head(task.classifier):
            assert (weight.grad[unknown] == 0).all()
            assert (weight.grad[known] != 0).reshape(3, -1).any(dim=1).all()


def _of_head(classifier: torch.nn.Module) -> list[torch.Tensor]:
    """Weights and biases with a row for each finding."""
    found = [of for of in classifier.parameters() if of.shape[0] == len(UNION)]
    assert len(found) == 2
    return found


def test_of_several_networks_too_it_is_said_whether_the_source_can_be_told(both, tmp_path):
    """The report of a run with members did not warn of the shortcut."""
    recipe = recipes.load("quick", [*TINY, "max_epochs=1", "members=2"])
    run = chestxray.train(both, recipe, tmp_path / "run")
    parts = [run.folder, run.folder / "members" / "1"]
    probes = [json.loads((of / "source_probe.json").read_text(encoding="utf-8")) for of in parts]
    assert {*probes[0]["auroc"], *probes[0]["too_few"]} == {"here", "there"}
    assert probes[0]["prevalences"] == probes[1]["prevalences"]


def test_a_model_of_two_sources_predicts_the_findings_of_both(both, tmp_path):
    changes = [*TINY, "max_epochs=5", "sampling=balanced"]
    run = chestxray.train(both, recipes.load("quick", changes), tmp_path / "run")
    card = model_card.read(run.bundle).card
    assert card.findings == UNION
    assert set(card.trained_on.policies) == {"here", "there"}
    probe = json.loads((run.folder / "source_probe.json").read_text(encoding="utf-8"))
    assert {*probe["auroc"], *probe["too_few"]} == {"here", "there"}
    table = chestxray.predict(run.bundle, both, tmp_path / "test.csv", split="test").path
    read = chestxray.Predictions.read(table)
    assert np.isfinite(read.probabilities).all()
    results = chestxray.evaluate(table, both, resamples=0)
    assert tuple(results.findings) == UNION
    for source in (HERE[:2], THERE[1:]):
        assert np.mean([results.findings[name].auroc.value for name in source]) > 0.7
    unknown = {name: of.unknown for name, of in results.findings.items()}
    images = both.index[both.index["split"] == "test"]["source"].value_counts()
    assert unknown == {
        "Effusion": images["there"], "Pneumothorax": images["there"], "Mass": 0,
        "Pacemaker": images["here"], "Rib Fracture": images["here"],
    }  # fmt: skip
