"""Each smaller public data set from its own tree to a report, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import public_trees
import small_trees
from command_line import run_command
from conftest import TINY

BUILDERS: dict[str, Callable[..., Path]] = {
    "shenzhen": small_trees.shenzhen,
    "montgomery": small_trees.montgomery,
    "chestxdet": small_trees.chestxdet,
    "chestxdet10": small_trees.chestxdet10,
    "openi": small_trees.openi,
    "jsrt": small_trees.jsrt,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_a_set_goes_from_its_own_tree_to_a_report_that_names_it(
    phantoms: Path, tmp_path: Path, name: str
) -> None:
    count = 24 if name == "jsrt" else 80  # JSRT's raw images have 8 MB each
    tree = BUILDERS[name](tmp_path / name, public_trees.films(phantoms, count))
    changes = [word for change in TINY for word in ("--set", change)]
    done = run_command(
        "run", tree, "--out", tmp_path / "out", "--recipe", "quick", "--split", "patient", *changes
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out/dataset/dataset.json").read_text())
    assert [source["name"] for source in manifest["sources"]] == [name]
    page = (tmp_path / "out/run/report.html").read_text()
    assert manifest["sources"][0]["title"] in page
    metrics = json.loads((tmp_path / "out/run/evaluation/metrics.json").read_text())
    assert metrics["images"] == manifest["counts"]["test"]["images"]
