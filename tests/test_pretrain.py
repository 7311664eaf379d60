from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from chestxray import storage
from chestxray.artifacts import lock, write_json
from chestxray.cli.main import app
from chestxray.errors import ArtifactError, BundleError, RecipeError, StorageError
from chestxray.model import bundle as bundles
from chestxray.sources.phantom import fingerprint, render
from chestxray.training import fit, loop, phantom_weights, recipe_checks
from chestxray.training import recipe as recipes
from chestxray.training.lightning_module import Task
from chestxray.training.phantom_weights import Pretraining
from chestxray.training.pretraining import pretrain
from conftest import TINY

FEW = ("backbone=resnet10t", "head=multiscale", "size=32", "phantoms=16", "threads=1")
WEIGHTS = ("bundle/weights.safetensors", "bundle/bundle.json")


def from_phantoms(*changes: str) -> recipes.Recipe:
    return recipes.load("quick", [*TINY, *FEW, "weights=phantoms", "max_epochs=2", *changes])


@contextmanager
def interrupted(recipe: str) -> Iterator[None]:
    """Interrupt a training by the recipe of this name in its second epoch."""
    step = Task.training_step

    def until_then(self, batch, batch_idx):
        if self.recipe.name == recipe and self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "training_step", until_then)
        yield


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Path:
    """The cache of this module's tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHESTXRAY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> fit.Run:
    """A pretraining that nothing interrupted, in a folder of its own, beside which is a cache."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHESTXRAY_CACHE", str(folder / "cache"))
        return pretrain(folder / "out", FEW)


@pytest.fixture(scope="module")
def tuned(dataset, tmp_path_factory) -> tuple[fit.Run, str]:
    """A run that starts from phantoms, interrupted while it pretrains; with what was said."""
    out, said = tmp_path_factory.mktemp("tuned") / "run", io.StringIO()
    with redirect_stderr(said), interrupted("phantoms"), pytest.raises(KeyboardInterrupt):
        fit.train(dataset, from_phantoms(), out)
    assert not (out / "checkpoints/last.safetensors").exists()
    return fit.train(dataset, None, out, resume=True), said.getvalue()


@pytest.mark.usefixtures("tuned")
def test_a_network_starts_from_the_one_that_phantoms_trained(dataset):
    folder = phantom_weights.bundle_of(from_phantoms())
    theirs = bundles.load(folder).classifier
    new = loop.classifier_of(from_phantoms(), dataset.findings, resumed=False)
    for part in ("backbone", "head"):
        for name, tensor in getattr(theirs, part).state_dict().items():
            assert torch.equal(tensor, getattr(new, part).state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.usefixtures("tuned")
def test_an_interrupted_pretraining_ends_as_one_that_was_not(whole):
    """To the bit; and the command gives what the cache keeps."""
    folder = Pretraining.of(from_phantoms()).cached / "run"
    for file in (*WEIGHTS, "validation.csv", "history.csv", "recipe.yaml"):
        assert (folder / file).read_bytes() == (whole.folder / file).read_bytes(), file
    assert whole.history["epoch"].max() == recipes.load("phantoms").max_epochs - 1


def test_networks_of_one_recipe_share_what_is_pretrained_whatever_is_trained_of_them():
    """The one whose head alone is fitted lost `drop_path`, so that a second was pretrained."""
    recipe = from_phantoms("drop_path=0.2", "members=[{}, {method: ridge}]")
    each = [Pretraining.of(network) for network in recipe.networks]
    assert [of.recipe.drop_path for of in each] == [0.2, 0.2]
    assert each[0].sha256 == each[1].sha256
    with pytest.raises(RecipeError, match="does not use drop_path"):
        recipes.load("probe", {"drop_path": 0.2})


def test_the_record_and_the_card_name_the_phantoms_that_a_run_starts_from(tuned, whole):
    run, _ = tuned
    origin = run.summary["initial_weights"]
    wanted = Pretraining.of(from_phantoms())
    assert (origin["kind"], origin["images"], origin["seed"]) == ("phantoms", 16, 3_000_000)
    assert (origin["model"], origin["sha256"]) == (whole.model, wanted.sha256)
    assert (origin["synthetic"], origin["recipe"]) == (True, "phantoms")
    card = bundles.load(run.bundle).card.trained_on
    assert card.initial_weights.model_dump(exclude_none=True, mode="json") == origin
    assert (card.recipe, card.initial_weights.kind) == ("quick", "phantoms")


def test_the_cache_keeps_the_network_and_its_record_but_no_phantoms(tuned, cache):
    _, said = tuned
    (folder,) = (cache / "phantoms").iterdir()
    assert str(folder) in said
    assert "16 phantoms of 32 px" in said
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "pretraining.json", "split.csv", "run",
    }  # fmt: skip
    kept = {path.name for path in (folder / "run").iterdir()}
    assert kept >= {"bundle", "run.json", "history.csv", "recipe.yaml"}
    assert "checkpoints" not in kept
    (folder / "dataset").mkdir()  # as when it is killed before it has tidied up
    phantom_weights.provide(from_phantoms(), forbidden)
    assert not (folder / "dataset").exists()


