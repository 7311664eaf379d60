"""Intervals by patient for a test set of NIH's size, on one core, beside a scikit-learn loop.

The 14 findings have the prevalences of NIH ChestX-ray14, with 22,000 images of 2,800 patients. The
loop does what is usually done: draw patients, gather their images, call `roc_auc_score`. It runs on
`LOOPED` resamples per finding, and its time is scaled up to all of them.

With `--images 10000000` it evaluates a Parquet table of that many predictions instead, of 3.64
radiographs a patient as in NIH: the seconds and the peak of memory of reading, of all metrics with
intervals, and with `--all` of curves, reliability and subgroups. OMP_NUM_THREADS, 1 by default
here, says how many blocks of resamples are worked on at a time.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from chestxray.evaluation import bootstrap
from chestxray.evaluation.bootstrap import GROUPS, Draws
from chestxray.evaluation.curves import bands
from chestxray.evaluation.evaluation import Evaluation
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.metrics import METRICS, measure, rates, resampled, score_metrics
from chestxray.evaluation.weighted_counts import Column
from chestxray.findings import Findings

IMAGES, PATIENTS, RESAMPLES, LOOPED, ROUNDS = 22_000, 2_800, 1_000, 10, 3
PREVALENCES = (0.10, 0.025, 0.12, 0.18, 0.05, 0.056, 0.013, 0.047, 0.042, 0.02, 0.022, 0.015, 0.03)
PREVALENCES += (0.002,)


PER_PATIENT, ROWS = 3.64, 100_000


def at_scale(images: int, count: int, everything: bool) -> None:
    """Evaluate a table of many predictions, and compare a part of it with the way of small ones."""
    findings = Findings(f"Finding {number}" for number in range(1, count + 1))
    print(f"{images:,} images x {count} findings, {RESAMPLES} resamples, OMP_NUM_THREADS="
          f"{os.environ['OMP_NUM_THREADS']}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.parquet"
        truth = made(path, images, findings)
        with measured("read and pair"):
            evaluation = Evaluation.of(path, truth, split="test", resamples=RESAMPLES)
        agreement(evaluation)
        with measured("all metrics"):
            results = evaluation.metrics()
        first = next(iter(results.findings.values()))
        print(f"first finding: AUROC {first.auroc}, DeLong {first.auroc.delong}")
        if everything:
            with measured("metrics again, curves, reliability, subgroups"):
                evaluation.results()


def made(path: Path, images: int, findings: Findings) -> Labels:
    """Write a table of predictions, and give its labels."""
    rng = np.random.default_rng(0)
    patients = np.arange(images) / PER_PATIENT
    names = [f"{row // 4:08d}_{row % 4:03d}.png" for row in range(images)]
    rows = pd.DataFrame({"patient": pd.Series(patients.astype(int)).astype(str)})
    rows["split"], rows.index = "test", pd.Index(names, name="image")
    rows["age"], rows["sex"] = 20.0 + np.arange(images) % 70, np.where(patients % 2 < 1, "F", "M")
    rows["view"], rows["follow_up"] = rng.choice(["PA", "AP"], images), np.arange(images) % 4
    for finding, share in zip(findings, PREVALENCES * 3, strict=False):
        rows[finding] = (rng.random(images) < share).astype(np.float32)
    fields = [("Image Index", pa.string()), *((f"prob_{name}", pa.float64()) for name in findings)]
    with parquet.ParquetWriter(path, pa.schema(fields)) as writer:
        for start in range(0, images, ROWS):
            some = rows.iloc[start : start + ROWS]
            scores = expit(rng.normal(-2, 1, (len(some), len(findings))) + some[list(findings)])
            columns = [pa.array(some.index.astype(str), pa.string()), *scores.to_numpy().T]
            writer.write_table(pa.table(columns, writer.schema))
    return Labels("planted radiographs", True, "", findings, rows, None)


def agreement(evaluation: Evaluation, images: int = 100_000) -> None:
    """Compare both ways on some images: weights of images, and weights of patients by blocks."""
    pairs, most, values = evaluation.pairs, bootstrap.MOST_EXPANDED, []
    draws = Draws.of(pairs.patients[:images], 100)
    column = Column(pairs.labels[:images, 0], pairs.probabilities[:images, 0])
    for bootstrap.MOST_EXPANDED in (images, 0):
        values.append(np.stack(list(resampled(column, draws, score_metrics()).values())))
    bootstrap.MOST_EXPANDED = most
    print(
        f"largest difference on {images:,} images: {np.nanmax(np.abs(values[0] - values[1])):.1e}"
    )


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the time of a piece of work and the most memory that it had, without mapped files."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, used = time.perf_counter(), time.process_time()
    yield
    wall, used = time.perf_counter() - wall, time.process_time() - used
    done.set()
    watcher.join()
    print(f"{what}: {used:.0f} s of processor time, {wall:.0f} s, {peak[0] / 2**20:.1f} GiB",
          flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, help="evaluate a table of this size instead")
    parser.add_argument("--findings", type=int, default=14, help="of the table, 1 to 40")
    parser.add_argument("--all", action="store_true", help="curves and subgroups too")
    given = parser.parse_args()
    if given.images:
        at_scale(given.images, given.findings, given.all)
    else:
        beside_a_loop()


def beside_a_loop() -> None:
    """Measure a test set of NIH's size."""
    rng = np.random.default_rng(0)
    patients = np.append(np.arange(PATIENTS), rng.integers(0, PATIENTS, IMAGES - PATIENTS))
    labels = (rng.random((IMAGES, 14)) < PREVALENCES).astype(float)
    scores = expit(rng.normal(-2, 1, (IMAGES, 14)) + labels)
    pairs = list(zip(labels.T, scores.T, strict=True))
    ours, loop = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: aurocs(patients, pairs)))
        loop.append(seconds(lambda: looped(patients, pairs)) * RESAMPLES / LOOPED)
    fast, slow = statistics.median(ours), statistics.median(loop)
    print(f"{RESAMPLES} resamples x 14 findings x {IMAGES} images, one core, CPU seconds")
    print(f"AUROC, AUPRC, partial AUROC: {fast:.2f} s, with {GROUPS} jackknife groups for BCa")
    print(f"roc_auc_score in a loop: {slow:.0f} s (scaled from {LOOPED}), {slow / fast:.0f} x")
    draws = Draws.of(patients, RESAMPLES)
    print(f"all {len(METRICS)} metrics: {seconds(lambda: everything(draws, pairs)):.2f} s")
    print(f"bands of both curves: {seconds(lambda: all_bands(draws, pairs)):.2f} s")
    pooled = Column.pooled(labels, scores)
    spent = seconds(lambda: resampled(pooled, draws, score_metrics()))
    print(f"micro averages over {14 * IMAGES} pairs: {spent:.2f} s")


def aurocs(patients: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    draws = Draws.of(patients, RESAMPLES)
    for y, p in pairs:
        column = Column(y, p)
        values = resampled(column, draws, ("auroc", "auprc", "partial_auroc"))
        draws.interval(values["auroc"])


def looped(patients: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    rng = np.random.default_rng(0)
    of_patient = np.split(np.argsort(patients, kind="stable"), np.bincount(patients).cumsum()[:-1])
    for y, p in pairs:
        for _ in range(LOOPED):
            drawn = rng.integers(0, len(of_patient), len(of_patient))
            images = np.concatenate([of_patient[patient] for patient in drawn])
            roc_auc_score(y[images], p[images])


def everything(draws: Draws, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for y, p in pairs:
        column = Column(y, p)
        draws.apply(lambda w, c=column: every_metric(c, w), column.rows)


def every_metric(column: Column, w: np.ndarray) -> np.ndarray:
    called = rates(column.calls(w, 0.2))
    return np.hstack([measure(column, w, score_metrics()), np.stack(list(called.values()), 1)])


def all_bands(draws: Draws, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for y, p in pairs:
        bands(Column(y, p), draws)


def seconds(work: Callable[[], object]) -> float:
    """Time a piece of work in CPU seconds, which other processes do not add to."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
