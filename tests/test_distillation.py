"""Distillation: a network learns from the calibrated probabilities of another one."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import chestxray
from chestxray.errors import ArtifactError, RecipeError, TrainingError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.evaluation.seen_images import list_sha256
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.model.network import to_input
from chestxray.training import fit, recipe_checks
from chestxray.training import recipe as recipes
from chestxray.training.distillation import targets_of
from chestxray.training.finalize import recipe_link
from chestxray.training.leakage import check_unseen
from chestxray.training.lightning_module import Task
from chestxray.training.mask_supervision import MaskedPart
from chestxray.training.recipe_checks import TARGETS
from chestxray.training.sampling import Sampling
from conftest import TINY

STILL = tuple(f"augment.{name}=0" for name in ("flip", "rotate", "gamma", "contrast"))


def pupil(teacher: Path | str, *changes: str) -> recipes.Recipe:
    return recipes.load("quick", [*TINY, f"teacher={teacher}", *changes])


@pytest.fixture(scope="module")
def teacher(run: Path, tmp_path_factory) -> Path:
    """A bundle of the run's network with another head, so that no label leads to its answers."""
    bundle = bundles.load(run / "bundle")
    torch.manual_seed(5)
    with torch.no_grad():
        bundle.classifier.head.weight.normal_(std=0.3)
        bundle.classifier.head.bias.normal_(std=1.0)
    out = tmp_path_factory.mktemp("teacher") / "bundle"
    bundles.save(out, bundle.classifier, bundle.card, bundle.detector)
    return out


def probabilities(folder: Path, images) -> np.ndarray:
    bundle = bundles.load(folder)
    with torch.inference_mode():
        logits = bundle.classifier(to_input(torch.from_numpy(images))).double().numpy()
    return bundle.card.calibration.apply(logits)


