"""`gs://` against an emulator of Google's interface: the bytes of a path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chestxray.dataset import Dataset
from nih_tree import write_tree
from object_store import BUCKET, Faults, environment, faulty, google_server

pytestmark = pytest.mark.slow  # 185 s at a load of 16

RUN = """
import json, sys
from pathlib import Path
from chestxray.cli.main import app
from chestxray.storage import ObjectFolder
given, url, folder = sys.argv[1:]
for path in Path(given).rglob("*"):
    if path.is_file():
        name = path.relative_to(given).as_posix()
        ObjectFolder(url).write(name, path.read_bytes())
for words in json.load(sys.stdin):
    app(words, standalone_mode=False)
for name in ObjectFolder(url).versions():
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ObjectFolder(url).read(name))
"""


def stages(place: str) -> list[list[str]]:
    data, table, out = f"{place}/dataset", f"{place}/predictions.csv", f"{place}/evaluation"
    prepare = ["prepare", f"{place}/raw", data, "--size", "32"]
    return [prepare, ["evaluate", table, "--labels", data, "--out", out, "--resamples", "50"]]


def write_predictions(data: Path, path: Path) -> None:
    dataset = Dataset.open(data)
    table = pd.DataFrame({"Image Index": dataset.index["image"][dataset.rows("test")]})
    rng = np.random.default_rng(0)
    for finding in dataset.findings:
        table[f"prob_{finding}"] = rng.uniform(0.01, 0.99, len(table)).round(4)
    table.to_csv(path, index=False)


def test_a_dataset_and_an_evaluation_in_googles_store_have_the_bytes_of_those_by_path(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write_tree(here / "raw", 60)
    prepare, evaluate = stages(str(here))
    chestxray = [sys.executable, "-m", "chestxray"]
    subprocess.run([*chestxray, *prepare], check=True, capture_output=True)
    write_predictions(here / "dataset", here / "predictions.csv")
    subprocess.run([*chestxray, *evaluate], check=True, capture_output=True)
    given = tmp_path / "given"
    (given / "raw").parent.mkdir()
    (here / "raw").rename(given / "raw")
    (here / "predictions.csv").rename(given / "predictions.csv")
    faults = Faults(share=0.1, kinds=("unavailable", "slow", "reset"), seed=3)
    with google_server() as server, faulty(server, faults) as endpoint:
        own = {"STORAGE_EMULATOR_HOST": endpoint, "FSSPEC_GS_TOKEN": "anon"}
        url = f"gs://{BUCKET}/clinic"
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(given), url, str(there)],
            input=json.dumps(stages(url)),
            env=os.environ | environment(endpoint, tmp_path / "cache") | own,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert {"unavailable", "slow", "reset"} == set(faults.injected)
    for path in (path for path in here.rglob("*") if path.is_file()):
        name = path.relative_to(here)
        assert (there / name).read_bytes() == path.read_bytes(), name
