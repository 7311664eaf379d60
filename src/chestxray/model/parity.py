"""How closely a graph of lower precision agrees with torch in float32, and whether that is enough.

float32 must agree image by image. Lower precision changes each logit a little, and films whose
scores nearly tie change places: of 100 films, 8 with the finding, two swaps of neighbours move its
AUROC by 0.003 and say nothing. So what is asked is whether the graph ranks worse than it should:

- No finding's AUROC is shown to fall by more than `HARM`: the interval of its difference from
  float32 on the same images (DeLong by patient, see `evaluation.delong`), held for all tested
  findings together (Bonferroni), does not lie below -`HARM`.
- A fall of the mean AUROC by `MARGIN` is excluded by its 95 % interval, as in a non-inferiority
  trial (Piaggio 2012, doi:10.1001/jama.2012.87802). With too few images it is not, and the graph is
  refused though nothing speaks against it.
- No calibrated probability changes by more than `PROBABILITY`, nor its log-odds by more than
  `LOG_ODDS`, on at least `FEWEST_IMAGES` images. This needs no labels, so training images and
  phantoms count as well as validation images.
- No cell of a heatmap changes by more than `HEAT` on the same images, before it fades with the
  probability, and its peak stays: where the graph puts it, float32 has at most `PEAK` less heat
  than at its own.
- No pooled feature, by which the gate judges, changes by more than `COARSE` of the largest.

Findings with fewer than `FEWEST` patients on a side have no interval; they are held by the limits
of single images alone. Such findings are rare and their probabilities small, so it is the log-odds
that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from chestxray.evaluation.bootstrap import Values
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.delong import compare_means, difference
from chestxray.evaluation.logistic_regression import log_odds
from chestxray.evaluation.signed_numbers import signed
from chestxray.evaluation.significance import ALPHA, FEWEST, smaller_side
from chestxray.model.engines import Answer, Engine, Images, run_all
from chestxray.model.heatmaps import HeatScale

TOLERANCE: Final = 1e-4
"""Of a probability, and of a cell of a class map in logits, in float32."""
HARM: Final = 0.002
"""Fall of a finding's AUROC that no interval may show."""
MARGIN: Final = 0.01
"""Fall of the mean AUROC that the interval must exclude."""
PROBABILITY: Final = 0.05
"""Largest change of a calibrated probability."""
LOG_ODDS: Final = 0.5
"""Largest change of its log-odds, which makes 0.010 of a probability of 0.016, and 0.5 of 0.62."""
HEAT: Final = 0.2
"""Largest change of a cell of a heatmap: a quarter of the peak of a typical true call, and less
than the distance between two contours. In bfloat16 0.08 was measured (docs/log.md)."""
PEAK: Final = 0.1
"""Largest difference between float32's heat at its own peak and at the graph's; likewise 0.02."""
COARSE: Final = 0.1
"""Largest difference of logits, maps and features in lower precision, in units of their largest."""
FEWEST_IMAGES: Final = 128
"""Images below which the largest change says little."""
_NOISE_IMAGES: Final = 8


@dataclass(frozen=True)
class Trial:
    """Images on which a graph is compared with torch.

    Attributes:
        name: what they are, for people.
        images: uint8 [N, S, S], canonical.
        labels: float32 [n, K] of 1, 0, NaN, for the first n images; None where there are none.
        patients: of these n images, [n]; each is its own patient by default.
    """

    name: str
    images: Images
    labels: npt.NDArray[np.float32] | None = None
    patients: npt.NDArray[Any] | None = None

    @property
    def unlabelled(self) -> Images:
        """The images without labels, on which int8 is calibrated; all where there are none."""
        count = 0 if self.labels is None else len(self.labels)
        return self.images[count:] if len(self.images) > count else self.images


class AurocChange(BaseModel):
    """AUROC of a graph minus that of float32 on the same images.

    Attributes:
        value: the difference.
        low, high: its interval, None where a side has fewer than `FEWEST` patients.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Show the difference with its interval."""
        if self.low is None or self.high is None:
            return signed(self.value, 4)
        return f"{signed(self.value, 4)} ({signed(self.low, 4)} to {signed(self.high, 4)})"


