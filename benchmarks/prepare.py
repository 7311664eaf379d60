"""Packing speed: `prepare` on all cores beside one core decoding the same PNGs in a bare loop.

Usage: python benchmarks/prepare.py [FOLDER_OF_PNG [IMAGES]]

The folder's PNGs (NIH's, of 1024 px; without a folder, phantoms of that size) are linked under
made-up names until there are IMAGES of them. The loop and the packing take turns in this one run,
since the machine may be shared. Printed are images a second of the loop, of packing (what `prepare`
spends its time on) and of `prepare` from call to finished dataset, and the last two as a share of
cores × loop. Two more figures tell what the machine has to do with it: bare loops on all cores at
once, which share caches, memory and clock and so fall short of cores × loop themselves, and the
processor time that an image costs. Starting the workers costs a second of each turn, so a few
hundred images understate the share.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import cv2

from chestxray.dataset.prepare import prepare
from chestxray.dataset.radiograph import Radiograph
from chestxray.dataset.shards import pack
from chestxray.parallel import cores
from chestxray.sources.phantom.tree import write_tree

SIZE, ROUNDS = 224, 3
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
)


def phantoms(folder: Path) -> Path:
    write_tree(folder, images=8, pixels=1024)
    return folder / "images_001/images"


def main() -> None:
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 960
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else phantoms(Path(folder) / "phantoms")
        raw = Path(folder) / "raw"
        paths = link(sorted(source.glob("*.png")), images, raw)
        cv2.setNumThreads(1)
        costs: dict[str, list[float]] = {"loop": [], "packing": []}
        speeds: dict[str, list[float]] = {"loop": [], "loops": [], "packing": [], "prepare": []}
        for turn in range(ROUNDS):
            out = Path(folder) / f"out{turn}"
            few = paths[: images // 4]
            start = processor_seconds()
            speeds["loop"].append(speed(len(few), partial(bare, few)))
            alone = processor_seconds()
            speeds["loops"].append(side_by_side(few))
            middle = processor_seconds()
            speeds["packing"].append(speed(images, partial(pack_into, paths, out)))
            costs["loop"].append((alone - start) / len(few) * 1000)
            costs["packing"].append((processor_seconds() - middle) / images * 1000)
            whole = partial(prepare, raw, out, SIZE, "patient")
            speeds["prepare"].append(speed(images, whole))
    loop, loops, packing, prepared = (statistics.median(speeds[name]) for name in speeds)
    ideal = cores() * loop
    print(f"one core, bare loop: {loop:.1f} images/s")
    print(f"a bare loop on each core: {loops:.1f} images/s, {loops / ideal:.2f} of the ideal")
    print(f"packing, {cores()} cores: {packing:.1f} images/s, {packing / ideal:.2f} of the ideal")
    print(f"prepare, start to end: {prepared:.1f} images/s, {prepared / ideal:.2f} of the ideal")
    loop, packing = (statistics.median(costs[name]) for name in costs)
    print(f"processor time an image: loop {loop:.2f} ms, packing {packing:.2f} ms")


def link(files: list[Path], images: int, raw: Path) -> list[str]:
    """Make a tree of `images` links to the files, two a patient."""
    (raw / "images").mkdir(parents=True)
    lines, paths = [HEADER], []
    for number in range(images):
        name = f"{number // 2:08d}_{number % 2:03d}.png"
        path = raw / "images" / name
        path.symlink_to(files[number % len(files)].absolute())
        paths.append(str(path))
        lines.append(f"{name},No Finding,{number % 2},{number // 2},50,M,PA")
    (raw / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    return paths


def bare(paths: list[str]) -> None:
    for path in paths:
        Radiograph.read(Path(path)).canonical(SIZE)


def side_by_side(paths: list[str]) -> float:
    """Run a bare loop on each core at once and give their images a second together."""
    barrier = multiprocessing.Barrier(cores() + 1)
    loops = [
        multiprocessing.Process(target=_wait_and_loop, args=(barrier, paths))
        for _ in range(cores())
    ]
    for loop in loops:
        loop.start()
    barrier.wait()
    return speed(cores() * len(paths), lambda: [loop.join() for loop in loops])


def _wait_and_loop(barrier: Barrier, paths: list[str]) -> None:
    barrier.wait()
    bare(paths)


def pack_into(paths: list[str], out: Path) -> None:
    pack(paths, SIZE, out.with_suffix(".npy"), out.with_suffix(".jsonl"))


def processor_seconds() -> float:
    """Give what this process and its ended workers have used."""
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def speed(images: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