class Fixed(nn.Module):
    """A classifier whose logits are its parameters."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_known_labels_share_the_loss_and_unknown_ones_have_the_teachers_part_alone(weight):
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3), torch.rand(4, 3)
    labels = torch.tensor([[1, 0, torch.nan], [0, torch.nan, 1], [torch.nan] * 3, [0, 0, 1]])
    task = Task(
        Fixed(logits), pupil("any", f"teacher_weight={weight}"), np.ones((3, 2)), Sampling()
    )
    task._step("train", torch.zeros(4, 1, 32, 32), labels, targets).backward()
    p = logits.sigmoid()
    known = ~labels.isnan()
    of_labels = torch.where(known, p - labels.nan_to_num(), 0.0) / known.sum()
    expected = (1 - weight) * of_labels + weight * (p - targets) / 12
    assert torch.allclose(task.classifier.logits.grad, expected, atol=1e-6)


def test_mixed_images_have_mixed_targets():
    grey = torch.tensor([10, 60, 110, 160, 210], dtype=torch.uint8)
    images = grey[:, None, None].expand(5, 32, 32)
    targets = (grey / 255)[:, None].expand(5, 2)
    task = Task(
        Fixed(torch.zeros(1)), pupil("any", "mixup=0.7", *STILL), np.ones((2, 2)), Sampling()
    )
    inputs, labels, mixed = task._augmented((images, targets.round(), targets), 3)
    assert torch.allclose(mixed, inputs.mean((1, 2, 3))[:, None].expand(5, 2), atol=1e-6)
    assert not torch.allclose(mixed, targets, atol=0.01)
    assert labels.shape == (5, 2)


def test_masks_come_after_targets(dataset):
    rows = dataset.rows("train")
    targets = torch.rand(len(rows), 14)
    part = MaskedPart(dataset, "train", None, [targets])
    images, labels, taught, masks = part[[4, 0]]
    assert torch.equal(taught, targets[[4, 0]])
    assert masks.shape[:2] == labels.shape == (2, 14)
    assert np.array_equal(images.numpy(), dataset.images[rows[[4, 0]]])


@pytest.fixture(scope="module")
def unlabelled(dataset) -> chestxray.Dataset:
    """The phantoms without a label in the training part."""
    index = dataset.index.copy()
    index.loc[index["split"] == "train", list(dataset.findings)] = np.nan
    return replace(dataset, index=index)


@pytest.fixture(scope="module")
def distilled(unlabelled, teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("distilled") / "run"
    more = ("teacher_weight=1", "max_epochs=6", "batch_size=8", *STILL)
    fit.train(unlabelled, pupil(teacher, *more), out)
    return out


def test_a_pupil_without_labels_learns_its_teachers_probabilities(distilled, teacher, run, dataset):
    images = dataset.images[dataset.rows("test")]
    wanted = probabilities(teacher, images)

    def divergence(folder: Path) -> float:
        bundle = bundles.load(folder)
        with torch.inference_mode():
            p = bundle.classifier(to_input(torch.from_numpy(images))).double().sigmoid().numpy()
        own = wanted * np.log(wanted / p) + (1 - wanted) * np.log((1 - wanted) / (1 - p))
        return float(own.mean())

    assert divergence(distilled / "bundle") < 0.5 * divergence(run / "bundle")


def test_the_run_keeps_the_teachers_calibrated_answers_and_who_it_was(
    distilled, teacher, unlabelled
):
    images = unlabelled.images[unlabelled.rows("train")]
    kept = targets_of(unlabelled, distilled)
    assert kept.numpy() == pytest.approx(probabilities(teacher, images), abs=1e-5)
    summary = json.loads((distilled / "run.json").read_text(encoding="utf-8"))
    facts = model_card.read(teacher)
    assert summary["teacher"] == {
        "model": facts.identity,
        "source": facts.card.trained_on.source,
        "synthetic": True,
        "recipe": "quick",
        "members": [],
    }


def test_calibration_of_a_pupil_has_no_link_of_the_loss_of_labels(teacher):
    focal = "loss.kind=focal"
    assert recipe_link(pupil(teacher, focal)).gamma == 0
    assert recipe_link(recipes.load("quick", [*TINY, focal])).gamma == 2


def test_kept_answers_of_other_images_are_refused(distilled, dataset, unlabelled):
    parts = dataset.index["split"].map({"train": "test", "test": "train", "val": "val"})
    with pytest.raises(ArtifactError, match="of other images or findings"):
        targets_of(unlabelled.with_split(parts, "turned"), distilled)


@pytest.mark.slow
def test_a_resumed_pupil_ends_as_one_that_was_not_and_needs_no_teacher(
    dataset, teacher, tmp_path, monkeypatch
):
    gone = Path(shutil.copytree(teacher, tmp_path / "teacher"))
    recipe = pupil(gone, "max_epochs=2", "mixup=0.2")
    fit.train(dataset, recipe, tmp_path / "whole")
    step = Task.training_step

    def interrupted(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        fit.train(dataset, recipe, tmp_path / "cut")
    monkeypatch.undo()
    shutil.rmtree(gone)
    fit.train(dataset, None, tmp_path / "cut", resume=True)
    for file in ("history.csv", "validation.csv", "bundle/bundle.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    cut, whole = (load_file(tmp_path / folder / TARGETS) for folder in ("cut", "whole"))
    assert {*cut} == {*whole}
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_a_training_part_without_labels_needs_a_teacher(unlabelled, teacher, tmp_path):
    for recipe in (recipes.load("quick", TINY), pupil(teacher, "sampling=balanced")):
        with pytest.raises(TrainingError, match="no known labels in the train split"):
            fit.train(unlabelled, recipe, tmp_path / "run")


def test_the_recipe_distill_wants_a_teacher_before_anything_is_loaded(dataset, tmp_path):
    with pytest.raises(RecipeError, match=r"give its bundle with --set teacher=BUNDLE"):
        recipe_checks.for_run(tmp_path / "run", "distill", ["size=32"], dataset=dataset.folder)
    with pytest.raises(RecipeError, match=r"teacher = '.*': .*is not a bundle"):
        recipe_checks.checked("distill", {"teacher": str(tmp_path)})
    with pytest.raises(RecipeError, match="teacher_weight = 0: it should be greater than 0"):
        recipes.load("distill", {"teacher_weight": 0})


def test_a_teacher_that_does_not_fit_the_dataset_is_refused(dataset, teacher, tmp_path):
    manifest = json.loads((dataset.folder / "dataset.json").read_text(encoding="utf-8"))
    manifest |= {"size": 16, "findings": [*manifest["findings"], "Fracture"]}
    (tmp_path / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        recipe_checks.checked("distill", {"teacher": str(teacher), "size": 32}, tmp_path)
    assert "it lacks the findings Fracture of the dataset" in str(caught.value)
    assert "it reads images of 32 px, the network that learns from it 16 px" in str(caught.value)


def rewritten(bundle: Path, out: Path, **trained) -> Path:
    """Copy a bundle with another origin."""
    folder = Path(shutil.copytree(bundle, out))
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    card["trained_on"] |= trained
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.mark.parametrize("key", ["teacher", "weights"])
def test_a_model_of_validation_or_test_images_is_refused(dataset, teacher, tmp_path, caplog, key):
    images = dataset.index["image"][dataset.index["split"].isin(["train", "test"])]
    listed = list_sha256(images)
    leaky = rewritten(teacher, tmp_path / "leaky", training_list_sha256=listed)
    recipe = recipes.load("quick", [*TINY, f"{key}={leaky}"])
    with pytest.raises(RecipeError, match=f"{key} = .* was trained on validation or test images"):
        fit.train(dataset, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_unseen(key, teacher, dataset)
    assert not caplog.records
    other = rewritten(teacher, tmp_path / "other", training_list_sha256="0")
    with caplog.at_level(logging.WARNING):
        check_unseen(key, other, dataset)
    assert "its training images may be among those that are measured here" in caplog.text


@pytest.mark.parametrize("key", ["teacher", "weights"])
def test_cross_validation_refuses_a_model_that_has_seen_its_radiographs(
    key, dataset, teacher, tmp_path, caplog
):
    def tried(folder: Path) -> None:
        changes = [*TINY, f"{key}={folder}"]
        chestxray.crossval(dataset, "quick", tmp_path / "out", folds=10_000, overrides=changes)

    real = {"synthetic": False, "training_list_sha256": "0"}
    seen = rewritten(teacher, tmp_path / "seen", **real)
    for folder in (teacher, seen):
        with pytest.raises(RecipeError, match=f"{key} = .*whose images are tested in the folds"):
            tried(folder)
    assert not (tmp_path / "out").exists()
    other = rewritten(teacher, tmp_path / "other", **real, policies={"elsewhere": {}})
    drawn = rewritten(teacher, tmp_path / "drawn", training_list_sha256="0")
    for folder, warned in ((drawn, False), (other, True)):
        caplog.clear()
        with pytest.raises(TrainingError, match="folds"):  # far more than patients
            tried(folder)
        assert ("all figures are too good" in caplog.text) == warned


def test_a_probe_has_no_teacher(teacher):
    with pytest.raises(RecipeError, match=r"does not use teacher;"):
        recipes.load("probe", {"teacher": str(teacher)})
    assert recipes.load("distill").taught
    assert not recipes.load("small").taught
