"""On a Ray cluster: the same bytes as on one machine, whoever dies meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest

import cluster_work
import object_store
from chestxray.cluster import joined
from chestxray.dataset import prepare, shards
from chestxray.dataset.store import Dataset
from chestxray.errors import WorkerError
from chestxray.evaluation import evaluate, predictions
from chestxray.evaluation.predictions_folder import PredictionsFolder, shard_files
from chestxray.execution import EXECUTION, Execution
from chestxray.reading.prediction import predict
from chestxray.reading.sharded_prediction import FolderPlan, predict_on
from chestxray.storage import ObjectFolder
from object_store import Faults, faulty, s3_server
from ray_nodes import Nodes, environment, nodes, of_ray, wait_until

pytestmark = pytest.mark.slow

FILMS = 20_500
BROKEN = range(5, FILMS, 997)


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray's processes have these modules, and none of them is left behind."""
    for name, value in environment().items():  # before Ray is imported, which reads it once
        monkeypatch.setenv(name, value)
    pytest.importorskip("ray", reason="needs the scale extra")
    yield
    wait_until(lambda: not of_ray(), seconds=240)


@pytest.fixture
def three() -> Iterator[Nodes]:
    with nodes(3) as there:
        yield there


@pytest.fixture(scope="module")
def films(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,500 films of 64 px, each a phantom with a noise of its own; 21 of them are broken."""
    out = tmp_path_factory.mktemp("films")
    (out / "images").mkdir()
    drawn = [
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(int)
        for path in sorted(phantoms.glob("images_*/images/*.png"))
    ]
    rng = np.random.default_rng(0)
    for number in range(FILMS):
        path = out / "images" / f"{number:06d}.png"
        if number in BROKEN:
            path.write_text("words", encoding="utf-8")
            continue
        noisy = drawn[number % len(drawn)] + rng.integers(-3, 4, (64, 64))
        cv2.imwrite(str(path), noisy.clip(0, 255).astype(np.uint8))
    labels = pd.DataFrame({"image": [f"{n:06d}.png" for n in range(FILMS)]})
    labels["patient"] = [f"p{n // 2}" for n in range(FILMS)]
    labels["Effusion"] = (rng.random(FILMS) < 0.2).astype(int)
    labels.to_csv(out / "labels.csv", index=False)
    return out


def chestxray(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "chestxray", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killing(process: subprocess.Popen[str], there: Nodes, finished: Path, made: str) -> str:
    """Kill a worker and a whole node while a command runs; give what it printed, without bars."""

    def done(count: int) -> bool:
        return len(list(finished.glob(made))) >= count or process.poll() is not None

    wait_until(partial(done, 2), seconds=600)
    there.kill_worker(0)
    wait_until(partial(done, 4), seconds=600)
    there.kill_node(1)
    assert process.poll() is None, "it was killed in the middle"
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert "a worker of the cluster died" in err
    assert "raylet" not in out + err, "what Ray says of itself"
    return out


def same(one: Path, other: Path) -> None:
    """Two folders have the same files with the same bytes, but for what ran where."""
    files = [sorted(p.relative_to(of) for p in of.rglob("*") if p.is_file()) for of in (one, other)]
    assert [name for name in files[1] if name.name != EXECUTION] == files[0]
    for name in files[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.timeout(3600)
def test_20000_films_on_nodes_that_are_killed_end_in_the_bytes_of_one_machine(
    films: Path, exported: Path, run: Path, tmp_path: Path
) -> None:
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    prepare(films, alone / "dataset", size=32, source="table")
    bundle, images = run / "bundle", films / "images"
    predict(bundle, images, alone / "predictions", engine=exported, force=True)
    with nodes(3) as there:
        words = ("prepare", films, cluster / "dataset", "--size", "32", "--source", "table")
        process = chestxray(*words, "--cluster", there.address)
        killing(process, there, cluster / "dataset/.prepare", "0*.json")
    with nodes(3) as there:
        words = ("predict", bundle, images, "--out", cluster / "predictions", "--force")
        process = chestxray(*words, "--engine", exported, "--cluster", there.address)
        killing(process, there, cluster / "predictions", "0*.parquet")
    same(alone / "dataset", cluster / "dataset")
    same(alone / "predictions", cluster / "predictions")
    for folder in ("dataset", "predictions"):
        (stage,) = Execution.read(cluster / folder).stages
        assert stage.workers_lost >= 2
        assert sum(share.images for share in stage.nodes) == FILMS
        assert len(stage.nodes) == 3
    rows = predictions.read(cluster / "predictions").rows
    assert list(rows["Image Index"]) == [f"{n:06d}.png" for n in range(FILMS)]
    assert list(np.flatnonzero(rows["status"] == "error")) == list(BROKEN)
    dataset = Dataset.open(cluster / "dataset")
    labels = dataset.with_split(pd.Series("test", dataset.index.index), "all")
    results = [
        evaluate(of / "predictions", labels, resamples=10).model_dump(exclude={"predictions"})
        for of in (alone, cluster)
    ]
    assert results[0] == results[1]


def test_each_shard_is_given_once_although_one_hangs_in_its_worker(three: Nodes, tmp_path: Path):
    with joined(three.address) as cluster:
        make = partial(cluster_work.slow_once, tmp_path)
        found = list(cluster.map(make, ((n, n) for n in range(20)), 20))
    assert sorted((done.number, done.result) for done in found) == [(n, 2 * n) for n in range(20)]
    assert (tmp_path / "given").exists(), "one worker hung"


def test_workers_that_are_killed_while_they_are_idle_cost_nothing(three: Nodes, tmp_path: Path):
    with joined(three.address) as cluster:
        make = partial(cluster_work.slow_once, tmp_path)
        found = cluster.map(make, ((n, n) for n in range(6)), 6)
        results = [next(found) for _ in range(5)]
        pid = int((tmp_path / "given").read_text(encoding="utf-8"))
        idle = [p for node in range(3) for p in three.workers(node) if p.pid != pid]
        assert len(idle) == 2
        for process in idle:
            process.kill()
        results += found
    assert sorted((done.number, done.result) for done in results) == [(n, 2 * n) for n in range(6)]


def test_a_shard_that_ends_each_worker_ends_the_run_and_an_error_is_told_with_its_node(
    three: Nodes,
):
    with joined(three.address) as cluster:
        with pytest.raises(WorkerError, match=r"shard 2 ended 5 workers .* it resumes"):
            list(cluster.map(cluster_work.deadly, ((n, n) for n in range(5)), 5))
        assert cluster.lost == 5
        with pytest.raises(WorkerError, match=r"node .*/[0-9a-f]{6}: shard \d is bad: do somethin"):
            list(cluster.map(cluster_work.failing, ((n, n) for n in range(5)), 5))
        with pytest.raises(WorkerError, match=r"has no GPU: add a node that has one"):
            list(cluster.map(cluster_work.doubled, ((n, n) for n in range(5)), 5, "GPU"))


def test_a_worker_on_a_gpu_has_it_alone_with_its_share_of_the_cores():
    with nodes(1) as there:
        there.cluster.add_node(num_cpus=5, num_gpus=2, object_store_memory=100_000_000)
        there.cluster.wait_for_nodes()
        with joined(there.address) as cluster:
            assert (cluster.count("GPU"), cluster.cores("GPU"), cluster.cores("CPU")) == (2, 2, 1)
            found = list(cluster.map(cluster_work.device, ((n, n) for n in range(8)), 8, "GPU"))
    assert {done.result for done in found} <= {"0", "1"}
    assert len(found) == 8


def test_no_more_shards_are_taken_than_there_are_workers(three: Nodes):
    taken: list[int] = []

    def given() -> Iterator[tuple[int, int]]:
        for number in range(50):
            taken.append(number)
            yield number, number

    with joined(three.address) as cluster:
        for done, _ in enumerate(cluster.map(cluster_work.doubled, given(), 50), start=1):
            assert len(taken) <= done + 3


def test_through_the_client_a_dataset_is_the_same_and_standard_output_is_ours(
    phantoms: Path, tmp_path: Path
):
    alone = prepare(phantoms, tmp_path / "alone", size=32)
    start = ["ray", "start", "--head", "--num-cpus", "2", "--include-dashboard", "false"]
    ports = [
        "--port",
        "0",
        "--ray-client-server-port",
        "24001",
        "--object-store-memory",
        "100000000",
    ]
    bin_ = Path(sys.executable).parent
    subprocess.run([str(bin_ / "ray"), *start[1:], *ports], check=True, capture_output=True)
    try:
        address = "ray://127.0.0.1:24001"
        process = chestxray(
            "prepare", phantoms, tmp_path / "c", "--size", "32", "--cluster", address
        )
        out, err = process.communicate(timeout=300)
    finally:
        for left in of_ray():
            left.kill()
    assert process.returncode == 0, err
    same(alone.folder, tmp_path / "c")
    assert out.startswith("phantoms, split official")


def test_a_local_cluster_is_started_and_ended_even_when_it_is_killed(films: Path, tmp_path: Path):
    command = ("prepare", films, tmp_path / "d", "--size", "32", "--source", "table")
    process = chestxray(*command, "--cluster", "local")
    wait_until(lambda: len(list((tmp_path / "d/.prepare").glob("0*.json"))) >= 2, seconds=300)
    process.kill()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    process.wait()
    wait_until(lambda: not of_ray(), seconds=240)
    work = tmp_path / "d/.prepare"
    names = [f"{note.stem}.npy" for note in work.glob("0*.json")]
    kept = {name: (work / shards.FOLDER / name).stat() for name in names}
    prepare(films, tmp_path / "d", size=32, source="table", cluster="local")
    images = tmp_path / "d" / shards.FOLDER
    assert 2 <= len(kept) < len(list(images.iterdir()))
    for name, before in kept.items():
        now = (images / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), name
    prepare(films, tmp_path / "alone", size=32, source="table")
    same(tmp_path / "alone", tmp_path / "d")


def test_no_cluster_at_an_address_is_an_error_with_the_next_step():
    refused = pytest.raises(WorkerError, match=r"no Ray cluster can be used at 127.0.0.1:1 .*start")
    with refused, joined("127.0.0.1:1"):
        pass


@pytest.mark.timeout(3600)
def test_memory_stays_flat_over_a_million_rows(run: Path, tmp_path: Path):
    model = cluster_work.TrivialChoice(run / "bundle", "auto", None, None)
    facts, me = model.facts(), psutil.Process()
    ended, sizes = threading.Event(), []

    def watch() -> None:
        while not ended.wait(1):
            sizes.append((len(shard_files(tmp_path)), me.memory_info().rss / 2**20))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        images = cluster_work.blank_images(1_000_000, facts.card.size, tmp_path)
        made = predict_on("local", model, facts, images, FolderPlan(tmp_path, "0" * 64, False))
    finally:
        ended.set()
        thread.join()
    assert made.counts.read == 1_000_000
    assert sum(table.num_rows for table in PredictionsFolder(tmp_path).tables()) == 1_000_000
    early = max(size for count, size in sizes if 20 <= count <= 60)
    assert max(size for _, size in sizes) - early < 30, "megabytes, of 1,000,000 rows"


def test_ray_reports_its_use_to_nobody():
    code = (
        "from chestxray.cluster import joined\n"
        "with joined('local'):\n"
        "    from ray._common.usage import usage_lib\n"
        "    print(usage_lib.usage_stats_enabled())"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "False"


@pytest.mark.timeout(1800)
def test_workers_deliver_to_a_store_that_fails_now_and_then_the_bytes_of_a_path(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards, "SHARD", 20)
    alone = prepare(phantoms, tmp_path / "alone", size=32).folder
    faults = Faults(share=0.1, seed=2)
    with s3_server() as server, faulty(server, faults) as endpoint:
        for name, value in object_store.environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        raw, out = (ObjectFolder(f"s3://{object_store.BUCKET}/{name}") for name in ("raw", "made"))
        for path in sorted(p for p in phantoms.rglob("*") if p.is_file()):
            raw.upload(path, path.relative_to(phantoms).as_posix())
        killer = threading.Thread(target=_kill_one_worker)
        killer.start()
        prepare(raw.url, out.url, size=32, cluster="local")
        killer.join()
        made = {name: out.read(name) for name in out.versions()}
    assert len(set(faults.injected)) == len(object_store.KINDS)
    stages = Execution.model_validate_json(made.pop(EXECUTION)).stages
    assert stages[0].workers_lost == 1
    files = (path for path in alone.rglob("*") if path.is_file())
    assert made == {path.relative_to(alone).as_posix(): path.read_bytes() for path in files}


def _kill_one_worker() -> None:
    def at_work() -> list[psutil.Process]:
        return [p for p in of_ray() if any("ray::_Worker.run" in word for word in p.cmdline())]

    wait_until(lambda: bool(at_work()), seconds=300)
    at_work()[0].kill()
