"""Training in several processes: one for each GPU, or for a share of a processor.

Each process works on its share of every batch, so that a batch is as large as that of one process,
and gradients are averaged (PyTorch's DistributedDataParallel, through Lightning). Somebody starts
the processes and watches them:

    this module   those of one machine: when one ends before its time, all end, with the reason.
                  With several machines, each runs the same command with the same folders, and the
                  environment says which is which: NODE_RANK, from 0, and MASTER_ADDR and
                  MASTER_PORT of the first.
    torchrun      those of all machines. Each process runs the whole command (`launched`). When one
                  ends before its time, torchrun starts all again, and they resume from the last
                  checkpoint by themselves.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from chestxray.dataset.store import Dataset
from chestxray.errors import ChestXrayError, TrainingError
from chestxray.parallel import Connection, check_main_module, die_with_parent
from chestxray.training.callbacks import LAST
from chestxray.training.loop import Processes, run_epochs, task_of
from chestxray.training.recipe import Recipe

_NODE_SETTINGS: Final = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
_RESUME: Final = "resume with the same command and --resume"
_LOCAL: Final = "127.0.0.1"
_SECONDS: Final = 10.0  # for a process to end before it is killed


@dataclass(frozen=True)
class _Work:
    """All that a process needs.

    Attributes:
        dataset: its folder.
        split: of each image, its name, and its seed.
        recipe, run, processes: see `loop.run_epochs`.
        threads: limit to the processor threads of this process.
    """

    dataset: Path
    split: tuple[list[str], str, int | None]
    recipe: Recipe
    run: Path
    processes: Processes
    threads: int


def run_in_processes(dataset: Dataset, recipe: Recipe, run: Path, processes: Processes) -> None:
    """Train in several processes until the last epoch.

    Raises:
        TrainingError: a process failed or died, there are fewer GPUs than `devices`, or the
            environment lacks a setting for several nodes.
        KeyboardInterrupt: it was interrupted.
    """
    check_main_module()
    check(processes)
    manifest = dataset.manifest
    split = (dataset.index["split"].tolist(), manifest.split.name, manifest.split.seed)
    share = max(1, torch.get_num_threads() // processes.devices)
    work = _Work(dataset.folder, split, recipe, run, processes, share)
    store = _store() if processes.nodes == 1 else None
    try:
        _watch(*_started(work, store))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted: {_RESUME}") from error


def check(processes: Processes) -> None:
    """Check that this machine can run its share of the processes.

    Raises:
        TrainingError: fewer GPUs than `devices`, or the environment lacks a setting.
    """
    gpus = torch.cuda.device_count()
    if gpus and processes.devices > gpus:
        raise TrainingError(
            f"--devices {processes.devices}: this machine has {gpus} GPUs; give {gpus} or fewer"
        )
    missing = [name for name in _NODE_SETTINGS if name not in os.environ]
    if processes.nodes > 1 and missing and launched() is None:
        raise TrainingError(
            f"--nodes {processes.nodes}: the environment lacks {', '.join(missing)}; set NODE_RANK "
            f"(0 on the first machine), and MASTER_ADDR and MASTER_PORT of the first on all"
        )


def check_shares(dataset: Dataset, recipe: Recipe, processes: Processes) -> None:
    """Check that each process has two images of a batch, and one of validation.

    Raises:
        TrainingError: there are too few images to share.
    """
    rows = dataset.rows("train")
    shards = len(np.unique(dataset.images.shard_of(rows)))
    if recipe.order == "shards" and shards < processes.count:
        raise TrainingError(
            f"{processes.count} processes cannot share {shards} shards of training images: each "
            f"reads at least one of its own with order = shards; use fewer, or --set order=images"
        )
    batch = min(recipe.batch_size, len(rows))
    val, count = len(dataset.rows("val")), processes.count
    if batch < 2 * count or val < count:
        raise TrainingError(
            f"{count} processes cannot share batches of {batch} images and a validation of {val}: "
            f"each needs two images of a batch and one of validation; use fewer, or a larger "
            f"batch_size"
        )


def launched() -> Processes | None:
    """Give the processes that torchrun started, of which this is one; None without torchrun.

    They are those of its environment: LOCAL_WORLD_SIZE on each machine, WORLD_SIZE in all.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return Processes(devices, int(os.environ["WORLD_SIZE"]) // devices)


def resumes_itself(run: Path) -> bool:
    """Tell whether torchrun may have started this process again, since the run is unfinished.

    How often it did so it does not say: a restart for another machine's sake is not counted.
    """
    begun, finished = (run / "recipe.yaml").exists(), (run / "run.json").exists()
    return launched() is not None and begun and not finished


def is_first(processes: Processes) -> bool:
    """Tell whether this machine, or process of torchrun, writes the run."""
    if launched() is not None:
        return os.environ["RANK"] == "0"
    return processes.nodes == 1 or os.environ["NODE_RANK"] == "0"


def run_as_one(dataset: Dataset, recipe: Recipe, run: Path, processes: Processes) -> None:
    """Train as one of the processes that torchrun started, until the last epoch.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() // processes.devices))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    resumed = (run / "checkpoints" / LAST).exists()
    try:
        run_epochs(dataset, task_of(dataset, recipe, resumed), run, processes)
    except ChestXrayError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)  # its peers may never answer again, so nothing that asks them is tidied up
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _store() -> TCPStore:
    """Serve the store by which the processes find each other.

    If the first process served it, its port might be taken before that has started.
    """
    return TCPStore(_LOCAL, 0, is_master=True, wait_for_workers=False)


def _place(store: TCPStore | None) -> dict[str, str]:
    """Give the environment variables that say where the processes meet."""
    if store is None:
        return {name: os.environ[name] for name in _NODE_SETTINGS}
    return {
        "NODE_RANK": "0",
        "MASTER_ADDR": _LOCAL,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the parent serves it, as with torchrun
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _started(work: _Work, store: TCPStore | None) -> tuple[list[BaseProcess], list[Connection]]:
    """Start the processes of this machine; each has a pipe for the reason of its failure."""
    spawn = multiprocessing.get_context("spawn")
    workers: list[BaseProcess] = []
    reasons: list[Connection] = []
    for rank in range(work.processes.devices):
        reason, sender = spawn.Pipe(duplex=False)
        environment = {**_place(store), "LOCAL_RANK": str(rank)}
        worker = spawn.Process(
            target=_run, args=(work, environment, sender), name=f"chestxray-train-{rank}"
        )
        worker.start()
        sender.close()
        workers.append(worker)
        reasons.append(reason)
    return workers, reasons


def _watch(workers: list[BaseProcess], reasons: list[Connection]) -> None:
    """Wait for all; when one fails, end the others and say why."""
    left = dict(enumerate(workers))
    try:
        while left:
            wait([worker.sentinel for worker in left.values()])
            ended = [rank for rank, worker in left.items() if not worker.is_alive()]
            for rank in ended:
                worker = left.pop(rank)
                worker.join()
                if worker.exitcode:
                    raise TrainingError(_reason(rank, worker, reasons[rank]))
    finally:
        _end(workers)


def _reason(rank: int, worker: BaseProcess, reason: Connection) -> str:
    with suppress(EOFError):  # it said nothing
        text: str = reason.recv()
        return text
    code = worker.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return (
        f"training process {rank} {how}, so the others were stopped; the last finished epoch is "
        f"kept: check the free memory, then {_RESUME}"
    )


def _end(workers: list[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    for worker in workers:
        worker.join(_SECONDS)
        if worker.is_alive():
            worker.kill()
            worker.join()


def _run(work: _Work, environment: dict[str, str], sender: Connection) -> None:
    """Train as one of several processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this one
    threading.Thread(target=die_with_parent, daemon=True).start()
    os.environ.update(environment)
    torch.set_num_threads(work.threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        dataset = Dataset.open(work.dataset)
        parts, name, seed = work.split
        dataset = dataset.with_split(pd.Series(parts, dataset.index.index), name, seed)
        dataset = dataset.reduced(work.recipe.size)
        resumed = (work.run / "checkpoints" / LAST).exists()
        task = task_of(dataset, work.recipe, resumed)
        run_epochs(dataset, task, work.run, work.processes)
    except ChestXrayError as error:
        sender.send(str(error))
        os._exit(1)  # its peers may never answer again, so nothing that asks them is tidied up
