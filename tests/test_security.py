"""docs/security.md: each attack has a promise, and each promise a test that exists."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/security.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.split("## Attacks, promises, tests")[1].splitlines()
    if line.startswith("| ") and not line.startswith("| attack ")
]


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def named(cell: str) -> list[tuple[str, str]]:
    """The tests that a cell names, each with the file named before it."""
    found, path = [], ""
    for word in re.findall(r"`([^`]+)`", cell):
        if word.startswith("tests/"):
            path = word
        else:
            found.append((path, word))
    return found


def test_the_table_is_read():
    assert len(ROWS) > 35
    assert all(len(row) == 3 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_promise_names_tests_that_exist(row):
    attack, promise, tests = row
    assert attack
    assert promise
    assert named(tests)
    for path, name in named(tests):
        assert name in functions_of(path), f"{path} has no {name}"


def test_every_test_of_hostile_input_is_in_the_table():
    """What is shown to hold is promised: the modules of one boundary are in the table."""
    paths = {path for row in ROWS for path, _ in named(row[2])}
    modules = {
        f"tests/{path.name}"
        for pattern in (
            "test_*hostile*.py",
            "test_checkpoint_files.py",
            "test_gateway_receiver*.py",
        )
        for path in (REPOSITORY / "tests").glob(pattern)
    }
    assert modules <= paths
