"""Two processes train as one does: the same batches, the same validation, the same figures."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

import public_trees
import set_trees
from chestxray.artifacts import is_locked, lock
from chestxray.dataset import prepare, shards
from chestxray.errors import TrainingError
from chestxray.training import fit
from chestxray.training import recipe as recipes
from chestxray.training.data import EpochBatches, EpochShards, Part, Share, in_order
from chestxray.training.distributed import check
from chestxray.training.loop import Processes
from chestxray.training.sampling import Sampling
from conftest import TINY


def tiny(*changes: str) -> recipes.Recipe:
    return recipes.load("quick", [*TINY, *changes])


def test_the_processes_together_see_each_batch_and_the_whole_validation_once(dataset):
    draws = np.random.default_rng(0).random(50)
    whole = list(EpochBatches(draws, 8, seed=3))
    parts = [list(EpochBatches(draws, 8, 3, Share(rank, 3))) for rank in range(3)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(chain(*shares)) == sorted(batch)
    val = Part(dataset, "val")
    seen = [
        labels for rank in range(3) for _, labels in in_order(val, 4, Share(rank, 3))
    ]  # fmt: skip
    assert sum(len(labels) for labels in seen) == len(val)
    ordered = np.concatenate([labels.numpy() for labels in seen])
    assert sorted(map(tuple, ordered)) == sorted(map(tuple, val.labels))


SHARDS = np.repeat(np.arange(12), [50] * 11 + [20])  # of 570 images


def by_shards(rank: int, of: int, epoch: int, draws: np.ndarray | None = None) -> EpochShards:
    draws = np.ones(len(SHARDS)) if draws is None else draws
    batches = EpochShards(draws, SHARDS, 30, seed=3, share=Share(rank, of))
    batches.set_epoch(epoch)
    return batches


@pytest.mark.parametrize("of", [1, 2, 4])
def test_each_process_reads_its_own_shards_and_all_together_each_image_once(of):
    for epoch in (0, 1):
        parts = [by_shards(rank, of, epoch) for rank in range(of)]
        read = [np.unique(SHARDS[list(chain(*part))]) for part in parts]
        assert sorted(chain(*read)) == list(range(12)), "no shard is read by two"
        assert [sorted(part.own_shards()) for part in parts] == [list(of) for of in read]
        batches = [list(part) for part in parts]
        assert {len(list(chain(*of_all))) for of_all in zip(*batches, strict=True)} == {30}
        drawn = np.bincount(list(chain.from_iterable(chain(*of) for of in batches)))
        assert (drawn == 1).mean() > 0.85, "what is uneven is less than a shard"
        assert drawn.max() <= 2


def test_the_order_by_shards_depends_on_seed_epoch_and_number_of_processes_alone():
    one, again = list(by_shards(1, 2, 5)), list(by_shards(1, 2, 5))
    assert one == again
    assert one != list(by_shards(1, 2, 6))
    dealt = [{*by_shards(0, 2, epoch).own_shards()} for epoch in range(4)]
    assert any(of != dealt[0] for of in dealt[1:]), "each epoch deals anew"


def test_what_is_drawn_more_often_is_drawn_more_often_from_each_process_shards():
    draws = np.where(np.arange(len(SHARDS)) % 10 == 0, 4.0, 0.5)
    for rank in range(2):
        drawn = list(chain(*by_shards(rank, 2, 0, draws)))
        assert np.mean(np.array(drawn) % 10 == 0) == pytest.approx(0.47, abs=0.06)


def test_sources_are_balanced_in_the_share_of_each_process_and_shares_make_up_the_whole():
    """A small source, and a large one of which a tenth has no known label."""
    sources = np.array(["large"] * 900 + ["small"] * 100, dtype=object)
    labels = np.zeros((1000, 2), np.float32)
    labels[:90] = np.nan
    labels[950:, 1] = 1
    chosen = recipes.Recipe(sampling="sources", max_draws=20)
    draws = Sampling.fit(chosen, labels, sources).draws(labels, sources)
    assert draws[sources == "large"].sum() == pytest.approx(draws[sources == "small"].sum())
    whole = EpochBatches(draws, 50, seed=1)
    parts = [EpochBatches(draws, 50, 1, Share(rank, 2)) for rank in range(2)]
    for epoch in range(3):
        for batches in (whole, *parts):
            batches.set_epoch(epoch)
        shares = [list(chain(*part)) for part in parts]
        assert sorted(chain(*shares)) == sorted(chain(*whole))
        assert [len(share) for share in shares] == [500, 500]
        for share in shares:
            assert (sources[share] == "small").mean() == pytest.approx(0.5, abs=0.08)
            assert not np.isnan(labels[share]).all(axis=1).any(), "they teach nothing"


@pytest.mark.slow
def test_two_processes_train_on_balanced_sources_as_one_does(phantoms, tmp_path):
    films = public_trees.films(phantoms, 120)
    trees = [
        set_trees.BUILDERS[name](tmp_path / name, of)
        for name, of in (("nih", films), ("siim", films[:40]))
    ]
    made = prepare(trees, tmp_path / "dataset", size=32, split="patient")
    still = [f"augment.{name}=0" for name in ("flip", "rotate", "gamma", "contrast")]
    recipe = tiny("sampling=sources", *still, "dropout=0", "max_epochs=2", "learning_rate=0.0005")
    one = fit.train(made, recipe, tmp_path / "one")
    two = fit.train(made, recipe, tmp_path / "two", processes=Processes(devices=2))
    told = [json.loads((of.folder / "run.json").read_text()) for of in (one, two)]
    assert told[0]["sampling"] == told[1]["sampling"]
    losses = [of.history.query("split == 'train'")["loss"].to_numpy() for of in (one, two)]
    assert np.allclose(*losses, rtol=0.1)


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one_within_noise(dataset, tmp_path):
    """One epoch from the same weights: the first losses differ by rounding and batch statistics."""
    recipe = tiny("augment.flip=0", "augment.rotate=0", "augment.gamma=0", "augment.contrast=0",
                  "dropout=0", "max_epochs=2", "batch_size=32", "learning_rate=0.0005")  # fmt: skip
    one = fit.train(dataset, recipe, tmp_path / "one")
    two = fit.train(dataset, recipe, tmp_path / "two", processes=Processes(devices=2))
    assert two.history.shape == one.history.shape
    losses = [of.history.query("split == 'train'")["loss"].to_numpy() for of in (one, two)]
    assert np.allclose(*losses, rtol=0.05)
    val = [of.history.query("split == 'val'")["bce"].to_numpy() for of in (one, two)]
    assert np.allclose(*val, rtol=0.15)
    assert two.validation.read_text().count("\n") == one.validation.read_text().count("\n")
    assert (tmp_path / "two/bundle/bundle.json").exists()


def command(dataset, out: Path, *more: str) -> list[str]:
    changes = [f"--set={change}" for change in (*TINY, "batch_size=8", "max_epochs=4")]
    return [
        sys.executable, "-m", "chestxray", "train", str(dataset.folder), "--recipe", "quick",
        *changes, "--out", str(out), "--devices", "2", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_the_reason_and_it_can_be_resumed(dataset, tmp_path):
    out = tmp_path / "run"
    with subprocess.Popen(command(dataset, out), stderr=subprocess.PIPE, text=True) as running:
        last = out / "checkpoints/last.safetensors"
        end = time.monotonic() + 240
        while not last.exists() and time.monotonic() < end:
            assert running.poll() is None
            time.sleep(0.02)
        workers = [
            child for child in psutil.Process(running.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]  # fmt: skip
        assert len(workers) == 2
        os.kill(workers[1].pid, signal.SIGKILL)
        _, error = running.communicate(timeout=240)
    assert running.returncode == 1
    assert "was ended by SIGKILL, so the others were stopped" in error
    assert "resume with the same command and --resume" in error
    assert not any(worker.is_running() for worker in workers)
    assert not (out / "run.json").exists()
    subprocess.run(command(dataset, out, "--resume"), check=True, capture_output=True)
    summary = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert summary["epochs"] == 4


def torchrun(dataset, out: Path, port: int, processes: int) -> list[str]:
    """One of two machines, both this one."""
    changes = ("batch_size=32", "max_epochs=3", "learning_rate=0.0005", "order=shards", *STILL)
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2",
        f"--nproc-per-node={processes}", "--rdzv-backend=c10d", "--rdzv-id=test",
        f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1", "--max-restarts=2",
        "--monitor-interval=0.2", "-m", "chestxray", "train",
        str(dataset.folder), "--recipe", "quick", "--out", str(out),
        *(f"--set={change}" for change in (*TINY, *changes)),
    ]  # fmt: skip


STILL = ("augment.flip=0", "augment.rotate=0", "augment.gamma=0", "augment.contrast=0", "dropout=0")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ranks_of(agents: list[subprocess.Popen[str]]) -> list[psutil.Process]:
    return [
        child for agent in agents for child in psutil.Process(agent.pid).children()
        if "chestxray" in child.cmdline()
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun_on_two_machines_survives_a_killed_process_and_gives_the_figures_of_one(
    processes, phantoms, tmp_path, monkeypatch
):
    """One of two or four processes is killed after the first epoch; torchrun starts all again."""
    monkeypatch.setattr(shards, "SHARD", 8)
    dataset = prepare(phantoms, tmp_path / "dataset", size=32)
    one = fit.train(
        dataset,
        tiny("batch_size=32", "max_epochs=3", "learning_rate=0.0005", *STILL),
        tmp_path / "one",
    )
    out, port = tmp_path / "run", free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with ExitStack() as stack:
        logs = [stack.enter_context((tmp_path / f"{node}.log").open("w+")) for node in (0, 1)]
        agents = [
            subprocess.Popen(
                torchrun(dataset, out, port, processes),
                stdout=log, stderr=subprocess.STDOUT, text=True, env=environment,
            )
            for log in logs
        ]  # fmt: skip
        for agent in agents:
            stack.callback(agent.kill)
        last, end = out / "checkpoints/last.safetensors", time.monotonic() + 900
        while not last.exists() and time.monotonic() < end:
            assert [agent.poll() for agent in agents] == [None, None]
            time.sleep(0.1)
        ranks = ranks_of(agents)
        assert len(ranks) == 2 * processes
        os.kill(ranks[-1].pid, signal.SIGKILL)
        assert [agent.wait(900) for agent in agents] == [0, 0]
    history = pd.read_csv(out / "history.csv")
    assert history.shape == one.history.shape, "three epochs, none twice"
    val = [of.query("split == 'val'")["bce"].to_numpy() for of in (one.history, history)]
    assert np.allclose(*val, rtol=0.15)
    assert (out / "bundle/bundle.json").exists()


def test_the_examples_for_clusters_are_shell_and_use_options_that_exist():
    """`deploy/` holds one for torchrun and one for SLURM."""
    for name in ("train-torchrun.sh", "train.slurm"):
        path = Path(__file__).parents[1] / "deploy" / name
        subprocess.run(["bash", "-n", str(path)], check=True)
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        line = next(line for line in text.splitlines() if " -m chestxray train " in line)
        started, trained = line.split(" -m chestxray train ")
        for tool, part in (
            (["torch.distributed.run"], started), (["chestxray", "train"], trained),
        ):  # fmt: skip
            told = subprocess.run(
                [sys.executable, "-m", *tool, "--help"],
                check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
            ).stdout  # fmt: skip
            options = re.findall(
                r"(?<= )--[a-z][a-z-]+", part.partition("distributed.run")[2] or part
            )
            assert options
            assert [option for option in options if option not in told] == []
        assert path.stat().st_mode & 0o111


@pytest.mark.slow
def test_the_reason_of_a_process_is_the_reason_of_the_run(dataset, tmp_path):
    recipe = tiny("learning_rate=1e30", "max_epochs=1")
    with pytest.raises(TrainingError, match=r"loss became .*--set learning_rate"):
        fit.train(dataset, recipe, tmp_path / "run", processes=Processes(devices=2))


def test_batches_and_validation_must_be_large_enough_to_share(dataset, tmp_path):
    with pytest.raises(TrainingError, match=r"3 processes cannot share batches of 4 images"):
        fit.train(dataset, tiny("batch_size=4"), tmp_path, processes=Processes(devices=3))


def test_shards_must_be_enough_to_share(dataset, tmp_path):
    with pytest.raises(TrainingError, match=r"2 processes cannot share 1 shards of training"):
        fit.train(dataset, tiny("order=shards"), tmp_path, processes=Processes(devices=2))


def test_several_machines_need_their_settings(monkeypatch):
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match="lacks NODE_RANK, MASTER_ADDR, MASTER_PORT"):
        check(Processes(nodes=2))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_processes_of_torchrun_are_refused_a_url_before_they_wait_for_each_other(
    monkeypatch, tmp_path, rank
):
    settings = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    for name, value in (settings | {"RANK": rank, "LOCAL_RANK": rank}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"torchrun: its processes share .* memory://q/run is"):
        fit.train(tmp_path / "dataset", "quick", "memory://q/run")


@pytest.fixture
def _impatient(monkeypatch):
    """Waiting for the first machine takes parts of a second."""
    monkeypatch.setattr(fit, "_SECONDS_TO_BEGIN", 0.2)
    monkeypatch.setattr(fit, "_SECONDS_AFTER", 0.2)
    monkeypatch.setattr(fit, "_SECONDS_TO_LOOK", 0.01)


@pytest.mark.usefixtures("_impatient")
def test_others_wait_for_the_first_machine_as_long_as_it_works_on_the_run(tmp_path):
    def first() -> None:
        with fit._alone(tmp_path, resume=False):
            locked.set()
            time.sleep(1.5)
            (tmp_path / "run.json").touch()

    locked = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    assert locked.wait(60)
    fit._await(tmp_path, "run.json", "it has not finished")
    assert (tmp_path / "run.json").exists()
    thread.join()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("begun", [True, False])
def test_others_give_up_when_the_first_machine_works_no_more(tmp_path, begun):
    if begun:
        with fit._alone(tmp_path, resume=False):
            pass
    with pytest.raises(TrainingError, match="it has not finished: see its messages"):
        fit._await(tmp_path, "run.json", "it has not finished")


def test_a_look_at_a_lock_does_not_keep_the_first_machine_out(tmp_path):
    path, refusal = tmp_path / ".lock", TrainingError("taken")
    assert not is_locked(path)
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            is_locked(path)
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(500):
            with lock(path, refusal):
                assert is_locked(path)
    finally:
        ended.set()
        thread.join()
    with lock(path, refusal), pytest.raises(TrainingError, match="taken"), lock(path, refusal):
        pass
