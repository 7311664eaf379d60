"""Packing speed: `prepare` on all cores compared with one core that decodes in a bare loop.

Usage: python benchmarks/prepare.py [FOLDER_OF_PNG [IMAGES]]

The folder's PNGs (NIH's, of 1024 px; without a folder, phantoms of that size) are linked under
made-up names until there are IMAGES of them. Loop and packing take turns in one run, since the
machine may be shared. Prints images per second of the loop, of packing (which takes most of the
time of `prepare`) and of `prepare` from call to finished dataset; the last two also as a share of
cores × loop. Two more figures show what the machine allows: bare loops on all cores at once, which
share caches, memory and clock and so stay below cores × loop, and the processor time per image.
Starting the workers takes a second of each turn, so a few hundred images understate the share.
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

from chestxray.dataset.packing import pack
from chestxray.dataset.preparation import prepare
from chestxray.dataset.radiograph import Radiograph
from chestxray.parallel import cores
from chestxray.sources.phantom.tree import synth

SIZE, ROUNDS = 224, 3
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
)


def phantoms(folder: Path) -> Path:
    synth(folder, images=8, pixels=1024)
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
    print(f"processor time per image: loop {loop:.2f} ms, packing {packing:.2f} ms")


def link(files: list[Path], images: int, raw: Path) -> list[str]:
    """Make a tree of `images` links to the files, two per patient."""
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
    """Run a bare loop on each core at once and give their images per second together."""
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
    packed = out.with_suffix(".packed")
    pack(paths, SIZE, packed / "images", packed)


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
