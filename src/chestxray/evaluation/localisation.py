"""Do heatmaps lie where the findings are: pointing game, IoU and IoBB, beside honest baselines.

    hit          the heatmap's peak lies in the region (Zhang 2018, arXiv 1608.00507)
    T(IoU)       the heatmap's box meets the true one with an IoU above T
    T(IoBB)      the same with the intersection over the heatmap's own box (Wang 2017, 1705.02315)

Some findings are easy to hit, so the same figures stand beside them for places that no heatmap was
needed for: a point at random, the image's centre with a box of half its sides, and the finding's
mean box, made from the boxes of all other patients. Every share has its interval by patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.artifacts import read_json, require, sha256
from chestxray.errors import PredictionsError
from chestxray.evaluation.boxes import CHOSEN_BY, CUT, detect
from chestxray.evaluation.intervals import LEVEL, RESAMPLES, Draws, Interval, Values, all_alike
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.locating import IOBB, IOU, Played, play
from chestxray.evaluation.regions import Case
from chestxray.findings import FINDINGS

DETECTION: Final = (
    "one box a heatmap, around the region that holds its peak; of several true boxes the one that "
    "it meets best"
)


def locate(
    heatmaps: Path,
    cases: Sequence[Case],
    pairs: Pairs,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Hold heatmaps against regions; gives what `localisation.json` holds.

    Args:
        heatmaps: .npy of float [rows, 14, h, w] ≥ 0, a row for each row of the table of
            predictions, failed ones too.
        cases: where findings are.
        pairs: the evaluated rows of that table.
        resamples: of the intervals.
        seed: of the resamples.

    Returns:
        For each finding and `all`: `cases`, `hit` with its interval, `random`, `centre`,
        `mean_box`, and under `iou` and `iobb` for each T `hit`, `centre` and `mean_box`.

    Raises:
        PredictionsError: heatmaps that do not belong to the table.
    """
    maps = _open(heatmaps, len(pairs.images) + pairs.failed)
    pointed = []
    for case in cases:
        heat = maps[pairs.positions[case.row], FINDINGS.index(case.finding)]
        if not np.isfinite(heat).all():
            raise PredictionsError(
                f"{heatmaps}: the heatmap of {pairs.images[case.row]} is not finite: predict again"
            )
        pointed.append(detect(heat, case.size))
    played = play(pairs, cases, pointed)
    names = np.array([case.finding for case in cases], dtype=object)
    return {
        "split": pairs.split,
        "heat_threshold": {"value": CUT, "of": "the heatmap's own peak", "chosen_by": CHOSEN_BY},
        "detection": DETECTION,
        "intervals": {"level": LEVEL, "resamples": resamples, "seed": seed, "by": "patient"},
        "findings": {
            name: _summary(played.only(names == name), resamples, seed) for name in FINDINGS
        },
        "all": _summary(played, resamples, seed),
    }


def check_belongs(heatmaps: Path, predictions: Path) -> None:
    """Raise `PredictionsError` when heatmaps say that they were made with other predictions.

    `predict` writes the predictions' SHA-256 beside the heatmaps; those of others may lack it.
    """
    note = heatmaps.with_suffix(".json")
    if not note.exists():
        return
    made_with = read_json(note, "chestxray predict --heatmaps")["predictions_sha256"]
    if made_with != sha256(predictions):
        raise PredictionsError(
            f"{heatmaps} was made with other predictions than {predictions}: "
            f"run `chestxray predict --heatmaps` again"
        )


def _open(path: Path, rows: int) -> npt.NDArray[np.floating[Any]]:
    require(path, "chestxray predict --heatmaps")
    try:
        maps = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise PredictionsError(f"{path} is no NumPy array: {error}") from error
    if maps.ndim != 4 or maps.shape[:2] != (rows, len(FINDINGS)):
        raise PredictionsError(
            f"{path} has shape {maps.shape}, the table of predictions asks for "
            f"({rows}, {len(FINDINGS)}, h, w): give the heatmaps written beside it"
        )
    return maps


def _summary(played: Played, resamples: int, seed: int) -> dict[str, Any]:
    """Average what some cases gave; null with the reason where there is none."""
    hits = _intervals(played, resamples, seed)
    entries = [
        {"hit": hit.entry(), "centre": _mean(centre), "mean_box": _mean(mean_box)}
        for hit, centre, mean_box in zip(hits, played.centre.T, played.mean_box.T, strict=True)
    ]
    return {
        "cases": len(played.patients),
        "random": _mean(played.random),
        **entries[0],
        "iou": dict(zip(map(str, IOU), entries[1:], strict=False)),
        "iobb": dict(zip(map(str, IOBB), entries[1 + len(IOU) :], strict=True)),
    }


def _intervals(played: Played, resamples: int, seed: int) -> list[Interval]:
    """Give each share of located cases its interval, patients drawn anew among these cases."""
    if not len(played.patients):
        return [Interval(np.nan, reason="no box or mask")] * played.hit.shape[1]
    patients = len(np.unique(played.patients))
    # One patient cannot be drawn anew, nor left out.
    draws = Draws.of(played.patients, resamples if patients > 1 else 0, seed)
    shares = draws.apply(lambda w: (w @ played.hit) / w.sum(axis=1, keepdims=True))
    return [
        all_alike(value, patients) if value in {0, 1} else draws.interval(values)
        for value, values in zip(shares[0], shares.T, strict=True)
    ]


def _mean(values: Values) -> float | None:
    """Average what is defined; None where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
