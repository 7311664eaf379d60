"""Against a real S3 server on loopback, with faults between: the bytes of a path, or an error."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chestxray import parallel, storage
from chestxray.dataset import Dataset, shards
from chestxray.dataset.preparation import prepare
from chestxray.errors import ArtifactError, StorageError
from chestxray.storage import ObjectFolder, objects
from conftest import TINY
from nih_tree import write_tree
from object_store import BUCKET, SECRET, Faults, environment, faulty, s3_server

URL = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Points this process at an endpoint."""

    def choose(endpoint: str) -> None:
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        objects._file_system.cache_clear()
        type(objects._file_system("s3")).clear_instance_cache()
        objects._file_system.cache_clear()

    yield choose
    objects._file_system.cache_clear()


def objects_at(url: str) -> dict[str, bytes]:
    store = ObjectFolder(url)
    return {name: store.read(name) for name in store.versions()}


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def put(folder: Path, url: str) -> None:
    for name, content in files(folder).items():
        ObjectFolder(url).write(name, content)


def test_a_dataset_prepared_through_faults_has_the_bytes_of_one_on_disk(
    server, use, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "SHARD", 8)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    raw = write_tree(tmp_path / "raw", 16, ())
    prepare(raw, tmp_path / "whole", size=32)
    faults = Faults(share=0.25, seed=1)
    with faulty(server, faults) as endpoint:
        use(endpoint)
        monkeypatch.setattr(objects, "_PAUSE", 0.05)
        put(raw, f"{URL}/faulty/raw")
        made = prepare(f"{URL}/faulty/raw", f"{URL}/faulty/dataset", size=32)
        images = made.images[:]
    use(server)
    assert set(faults.injected) >= {"unavailable", "slow", "truncated", "reset", "lost answer"}
    assert (images == Dataset.open(tmp_path / "whole").images[:]).all()
    assert objects_at(f"{URL}/faulty/dataset") == files(tmp_path / "whole")


def test_a_store_that_fails_for_good_is_named_without_the_key(server, use, monkeypatch):
    monkeypatch.setattr(objects, "_PAUSE", 0.0)
    with faulty(server, Faults(share=1.0, kinds=("unavailable", "reset"))) as endpoint:
        use(endpoint)
        with pytest.raises(StorageError, match=f"cannot read {URL}/a/b ") as failed:
            ObjectFolder(f"{URL}/a").read("b")
    assert SECRET not in str(failed.value)
    use(server)
    with pytest.raises(FileNotFoundError):
        ObjectFolder(f"{URL}/a").read("b")


@pytest.mark.slow
def test_a_prepare_that_is_killed_anywhere_is_unfinished_or_whole_and_resumes(
    server, use, tmp_path, monkeypatch
):
    """Kill -9 before or after random writes, each time with the empty cache of a new machine."""
    raw = write_tree(tmp_path / "raw", 40, ())
    monkeypatch.setattr(shards, "SHARD", 8)
    prepare(raw, tmp_path / "whole", size=32)
    use(server)
    put(raw, f"{URL}/killed/raw")
    main = (
        "from chestxray.dataset import shards; shards.SHARD = 8\n"
        "from chestxray.cli.main import main; main()"
    )
    arguments = ["prepare", f"{URL}/killed/raw", f"{URL}/killed/dataset", "--size", "32"]
    kills = _killed_until_done([sys.executable, "-c", main, *arguments], server, tmp_path, _opened)
    assert kills >= 3
    assert objects_at(f"{URL}/killed/dataset") == files(tmp_path / "whole")


def _opened() -> str:
    try:
        Dataset.open(f"{URL}/killed/dataset").images[:]
    except ArtifactError as error:
        return str(error)
    return "whole"


