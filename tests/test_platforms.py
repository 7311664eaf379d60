"""Systems without POSIX: everything can be imported, and what cannot work says so."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chestxray import file_locks
from conftest import REPOSITORY

POSIX = ("fcntl", "grp", "pwd", "resource", "termios")

WITHOUT = f"""
import sys

for name in {POSIX!r}:
    sys.modules[name] = None  # `import` raises ImportError
"""

IMPORT_ALL = """
import importlib, pkgutil
import chestxray

names = [module.name for module in pkgutil.walk_packages(chestxray.__path__, "chestxray.")]
assert len(names) > 200, names
for name in names:
    if name != "chestxray.__main__":
        importlib.import_module(name)
print("imported", len(names))
"""

MAIN = """
from chestxray.cli.main import main

main()
"""


def without_posix(code: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python where modules of POSIX cannot be imported."""
    path = os.pathsep.join([str(REPOSITORY / "src"), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_everything_can_be_imported_and_evaluates_without_the_modules_of_posix(tmp_path):
    rows = [(f"{n:08}_000.png", n, n % 2, (n % 10) / 10 + 0.01) for n in range(60)]
    for name, head, columns in (
        ("predictions.csv", ("Image Index", "prob_Effusion"), (0, 3)),
        ("labels.csv", ("Image Index", "Patient ID", "Effusion"), (0, 1, 2)),
    ):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *([row[at] for at in columns] for row in rows)])
    done = without_posix(
        IMPORT_ALL + MAIN,
        "evaluate", "predictions.csv", "--labels", "labels.csv", "--out", "evaluation",
        "--resamples", "100",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported")
    assert (tmp_path / "evaluation/metrics.json").stat().st_size > 1000


def test_the_command_line_has_help_without_the_modules_of_posix(tmp_path):
    done = without_posix(MAIN, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_the_gateway_says_what_it_needs_and_still_explains_itself(tmp_path):
    done = without_posix(MAIN, "gateway", "status", "--config", "gateway.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "Linux and macOS only" in done.stderr
    assert "WSL 2" in done.stderr
    done = without_posix(MAIN, "gateway", "status", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_lock_keeps_other_processes_out_until_it_is_released(tmp_path):
    other = (
        "import sys; sys.path.insert(0, sys.argv[1]); from chestxray import file_locks\n"
        "with open('lock', 'a+b') as f: print(file_locks.take(f.fileno()))"
    )

    def taken_by_another() -> bool:
        command = [sys.executable, "-c", other, str(REPOSITORY / "src")]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip() == "True"

    with (tmp_path / "lock").open("a+b") as file, (tmp_path / "lock").open("rb") as observer:
        assert file_locks.take(file.fileno())
        assert file_locks.is_taken(observer.fileno())
        assert not taken_by_another()
        file_locks.release(file.fileno())
        assert not file_locks.is_taken(observer.fileno())
        assert taken_by_another()
    assert taken_by_another()


def test_tests_of_posix_are_skipped_with_a_reason_where_it_is_not(tmp_path):
    plugin = tmp_path / "no_posix.py"
    plugin.write_text(WITHOUT, encoding="utf-8")
    command = [
        sys.executable, "-m", "pytest", "-p", "no_posix", "-p", "no:cacheprovider", "-n", "0", "-q",
        "tests/test_gateway_config.py", "tests/test_http_connections.py",
        "tests/test_log_rate.py",
    ]  # fmt: skip
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY / "src"), *sys.path])
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert "Linux and macOS only" in done.stdout
    assert "limits, locks, signals and file modes of POSIX" in done.stdout
    assert "passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_types_hold_on_other_systems(system):
    """mypy knows, from typeshed, which functions each system lacks."""
    command = [sys.executable, "-m", "mypy", "--platform", system, "--cache-dir", os.devnull]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
