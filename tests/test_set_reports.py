"""Each public data set, in each of its layouts, from its own tree to a report."""

from __future__ import annotations

import json
from pathlib import Path

import markupsafe
import pytest

import public_trees
from chestxray import sources
from chestxray.dataset import Dataset
from command_line import run_command
from conftest import TINY
from set_trees import BUILDERS


def test_every_shipped_source_has_a_tree_here() -> None:
    assert {name.split("/")[0] for name in BUILDERS} == {*sources.cards()} - {"phantoms"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_a_set_goes_from_its_own_tree_to_a_report_that_names_it(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # The same figures for print take most of the time; test_report.py has them.
    monkeypatch.setattr("chestxray.reporting.figure_set.write", lambda *_: None)
    source_name = name.split("/", maxsplit=1)[0]
    count = 24 if name == "jsrt" else 100  # JSRT's raw images have 8 MB each
    tree = BUILDERS[name](tmp_path / source_name, public_trees.films(phantoms, count))
    changes = [word for change in (*TINY, "max_epochs=1") for word in ("--set", change)]
    done = run_command(
        "run", tree, "--out", tmp_path / "out", "--recipe", "quick", "--split", "patient", *changes
    )
    assert done.returncode == 0, done.stderr
    dataset = Dataset.open(tmp_path / "out/dataset")
    (source,) = dataset.manifest.sources
    assert (source.name, dataset.manifest.failures) == (source_name, ())
    assert str(markupsafe.escape(source.title)) in (tmp_path / "out/run/report.html").read_text(
        encoding="utf-8"
    )
    metrics = json.loads((tmp_path / "out/run/evaluation/metrics.json").read_text())
    test = dataset.index[dataset.index["split"] == "test"]
    assert metrics["images"] == len(test)
    labelled = {f: len(test) - int(test[f].isna().sum()) for f in dataset.findings}
    assert labelled == {
        f: of["positives"] + of["negatives"] for f, of in metrics["findings"].items()
    }
    located = tmp_path / "out/run/evaluation/localization.json"
    boxes = dataset.boxes[dataset.boxes["image"].isin(test["image"])]
    cases = json.loads(located.read_text())["all"]["cases"] if located.exists() else 0
    assert cases == len(boxes.drop_duplicates(["image", "finding"]))