@pytest.mark.slow
def test_a_publication_that_is_killed_anywhere_is_old_new_or_unfinished(server, use, tmp_path):
    for version in ("old", "new"):
        for number in range(30):
            path = tmp_path / version / f"part{number % 3}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{version} {number}")
    use(server)
    storage.publish(tmp_path / "old", f"{URL}/published", "evaluate")
    script = "import sys; from chestxray import storage; storage.publish(*sys.argv[1:])"
    script = script.replace(
        "*sys.argv[1:]", "__import__('pathlib').Path(sys.argv[1]), sys.argv[2], 'evaluate'"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "new"), f"{URL}/published"]

    def read() -> str:
        try:
            got = storage.fetched(f"{URL}/published")
        except StorageError as error:
            return str(error)
        assert len({path.read_text().split()[0] for path in got.rglob("*.txt")}) == 1
        return "whole"

    assert _killed_until_done(command, server, tmp_path, read) >= 3
    got = storage.fetched(f"{URL}/published")
    assert files(tmp_path / "new").items() <= files(got).items()


def _killed_until_done(command, server: str, tmp_path: Path, read) -> int:
    """Run a command until it ends by itself, killed at random writes; gives the number of kills."""
    draw = random.Random(5)
    for attempt in range(30):
        left = [draw.randrange(1, 7)]
        running: list[subprocess.Popen[bytes]] = []

        def kill(method: str, _path: str, left=left, running=running) -> None:
            if method in {"PUT", "POST", "DELETE"}:
                left[0] -= 1
                if left[0] == 0:
                    os.killpg(running[0].pid, signal.SIGKILL)

        with faulty(server, Faults(share=0.1, seed=attempt, before=kill)) as endpoint:
            own = os.environ | environment(endpoint, tmp_path / f"machine {attempt}")
            process = subprocess.Popen(command, env=own, start_new_session=True)
            running.append(process)
            status = process.wait()
        assert status in {0, -signal.SIGKILL}
        seen = read()
        if status == 0:
            assert seen == "whole"
            return attempt
        assert seen == "whole" or "unfinished" in seen or "does not exist" in seen, seen
    raise AssertionError("it never ended")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_stages_by_url_through_faults_give_the_bytes_of_those_by_path(
    server, use, phantoms, tmp_path
):
    recipe = [word for key in (*TINY, "weights=none") for word in ("--set", key)]

    def stages(raw: str, place: str) -> Iterator[list[str]]:
        data, run = f"{place}/dataset", f"{place}/run"
        yield ["prepare", raw, data, "--size", "32"]
        yield ["train", data, "--out", run, *recipe]
        table = f"{run}/predictions.csv"
        # `auto` takes the faster engine, which on images this small is now one, now the other.
        engine = ["--engine", "torch"]
        yield ["predict", f"{run}/bundle", data, "--split", "test", "--out", table, *engine]
        out = ["--out", f"{run}/evaluation", "--resamples", "50"]
        yield ["evaluate", run, "--labels", data, *out, "--cache-gib", "1"]
        yield ["report", run]

    script = (
        "import json, sys\n"
        "from chestxray.cli.main import app\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    app(words, standalone_mode=False)\n"
    )
    printed = ""
    faults = Faults(share=0.1, seed=2)
    with faulty(server, faults) as endpoint:
        use(endpoint)
        put(phantoms, f"{URL}/all/raw")
        for raw, place in (f"{URL}/all/raw", f"{URL}/all"), (str(phantoms), str(tmp_path / "here")):
            done = subprocess.run(
                [sys.executable, "-c", script, json.dumps(list(stages(raw, place)))],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            printed += done.stdout + done.stderr
    use(server)
    here, there = files(tmp_path / "here"), objects_at(f"{URL}/all")
    assert {"slow", "reset", "truncated", "unavailable", "lost answer"} == set(faults.injected)
    same = [name for name in here if name.startswith("dataset/")]
    same += ["run/predictions.csv", "run/evaluation/metrics.json", "run/bundle/weights.safetensors"]
    for name in same:
        assert there[name] == here[name], name
    assert not {name for name in here if not name.startswith("run/checkpoints/.")} - there.keys()
    assert SECRET not in printed
    assert not [name for name, content in there.items() if SECRET.encode() in content]
