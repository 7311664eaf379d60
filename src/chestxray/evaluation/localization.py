"""Localization: do heatmaps lie where the findings are? Pointing game, IoU and IoBB.

    hit          the heatmap's peak lies in the region (Zhang 2018, arXiv 1608.00507)
    T(IoU)       the heatmap's box overlaps the true one with an IoU above T
    T(IoBB)      the same with the intersection over the heatmap's own box (Wang 2017, 1705.02315)

A case is one finding in one image. Its region is one or more boxes, of which the one that is met
best counts, or a mask, which counts as the box around it but is hit pixel by pixel. All places are
fractions of the original image's sides, with the origin at the top left.

Wang 2017 (section 3) scales a heatmap to 0..255, thresholds it at 60 and at 180, puts a box around
every isolated region, and calls a finding located when any box overlaps enough. Here a heatmap
gives one box, around the region that contains its peak: the truth plays no part in the choice, and
many guesses bring no advantage. The threshold is half of the map's own peak. Enlarged bilinearly, a
block of hot cells keeps its edges at that height, so a box is as large as the cells it stands for.
It is fixed in advance, between Wang's two, and fitted to no box.

Some findings are easy to hit, so every figure has baselines that need no heatmap: a random point,
the image's centre with a box of half its sides, and the finding's mean box over all other patients.
Every share has its interval by patient.

A baseline's share varies with the cases as the heatmaps' does. So whether the peak hits more often
is asked of the difference on the same cases, resampled by patient (see `significance`). A limit of
the share beside the baseline's value claims it too often: in 4 to 7 % of simulated studies in which
both hit equally often, instead of 2.5 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, UnidentifiedImageError

from chestxray.artifacts import read_json, require, sha256
from chestxray.dataset.pixels import placement
from chestxray.errors import ImageError, PredictionsError
from chestxray.evaluation.bootstrap import LEVEL, RESAMPLES, Draws, Interval, Values, exact_share
from chestxray.evaluation.labels import Labels, Pairs, match_names
from chestxray.evaluation.predictions import counted, examples
from chestxray.evaluation.result_details import Localization, Located, Met, ResampleSettings
from chestxray.evaluation.significance import FEWEST, Significance
from chestxray.findings import Findings

IOU: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
CUT: Final = 0.5

_CHOSEN_BY: Final = (
    "a rule fixed in advance, fitted to no box: at half of its peak a block of hot cells keeps its "
    "edges when the heatmap is enlarged bilinearly"
)
_DETECTION: Final = (
    "one box per heatmap, around the region that contains its peak; of several true boxes, the one "
    "that it overlaps most"
)
_MEASURES: Final = 1 + len(IOU) + len(IOBB)
_FINE: Final = 256  # least side of the grid that boxes are measured on

_Heat = npt.NDArray[np.floating[Any]]
_Box = npt.NDArray[np.float64]


class _Pointed(NamedTuple):
    """Where a finding is predicted to be, in fractions of the original image's sides.

    Attributes:
        point: x, y; None for nowhere in the image.
        box: float [4], left, top, right, bottom; None for nowhere in the image.
    """

    point: tuple[float, float] | None
    box: _Box | None


def detect(heat: _Heat, size: tuple[int, int]) -> _Pointed:
    """Give the peak of a heatmap and the box around it.

    Args:
        heat: [h, w], over the canonical square; values ≤ 0 are no evidence.
        size: width and height of the original image; only their ratio matters.

    Returns:
        The centre of the hottest cell, and the box of its region, clipped to the image; None
        without heat, and where they lie in the square's padding.
    """
    if not heat.max() > 0:
        return _Pointed(None, None)
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    rows, columns = heat.shape
    x, y = (peak[1] + 0.5) / columns, (peak[0] + 0.5) / rows
    place = placement(*size)
    (point,) = _in_image(np.array([[x, y]]), place)
    box = _in_image(_region(heat, (x, y)), place).clip(0, 1).ravel()
    inside = bool((point >= 0).all() and (point <= 1).all())
    return _Pointed(
        (float(point[0]), float(point[1])) if inside else None,
        box if _area(box) > 0 else None,
    )


def _region(heat: _Heat, peak: tuple[float, float]) -> _Box:
    """Give the corners [2, 2] of the region around the peak, as fractions of the heatmap."""
    rows, columns = heat.shape
    times = 2 * -(-_FINE // (2 * max(heat.shape)))  # even: no sample falls on the edge of a cell
    fine = cv2.resize(
        heat.astype(np.float32), (columns * times, rows * times), interpolation=cv2.INTER_LINEAR
    )
    hot = (fine >= CUT * float(heat.max())).astype(np.uint8)
    _, regions, boxes, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
    high, wide = hot.shape
    left, top, width, height, _ = boxes[regions[int(peak[1] * high), int(peak[0] * wide)]]
    return np.array([[left, top], [left + width, top + height]]) / (wide, high)


def _in_image(points: _Box, place: tuple[float, float, float, float]) -> _Box:
    """Move points [n, 2] from fractions of the canonical square to those of the image in it."""
    left, top, wide, high = place
    return (points - (left, top)) / (wide, high)


def overlap(box: _Box | None, true: _Box) -> tuple[float, float]:
    """Give IoU and IoBB, each with the true box that gives the greatest value.

    IoU is the intersection over the union, IoBB the intersection over the area of `box`, the
    detected one (Wang 2017), which a small box within the true one brings to 1.

    Args:
        box: float [4], left, top, right, bottom; None overlaps nothing.
        true: float [n, 4], n >= 1.
    """
    if box is None:
        return 0.0, 0.0
    wide, high = (np.minimum(box[2:], true[:, 2:]) - np.maximum(box[:2], true[:, :2])).clip(0).T
    both = wide * high
    union = _area(box) + _area(true.T) - both
    return float((both / union).max()), float((both / _area(box)).max())


def mean_box(boxes: _Box, patients: npt.NDArray[np.int64], patient: int) -> _Box | None:
    """Give the mean box of all other patients; None where there is none.

    Args:
        boxes: float [n, 4], of one finding.
        patients: int64 [n], the patient of each.
        patient: the one that is left out.
    """
    others = boxes[patients != patient]
    return others.mean(axis=0) if len(others) else None


def _area(box: _Box) -> _Box:
    return np.asarray((box[2] - box[0]) * (box[3] - box[1]))


CENTRE: Final = _Pointed((0.5, 0.5), np.array([0.25, 0.25, 0.75, 0.75]))


@dataclass(frozen=True)
class Boxes:
    """One or more boxes of a finding in an image.

    Attributes:
        corners: float [n, 4], left, top, right, bottom.
    """

    corners: npt.NDArray[np.float64]

    def holds(self, x: float, y: float) -> bool:
        """Tell whether a point lies in any box."""
        left, top, right, bottom = self.corners.T
        return bool(((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).any())

    @property
    def area(self) -> float:
        """Share of the image that the boxes cover together, summed over the grid of their edges."""
        inside = self.corners.clip(0, 1)
        xs, ys = np.unique(inside[:, [0, 2]]), np.unique(inside[:, [1, 3]])
        return sum(
            float((right - left) * (bottom - top))
            for left, right in pairwise(xs)
            for top, bottom in pairwise(ys)
            if self.holds((left + right) / 2, (top + bottom) / 2)
        )


@dataclass(frozen=True)
class Mask:
    """The pixels of a finding in an image: bool [height, width]."""

    inside: npt.NDArray[np.bool_]

    def holds(self, x: float, y: float) -> bool:
        """Tell whether the pixel at a point is in the mask."""
        height, width = self.inside.shape
        return bool(self.inside[min(int(y * height), height - 1), min(int(x * width), width - 1)])

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """The box around all its pixels, as `Boxes.corners`, float [1, 4]; there must be some."""
        rows, columns = np.nonzero(self.inside)
        height, width = self.inside.shape
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return np.array([edges], dtype=np.float64) / (width, height, width, height)

    @property
    def area(self) -> float:
        """Share of the image."""
        return float(self.inside.mean())


@dataclass(frozen=True)
class Case:
    """One finding in one image.

    Attributes:
        row: of `Pairs`.
        finding: its name, as the predictions have it.
        region: where it is.
        size: width and height of the original image; only their ratio matters.
    """

    row: int
    finding: str
    region: Boxes | Mask
    size: tuple[int, int]


def from_boxes(truth: Labels, pairs: Pairs) -> Iterator[Case]:
    """Give a case for each image and finding with boxes.

    Raises:
        PredictionsError: labels without boxes.
    """
    if truth.boxes is None:
        raise PredictionsError(
            "a label table has no boxes: pass a dataset to --labels, or masks to --masks"
        )
    row_of = {name: row for row, name in enumerate(pairs.images)}
    boxes = truth.boxes[truth.boxes["image"].isin(row_of)]
    named = {truth.findings[j]: pairs.findings[i] for i, j in pairs.findings.common(truth.findings)}
    for (image, labelled), group in boxes.groupby(["image", "finding"], sort=True):
        finding = named.get(str(labelled))
        if finding is None:
            continue
        x, y, w, h = group[["x", "y", "w", "h"]].to_numpy(dtype=np.float64).T
        size = truth.rows.loc[str(image), ["width", "height"]].to_numpy(dtype=np.int64)
        corners = np.stack([x, y, x + w, y + h], axis=1)
        yield Case(row_of[image], finding, Boxes(corners), (int(size[0]), int(size[1])))


def from_masks(folder: Path, pairs: Pairs) -> tuple[list[Case], int]:
    """Give a case for each `<image>_<Finding>.png` that is not empty, and count the unmatched.

    The path within the folder is matched to the images as `match_names` does it, without suffixes,
    so that `1_Mass.png` is of `P0/1.png` where no other image is named so. A finding may have any
    of its spellings.

    Raises:
        ArtifactError: no such folder.
        ImageError: a file that is not an image.
        PredictionsError: masks of which none belongs to an evaluated image and finding.
    """
    require(folder, "chestxray synth")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    parts = [_mask_parts(path.relative_to(folder), pairs.findings) for path in files]
    heads = pd.Index(list(dict.fromkeys(head for each in parts for head, _ in each)), dtype=object)
    places, _ = match_names(heads, _without_suffix(pairs.images))
    row_of = {head: int(row) for head, row in zip(heads, places, strict=True) if row >= 0}
    matched: dict[tuple[int, int], Path] = {}
    for path, each in zip(files, parts, strict=True):
        found = [(row_of[head], finding) for head, finding in each if head in row_of]
        if found:
            matched.setdefault(found[0], path)
    if files and not matched:
        names = examples([path.relative_to(folder).as_posix() for path in files])
        raise PredictionsError(
            f"{folder}: none of {counted(len(files), 'mask')} ({names}) belongs to an evaluated "
            f"image and finding: name them <image>_<Finding>.png, such as "
            f"{Path(pairs.images[0]).stem}_{pairs.findings[0]}.png"
        )
    return list(_mask_cases(matched, pairs)), len(files) - len(matched)


def _mask_parts(path: Path, findings: Findings) -> list[tuple[str, int]]:
    """Give each way to read a path as an image and the position of a finding."""
    words = path.with_suffix("").as_posix().split("_")
    ways = [
        ("_".join(words[:n]), findings.place("_".join(words[n:]))) for n in range(1, len(words))
    ]
    return [(head, place) for head, place in ways if head and place is not None]


def _without_suffix(images: npt.NDArray[np.object_]) -> pd.Index[str]:
    """Give image names without their suffix; in full where two differ in it alone."""
    short = pd.Index([str(PurePosixPath(image).with_suffix("")) for image in images], dtype=object)
    return short.where(~short.duplicated(keep=False), pd.Index(images, dtype=object))


def _mask_cases(matched: Mapping[tuple[int, int], Path], pairs: Pairs) -> Iterator[Case]:
    for (row, finding), path in sorted(matched.items()):
        inside = _read_mask(path)
        if inside.any():
            height, width = inside.shape
            yield Case(row, pairs.findings[finding], Mask(inside), (width, height))


def _read_mask(path: Path) -> npt.NDArray[np.bool_]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > 0
    except (UnidentifiedImageError, OSError) as error:
        raise ImageError(path, f"is not a mask: {error}") from error


@dataclass(frozen=True)
class _Played:
    """The scores of m cases; the measures are the pointing game, then T(IoU), then T(IoBB).

    Attributes:
        patients: int64 [m].
        random: float [m], the chance that a random point hits.
        hit, centre, mean_box: float [m, measures], 1 for located; NaN where no other patient has
            a box of the finding.
    """

    patients: npt.NDArray[np.int64]
    random: Values
    hit: Values
    centre: Values
    mean_box: Values

    def only(self, rows: npt.NDArray[np.bool_]) -> _Played:
        """Keep some cases, bool [m]."""
        return _Played(*(values[rows] for values in vars(self).values()))


def _play(pairs: Pairs, cases: Sequence[Case], pointed: Sequence[_Pointed]) -> _Played:
    """Score the heatmaps and the baselines on the same cases."""
    shape = (len(cases), _MEASURES)
    return _Played(
        patients=pairs.patients[[case.row for case in cases]],
        random=np.array([case.region.area for case in cases], dtype=np.float64),
        hit=np.array(
            [_measures(place, case.region) for place, case in zip(pointed, cases, strict=True)]
        ).reshape(shape),
        centre=np.array([_measures(CENTRE, case.region) for case in cases]).reshape(shape),
        mean_box=_mean_boxes(pairs, cases).reshape(shape),
    )


def _measures(place: _Pointed, region: Boxes | Mask) -> list[float]:
    """Tell whether a place hits a region, then whether it overlaps it with each T."""
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
            scores.append(_measures(_Pointed(middle, box), case.region))
    return np.array(scores)


def locate(
    heatmaps: Path,
    cases: Sequence[Case],
    pairs: Pairs,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Localization:
    """Compare heatmaps with regions.

    Args:
        heatmaps: .npy of float [rows, K, h, w] ≥ 0, one row per row of the table of predictions,
            failed ones too.
        cases: where findings are.
        pairs: the evaluated rows of that table.
        resamples: of the intervals.
        seed: of the resamples.

    Raises:
        PredictionsError: heatmaps that do not belong to the table.
    """
    rows = len(pairs.images) + pairs.failed + pairs.unlabelled
    maps = _open(heatmaps, rows, len(pairs.predicted))
    pointed = []
    for case in cases:
        heat = maps[pairs.positions[case.row], pairs.predicted.index(case.finding)]
        if not np.isfinite(heat).all():
            raise PredictionsError(
                f"{heatmaps}: the heatmap of {pairs.images[case.row]} contains NaN or infinity: "
                f"predict again"
            )
        pointed.append(detect(heat, case.size))
    played = _play(pairs, cases, pointed)
    names = np.array([case.finding for case in cases], dtype=object)
    return Localization(
        split=pairs.split,
        heat_threshold={"value": CUT, "of": "the heatmap's own peak", "chosen_by": _CHOSEN_BY},
        detection=_DETECTION,
        intervals=ResampleSettings(level=LEVEL, resamples=resamples, seed=seed),
        findings={
            name: _summary(played.only(names == name), resamples, seed) for name in pairs.findings
        },
        all=_summary(played, resamples, seed),
    )


def check_belongs(heatmaps: Path, predictions: Path) -> None:
    """Raise `PredictionsError` when heatmaps were made with other predictions.

    `predict` writes the predictions' SHA-256 beside the heatmaps; other programs may not.
    """
    note = heatmaps.with_suffix(".json")
    if not note.exists():
        return
    made_with = read_json(note, "chestxray predict --heatmaps")["predictions_sha256"]
    if made_with != sha256(predictions):
        raise PredictionsError(
            f"{heatmaps} was made from different predictions than {predictions}: "
            f"run `chestxray predict --heatmaps` again"
        )


def _open(path: Path, rows: int, findings: int) -> npt.NDArray[np.floating[Any]]:
    require(path, "chestxray predict --heatmaps")
    try:
        maps = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise PredictionsError(f"{path} is not a NumPy array: {error}") from error
    if maps.ndim != 4 or maps.shape[:2] != (rows, findings):
        raise PredictionsError(
            f"{path} has shape {maps.shape}, but the table of predictions needs "
            f"({rows}, {findings}, h, w): give the heatmaps that were written with it"
        )
    return maps


def _summary(played: _Played, resamples: int, seed: int) -> Located:
    """Average the scores of some cases; None with the reason where there is none."""
    hits = _intervals(played, resamples, seed)
    met = [
        Met(hit=hit, centre=_mean(centre), mean_box=_mean(mean_box))
        for hit, centre, mean_box in zip(hits, played.centre.T, played.mean_box.T, strict=True)
    ]
    return Located(
        cases=len(played.patients),
        random=_mean(played.random),
        above=_above(played, resamples, seed),
        **vars(met[0]),
        iou=dict(zip(map(str, IOU), met[1:], strict=False)),
        iobb=dict(zip(map(str, IOBB), met[1 + len(IOU) :], strict=True)),
    )


def _intervals(played: _Played, resamples: int, seed: int) -> list[Interval]:
    """Give each share of located cases its interval, resampling the patients of these cases."""
    if not len(played.patients):
        return [Interval(value=np.nan, reason="no box or mask")] * played.hit.shape[1]
    patients = len(np.unique(played.patients))
    # One patient cannot be resampled, nor left out.
    draws = Draws.of(played.patients, resamples if patients > 1 else 0, seed)
    shares = draws.apply(lambda w: (w @ played.hit) / w.sum(axis=1, keepdims=True))
    return [
        exact_share(value, patients) if value in {0, 1} else draws.interval(values)
        for value, values in zip(shares[0], shares.T, strict=True)
    ]


def _above(played: _Played, resamples: int, seed: int) -> dict[str, Interval]:
    """Compare the heatmaps' hits with those of each baseline on the same cases."""
    baselines = {
        "random": played.random,
        "centre": played.centre[:, 0],
        "mean_box": played.mean_box[:, 0],
    }
    hit = played.hit[:, 0]
    return {
        name: hits_above(hit, baseline, played.patients, resamples, seed)
        for name, baseline in baselines.items()
    }


