"""Intervals by patient for a test set of NIH's size, on one core, beside a scikit-learn loop.

The 14 findings have the prevalences of NIH ChestX-ray14, with 22,000 images of 2,800 patients. The
loop does what is usually done: draw patients, gather their images, call `roc_auc_score`. It runs on
`LOOPED` resamples per finding, and its time is scaled up to all of them.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from chestxray.evaluation.bootstrap import GROUPS, Draws
from chestxray.evaluation.curves import bands
from chestxray.evaluation.metrics import METRICS, measure, rates, resampled, score_metrics
from chestxray.evaluation.weighted_counts import Column

IMAGES, PATIENTS, RESAMPLES, LOOPED, ROUNDS = 22_000, 2_800, 1_000, 10, 3
PREVALENCES = (0.10, 0.025, 0.12, 0.18, 0.05, 0.056, 0.013, 0.047, 0.042, 0.02, 0.022, 0.015, 0.03)
PREVALENCES += (0.002,)


def main() -> None:
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