def test_a_network_in_the_cache_is_not_trained_again(tuned, dataset, tmp_path, monkeypatch):
    """And it makes no difference to the run whether it was trained for it or was there."""
    monkeypatch.setattr(Pretraining, "make", forbidden)
    said = io.StringIO()
    with redirect_stderr(said):
        again = fit.train(dataset, from_phantoms(), tmp_path / "run")
    assert "pretrain: not needed" in said.getvalue()
    for file in WEIGHTS:
        assert (again.folder / file).read_bytes() == (tuned[0].folder / file).read_bytes(), file


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("pretrains")


@pytest.mark.slow
def test_a_run_under_way_is_resumed_without_the_network_that_it_started_from(
    tuned, dataset, tmp_path, monkeypatch
):
    with interrupted("quick"), pytest.raises(KeyboardInterrupt):
        fit.train(dataset, from_phantoms(), tmp_path / "run")
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(Pretraining, "make", forbidden)
    resumed = fit.train(dataset, None, tmp_path / "run", resume=True)
    for file in WEIGHTS:
        assert (resumed.folder / file).read_bytes() == (tuned[0].folder / file).read_bytes(), file
    assert resumed.summary["initial_weights"] == tuned[0].summary["initial_weights"]


_WAITS = """
import sys
from pathlib import Path
from chestxray.training.phantom_weights import Pretraining
from chestxray.training.recipe import load
def train(*_, **__):
    raise AssertionError("trains what another process has trained")
print(Pretraining(load("phantoms", sys.argv[2:])).make(Path(sys.argv[1]), train))
assert "torch" not in sys.modules
"""


def test_a_second_process_waits_and_takes_what_the_first_one_made(whole, tmp_path):
    out = Path(shutil.copytree(whole.folder.parent, tmp_path / "out"))
    (out / "run/run.json").rename(tmp_path / "run.json")  # not finished yet
    held = lock(out / ".lock", ArtifactError("held"))
    with subprocess.Popen(
        [sys.executable, "-c", _WAITS, str(out), *FEW],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    ) as second:
        assert second.stderr
        assert second.stdout
        assert "another pretraining is running" in second.stderr.readline()
        (tmp_path / "run.json").rename(out / "run/run.json")
        held.close()
        assert second.stdout.read().strip() == str(out / "run")
        assert second.wait() == 0, second.stderr.read()


def test_the_same_call_with_all_done_trains_nothing(whole, monkeypatch):
    monkeypatch.setattr("chestxray.training.pretraining.check_recipe", forbidden)
    monkeypatch.setattr("chestxray.training.pretraining.train", forbidden)
    assert pretrain(whole.folder.parent, FEW).model == whole.model
    command = ["pretrain", str(whole.folder.parent), "--images=16", "--size=32", "--set=threads=2"]
    told = CliRunner().invoke(app, command)
    assert told.stdout.strip() == f"{whole.bundle}: {whole.model}"


