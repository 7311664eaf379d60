from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from chestxray.artifacts import sha256
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, RecipeError, TrainingError
from chestxray.evaluation import predictions
from chestxray.evaluation.evidence import one_sided
from chestxray.model import bundle as bundles
from chestxray.model.network import Classifier, to_input
from chestxray.sources.nih import FINDINGS
from chestxray.training import checkpoint_files, fit, loop
from chestxray.training import recipe as recipes
from chestxray.training.data import Part
from chestxray.training.lightning_module import Task
from chestxray.training.losses import class_weights, loss_of
from chestxray.training.sampling import Sampling
from command_line import run_command
from conftest import TINY


def tiny(*overrides: str) -> recipes.Recipe:
    return recipes.load("quick", [*TINY, *overrides])


def test_a_run_holds_all_that_was_promised(run, dataset):
    assert {path.name for path in run.iterdir()} >= {
        "recipe.yaml", "dataset.json", "history.csv", "checkpoints", "validation.csv", "bundle",
        "run.json",
    }  # fmt: skip
    summary = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert summary["split"]["sha256"] == dataset.manifest.split.sha256
    assert summary["counts"]["train"]["images"] == len(dataset.rows("train"))
    present = int((dataset.labels(dataset.rows("test")) == 1)[:, 2].sum())
    assert summary["counts"]["test"][FINDINGS[2]] == present


def test_the_history_has_a_row_an_epoch_and_split_and_the_best_epoch_is_its_lowest_val_loss(run):
    history = pd.read_csv(run / "history.csv")
    assert list(history.columns) == ["epoch", "split", "loss", "bce", "accuracy", "auroc"]
    assert history["split"].tolist() == ["train", "val"] * 3
    assert np.isfinite(history.drop(columns="split").to_numpy()).all()
    val = history[history["split"] == "val"].set_index("epoch")
    best = json.loads((run / "run.json").read_text(encoding="utf-8"))["best_epoch"]
    assert val["loss"].idxmin() == best


def test_a_run_may_be_chosen_by_auroc_and_says_so(dataset, tmp_path):
    finished = fit.train(dataset, tiny("monitor=auroc"), tmp_path / "run")
    val = finished.history.query("split == 'val'").set_index("epoch")
    assert finished.summary["monitor"] == "auroc"
    assert finished.summary["best_epoch"] == val["auroc"].idxmax()


def test_the_validation_loss_of_the_history_is_weighted_as_training_draws(dataset, tmp_path):
    recipe = recipes.load("baseline", [*TINY, "weights=none", "max_epochs=1"])
    finished = fit.train(dataset, recipe, tmp_path / "run")
    bundle = bundles.load(finished.bundle)
    images = to_input(torch.from_numpy(dataset.images[dataset.rows("val")]))
    labels, known = (dataset.labels(dataset.rows(split)) for split in ("val", "train"))
    sampling = Sampling.fit(recipe, known)
    loss = loss_of(recipe.loss, class_weights(known, sampling.draws(known)))
    with torch.inference_mode():
        logits = bundle.classifier(images)
    cost = [
        float(loss(logits[[row]], torch.from_numpy(labels[[row]]))) for row in range(len(labels))
    ]
    expected = np.average(cost, weights=sampling.draws(labels))
    found = finished.history.query("split == 'val'")["loss"].item()
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != pytest.approx(np.mean(cost), rel=1e-2)


def test_the_summary_says_how_images_were_drawn(run, dataset):
    natural = json.loads((run / "run.json").read_text(encoding="utf-8"))["sampling"]
    count = len(dataset.rows("train"))
    assert natural == {
        "name": "natural", "images": count, "effective_images": count, "distinct_share": 1.0,
        "largest_repetition": 1.0,
    }  # fmt: skip


def test_training_lowers_the_loss(run):
    train = pd.read_csv(run / "history.csv").query("split == 'train'")["loss"]
    assert train.iloc[-1] < train.iloc[0]


def test_validation_predictions_are_those_of_the_bundle_on_validation_rows(run, dataset):
    table = predictions.read(run / "validation.csv").rows
    rows = dataset.rows("val")
    assert table["Image Index"].tolist() == dataset.index["image"].iloc[rows].tolist()


