"""What the tests of the images need: the Containerfile's steps, an engine, a base image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import REPOSITORY

FILE = REPOSITORY / "deploy/Containerfile"
STAND_IN = "localhost/chestxray-tests/python:3.11-slim-bookworm"
"""Debian with Debian's Python, where the base image of the file cannot be had."""


@dataclass
class Stage:
    """A stage of a Containerfile: the one it begins with, and its steps in their order."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [text for kind, text in self.steps if kind == word]


def stages() -> dict[str, Stage]:
    """The stages of the file by name."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    stage = Stage("")
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = rest.split(" AS ")
            stage = found[name] = Stage(base)
        elif word:
            stage.steps.append((word, " ".join(rest.split())))
    return found


def base_image() -> str:
    """The base image that the file names."""
    found = re.search(r"^ARG PYTHON=(\S+)$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


_LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
"""podman's own are larger than a machine for tests may allow."""


class Engine:
    """podman or docker, whichever works here."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.is_podman = Path(command).name == "podman"
        self.run_words = list(_LIMITS) if self.is_podman else []
        if self.is_podman and shutil.which("runc"):  # crun refuses control groups of both versions
            self.run_words += ["--runtime", "runc"]

    def run(self, *words: object, seconds: float = 900) -> str:
        """Run one command; its output, without the last line end."""
        done = subprocess.run(
            [self.command, *map(str, words)],
            check=False, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.rstrip("\n")

    def logs(self, container: str) -> str:
        """What a container wrote to its outputs."""
        command = [self.command, "logs", container]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr

    def has(self, image: str) -> bool:
        command = [self.command, "image", "inspect", image]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def pulls(self, image: str) -> bool:
        command = [self.command, "pull", "--quiet", image]
        try:
            done = subprocess.run(command, check=False, capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def built(self, target: str, base: str) -> str:
        """Build a target; the image's name."""
        name = f"localhost/chestxray-tests/{target}"
        kind = ["--format", "docker", "--isolation", "chroot"] if self.is_podman else []
        words = [*kind, "--target", target, "--build-arg", f"PYTHON={base}"]
        words += ["--network", "host", "-t", name, "-f", str(FILE), str(REPOSITORY)]
        self.run("build", *words, seconds=3000)  # a busy machine takes four times as long
        return name

    def config(self, image: str) -> dict:
        """What the image says of itself."""
        (found,) = json.loads(self.run("image", "inspect", image))
        return found["Config"] | {
            "Healthcheck": found.get("Healthcheck") or found["Config"].get("Healthcheck")
        }


def engine() -> Engine:
    """An engine that answers, else the test is skipped with what to install."""
    for name in ("podman", "docker"):
        command = shutil.which(name)
        if (
            command
            and subprocess.run([command, "info"], check=False, capture_output=True).returncode == 0
        ):
            return Engine(command)
    pytest.skip("no container engine answers: install Debian's podman and runc")


def base(engine: Engine, folder: Path) -> str:
    """The base image that the file names; where it cannot be had, a stand-in made from Debian."""
    if engine.has(base_image()) or engine.pulls(base_image()):
        return base_image()
    if not engine.has(STAND_IN):
        make_stand_in(engine, folder)
    return STAND_IN


def make_stand_in(engine: Engine, folder: Path) -> None:
    """Debian bookworm with Python, and this machine's way to the package index."""
    if shutil.which("debootstrap") is None or os.getuid() != 0:
        pytest.skip("the base image cannot be pulled, and making one takes root and debootstrap")
    root = folder / "debian"
    packages = "--include=python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", packages, "bookworm", root]
    subprocess.run([*command, "http://deb.debian.org/debian"], check=True, capture_output=True)
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(authorities, root / "etc/ssl/certs/ca-certificates.crt")
    archive = folder / "debian.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    engine.run("import", "--change", f"ENV PIP_CERT={authorities}", archive, STAND_IN)
    shutil.rmtree(root)
    archive.unlink()
