"""Packing by the workers of a Ray cluster on this machine, beside packing without it.

Usage: python benchmarks/cluster.py [FOLDER_OF_PNG [IMAGES]]

The folder's PNGs (NIH's, of 1024 px; without a folder, phantoms of that size) are linked until
there are IMAGES of them. Both ways take turns in one run on the same cores and must give the same
bytes. Prints images per second of each, their ratio, and apart from them the seconds that the start
of Ray takes. A turn on the cluster contains the start of its workers, some seconds each, so a few
thousand images understate the ratio.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from prepare import SIZE, link, phantoms

from chestxray.cluster import LOCAL, joined
from chestxray.dataset.packing import Packing, pack
from chestxray.parallel import cores

ROUNDS = 3


def main() -> None:
    os.environ.setdefault("RAY_worker_niceness", "0")  # else other programs come before Ray's
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 4096
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else phantoms(Path(folder) / "phantoms")
        paths = link(sorted(source.glob("*.png")), images, Path(folder) / "raw")
        speeds: dict[str, list[float]] = {"alone": [], "shared": []}
        start = time.perf_counter()
        with joined(LOCAL):
            started = time.perf_counter() - start
            for turn in range(ROUNDS):
                alone = timed(paths, Path(folder) / f"alone{turn}", None, speeds["alone"])
                if timed(paths, Path(folder) / f"shared{turn}", LOCAL, speeds["shared"]) != alone:
                    raise SystemExit("the cluster packed other bytes")
    here, of_cluster = (statistics.median(each) for each in speeds.values())
    turns = zip(*speeds.values(), strict=True)
    ratios = " ".join(f"{many / one:.2f}" for one, many in turns)
    print(f"{images:,} images, {cores()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"start of Ray: {started:.1f} s")
    print(f"without it: {here:.1f} images/s")
    print(f"on the cluster: {of_cluster:.1f} images/s, {of_cluster / here:.2f} of that ({ratios})")


def timed(paths: list[str], out: Path, cluster: str | None, speeds: list[float]) -> Packing:
    start = time.perf_counter()
    packing = pack(paths, SIZE, out / "images", out, cluster=cluster)
    speeds.append(len(paths) / (time.perf_counter() - start))
    return packing


if __name__ == "__main__":
    main()
