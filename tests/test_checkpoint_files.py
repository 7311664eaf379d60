"""A run folder from a stranger runs no code, and a checkpoint comes back to the bit."""

from __future__ import annotations

import ast
import fcntl
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chestxray.errors import ArtifactError, ChestXrayError
from chestxray.training import checkpoint_files, fit
from chestxray.training import recipe as recipes
from conftest import REPOSITORY, TINY

SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))


def tiny(*overrides: str) -> recipes.Recipe:
    return recipes.load("quick", [*TINY, "max_epochs=1", *overrides])


class _Canary:
    """Pickled, it creates a file when it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def plant(path: Path, canary: Path) -> None:
    """Write a checkpoint in PyTorch's format that creates `canary` when it is unpickled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": _Canary(canary)}, path)


def test_the_canary_is_alive(tmp_path):
    plant(tmp_path / "x.ckpt", tmp_path / "canary")
    torch.load(tmp_path / "x.ckpt", weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["last.ckpt", "last.safetensors", "best.safetensors"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_strangers_checkpoint_runs_no_code_in_a_run_folder(run, dataset, tmp_path, name, resume):
    whole, canary = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "canary"
    plant(whole / "checkpoints" / name, canary)
    if not resume:
        shutil.rmtree(whole / "bundle")
        for file in whole.iterdir():
            if file.is_file():
                file.unlink()
    recipe = recipes.load("quick", TINY)
    with pytest.raises(ArtifactError, match="another --out"):
        fit.train(dataset, recipe, whole, resume=resume)
    assert not canary.exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_checkpoint_without_its_recipe_is_refused_with_the_next_step(
    run, dataset, tmp_path, resume
):
    folder = tmp_path / "run"
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    with pytest.raises(ArtifactError, match=r"no recipe\.yaml.*another --out"):
        fit.train(dataset, tiny(), folder, resume=resume)
    assert [path.name for path in folder.iterdir()] == ["checkpoints"]


def test_pretrained_weights_in_a_pickle_run_no_code(tmp_path):
    canary = tmp_path / "canary"
    plant(tmp_path / "weights.pth", canary)
    with pytest.raises(ChestXrayError):
        fit.check_recipe(tiny(f"weights={tmp_path / 'weights.pth'}"))
    assert not canary.exists()


UNPICKLES = {
    "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "runpy",
    "read_pickle", "unsafe_load", "full_load", "UnsafeLoader", "FullLoader", "eval", "exec",
    "load_from_checkpoint",
}  # fmt: skip


IMPORTS = "model/importing/tensors.py"  # names pickle's error, and loads plain tensors
CONVERTS = "model/importing/unpickling.py"  # runs in a process of its own, see test_import


def test_nothing_in_the_package_unpickles():
    """No pickle module, no torch.load, NumPy never allows pickles, YAML is plain_yaml's alone.

    `chestxray import` reads checkpoints of others by torch's loader of plain tensors.
    """
    seen = 0
    for path in SOURCES:
        if path.as_posix().endswith(CONVERTS):
            continue
        imports = path.as_posix().endswith(IMPORTS)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = _words(node) - ({"pickle"} if imports else set())
            assert not words & UNPICKLES, f"{path}:{node.lineno}: {words}"
            if imports and isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                assert node.attr == "UnpicklingError"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                settings = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if imports and called == "torch.load":
                    assert settings.pop("weights_only") == "True"
                    continue
                assert called not in {"torch.load", "yaml.safe_load"}, f"{path}:{node.lineno}"
                if called == "yaml.load":  # of a subclass of the safe loader, without aliases
                    assert [ast.unparse(arg) for arg in node.args] == ["text", "_PlainLoader"]
                assert settings.get("weights_only") != "False", f"{path}:{node.lineno}"
                if called in {"np.load", "numpy.load", "np.lib.format.read_array"}:
                    seen += 1
                    assert settings.get("allow_pickle") == "False", f"{path}:{node.lineno}"
    assert seen


def _words(node: ast.AST) -> set[str]:
    """Give the names that a node imports or calls."""
    if isinstance(node, ast.Import):
        return {part for alias in node.names for part in alias.name.split(".")}
    if isinstance(node, ast.ImportFrom):
        return {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return {node.func.id}
    if isinstance(node, ast.Attribute):
        return {node.attr} - {"eval"}  # of a module in PyTorch: evaluation mode
    return set()


def test_a_checkpoint_comes_back_to_the_bit(tmp_path):
    grid = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    half = torch.tensor([1.5, float("nan")], dtype=torch.bfloat16)
    state = {
        "state_dict": {"a.weight": grid, "half": half},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "again": grid}}}],
        "loops": {"done": True, "epoch": 2, "rate": 0.1 + 0.2, "none": None, "name": "fit"},
        "empty": {"list": [], "dict": {}},
    }
    checkpoint_files.save(tmp_path / "x.safetensors", state)
    found = checkpoint_files.load(tmp_path / "x.safetensors")
    assert found["loops"] == state["loops"]
    assert found["empty"] == state["empty"]
    (optimiser,) = found["optimizer_states"]
    assert optimiser["state"][0]["step"].item() == 3
    for tensor in (found["state_dict"]["a.weight"], optimiser["state"][0]["again"]):
        assert torch.equal(tensor, grid)
        assert tensor.stride() == grid.stride()
    assert found["state_dict"]["half"].view(torch.int16).equal(half.view(torch.int16))


def test_what_is_not_plain_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match="/callbacks/x"):
        checkpoint_files.save(tmp_path / "x", {"callbacks": {"x": object()}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"format": "chestxray checkpoint 1"},
        {"format": "chestxray checkpoint 1", "state": "[" * 100_000},
        {"format": "chestxray checkpoint 1", "state": "{}"},
        {"format": "chestxray checkpoint 1", "state": "[1]"},
        {"format": "chestxray checkpoint 1", "state": json.dumps({"tensor": "b"})},
        {"format": "chestxray checkpoint 1", "state": json.dumps({"dict": [[{}, 1]]})},
        {"format": "chestxray checkpoint 1", "state": json.dumps({"dict": 1})},
        {"format": "chestxray checkpoint 2", "state": json.dumps({"dict": []})},
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "x", metadata)
    with pytest.raises(ArtifactError, match="another --out"):
        checkpoint_files.load(tmp_path / "x")


def test_a_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / "x").write_bytes(pickle.dumps(_Canary(tmp_path / "canary")))
    with pytest.raises(ArtifactError, match="another --out"):
        checkpoint_files.load(tmp_path / "x")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_second_training_into_the_same_folder_is_refused(dataset, tmp_path, resume):
    """The first has only just started, or is at work."""
    out = tmp_path / "run"
    if resume:
        fit.train(dataset, tiny(), out)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    with (out / "checkpoints" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ArtifactError, match=r"another training .*another --out"):
            fit.train(dataset, tiny(), out, resume=resume)
        assert (out / "recipe.yaml").exists() == resume


def test_of_two_trainings_that_start_together_the_later_finds_the_run(
    dataset, tmp_path, monkeypatch
):
    """The other one starts and ends between the first check and the lock."""
    out = tmp_path / "run"
    start, started = fit.task_of, []

    def slow(*arguments):
        if not started:
            started.append(True)
            fit.train(dataset, tiny("seed=5"), out)
        return start(*arguments)

    monkeypatch.setattr(fit, "task_of", slow)
    with pytest.raises(ArtifactError, match="holds a run"):
        fit.train(dataset, tiny("seed=6"), out)
    assert recipes.load(out / "recipe.yaml").seed == 5
    assert (out / "run.json").exists()