class Parity(BaseModel):
    """Differences of a graph from torch in float32.

    Attributes:
        images: their number; `measured_on` names them.
        measured_with: the runtime and its arithmetic, which differs from the graph's own where this
            processor lacks it.
        probability: largest difference of a calibrated probability.
        log_odds: largest difference of its log-odds.
        map: largest difference of a cell of a class map, in logits.
        heat: likewise of a heatmap that does not fade, see `HeatScale.evidence`; None in records of
            earlier versions, as `peak` and `features`.
        peak: float32's heat at its own peak minus that at the graph's, at most.
        features: largest difference of a pooled feature, in units of the largest.
        auroc: change of each finding's AUROC with the interval of all together, None where it is
            not defined; None without labels.
        mean_auroc: change of the mean over the findings that have an interval, with its 95 %
            interval; None without such a finding.
    """

    model_config = ConfigDict(extra="forbid")

    images: int
    measured_on: str
    measured_with: str
    probability: float
    log_odds: float
    map: float
    heat: float | None = None
    peak: float | None = None
    features: float | None = None
    auroc: dict[str, AurocChange | None] | None
    mean_auroc: AurocChange | None = None

    def misses(self, exact: bool) -> list[str]:
        """Give a sentence for each limit that is not kept.

        Args:
            exact: whether the graph must agree image by image (float32), or as the module says.
        """
        if exact:
            return [
                *_beyond("probabilities", self.probability, TOLERANCE),
                *_beyond("maps", self.map, TOLERANCE),
                *_beyond("features", self.features, TOLERANCE),
            ]
        return [*self._rank_misses(), *self.image_misses(), *self._number_misses()]

    def image_misses(self) -> Iterator[str]:
        """Give a sentence for each limit of lower precision that a single image does not keep."""
        yield from _beyond("probabilities", self.probability, PROBABILITY)
        yield from _beyond("log-odds of probabilities", self.log_odds, LOG_ODDS)
        yield from _beyond("heatmaps", self.heat, HEAT)
        yield from _beyond("float32's heat at its own peaks and at the graph's", self.peak, PEAK)
        yield from _beyond("features", self.features, COARSE)

    @property
    def untested(self) -> str:
        """Say why AUROC is not compared, where no finding has an interval."""
        sides = f"{FEWEST} patients with it and {FEWEST} without it"
        return f"no finding has {sides} in {self.measured_on}"

    def _rank_misses(self) -> Iterator[str]:
        for finding, change in (self.auroc or {}).items():
            if change and change.high is not None and change.high < -HARM:
                yield (
                    f"AUROC of {finding} changes by {change}: a fall of more than {HARM:g} is shown"
                )
        mean = self.mean_auroc
        if mean is None or mean.low is None:
            yield f"{self.untested}: give more validation images"
        elif mean.low <= -MARGIN:
            yield (
                f"the mean AUROC changes by {mean}: these images do not exclude a fall by "
                f"{MARGIN:g}"
            )

    def _number_misses(self) -> Iterator[str]:
        if self.images < FEWEST_IMAGES:
            yield f"{self.images} images were compared, at least {FEWEST_IMAGES} are needed"


def _beyond(what: str, value: float | None, limit: float) -> Iterator[str]:
    if value is None:
        yield f"{what} were not compared by the version that measured"
    elif not value <= limit:  # NaN is
        yield f"{what} differ by up to {value:.2g}, at most {limit:g} is allowed"


