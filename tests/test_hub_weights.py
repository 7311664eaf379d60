"""Weights of the Hugging Face hub: its own client, against a server of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm

from chestxray.errors import RecipeError
from chestxray.model.pretrained import pretrained_model
from chestxray.training import recipe_checks
from hub_server import Hub, Repository, serving

REPOSITORY = "someone/chest-resnet"
SCRIPT = """
import json, sys
from chestxray.errors import RecipeError
from chestxray.findings import Findings
from chestxray.training import fit, initial_weights, loop, recipe
chosen = recipe.load("quick", ["backbone=resnet10t", "size=64", f"weights={sys.argv[1]}"])
try:
    fit.check_recipe(chosen)
    network = loop.classifier_of(chosen, Findings(("Mass",)), resumed=False)
except RecipeError as error:
    print(error)
    sys.exit(2)
origin = initial_weights.origin(chosen, network.findings)
print(json.dumps([origin, network.backbone.state_dict()["bn1.weight"].tolist()]))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), path)
    return path


@pytest.fixture
def hub(weights):
    with serving() as server:
        server.repositories[REPOSITORY] = Repository()
        server.repositories[REPOSITORY].commit({"model.safetensors": weights.read_bytes()}, "v1")
        server.repositories[REPOSITORY].refs["main"] = server.repositories[REPOSITORY].refs["v1"]
        yield server


def start(name: str, cache: Path, hub: Hub, port: int | None = None):
    """Make a network in a new process, since the hub's client reads its address only once."""
    environment = hub.environment(cache)
    if port:
        environment["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", SCRIPT, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_weights_of_the_hub_are_fetched_once_recorded_and_used(hub, weights, tmp_path):
    commit = hub.repositories[REPOSITORY].refs["v1"]
    done = start(f"hub:{REPOSITORY}@v1", tmp_path, hub)
    assert done.returncode == 0, done.stderr
    origin, scales = json.loads(done.stdout)
    state = safetensors.torch.load_file(weights)
    assert scales == state["bn1.weight"].tolist()
    assert origin == {
        "kind": "hub",
        "repository": f"{REPOSITORY}@{commit}",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "seen": [],  # no model that the registry knows
    }
    assert sum(line.startswith("GET") and "/resolve/" in line for line in hub.asked) == 1
    again = start(f"hub:{REPOSITORY}@{commit}", tmp_path, hub, 9)  # nobody answers there
    assert json.loads(again.stdout) == [origin, scales]


@pytest.mark.slow
def test_a_hub_without_the_repository_or_without_an_answer_is_a_clear_error(hub, tmp_path):
    lacking = start("hub:someone/else", tmp_path, hub)
    assert lacking.returncode == 2
    assert "hub:someone/else: the hub has no such repository" in lacking.stdout
    hub.repositories["someone/empty"] = Repository()
    hub.repositories["someone/empty"].commit({"pytorch_model.bin": b""})
    empty = start("hub:someone/empty", tmp_path, hub)
    assert empty.returncode == 2
    assert "hub:someone/empty has no model.safetensors: check the name" in empty.stdout
    offline = start(f"hub:{REPOSITORY}", tmp_path, hub, 9)
    assert offline.returncode == 2
    assert "model.safetensors of hub:someone/chest-resnet cannot be fetched" in offline.stdout
    assert "--set weights=FILE" in offline.stdout


FILE = """
import sys
from chestxray import errors, hub
repository = hub.Repository(sys.argv[1])
print(repository.file("config.json").read_text())
try:
    repository.file("model.safetensors")
except errors.BundleError as error:
    print(error)
"""


def test_a_file_that_was_not_fetched_before_is_not_said_to_be_lacking_offline(tmp_path):
    """The configuration alone is there, which is fetched first."""
    commit = "a" * 40
    kept = tmp_path / "hub/models--someone--chest-resnet"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text(commit)
    (kept / "snapshots" / commit).mkdir(parents=True)
    (kept / "snapshots" / commit / "config.json").write_text("the configuration")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FILE, REPOSITORY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "the configuration"
    assert second.startswith(f"model.safetensors of hub:{REPOSITORY} cannot be fetched from the ")


def test_a_name_that_is_no_repository_is_refused_before_torch_is_needed():
    for name in ("hub:someone", "hub:a/b/c", "hub:a/b@"):
        with pytest.raises(RecipeError, match="hub:OWNER/NAME"):
            recipe_checks.checked("quick", [f"weights={name}"])


@pytest.mark.parametrize("name", ["a--b/c", "../x", "a/..", "-a/b", "a/" + "b" * 200])
def test_a_name_that_no_repository_can_have_is_a_clear_error(name):
    with pytest.raises(RecipeError, match=r"is no name of a repository .*give hub:OWNER/NAME"):
        pretrained_model(f"hub:{name}", "resnet10t", 64)