def hits_above(
    hit: Values,
    baseline: Values,
    patients: npt.NDArray[np.int64],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Give the mean of hit minus baseline over cases, with its interval by patient.

    Resamples say nothing where all cases are hit or none is. Then the interval is exact: that of
    the share of hits (see `exact_share`) minus the mean chance, or, where a baseline also misses or
    hits all, that of the sign test.

    Args:
        hit: 1 or 0, float64 [m].
        baseline: 1, 0, or a chance between; NaN where it is not defined, float64 [m].
        patients: int64 [m].
        resamples: of patients.
        seed: of the resamples.
    """
    known = ~np.isnan(baseline)
    hit, baseline, patients = hit[known], baseline[known], patients[known]
    if not len(hit):
        return Interval(value=np.nan, reason="no case has this baseline")
    many, gain = len(np.unique(patients)), hit - baseline
    if many >= FEWEST and np.ptp(hit) == 0 and np.ptp(baseline) < 1:
        return _exactly_above(float(hit[0]), baseline, many)
    draws = Draws.of(patients, resamples if many > 1 else 0, seed)
    shares = draws.apply(lambda w: (w @ gain) / w.sum(axis=1))
    return Significance.of(draws, shares, many).interval


def _exactly_above(hit: float, baseline: Values, patients: int) -> Interval:
    """Give the difference where all cases are hit or none is, as `hits_above` says."""
    share, mean = exact_share(hit, patients), float(baseline.mean())
    low, high = share.low or 0.0, share.high or 0.0
    if mean in {0, 1}:  # both are certain: of the signs of n differences, all are equal
        if mean == hit:
            return Interval(value=0.0, reason="the baseline hits the same cases")
        low, high = (2 * low - 1, 1.0) if hit else (-1.0, 2 * high - 1)
    else:
        low, high = low - mean, high - mean
    return Interval(value=hit - mean, low=low, high=high, reason=share.reason)


def _mean(values: Values) -> float | None:
    """Average the defined values; None where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