def test_what_a_folder_holds_is_kept_for_recipes_and_the_next_folder_takes_it(
    whole, tmp_path, monkeypatch
):
    monkeypatch.setenv("CHESTXRAY_CACHE", str(whole.folder.parents[1] / "cache"))
    kept = phantom_weights.bundle_of(from_phantoms())
    assert kept is not None
    monkeypatch.setattr("chestxray.training.pretraining.train", forbidden)
    drawn = Pretraining(recipes.load("phantoms", FEW))
    (tmp_path / "out/raw").mkdir(parents=True)  # as when the drawing was interrupted
    write_json(tmp_path / "out/pretraining.json", drawn.record)
    again = pretrain(tmp_path / "out", FEW)
    assert again.model == whole.model
    assert not (tmp_path / "out/raw").exists()
    for file in WEIGHTS:
        assert (kept.parent / file).read_bytes() == (whole.folder / file).read_bytes(), file
        assert (again.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file
    assert not (kept.parent / "checkpoints").exists()


def test_a_folder_is_finished_although_the_cache_cannot_take_its_network(
    whole, tmp_path, monkeypatch, capsys
):
    """It waited for another pretraining in the cache, and failed where the disk was full."""
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path))
    monkeypatch.setattr(phantom_weights, "time", SimpleNamespace(sleep=forbidden))
    cached = Pretraining.of(from_phantoms()).cached
    cached.mkdir(parents=True)
    with lock(cached / ".lock", ArtifactError("it is free")):
        assert pretrain(whole.folder.parent, FEW).model == whole.model
    assert "another pretraining" in capsys.readouterr().err
    (cached / ".run.tmp").touch()  # where a folder is to be made
    assert pretrain(whole.folder.parent, FEW).model == whole.model
    assert "not kept" in capsys.readouterr().err
    assert phantom_weights.bundle_of(from_phantoms()) is None


def test_a_folder_needs_no_cache(whole, tmp_path, monkeypatch):
    """Where the cache is a URL, or this user has no home, a folder was not pretrained any more."""

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("CHESTXRAY_CACHE", "s3://bucket/cache")
    run = pretrain(tmp_path / "out", [*FEW, "progressive=[]", "max_epochs=1"])
    assert run.summary["epochs"] == 1
    monkeypatch.delenv("CHESTXRAY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    assert pretrain(whole.folder.parent, FEW).model == whole.model
    with pytest.raises(StorageError, match="this user has no home folder: set CHESTXRAY_CACHE"):
        phantom_weights.bundle_of(from_phantoms())


def test_a_pretraining_that_no_recipe_asks_for_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "cache"))
    pretrain(tmp_path / "out", [*FEW, "progressive=[]", "max_epochs=1"])
    assert not (tmp_path / "cache/phantoms").exists()