@pytest.fixture
def assessed(monkeypatch):
    """Count a finding as assessed by the rule of the fixture `run`."""

    def lacking(y, _p, _patients) -> str:
        return f"{missing} in validation" if (missing := one_sided(y)) else ""

    monkeypatch.setattr("chestxray.evaluation.thresholds.no_evidence", lacking)


@pytest.mark.usefixtures("assessed")
def test_the_test_part_changes_nothing_in_a_run(run, dataset, tmp_path):
    """Blackening every test image leaves the bundle the same to the bit."""
    copy = Path(shutil.copytree(dataset.folder, tmp_path / "dataset"))
    images = np.load(copy / "images/00000.npy", mmap_mode="r+")
    images[dataset.rows("test")] = 0
    images.flush()
    with pytest.raises(ArtifactError, match=r"00000\.npy was altered"):  # nor in silence
        fit.train(Dataset.open(copy), tiny(), tmp_path / "refused")
    manifest = json.loads((copy / "dataset.json").read_text(encoding="utf-8"))
    manifest["shards"][0]["sha256"] = sha256(copy / "images/00000.npy")
    (copy / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")
    fit.train(Dataset.open(copy), tiny(), tmp_path / "run")
    weights = Path("bundle") / "weights.safetensors"
    assert sha256(tmp_path / "run" / weights) == sha256(run / weights)
    assert (tmp_path / "run/bundle/bundle.json").read_bytes() == (
        run / "bundle/bundle.json"
    ).read_bytes()


THREE = (*TINY, "batch_size=8")  # batches enough to be killed among them


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> Path:
    """A run of three epochs that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fit.train(dataset, recipes.load("quick", THREE), out)
    return out


@pytest.fixture(scope="module")
def killed(dataset, tmp_path_factory) -> dict[int, Path]:
    """What kill -9 leaves in the middle of the first epoch, and of the last, by finished epochs.

    One process serves both: at the first moment its folder is copied, at the second it is killed.
    """
    folder = tmp_path_factory.mktemp("killed")
    changes = [f"--set={change}" for change in THREE]
    command = ["train", str(dataset.folder), "--recipe", "quick", *changes, "--out"]
    with subprocess.Popen(
        [sys.executable, "-c", _WAITS, *command, str(folder / "2")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        while process.stdout.readline() != "in the middle of epoch 0\n":
            assert process.poll() is None
        shutil.copytree(folder / "2", folder / "0")
        process.stdin.write("\n")
        process.stdin.flush()
        while process.stdout.readline() != "in the middle of epoch 2\n":
            assert process.poll() is None
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    return {epoch: folder / str(epoch) for epoch in (0, 2)}


@pytest.mark.parametrize("epochs_before_the_kill", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_killed_and_resumed_run_ends_as_one_that_was_not(
    dataset, whole, killed, epochs_before_the_kill
):
    """To the bit, also where its folder was moved before it was resumed."""
    cut = killed[epochs_before_the_kill]
    assert (cut / "recipe.yaml").exists()
    assert not (cut / "run.json").exists()
    cut = cut.rename(cut.with_name(f"moved {epochs_before_the_kill}"))
    resumed = run_command("train", dataset.folder, "--resume", "--out", cut)  # by its own recipe
    assert resumed.returncode == 0, resumed.stderr
    for file in ("history.csv", "validation.csv", "bundle/bundle.json", "recipe.yaml"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
    first, second = (
        json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (whole, cut)
    )
    assert first | {"seconds": 0} == second | {"seconds": 0}


# The real command, which says when it is in the middle of the first epoch or the last, and waits.
_WAITS = """
import sys
from chestxray.cli.main import main
from chestxray.training.lightning_module import Task
step = Task.training_step
def waiting(self, batch, batch_idx):
    if self.current_epoch in (0, 2) and batch_idx == 5:
        print("in the middle of epoch", self.current_epoch, flush=True)
        sys.stdin.readline()
    return step(self, batch, batch_idx)
Task.training_step = waiting
main()
"""


@pytest.mark.usefixtures("assessed")
def test_resuming_a_finished_run_trains_no_further(run, dataset, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    fit.train(dataset, tiny(), copy, resume=True)
    for file in ("history.csv", "bundle/bundle.json", "validation.csv"):
        assert (copy / file).read_bytes() == (run / file).read_bytes()


def head_alone(self, images):
    """Trains the biases alone, so that tens of epochs take seconds."""
    return self.head.bias.expand(len(images), -1)


def test_training_stops_when_validation_no_longer_improves_and_stays_stopped(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(Classifier, "forward", head_alone)
    recipe = tiny("learning_rate=0.1", "patience=2", "max_epochs=40")
    fit.train(dataset, recipe, tmp_path / "run")
    val = pd.read_csv(tmp_path / "run/history.csv").query("split == 'val'")["loss"].to_numpy()
    assert len(val) < 40
    assert len(val) - 1 - val.argmin() == 2
    fit.train(dataset, recipe, tmp_path / "run", resume=True)
    assert len(pd.read_csv(tmp_path / "run/history.csv")) == 2 * len(val)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    dataset, tmp_path, monkeypatch
):
    step = Task._step

    def poisoned(self, split, inputs, labels):
        loss = step(self, split, inputs, labels)
        return loss * float("nan") if self.current_epoch == 1 else loss

    monkeypatch.setattr(Task, "_step", poisoned)
    with pytest.raises(TrainingError, match=r"nan in epoch 1.*learning_rate"):
        fit.train(dataset, tiny(), tmp_path / "run")
    kept = checkpoint_files.load(tmp_path / "run/checkpoints/last.safetensors")
    assert kept["epoch"] == 0
    assert all(torch.isfinite(t).all() for t in kept["state_dict"].values())
    assert not (tmp_path / "run/bundle").exists()
    monkeypatch.undo()
    fit.train(dataset, tiny(), tmp_path / "run", resume=True)
    assert (tmp_path / "run/run.json").exists()


def test_validation_images_are_never_augmented(dataset):
    recipe = tiny()
    classifier = loop.classifier_of(recipe, dataset.findings, resumed=False)
    task = Task(classifier, recipe, np.ones((14, 2)), Sampling())

    class Forbidden(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise AssertionError("augmented")

    task.augment = Forbidden()
    batch = Part(dataset, "val")[[0, 1]]
    task.validation_step(batch)
    with pytest.raises(AssertionError, match="augmented"):
        task.training_step(batch, 0)


def test_training_gives_the_run_it_wrote(dataset, tmp_path):
    """By the dataset's folder and a recipe's name, as from a notebook."""
    changes = dict(change.split("=") for change in TINY) | {"max_epochs": 1}
    finished = fit.train(dataset.folder, "quick", tmp_path / "run", overrides=changes)
    assert finished.folder == tmp_path / "run"
    assert bundles.load(finished.bundle).identity == finished.model
    assert finished.summary == json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert finished.history["split"].tolist() == ["train", "val"]
    assert len(predictions.read(finished.validation).rows) == len(dataset.rows("val"))
    with pytest.raises(ArtifactError, match="does not exist"):
        fit.Run.open(tmp_path)


def test_a_folder_without_a_run_cannot_be_resumed(dataset, tmp_path):
    with pytest.raises(ArtifactError, match="holds no run to resume"):
        fit.train(dataset, tiny(), tmp_path / "run", resume=True)


def test_the_card_and_the_summary_name_the_data_that_was_trained_on(run, dataset):
    trained = bundles.load(run / "bundle").card.trained_on
    (source,) = dataset.manifest.sources
    assert trained.policies == {source.name: source.policies}
    names = sorted(dataset.index["image"].iloc[dataset.rows("train")])
    listed = "".join(f"{name}\n" for name in names).encode()
    assert trained.training_list_sha256 == hashlib.sha256(listed).hexdigest()
    summary = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert summary["sources"] == [source.model_dump(mode="json")]
    assert summary["findings"] == list(FINDINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("backbone=densnet121", "timm has no backbone"),
        ("backbone=crossvit_tiny_240", "takes no images of 32 px"),
        ("weights=no-such-file", "the weights file"),
    ],
)
def test_a_recipe_is_checked_without_a_dataset(change, words):
    with pytest.raises(RecipeError, match=words):
        fit.check_recipe(tiny(change))
    fit.check_recipe(tiny())


def test_imagenet_weights_are_checked_without_a_download(monkeypatch):
    from huggingface_hub import errors

    from chestxray.model import pretrained

    def offline(*_: object, **__: object) -> None:
        raise errors.OfflineModeIsEnabled("offline mode")

    monkeypatch.setattr(pretrained.huggingface_hub.HfApi, "model_info", offline)
    monkeypatch.setattr(pretrained.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    recipe = tiny("weights=imagenet")
    with pytest.raises(RecipeError, match=r"offline mode.*--set weights=FILE"):
        fit.check_recipe(recipe)
    monkeypatch.setattr(pretrained.huggingface_hub, "try_to_load_from_cache", lambda *_: "a file")
    fit.check_recipe(recipe)
    with pytest.raises(RecipeError, match="timm has no ImageNet weights for resnet50t"):
        fit.check_recipe(tiny("weights=imagenet", "backbone=resnet50t"))


def test_two_trainings_do_not_work_in_one_folder(tmp_path):
    with (
        fit._alone(tmp_path, resume=False),
        pytest.raises(ArtifactError, match="another training is running"),
        fit._alone(tmp_path, resume=False),
    ):
        pass


def test_another_size_is_refused_before_anything_is_written(dataset, tmp_path):
    with pytest.raises(RecipeError, match="prepare with --size 64"):
        fit.train(dataset, tiny("size=64"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(run, dataset):
    with pytest.raises(ArtifactError, match="--resume"):
        fit.train(dataset, tiny(), run)


def test_resuming_with_another_recipe_is_refused(run, dataset):
    with pytest.raises(RecipeError, match="another recipe"):
        fit.train(dataset, tiny("seed=9"), run, resume=True)


def test_resuming_on_another_dataset_is_refused(run, phantoms, tmp_path):
    from chestxray.dataset.preparation import prepare

    other = prepare(phantoms, tmp_path / "other", size=32, seed=5)
    with pytest.raises(ArtifactError, match="another dataset"):
        fit.train(other, tiny(), run, resume=True)


def test_class_weights_and_balanced_sampling_reach_training(dataset, tmp_path, monkeypatch):
    """Class weights that were computed and never used stood for years in published code."""
    seen: dict[str, list[np.ndarray]] = {"weights": [], "labels": []}
    step = Task._step

    def watched(self, split, inputs, labels):
        if split == "train":
            seen["weights"].append(self.loss.weights.numpy().copy())
            seen["labels"].append(labels.numpy().copy())
        return step(self, split, inputs, labels)

    monkeypatch.setattr(Task, "_step", watched)
    monkeypatch.setattr(Classifier, "forward", head_alone)
    recipe = recipes.load("baseline", [*TINY, "weights=none", "max_epochs=30", "patience=30"])
    fit.train(dataset, recipe, tmp_path / "run")
    labels = dataset.labels(dataset.rows("train"))
    sides = [np.concatenate(seen["labels"]) == side for side in (0, 1)]
    absent, present = (side.mean(axis=0) for side in sides)
    balance = seen["weights"][0] * np.stack([absent, present], axis=1)
    assert np.allclose(balance, 0.5, atol=0.08)  # as drawn, both sides of a finding weigh the same
    drawn, natural = (a.mean(axis=0) for a in (np.concatenate(seen["labels"]), labels))
    rarest, commonest = natural.argmin(), natural.argmax()
    assert drawn[rarest] / drawn[commonest] > natural[rarest] / natural[commonest]


def test_a_recipe_that_cannot_be_started_leaves_nothing_behind(dataset, tmp_path):
    with pytest.raises(RecipeError, match="the weights file"):
        fit.train(dataset, tiny("weights=no-such-file"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fit.train(dataset, tiny("max_epochs=1"), tmp_path / "run")


def test_interrupting_says_how_to_resume(dataset, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Task, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        fit.train(dataset, tiny(), tmp_path / "run")
