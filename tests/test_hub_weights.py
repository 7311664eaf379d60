"""Weights of the Hugging Face hub: its own client, against a server of this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import timm

from chestxray.errors import RecipeError
from chestxray.model.pretrained import HubWeights
from chestxray.training import recipe_checks

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/chest-resnet"
SCRIPT = """
import json, sys
from chestxray.errors import RecipeError
from chestxray.model.pretrained import HubWeights
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


class Hub(http.server.ThreadingHTTPServer):
    """The two answers of the hub that a download needs, for one repository."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.content, self.asked = content, list[str]()


class Answers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        revision = self.path.rsplit("/", 2)[-2] if "/resolve/" in self.path else ""
        if self.path.startswith(f"/api/models/{REPOSITORY}"):
            self.give(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode())
        elif revision in {"main", "v1", COMMIT} and self.path.startswith(f"/{REPOSITORY}/"):
            self.give(self.server.content, etag=hashlib.sha256(self.server.content).hexdigest())
        else:
            self.send_error(404)

    def give(self, body: bytes, etag: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), path)
    return path


@pytest.fixture
def hub(weights):
    server = Hub(weights.read_bytes())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def start(name: str, cache: Path, port: int) -> subprocess.CompletedProcess[str]:
    """Make a network in a new process, since the hub's client reads its address only once."""
    environment = {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_weights_of_the_hub_are_fetched_once_recorded_and_used(hub, weights, tmp_path):
    done = start(f"hub:{REPOSITORY}@v1", tmp_path, hub.server_port)
    assert done.returncode == 0, done.stderr
    origin, scales = json.loads(done.stdout)
    state = safetensors.torch.load_file(weights)
    assert scales == state["bn1.weight"].tolist()
    assert origin == {
        "kind": "hub",
        "repository": f"{REPOSITORY}@{COMMIT}",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "seen": [],  # no model that the registry knows
    }
    assert sum(line.startswith("GET") and "/resolve/" in line for line in hub.asked) == 1
    again = start(f"hub:{REPOSITORY}@{COMMIT}", tmp_path, 9)  # nobody answers there
    assert json.loads(again.stdout) == [origin, scales]


def test_a_hub_without_the_repository_or_without_an_answer_is_a_clear_error(hub, tmp_path):
    lacking = start("hub:someone/else", tmp_path, hub.server_port)
    assert lacking.returncode == 2
    assert "model.safetensors of someone/else cannot be fetched from the hub" in lacking.stdout
    offline = start(f"hub:{REPOSITORY}", tmp_path, 9)
    assert offline.returncode == 2
    assert "--set weights=FILE" in offline.stdout


def test_a_name_that_is_no_repository_is_refused_before_torch_is_needed():
    for name in ("hub:someone", "hub:a/b/c", "hub:a/b@"):
        with pytest.raises(RecipeError, match="hub:OWNER/NAME"):
            recipe_checks.checked("quick", [f"weights={name}"])


@pytest.mark.parametrize("name", ["a--b/c", "../x", "a/..", "-a/b", "a/" + "b" * 200])
def test_a_name_that_no_repository_can_have_is_a_clear_error(name):
    weights = HubWeights.of(f"hub:{name}")
    assert weights is not None
    with pytest.raises(RecipeError, match=r"is no name of a repository .*give hub:OWNER/NAME"):
        weights.check()