def test_a_folder_of_other_settings_or_of_something_else_is_refused(whole, tmp_path):
    out = whole.folder.parent
    changes = {"phantoms": 17, "loss.smoothing": 0.1, "seed": 1}
    with pytest.raises(ArtifactError) as caught:
        pretrain(out, dict(word.split("=") for word in FEW) | changes)
    for words in (
        "phantoms.images was 16, now 17", "phantoms.seed was 3000000, now 3000001",
        "recipe.loss.smoothing was 0.0, now 0.1",
    ):  # fmt: skip
        assert words in str(caught.value)
    (tmp_path / ".pretraining.123.tmp.json").write_text("{", encoding="utf-8")  # a killed process
    assert not Pretraining(recipes.load("phantoms", FEW)).made(tmp_path)
    (tmp_path / ".pretraining.123.tmp.json").unlink()
    (tmp_path / "holiday.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="name a new folder"):
        pretrain(tmp_path, FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]
    with pytest.raises(RecipeError, match="cannot start from a network that is pretrained"):
        pretrain(tmp_path / "new", [*FEW, "weights=phantoms"])
    with pytest.raises(RecipeError, match="leave the teacher out"):
        Pretraining(recipes.load("phantoms", [*FEW, "teacher=bundle"]))
    with pytest.raises(RecipeError, match="no training can start from several networks"):
        Pretraining(recipes.load("phantoms", [*FEW, "members=2"]))
    assert not (tmp_path / "new").exists()


OTHER = {
    "backbone": "resnet18", "head": "plain", "weights": "imagenet", "phantoms": 17, "size": 64,
    "progressive": [[16, 1]], "dropout": 0.1, "drop_path": 0.1, "augment.blur": 0.01, "mixup": 0.1,
    "loss.smoothing": 0.1, "mask_weight": 0.4, "sampling": "balanced", "max_draws": 3.0,
    "optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0.1, "momentum": 0.8,
    "layer_decay": 0.9, "freeze": 1, "schedule": "cosine", "warmup": 1.0, "clip": 2.0,
    "accumulate": 2, "ema": 0.9, "batch_size": 16, "max_epochs": 7, "monitor": "auroc",
    "patience": 99, "initial_head": "ridge", "tta": [], "precision": "float32", "seed": 1,
    "auxiliary_weight": 0.2, "order": "shards",
}  # fmt: skip
INDIFFERENT = {"name": "x", "description": "x", "cost": "x", "expected": "x", "threads": 2}


def test_whatever_decides_the_network_changes_its_place_in_the_cache():
    own = Pretraining(recipes.load("phantoms", FEW)).sha256
    changed = {
        key: Pretraining(recipes.load("phantoms", [*FEW, f"{key}={json.dumps(value)}"])).sha256
        for key, value in (OTHER | INDIFFERENT).items()
    }
    assert {key for key, sha256 in changed.items() if sha256 == own} == {*INDIFFERENT}
    assert len({*changed.values()}) == len(OTHER) + 1
    keys = {key.partition(".")[0] for key in OTHER | INDIFFERENT} | {
        "members",
        "method",
        "teacher",
        "teacher_weight",
    }
    assert keys == {*recipes.Recipe.model_fields}  # the others are refused


def test_the_network_of_a_recipe_has_its_backbone_head_size_and_drop_path_alone():
    own = Pretraining.of(from_phantoms())
    assert own.sha256 == Pretraining(recipes.load("phantoms", FEW)).sha256
    for change in ("seed=5", "learning_rate=0.5", "max_epochs=9", "augment.crop=0.2", "tta=[]"):
        assert Pretraining.of(from_phantoms(change)).sha256 == own.sha256, change
    for change in ("backbone=resnet18", "head=plain", "size=64", "drop_path=0.1", "phantoms=17"):
        assert Pretraining.of(from_phantoms(change)).sha256 != own.sha256, change


def test_a_change_of_the_drawing_changes_the_place_too(monkeypatch):
    own = Pretraining.of(from_phantoms()).sha256

    def changed() -> str:
        fingerprint.drawing_sha256.cache_clear()
        return Pretraining.of(from_phantoms()).sha256

    assert changed() == own
    with monkeypatch.context() as patch:
        patch.setattr(render, "_QUANTA", render._QUANTA * 1.5)
        assert changed() != own
    with monkeypatch.context() as patch:
        drawn = fingerprint.population
        sooner = lambda *a, **k: (replace(e, tilt=e.tilt + 1e-9) for e in drawn(*a, **k))  # noqa: E731
        patch.setattr(fingerprint, "population", sooner)
        assert changed() != own
    assert changed() == own


@pytest.mark.usefixtures("tuned")
def test_checks_before_a_run_pretrain_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(Pretraining, "make", forbidden)
    before = sorted(cache.rglob("*"))
    other = [*TINY, *FEW, "weights=phantoms", "phantoms=17"]
    fit.check_recipe(recipe_checks.checked("quick", other))
    assert sorted(cache.rglob("*")) == before
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(RecipeError, match=r"cannot be written; set .*CHESTXRAY_CACHE"):
        fit.check_recipe(recipe_checks.checked("quick", other))


@pytest.mark.usefixtures("tuned")
def test_a_damaged_network_in_the_cache_is_named_with_what_to_do(
    cache, dataset, tmp_path, monkeypatch
):
    copy = shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("CHESTXRAY_CACHE", str(copy))
    bundle = phantom_weights.bundle_of(from_phantoms())
    (bundle / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=f"remove {bundle.parent.parent}, and the next training"):
        fit.train(dataset, from_phantoms(), tmp_path / "run")


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("CHESTXRAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert storage.cache.folder() == Path("/xdg/chestxray")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.cache.folder() == Path("/home/someone/.cache/chestxray")
