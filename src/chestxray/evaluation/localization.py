"""Each case scored: the heatmap's place beside places that no heatmap was needed for.

A case is one finding in one image. Where it has several boxes, the one that is met best counts; a
mask counts as the box around it, but is pointed at pixel by pixel.

Do heatmaps lie where the findings are: pointing game, IoU and IoBB, beside honest baselines.

    hit          the heatmap's peak lies in the region (Zhang 2018, arXiv 1608.00507)
    T(IoU)       the heatmap's box meets the true one with an IoU above T
    T(IoBB)      the same with the intersection over the heatmap's own box (Wang 2017, 1705.02315)

Some findings are easy to hit, so the same figures stand beside them for places that no heatmap was
needed for: a point at random, the image's centre with a box of half its sides, and the finding's
mean box, made from the boxes of all other patients. Every share has its interval by patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.artifacts import read_json, require, sha256
from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import LEVEL, RESAMPLES, Draws, Interval, Values, all_alike
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.regions import (
    CHOSEN_BY,
    CUT,
    Boxes,
    Case,
    Mask,
    Pointed,
    detect,
    mean_box,
    overlap,
)

IOU: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
CENTRE: Final = Pointed((0.5, 0.5), np.array([0.25, 0.25, 0.75, 0.75]))

_MEASURES: Final = 1 + len(IOU) + len(IOBB)


@dataclass(frozen=True)
class Played:
    """What m cases gave; a measure is the pointing game, then T(IoU), then T(IoBB).

    Attributes:
        patients: int64 [m].
        random: float [m], the share of the image that a random point hits.
        hit, centre, mean_box: float [m, measures], 1 for located; NaN where no other patient has
            a box.
    """

    patients: npt.NDArray[np.int64]
    random: Values
    hit: Values
    centre: Values
    mean_box: Values

    def only(self, rows: npt.NDArray[np.bool_]) -> Played:
        """Keep some cases, bool [m]."""
        return Played(*(values[rows] for values in vars(self).values()))


def play(pairs: Pairs, cases: Sequence[Case], pointed: Sequence[Pointed]) -> Played:
    """Score the heatmaps and the baselines on the same cases."""
    shape = (len(cases), _MEASURES)
    return Played(
        patients=pairs.patients[[case.row for case in cases]],
        random=np.array([case.region.area for case in cases], dtype=np.float64),
        hit=np.array(
            [_measures(place, case.region) for place, case in zip(pointed, cases, strict=True)]
        ).reshape(shape),
        centre=np.array([_measures(CENTRE, case.region) for case in cases]).reshape(shape),
        mean_box=_mean_boxes(pairs, cases).reshape(shape),
    )


def _measures(place: Pointed, region: Boxes | Mask) -> list[float]:
    """Tell whether a place hits a region, then whether it meets it with each T."""
    iou, iobb = overlap(place.box, region.corners)
    hit = place.point is not None and region.holds(*place.point)
    return [float(hit), *(float(iou > t) for t in IOU), *(float(iobb > t) for t in IOBB)]


def _mean_boxes(pairs: Pairs, cases: Sequence[Case]) -> Values:
    """Score for each case the finding's mean box over all other patients."""
    boxes = np.concatenate([case.region.corners for case in cases] or [np.zeros((0, 4))])
    many = np.array([len(case.region.corners) for case in cases], dtype=np.int64)
    names = np.repeat(np.array([case.finding for case in cases], dtype=object), many)
    patients = np.repeat(pairs.patients[[case.row for case in cases]], many)
    scores = []
    for case in cases:
        same = names == case.finding
        box = mean_box(boxes[same], patients[same], int(pairs.patients[case.row]))
        if box is None:
            scores.append([np.nan] * _MEASURES)
        else:
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            scores.append(_measures(Pointed(middle, box), case.region))
    return np.array(scores)


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
        heatmaps: .npy of float [rows, K, h, w] ≥ 0, a row for each row of the table of
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
    maps = _open(heatmaps, len(pairs.images) + pairs.failed, len(pairs.predicted))
    pointed = []
    for case in cases:
        heat = maps[pairs.positions[case.row], pairs.predicted.index(case.finding)]
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
            name: _summary(played.only(names == name), resamples, seed) for name in pairs.findings
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


def _open(path: Path, rows: int, findings: int) -> npt.NDArray[np.floating[Any]]:
    require(path, "chestxray predict --heatmaps")
    try:
        maps = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise PredictionsError(f"{path} is no NumPy array: {error}") from error
    if maps.ndim != 4 or maps.shape[:2] != (rows, findings):
        raise PredictionsError(
            f"{path} has shape {maps.shape}, the table of predictions asks for "
            f"({rows}, {findings}, h, w): give the heatmaps written beside it"
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
