"""`chestxray findings`: what each source says of each finding, counted by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import chestxray
from chestxray import sources
from chestxray.cli.main import main
from chestxray.dataset import label_counts
from chestxray.sources.collection import ReadOptions


def _tree(out: Path, labels: dict[str, list[object]]) -> Path:
    out.mkdir()
    count = len(next(iter(labels.values())))
    for image in range(count):
        pixels = np.random.default_rng((len(out.name), image)).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(pixels).save(out / f"{image}.png")
    about = {"image": [f"{n}.png" for n in range(count)], "patient": [n // 2 for n in range(count)]}
    pd.DataFrame(about | labels).to_csv(out / "labels.csv", index=False)
    return out


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> chestxray.Dataset:
    base = tmp_path_factory.mktemp("findings")
    first = _tree(base / "first", {"Effusion": [1, 0, -1, "", 0], "Nodule": [1, 1, 0, 0, 0]})
    second = _tree(base / "second", {"Pleural Effusion": [1, 1, 0, 0], "Lung Lesion": [0, 0, 1, 0]})
    options = ReadOptions(uncertain="ignore", blank="unknown")
    trees = [first, second]
    return chestxray.prepare(trees, base / "out", size=32, split="patient", options=options)


def test_labels_are_counted_per_source_with_the_rule_behind_them(dataset):
    rules = "; blank: unknown, uncertain: ignore"
    found = {
        (of.source, of.finding): (of.positive, of.patients, of.negative, of.unknown, of.rule)
        for of in label_counts(dataset)
    }
    assert found == {
        ("first", "Effusion"): (1, 1, 2, 2, f"labelled{rules}"),
        ("first", "Nodule"): (2, 1, 3, 0, f"labelled{rules}"),
        ("first", "Lung Lesion"): (
            2, 1, 0, 3, "not labelled: present where Nodule is, else unknown"
        ),
        ("second", "Effusion"): (2, 1, 2, 0, f"labelled{rules}"),
        ("second", "Nodule"): (0, 0, 0, 4, "not labelled: unknown"),
        ("second", "Lung Lesion"): (1, 1, 3, 0, f"labelled{rules}"),
    }  # fmt: skip


def test_the_command_prints_the_table_and_json(dataset, monkeypatch, capsys):
    for words in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["chestxray", "findings", str(dataset.folder), *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        shown = capsys.readouterr().out
        if words:
            assert len(json.loads(shown)) == 6
        else:
            assert "second: " in shown
            assert "renamed findings: 'Pleural Effusion' is Effusion" in shown


def test_a_source_of_another_package_may_keep_its_own_name_of_a_finding(dataset):
    own = [
        of.model_copy(update={"findings": ("Pleural Effusion", "Lung Lesion")})
        if of.name == "second"
        else of
        for of in dataset.manifest.sources
    ]
    manifest = dataset.manifest.model_copy(update={"sources": tuple(own)})
    found = label_counts(replace(dataset, manifest=manifest))
    assert [of.rule for of in found if (of.source, of.finding) == ("second", "Effusion")] == [
        "labelled as Pleural Effusion; blank: unknown, uncertain: ignore"
    ]


def test_rules_of_readers_and_of_the_data_set_stand_beside_the_counts(
    build, tmp_path, monkeypatch, capsys
):
    trees = [build("vindr"), build("rsna")]
    options = ReadOptions(readers="any")
    made = chestxray.prepare(trees, tmp_path / "out", size=32, options=options, allow_empty=True)
    rules = {(of.source, of.finding): of.rule for of in label_counts(made)}
    policies = "labelled; blank: negative, uncertain: ignore"
    assert rules["vindr", "Effusion"] == f"{policies}, readers: any"
    opacity = "unknown where no box is drawn and the class is not Normal"
    assert rules["rsna", "Lung Opacity"] == f"{policies}; {opacity}"
    assert rules["rsna", "Pneumonia"] == policies
    monkeypatch.setattr(sys, "argv", ["chestxray", "findings", str(made.folder)])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert shown.count("readers: any") == len(made.manifest.sources[0].findings)
    assert shown.count(opacity) == 1


@pytest.mark.parametrize(
    ("name", "finding", "rule"),
    [
        ("padchest", "", "unknown where a row says unchanged, exclude or nothing of a finding"),
        (
            "nih-google",
            "Lung Opacity",
            "unknown where Airspace opacity is NO beside Nodule or mass",
        ),
        ("chexpert", "", "blank is absent beside No Finding"),
        ("mimic", "", "blank is absent beside No Finding"),
    ],
)
def test_a_source_states_the_rule_behind_labels_that_are_unknown_or_absent(
    build, name, finding, rule
):
    assert sources.read(build(name)).rules[finding].startswith(rule)
