"""Packages: what the documented installs take is pinned with hashes, in step with the tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import chestxray
from conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-release.lock",
    "requirements-light.lock",
    "requirements-docs.lock",
)
NOT_FROZEN = {"setuptools"}  # `pip freeze` leaves it out of constraints.txt


@cache
def constraints() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines)
    return {canonicalize_name(name): version for name, version in pairs}


@cache
def locked(lock: str) -> dict[str, tuple[Requirement, tuple[str, ...]]]:
    """What a lock file pins: requirement and hashes by canonical name."""
    text = (REPOSITORY / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            what, *hashes = re.split(r"\s+--hash=", line.strip())
            requirement = Requirement(what)
            found[canonicalize_name(requirement.name)] = (requirement, tuple(hashes))
    return found


def version(requirement: Requirement) -> str:
    (only,) = requirement.specifier
    assert only.operator == "=="
    return only.version


def is_needed_here(marker: Marker | None) -> bool:
    return marker is None or marker.evaluate()


def direct(*extras: str) -> list[Requirement]:
    """What the package and its extras ask for."""
    optional = PROJECT["project"]["optional-dependencies"]
    texts = [
        *PROJECT["project"]["dependencies"],
        *(text for one in extras for text in optional[one]),
    ]
    found = [Requirement(text) for text in texts]
    inner = {extra for one in found if one.name == "chestxray" for extra in one.extras}
    own = [one for one in found if one.name != "chestxray"]
    return own + (direct(*sorted(inner)) if inner else [])


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_has_one_version_and_hashes(lock):
    assert len(locked(lock)) > 20
    for requirement, hashes in locked(lock).values():
        assert version(requirement)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)


@pytest.mark.parametrize("lock", LOCKS[:2])
def test_the_lock_pins_what_the_constraints_pin_with_hashes(lock):
    for name, (requirement, _) in locked(lock).items():
        if name in constraints():
            assert version(requirement) == constraints()[name], name
        elif is_needed_here(requirement.marker):
            assert name in NOT_FROZEN


def test_what_the_tests_run_with_is_all_in_the_lock():
    assert set(constraints()) <= set(locked("requirements-dev.lock"))


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ("all",)), ("requirements-dev.lock", ("all", "dev"))]
)
def test_the_lock_has_what_pyproject_asks_for(lock, extras):
    wanted = direct(*extras)
    assert len(wanted) > 30
    for requirement in wanted:
        pinned, _ = locked(lock)[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pinned)), requirement


@pytest.mark.parametrize("lock", LOCKS[:2])
def test_the_lock_builds_this_package_editable_without_the_index(lock):
    """Without build isolation nothing is fetched: hatchling needs editables for `-e`."""
    assert {"hatchling", "editables"} <= set(locked(lock))


def test_the_packages_of_a_release_are_locked_too():
    for text in PROJECT["dependency-groups"]["release"]:
        requirement = Requirement(text)
        pinned, _ = locked("requirements-release.lock")[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pinned))


def test_make_installs_nothing_without_a_hash():
    """Each `pip install` of the Makefile compares hashes, or installs this package alone."""
    command = ["make", "--dry-run", "--always-make", "demo", "check", "lock", "docs", "release"]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("make is not there")
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert len(installs) >= 5
    for line in installs:
        assert "--require-hashes -r requirements" in line or (
            "--no-deps --no-build-isolation -e ." in line
            or "--no-deps --no-index dist/*.whl" in line
        )


def test_pip_refuses_a_package_whose_hash_is_not_in_the_lock(tmp_path):
    """pip checks the locks' form of pins: a wheel with one byte more is refused."""
    wheel = tmp_path / "planted-1.0-py3-none-any.whl"
    pip = [sys.executable, "-m", "pip"]
    _write_wheel(wheel)
    digest = subprocess.run(
        [*pip, "hash", wheel], check=True, capture_output=True, text=True
    ).stdout.split("--hash=")[1]
    (tmp_path / "lock").write_text(f"planted==1.0 \\\n    --hash={digest.strip()}\n")
    install = [*pip, "install", "--no-index", "--find-links", tmp_path, "--require-hashes"]
    install += ["--target", tmp_path / "site", "-r", tmp_path / "lock"]
    first = subprocess.run(install, check=False, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    with wheel.open("ab") as file:
        file.write(b"\0")
    second = subprocess.run(install, check=False, capture_output=True, text=True)
    assert second.returncode != 0
    assert "HASHES" in second.stderr


def _write_wheel(path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("planted.py", "")
        archive.writestr(
            "planted-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n"
        )
        archive.writestr(
            "planted-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("planted-1.0.dist-info/RECORD", "")


def test_each_excluded_line_names_its_rule_and_the_reason():
    """An exclusion from bandit has a rule; its line or the one before says why."""
    found = 0
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if "nosec" in line:
                found += 1
                assert re.search(r"# nosec B\d{3}$", line), f"{path}:{number + 1}"
                assert lines[number - 1].lstrip().startswith("# "), f"{path}:{number + 1}"
    assert found


def test_the_notice_has_the_licence_of_every_package_that_this_one_asks_for():
    lines = (REPOSITORY / "NOTICE").read_text(encoding="utf-8").splitlines()
    stated = {line.split(" | ")[0]: line.split(" | ")[1] for line in lines if " | " in line}
    wanted = {canonicalize_name(requirement.name) for requirement in direct("all")}
    assert wanted <= set(stated)
    assert [name for name in wanted if not re.search("[A-Z]", stated[name])] == []


def test_the_light_lock_reads_and_serves_without_torch():
    light = locked("requirements-light.lock")
    for requirement in direct("report", "serve", "pacs"):
        assert canonicalize_name(requirement.name) in light
    assert not {"torch", "timm", "lightning"} & set(light)


def test_the_packages_of_the_documentation_are_locked():
    for requirement in direct("docs"):
        pinned, _ = locked("requirements-docs.lock")[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pinned))


def test_the_citation_has_the_version_and_the_addresses_of_the_package():
    text = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    citation = yaml.safe_load(text)
    assert str(citation["version"]) == chestxray.__version__
    urls = PROJECT["project"]["urls"]
    assert citation["url"] == urls["Homepage"]
    assert citation["repository-code"] == urls["Source"]
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_workflow_runs_every_supported_python_on_three_systems():
    text = (REPOSITORY / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(text)["jobs"]["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    stated = [
        line.rsplit(" ", 1)[1]
        for line in PROJECT["project"]["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert matrix["python"] == stated