def noise(size: int) -> Trial:
    """Give images where there is no dataset: eight of random pixels, the same each time."""
    shape = (_NOISE_IMAGES, size, size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Trial(f"{_NOISE_IMAGES} images of random pixels", images)


def relative_difference(found: Answer, expected: Answer, logits: float | None = None) -> float:
    """Give the largest difference of two answers' outputs; NaN where one of them is.

    Cells of maps and features reach hundreds on images of noise, where float32 itself is coarser
    than `TOLERANCE`. So each output is in units of its largest value, at least 1.

    Args:
        found: to be judged.
        expected: of the same images.
        logits: unit of the logits; their largest where None.
    """
    units = [max(1.0, float(np.abs(of).max())) for of in expected]
    if logits is not None:
        units[0] = logits
    outputs = zip(found, expected, units, strict=True)
    return float(np.max([np.abs(ours - theirs).max() / unit for ours, theirs, unit in outputs]))


def measure(
    engine: Engine,
    reference: Engine,
    trial: Trial,
    calibration: Calibration,
    scale: HeatScale,
    batch_size: int = 8,
    advance: Callable[[int], object] = lambda _: None,
) -> Parity:
    """Compare an engine with one in float32 on the same images.

    Args:
        engine: to be measured.
        reference: computes in float32.
        trial: the images.
        calibration: from logits to probabilities.
        scale: from class maps to heatmaps.
        batch_size: images at a time.
        advance: called with the number of images of each batch.
    """
    logits, expected, farthest, largest = [], [], np.zeros(4), 1.0
    pairs = zip(*(run_all(of, trial.images, batch_size) for of in (engine, reference)), strict=True)
    for ours, theirs in pairs:
        logits.append(ours.logits)
        expected.append(theirs.logits)
        farthest = np.maximum(farthest, _differences(ours, theirs, scale))  # keeps NaN
        largest = max(largest, float(np.abs(theirs.features).max()))
        advance(len(ours.logits))
    with np.errstate(invalid="ignore"):  # a graph that gives NaN is refused below, not here
        probabilities, wanted = (
            calibration.apply(np.concatenate(of).astype(np.float64)) for of in (logits, expected)
        )
    changes = mean = None
    if trial.labels is not None:
        rows = slice(len(trial.labels))
        patients = _numbers(trial, len(trial.labels))
        scores = probabilities[rows], wanted[rows]
        findings = list(calibration.calibrators)
        changes = auroc_changes(*scores, trial.labels, patients, findings)
        mean = _mean_change(*scores, trial.labels, patients)
    return Parity(
        images=len(trial.images),
        measured_on=trial.name,
        measured_with=engine.name,
        probability=float(np.abs(probabilities - wanted).max()),
        log_odds=float(np.abs(log_odds(probabilities) - log_odds(wanted)).max()),
        map=float(farthest[0]),
        heat=float(farthest[1]),
        peak=float(farthest[2]),
        features=float(farthest[3]) / largest,
        auroc=changes,
        mean_auroc=mean,
    )


def _differences(ours: Answer, theirs: Answer, scale: HeatScale) -> npt.NDArray[np.float64]:
    """Give the largest differences of two answers, float64 [4], NaN included.

    Of maps, of heatmaps, of their heat at the peaks of both, and of features.
    """
    heat, wanted = (scale.evidence(of.maps) for of in (ours, theirs))
    cells, places = (of.reshape(*of.shape[:2], -1) for of in (wanted, heat))
    there = np.take_along_axis(cells, places.argmax(axis=2)[..., None], axis=2)[..., 0]
    with np.errstate(invalid="ignore"):
        found = (
            ours.maps - theirs.maps,
            heat - wanted,
            cells.max(axis=2) - there,
            ours.features - theirs.features,
        )
        return np.array([np.abs(of).max() for of in found], np.float64)


def auroc_changes(
    ours: Values,
    theirs: Values,
    labels: npt.NDArray[np.float32],
    patients: npt.NDArray[np.int64],
    findings: Sequence[str],
) -> dict[str, AurocChange | None]:
    """Give each finding's AUROC by `ours` minus that by `theirs`, None where not defined.

    Args:
        ours: scores, float64 [n, K].
        theirs: likewise.
        labels: float32 [n, K] of 1, 0, NaN.
        patients: int64 [n].
        findings: the K names.

    Returns:
        The intervals hold for all findings together at 95 %.
    """
    tested = [smaller_side(y, patients)[0] >= FEWEST for y in labels.T]
    level = 1 - ALPHA / max(sum(tested), 1)
    changes: dict[str, AurocChange | None] = {}
    for k, finding in enumerate(findings):
        found = difference(labels[:, k], ours[:, k], theirs[:, k], patients)
        low, high = found.interval_at(level) if tested[k] else (None, None)
        undefined = math.isnan(found.value)
        changes[finding] = None if undefined else AurocChange(value=found.value, low=low, high=high)
    return changes


def _mean_change(
    ours: Values, theirs: Values, labels: npt.NDArray[np.float32], patients: npt.NDArray[np.int64]
) -> AurocChange | None:
    found = compare_means(labels.astype(np.float64), theirs, ours, patients)
    if found.difference is None:
        return None
    return AurocChange(value=found.difference, low=found.low, high=found.high)


def _numbers(trial: Trial, count: int) -> npt.NDArray[np.int64]:
    """Number the patients of the labelled images, int64 [count]."""
    if trial.patients is None:
        return np.arange(count)
    return np.unique(trial.patients, return_inverse=True)[1].astype(np.int64)
