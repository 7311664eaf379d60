"""A recipe with members: networks that differ in their seeds, and one bundle of all."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import chestxray
from chestxray.dataset import prepare
from chestxray.errors import ArtifactError, RecipeError, TrainingError
from chestxray.evaluation import predictions
from chestxray.evaluation.calibration import stated_log_odds
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.model.model_card import MOST_MEMBERS
from chestxray.model.torch_engine import TorchEngine
from chestxray.reading import inputs
from chestxray.reporting import figure_set
from chestxray.reporting.page import report
from chestxray.reporting.run_files import RunFiles
from chestxray.training import fit, recipe_checks
from chestxray.training import recipe as recipes
from chestxray.training.data import Part
from chestxray.training.ensembling import ensemble
from chestxray.training.finalize import logits_of
from chestxray.training.lightning_module import Task
from chestxray.training.loop import Processes
from chestxray.training.members import summary_of
from conftest import TINY

TWO = (*TINY, "members=2", "max_epochs=2")
TINY_KEYS: dict[str, Any] = dict(of.split("=") for of in TINY)


def test_the_model_of_a_run_with_members_averages_their_calibrated_logits(pair, dataset):
    val = Part(dataset, "val")
    stated = []
    for number in (1, 2):
        bundle = bundles.load(pair / "members" / str(number) / "bundle")
        stated.append(
            stated_log_odds(bundle.card.calibration.apply(logits_of(bundle.classifier, val)))
        )
    both = bundles.load(pair / "bundle")
    found = TorchEngine(both.classifier).run(val.images).logits
    assert np.abs(stated[0] - stated[1]).max() > 0.01
    assert found == pytest.approx(np.mean(stated, 0), abs=1e-3)
    kept = predictions.read(pair / "validation.csv").rows.set_index(predictions.IMAGE)
    columns = list(predictions.probability_columns(dataset.findings))
    names = dataset.index["image"].iloc[val.rows]
    expected = both.card.calibration.apply(found.astype(np.float64))
    assert kept.loc[names, columns].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_each_member_has_its_own_seed_and_is_a_run_that_can_be_used_alone(pair, dataset, tmp_path):
    summary = fit.Run.open(pair).summary
    seeds = [of["seed"] for of in summary["members"]]
    assert seeds[0] == summary["seed"] != seeds[1]
    for number, seed in enumerate(seeds, 1):
        run = fit.Run.open(pair / "members" / str(number))
        alone = recipes.load("quick", (*TWO, "members=1", f"seed={seed}"))
        assert recipes.load(run.folder / "recipe.yaml") == alone
    again = fit.train(dataset, alone, tmp_path / "alone")
    assert again.model == summary["members"][1]["model"]


def alone(pair: Path) -> list[dict[str, Any]]:
    """Give `run.json` of each member, the second with a teacher, and drawn in another way."""
    one, two = (
        json.loads((pair / "members" / number / "run.json").read_text(encoding="utf-8"))
        for number in ("1", "2")
    )
    balanced = {**two["sampling"], "name": "balanced", "effective_images": 71.0}
    teacher = {"model": "a teacher"}
    return [one, {**two, "teacher": teacher, "sampling": balanced, "monitor": "auroc"}]


def test_run_json_says_what_members_have_in_common_and_of_each_what_differs(pair):
    one, two = alone(pair)
    of_both = summary_of([one, two], "both", 0)
    assert (of_both["teacher"], of_both["sampling"], of_both["monitor"]) == (None, None, None)
    assert [of["sampling"]["name"] for of in of_both["members"]] == ["natural", "balanced"]
    assert [of["teacher"] for of in of_both["members"]] == [None, {"model": "a teacher"}]
    assert [of["monitor"] for of in of_both["members"]] == ["loss", "auroc"]
    assert of_both["backbone"] == "resnet10t"
    assert of_both["epochs"] == one["epochs"] + two["epochs"]
    alike = summary_of([one, {**one, "model": "m"}], "both", 0)
    assert (alike["sampling"], alike["monitor"]) == (one["sampling"], "loss")
    assert "sampling" not in alike["members"][0]


def test_a_report_tells_of_each_member(pair, tmp_path):
    shutil.copytree(pair, tmp_path / "pair")
    pair = tmp_path / "pair"
    both = summary_of(alone(pair), fit.Run.open(pair).model, 0)
    (pair / "run.json").write_text(json.dumps(both), encoding="utf-8")
    history = fit.Run.open(pair).history
    assert history.groupby("member").size().tolist() == [4, 4]
    figures = figure_set.figure_sets(RunFiles.read(pair))
    training = next(of for of in figures.values() if of.title == "Training by epoch")
    assert "2 networks" in training.note
    text = re.sub(r"\s+", " ", report(pair, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "The model is the ensemble of 2 networks" in text
    assert "the mean of 2 networks." in text
    assert "0, 1000" in text
    assert text.count("Balanced sampling: an epoch draws") == 1
    assert "The effective sample size is 71 images" in text
    assert "lowest validation loss or the highest mean AUROC on validation" in text
    assert "None" not in re.sub(r"<(script|style|pre).*?</\1>", "", text)


@pytest.mark.parametrize(
    ("change", "devices", "rule"),
    [
        ({"mask_weight": 1}, 1, "mask_weight = 1: .* has no masks"),
        pytest.param(
            {"precision": "bfloat16", "progressive": [[16, 1]]},
            1,
            "bfloat16 needs images of 32",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains on these"),
        ),
        ({"method": "ridge"}, 2, "method = ridge fits the head in one process"),
        ({"batch_size": 2}, 2, "2 processes cannot share batches of 2 images"),
    ],
)
def test_what_a_member_cannot_train_with_is_said_before_the_first_is_trained(
    dataset, tmp_path, change, devices, rule
):
    """It was said when the networks before had taken their hours."""
    without = replace(dataset, masks=None)
    changes = {"members": [{}, change]}
    recipe = recipes.load("quick", {**TINY_KEYS, "max_epochs": 2, **changes})
    with pytest.raises((RecipeError, TrainingError), match=rule):
        fit.train(without, recipe, tmp_path / "run", processes=Processes(devices=devices))
    assert not (tmp_path / "run").exists()


def test_run_checks_each_member_before_a_dataset_is_prepared(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"none")
    changed = {"members": [{}, {"weights": str(tmp_path / "weights.pth")}]}
    recipe = recipe_checks.checked("quick", {**TINY_KEYS, "weights": "none", **changed})
    with pytest.raises(RecipeError, match=r"weights\.pth"):
        fit.check_recipe(recipe)


def test_processes_of_torchrun_make_no_phantoms_for_a_later_member(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name, value in {"LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 2, "RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    recipe = recipes.load("quick", {**TINY_KEYS, "members": [{}, {"weights": "phantoms"}]})
    with pytest.raises(TrainingError, match="torchrun would make them in each process"):
        fit.train(dataset, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_threads_of_one_training_are_no_limit_for_the_next(dataset, tmp_path):
    """The second network had no more threads than the first had been fastest with."""
    before = torch.get_num_threads()
    changes = [{"threads": before + 1}, {"threads": before + 2}]
    settings = {**TINY_KEYS, "max_epochs": 1, "members": changes}
    run = fit.train(dataset, "quick", tmp_path / "run", settings)
    assert [of["threads"] for of in run.summary["members"]] == [before + 1, before + 2]
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_an_interrupted_run_keeps_the_members_that_are_finished(dataset, tmp_path, monkeypatch):
    trained, own = [], fit.train
    recipe = recipes.load("quick", (*TWO, "max_epochs=1"))

    def interrupted(data, recipe, out, *rest):
        if not recipe.members:
            trained.append(out.name)
            if trained == ["1", "2"]:
                raise KeyboardInterrupt
        return own(data, recipe, out, *rest)

    monkeypatch.setattr(fit, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit.train(dataset, recipe, tmp_path / "run")
    first = (tmp_path / "run" / "members" / "1" / "run.json").stat().st_mtime_ns
    assert not (tmp_path / "run" / "run.json").exists()
    finished = fit.train(dataset, recipe, tmp_path / "run", (), True)
    assert trained == ["1", "2", "2"]
    assert (tmp_path / "run" / "members" / "1" / "run.json").stat().st_mtime_ns == first
    models = {of["model"] for of in finished.summary["members"]}
    assert {of.identity for of in bundles.load(finished.bundle).card.members} == models
    card = (finished.bundle / "bundle.json").stat().st_mtime_ns
    fit.train(dataset, recipe, tmp_path / "run", (), True)
    assert (finished.bundle / "bundle.json").stat().st_mtime_ns == card


def test_a_member_must_not_start_from_what_has_seen_the_folds(run, dataset, tmp_path):
    seen = {"members": [{}, {"weights": str(run / "bundle"), "backbone": "resnet10t"}], "size": 32}
    with pytest.raises(RecipeError, match="tested in the folds"):
        chestxray.crossval(dataset, "quick", tmp_path / "cv", overrides=seen)
    assert not (tmp_path / "cv").exists()


def test_seeds_of_a_cross_validation_change_each_member(dataset, tmp_path):
    """The network with a seed of its own was the same in all, so that they differed too little."""
    fixed = {**TINY_KEYS, "members": [{}, {"seed": 7}]}
    with pytest.raises(RecipeError, match="network 2 has a seed of its own, which 2 seeds would"):
        chestxray.crossval(dataset, "quick", tmp_path / "cv", seeds=2, overrides=fixed)
    assert not (tmp_path / "cv").exists()


def test_as_many_members_may_be_trained_as_a_bundle_may_have():
    assert len(recipes.load("quick", {"members": MOST_MEMBERS}).members) == MOST_MEMBERS
    for number in (0, -1, MOST_MEMBERS + 1, 10**12, True, "2", [1, 2]):
        with pytest.raises(RecipeError, match=r"members = .*number from 1 to 16, or a list"):
            recipes.load("quick", {"members": number})
    assert recipes.load("quick", {"members": 1}) == recipes.load("quick")
    with pytest.raises(RecipeError, match="one network alone changes nothing"):
        recipes.load("quick", {"members": [{"seed": 3}]})


@pytest.mark.parametrize(
    "members", [[{}, {"seed": 0}], [{}, {"method": "ridge"}, {"method": "ridge", "seed": 4}]]
)
def test_members_that_would_be_the_same_network_are_refused(members):
    with pytest.raises(RecipeError, match=r"networks \d and \d are the same"):
        recipes.load("quick", {"weights": "imagenet", "members": members})


RIDGES = ({"method": "ridge"}, {"method": "ridge"})


def test_heads_on_random_networks_differ_by_their_seeds(dataset, tmp_path):
    """They were refused as the same, although the seed draws the network that they read."""
    settings = {**TINY_KEYS, "weights": "none", "members": list(RIDGES)}
    run = fit.train(dataset, "quick", tmp_path / "run", settings)
    assert len({of["model"] for of in run.summary["members"]}) == 2


@pytest.mark.parametrize(
    ("change", "second"),
    [
        ({"weights": "none"}, {"seed": 0}),
        ({"weights": "imagenet"}, {}),
        ({"weights": "none", "backbone": "hub:owner/name"}, {}),  # starts from its own
    ],
)
def test_heads_on_one_network_are_refused(change, second):
    members = [RIDGES[0], {**RIDGES[1], **second}]
    with pytest.raises(RecipeError, match="networks 1 and 2 are the same"):
        recipes.load("quick", {**change, "members": members})


def test_each_member_changes_what_its_entry_says(tmp_path):
    changes = [{}, {"learning_rate": 0.5, "augment": {"flip": 0}}, {"method": "ridge", "seed": 7}]
    recipe = recipes.load("small", {"members": changes})
    first, second, third = (recipe.member(number) for number in (1, 2, 3))
    assert first == recipe.model_copy(update={"members": ()})
    assert (second.learning_rate, second.augment["flip"], second.seed) == (0.5, 0, 1000)
    assert second.augment["crop"] == recipe.augment["crop"] == 0.6  # as with --set augment.flip=0
    assert (third.method, third.seed, third.tta, third.weights) == (
        "ridge",
        7,
        ("flip",),
        "imagenet",
    )
    assert third.ema == 0  # what only gradients use is left out
    recipes.save(tmp_path / "recipe.yaml", recipe)
    assert recipes.load(tmp_path / "recipe.yaml") == recipe


def test_of_small_two_networks_start_from_imagenet_and_two_from_phantoms():
    recipe = recipes.load("small")
    assert [(of.backbone, of.weights, of.size, of.method) for of in recipe.networks] == [
        ("tf_efficientnet_lite0.in1k", "imagenet", 224, "gradient"),
        ("tf_efficientnet_lite0.in1k", "imagenet", 224, "gradient"),
        ("resnet10t", "phantoms", 128, "gradient"),
        ("resnet10t", "phantoms", 128, "ridge"),
    ]
    assert {of.head for of in recipe.networks} == {"multiscale"}
    seeds = [of.seed for of in recipe.networks]
    assert len(set(seeds)) == 4
    assert recipe.networks[2].augment == recipe.augment


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"learning_rte": 1},
            "network 2: unknown key 'learning_rte'; did you mean 'learning_rate'",
        ),
        ({"augment": {"flp": 1}}, "unknown key 'augment.flp'; did you mean 'augment.flip'"),
        ({"loss.gamma": 1}, "network 2: loss.gamma: write it as loss: {gamma: VALUE}"),
        ({"learning_rate": -1}, "network 2: learning_rate"),
        ({"method": "ridge", "ema": 0.9}, "does not use ema"),
        ({"size": 400}, "network 2 cannot read larger images than size = "),
        ({"size": "400"}, "network 2 cannot read larger images than size = "),
        ({"members": 2}, "network 2 cannot change members"),
        ({"backbone": "resnet10tt"}, "network 2: backbone = 'resnet10tt': timm has no backbone"),
        ({"weights": "nowhere"}, "network 2: weights = 'nowhere': the weights file does not exist"),
    ],
)
def test_what_is_wrong_with_a_member_is_said_before_the_first_is_trained(change, rule):
    with pytest.raises(RecipeError, match=rule):
        recipe_checks.checked("quick", {"members": [{}, change]})


def test_only_what_the_networks_use_is_checked(run):
    """A backbone, weights and a teacher that every network changes were asked for."""
    unused = {"backbone": "nosuchnet", "weights": "/gone.pth", "teacher": "required"}
    own = {"backbone": "resnet10t", "weights": "none", "teacher": str(run / "bundle")}
    alike = [own, {**own, "teacher": "none"}, {**own, "teacher": "none", "method": "ridge"}]
    recipe = recipe_checks.checked("quick", {**unused, "members": alike})
    assert [of.backbone for of in recipe.networks] == ["resnet10t"] * 3
    with pytest.raises(RecipeError) as caught:
        recipe_checks.checked("quick", {**unused, "members": [own, {}, {"dropout": 0.5}]})
    faults = str(caught.value).splitlines()[1:]
    assert [fault.partition(" = ")[0].strip() for fault in faults] == [
        f"members: networks 2, 3: {key}" for key in unused
    ]
    with pytest.raises(RecipeError, match=r"^recipe quick: weights = '/gone\.pth': the"):
        recipe_checks.checked("quick", {"weights": "/gone.pth", "members": 3})


def test_a_member_of_a_smaller_size_is_trained_on_what_it_sees_in_the_ensemble(phantoms, tmp_path):
    dataset = prepare(phantoms, tmp_path / "dataset", size=64)
    changes = [{}, {"size": 32}, {"size": 32, "method": "ridge"}]
    settings = (*TINY, "size=64", "max_epochs=2", f"members={json.dumps(changes)}")
    run = fit.train(dataset, "quick", tmp_path / "run", settings)
    val = Part(dataset, "val")
    stated = []
    for number, of in enumerate(changes, 1):
        bundle = bundles.load(run.folder / "members" / str(number) / "bundle")
        assert bundle.card.size == of.get("size", 64)
        seen = Part(dataset.reduced(bundle.card.size), "val").images
        logits = TorchEngine(bundle.classifier).run(seen).logits
        stated.append(stated_log_odds(bundle.card.calibration.apply(logits.astype(np.float64))))
        assert fit.Run.open(run.folder / "members" / str(number)).summary["size"] == seen.shape[1]
    assert run.summary["size"] == 64
    assert [of["size"] for of in run.summary["members"]] == [64, 32, 32]
    all_ = bundles.load(run.bundle)
    assert [member.size for member in all_.card.members].count(32) == 2
    found = TorchEngine(all_.classifier).run(val.images).logits
    # Reduced to whole grey levels in training, exactly in the network.
    assert found == pytest.approx(np.mean(stated, 0), abs=0.02)


def test_a_network_of_the_recipes_own_size_is_asked_for_before_the_first_is_trained():
    """The ensemble of smaller ones did not fit the dataset, which was said at the end."""
    with pytest.raises(RecipeError, match=r"no network reads images of size = 224; give size = 64"):
        recipes.load("quick", {"size": 224, "members": [{"size": 32}, {"size": 64}]})


def test_a_teacher_that_reads_larger_images_than_a_member_is_refused_before(run, dataset, tmp_path):
    """The member was refused when the networks before it had taken their hours."""
    teacher = shutil.copytree(run / "bundle", tmp_path / "teacher")
    shutil.copy(dataset.folder / "dataset.json", tmp_path)
    for file in (teacher / "bundle.json", tmp_path / "dataset.json"):
        of_64 = {**json.loads(file.read_text(encoding="utf-8")), "size": 64}
        file.write_text(json.dumps(of_64), encoding="utf-8")
    taught = {**TINY_KEYS, "size": 64, "teacher": str(teacher)}
    with pytest.raises(RecipeError) as caught:
        recipe_checks.checked("quick", {**taught, "members": [{}, {"size": 32}]}, tmp_path)
    assert "network 2: teacher = " in str(caught.value)
    assert "it reads images of 64 px, the network that learns from it 32 px" in str(caught.value)
    head_alone = {"size": 32, "method": "ridge"}  # learns from labels
    recipe_checks.checked("quick", {**taught, "members": [{}, head_alone]}, tmp_path)


def test_a_dataset_with_reduced_images_says_so_and_only_training_takes_it(dataset, run, pair):
    side = dataset.images.shape[1]
    half = dataset.reduced(side // 2)
    assert f"at {side // 2} px" in repr(half)
    bundles_of_side = [run / "bundle", pair / "members" / "1" / "bundle"]
    with pytest.raises(ArtifactError, match=f"holds images of {side // 2} px"):
        ensemble(bundles_of_side, half, pair.parent / "never")
    for of in (side, side // 2):
        card = model_card.read(run / "bundle").card.model_copy(update={"size": of})
        with pytest.raises(ArtifactError, match="its images are reduced"):
            inputs.find(half, "test", card)


def test_reduced_images_are_means_of_the_pixels_that_they_cover(dataset):
    side = dataset.images.shape[1] // 2
    rows = np.array([5, 0, 3])
    whole = dataset.images[rows].astype(np.float64)
    means = whole.reshape(3, side, 2, side, 2).mean((2, 4))
    reduced = dataset.reduced(side)
    assert reduced.images.shape == (len(dataset.images), side, side)
    assert np.abs(reduced.images[rows] - means).max() <= 0.5
    assert np.array_equal(reduced.images[5], reduced.images[rows][0])
    assert np.array_equal(
        reduced.with_split(dataset.index["split"], "same").images[5], reduced.images[5]
    )
    assert dataset.reduced(dataset.images.shape[1]) is dataset
    with pytest.raises(ArtifactError, match="prepare with --size 400"):
        dataset.reduced(400)


@pytest.mark.slow
def test_members_are_cross_validated_like_one_model(dataset, tmp_path):
    result = chestxray.crossval(
        dataset,
        "quick",
        tmp_path / "cv",
        folds=2,
        overrides=(*TWO, "max_epochs=1"),
        resamples=200,
    )
    assert result.images == len(dataset.index)
    table = pd.read_csv(tmp_path / "cv" / "predictions.csv")
    bundle = bundles.load(tmp_path / "cv" / "runs" / "fold1-seed0" / "bundle")
    assert len(table) == len(dataset.index)
    assert bundle.card.is_ensemble
    card = json.loads((tmp_path / "cv" / "runs" / "fold1-seed0" / "run.json").read_text())
    assert len(card["members"]) == 2


def test_what_a_resumed_network_has_already_may_be_gone(run, tmp_path):
    """The file of its weights was asked for, although its checkpoint holds them."""
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = recipes.load(copy / "recipe.yaml").model_copy(update={"weights": "/gone.pth"})
    recipes.save(copy / "recipe.yaml", recipe)
    assert recipe_checks.for_run(copy, None, resume=True) == recipe
    for needed in ("initial_weights.json", "checkpoints/last.safetensors"):
        away = (copy / needed).rename(tmp_path / "away")
        with pytest.raises(RecipeError, match=r"/gone\.pth': the weights file does not exist"):
            recipe_checks.for_run(copy, None, resume=True)
        away.rename(copy / needed)
    pair = tmp_path / "pair"
    shutil.copytree(copy, pair / "members" / "1")
    changes = [{}, {"weights": "none"}, {"weights": "/other.pth"}]
    recipes.save(pair / "recipe.yaml", recipe.model_copy(update={"members": tuple(changes)}))
    with pytest.raises(RecipeError) as caught:
        recipe_checks.for_run(pair, None, resume=True)
    assert "network 3: weights = '/other.pth': the weights file does not exist" in str(caught.value)
    assert "/gone.pth" not in str(caught.value)
    shutil.copytree(copy, pair / "members" / "2")
    given = {"weights": "/gone.pth", "members": 2}
    assert len(recipe_checks.for_run(pair, "quick", given, resume=True).members) == 2


@pytest.mark.slow
def test_members_are_resumed_where_what_they_started_and_learned_from_is_gone(
    run, dataset, tmp_path, monkeypatch
):
    bundle = shutil.copytree(run / "bundle", tmp_path / "bundle")
    changes = [{}, {"weights": "none", "method": "ridge"}, {"teacher": str(bundle)}]
    settings = {**TINY_KEYS, "max_epochs": 2, "weights": str(bundle), "members": changes}
    whole = fit.train(dataset, "quick", tmp_path / "whole", settings)
    step = Task.training_step

    def interrupted(self, batch, batch_idx):
        if self.recipe.taught and self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        fit.train(dataset, "quick", tmp_path / "cut", settings)
    monkeypatch.undo()
    shutil.rmtree(bundle)
    cut = fit.train(dataset, None, tmp_path / "cut", resume=True)
    assert cut.model == whole.model
    for file in ("history.csv", "validation.csv", "bundle/bundle.json"):
        assert (cut.folder / file).read_bytes() == (whole.folder / file).read_bytes()
