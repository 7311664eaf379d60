"""Each case scored: the heatmap's place beside places that no heatmap was needed for.

A case is one finding in one image. Where it has several boxes, the one that is met best counts; a
mask counts as the box around it, but is pointed at pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.boxes import Pointed, mean_box, overlap
from chestxray.evaluation.intervals import Values
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.regions import Boxes, Case, Mask

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
