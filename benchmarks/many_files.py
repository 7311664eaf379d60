"""`predict` on a great many files, killed on the way: are rows lost, and does memory grow?

Usage: python benchmarks/many_files.py BUNDLE [--files 100000] [--kills 5]

The files are names of 200 phantoms of 128 px and 5 broken files. `chestxray predict` is killed by
kill -9 at random moments and started again. At the end each file must have one row, in order, that
says the same as every other row of the same phantom. Exits with 1 where it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from chestxray.sources.phantom.tree import synth

PHANTOMS, BROKEN = 200, 5
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = make_files(folder, given.files)
        out = folder / "predictions.csv"
        command = [
            sys.executable, "-m", "chestxray", "predict", str(given.bundle),
            str(folder / "radiographs"), "--out", str(out), "--heatmaps",
        ]  # fmt: skip
        start = time.perf_counter()
        for _ in range(given.kills):
            run(command, random.uniform(10, 60))  # noqa: S311 - any moment will do
        run(command, None)
        seconds = time.perf_counter() - start
        print(f"{given.files} files, {given.kills} kills, {given.files / seconds:.1f} files/s")
        check(pd.read_csv(out, keep_default_na=False), given.files, originals)


def make_files(folder: Path, files: int) -> int:
    """Make the folder `radiographs`; gives how many different files are in it."""
    with contextlib.redirect_stderr(io.StringIO()):
        synth(folder / "raw", images=PHANTOMS, pixels=128)
    originals = sorted((folder / "raw").rglob("images/*.png"))
    for number in range(BROKEN):
        broken = folder / f"broken{number}.png"
        broken.write_bytes(originals[number].read_bytes()[: 1000 * (number + 1)])
        originals.insert(40 * number, broken)
    (folder / "radiographs").mkdir()
    for number in range(files):
        (folder / f"radiographs/{number:07d}.png").hardlink_to(originals[number % len(originals)])
    return len(originals)


def run(command: list[str], seconds: float | None) -> None:
    """Run to the end, or kill it after some seconds; print the memory that it and its own took."""
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start, memory = time.perf_counter(), []
    while process.poll() is None:
        if seconds is not None and time.perf_counter() - start > seconds:
            process.kill()
            process.wait()
            print(f"killed after {seconds:.0f} s")
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            memory.append(sum(member.memory_info().rss for member in family) // MIB)
        time.sleep(1)
    tenths = [memory[len(memory) * tenth // 10] for tenth in range(1, 10)]
    print(f"ended with {process.returncode}; MiB after each tenth of its time: {tenths}")


def check(table: pd.DataFrame, files: int, originals: int) -> None:
    """Print what became of the files; exit with 1 unless each has its row."""
    in_order = table["Image Index"].tolist() == [f"{number:07d}.png" for number in range(files)]
    said = table.drop(columns="Image Index").to_numpy()
    same = bool((said == said[np.arange(len(said)) % originals]).all())
    print(f"one row per file, in order: {in_order}; the same for the same picture: {same}")
    print(table["status"].value_counts().to_dict())
    if not (in_order and same):
        sys.exit(1)


if __name__ == "__main__":
    main()
