"""Does a model see the cause? What one finding, drawn into a radiograph, changes in its answer.

A pair is the same radiograph of the same patient without and with one finding, so that every
difference between the two answers is the finding's effect (Pearl, Causality, 2009, section 3.2).
Measured for each pair:

    logit, probability   of the finding: with − without
    hit, IoU             of the change of its class map, with − without, and of the controls of
                         `mask_scores`; the mean of this change over the map is the logit's change
    crosstalk            the change of every other finding's probability

The sanity check of Adebayo et al. (NeurIPS 2018, arXiv 1810.03292) asks the same of models whose
weights were drawn at random, in the head alone and in more and more layers below it. Their maps
must not resemble the model's (Spearman's rank correlation over the cells of a map; a map has fewer
cells than the window of the structural similarity index), and their scores must fall to the level
of maps that know nothing of the finding. All K maps of such a model know equally little, so its
score is their average. It stays above that of a random position: any convolution answers most where
the pixels changed, whatever its weights are. So only what the model scores beyond it was learnt.

Patients are resampled for the intervals; the 14 pairs of one patient stay together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata

from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Draws,
    Interval,
    Values,
    exact_share,
)
from chestxray.evaluation.mask_scores import SCORES, MaskScores, mask_scores
from chestxray.evaluation.result_details import ResampleSettings
from chestxray.findings import Findings

_ONE: Final = "only 1 patient: the variation between patients is unknown"
_NO_MASK: Final = "no mask, no other patient or no other finding to compare with"


@dataclass(frozen=True)
class PairedAnswers:
    """What a model says of n pairs; K findings, maps of h × w cells, masks of H × W pixels.

    Attributes:
        findings: K names.
        patients: int [n], whose pair it is.
        drawn: int [n], the position of the finding that was drawn.
        masks: bool [n, H, W], where; all False where it cannot be seen.
        logits: float [n, 2, K], without and with the finding.
        probabilities: [n, 2, K] in [0, 1], calibrated.
        change: float [n, K, h, w], class maps with − without, in logits.
        maps: float [n, h, w], the class map of the drawn finding with it.
    """

    findings: Findings
    patients: npt.NDArray[np.int64]
    drawn: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]
    logits: npt.NDArray[np.floating]
    probabilities: npt.NDArray[np.floating]
    change: npt.NDArray[np.floating]
    maps: npt.NDArray[np.floating]

    def __post_init__(self) -> None:
        n, k = len(self.patients), len(self.findings)
        shapes = {
            "drawn": (n,), "masks": (n, *self.masks.shape[1:]), "logits": (n, 2, k),
            "probabilities": (n, 2, k), "change": (n, k, *self.maps.shape[1:]),
            "maps": (n, *self.maps.shape[1:]),
        }  # fmt: skip
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise PredictionsError(f"{name} of pairs must have the shape {shape}, not {found}")
        if not n:
            raise PredictionsError("no pair to evaluate: draw at least one")

    def moved(self, values: npt.NDArray[np.floating]) -> Values:
        """Give the change [n] of the drawn finding's values, float [n, 2, K]."""
        rows = np.arange(len(self.drawn))
        return np.asarray(values[rows, 1, self.drawn] - values[rows, 0, self.drawn], np.float64)


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Score(_Result):
    """A score of the map's change on the mask, and of its controls (see `mask_scores`).

    Attributes:
        value: mean over the pairs, 0 to 1.
        ideal: of the mask itself at the map's resolution.
        random, shuffled, other_maps: of the controls.
        over_random, over_shuffled, over_other_maps: value − control, pair by pair.
    """

    value: Interval
    ideal: Interval
    random: Interval
    shuffled: Interval
    other_maps: Interval
    over_random: Interval
    over_shuffled: Interval
    over_other_maps: Interval


class Effect(_Result):
    """What drawing a finding changes, averaged over pairs.

    Attributes:
        pairs: their number.
        masked: those whose mask is not empty, of which hit and IoU are.
        logit: change of the finding's logit.
        probability: change of its calibrated probability.
        rises: share of the pairs in which the logit rises.
        hit: pointing game of the map's change.
        iou: overlap of the map's change.
    """

    pairs: int
    masked: int
    logit: Interval
    probability: Interval
    rises: Interval
    hit: Score
    iou: Score


class FindingEffect(Effect):
    """The effect of one finding.

    Attributes:
        crosstalk: change of each finding's probability, its own too.
        most_moved: the other finding whose probability changes most; None without others.
        own_first: whether no other finding's probability changes more than its own.
    """

    crosstalk: dict[str, Interval]
    most_moved: str | None
    own_first: bool


class RandomizedScore(_Result):
    """A score of models with random weights.

    Attributes:
        value: mean over the pairs, the models and the maps of all their findings.
        random, shuffled: of the controls.
        lost: score of the trained model − value, pair by pair.
    """

    value: Interval
    random: Interval
    shuffled: Interval
    lost: Interval


class RandomizedEffect(_Result):
    """The same pairs, read with weights drawn at random.

    Attributes:
        layers: which were drawn, in words.
        models: how many were drawn and averaged.
        similarity: Spearman's rank correlation of their class maps with the model's, −1 to 1.
        hit, iou: as in `Effect`.
    """

    layers: str
    models: int
    similarity: Interval
    hit: RandomizedScore
    iou: RandomizedScore


class CausalEffects(_Result):
    """What pairs show of a model.

    Attributes:
        patients: how many; each gives one pair a finding.
        intervals: how they were made.
        findings: the effect of drawing each.
        all: mean over all pairs.
        randomized: of models with random weights, from the head to all layers.
    """

    patients: int
    intervals: ResampleSettings
    findings: dict[str, FindingEffect]
    all: Effect
    randomized: list[RandomizedEffect]


def causal_effects(
    answers: PairedAnswers,
    randomized: Mapping[str, Sequence[PairedAnswers]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> CausalEffects:
    """Measure what drawing a finding changes.

    Args:
        answers: of the model.
        randomized: words for the layers drawn at random → answers of such models to the same pairs.
        resamples: of the intervals.
        seed: of the resamples.
    """
    means = _Means(answers.patients, resamples, seed)
    placed = mask_scores(answers.change, answers.drawn, answers.masks, answers.patients)
    names = [answers.findings[k] for k in np.unique(answers.drawn)]
    return CausalEffects(
        patients=len(np.unique(answers.patients)),
        intervals=ResampleSettings(level=LEVEL, resamples=resamples, seed=seed),
        findings={name: _of_finding(answers, placed, means, name) for name in names},
        all=_effect(answers, placed, means, np.ones(len(answers.drawn), bool)),
        randomized=[
            _of_randomized(words, answers, placed, models, means)
            for words, models in (randomized or {}).items()
        ],
    )


@dataclass(frozen=True)
class _Means:
    """Means over pairs with intervals over patients."""

    patients: npt.NDArray[np.int64]
    resamples: int
    seed: int

    def of(
        self, values: Values, rows: npt.NDArray[np.bool_], share: bool = False
    ) -> list[Interval]:
        """Average columns.

        Args:
            values: float [n, c]; rows with NaN in every column are left out.
            rows: bool [n], the pairs to average.
            share: the columns are 0 or 1, so that one with equal values has an exact interval.
        """
        kept = rows & ~np.isnan(values).all(axis=1)
        if not kept.any():
            return [Interval(value=None, reason=_NO_MASK)] * values.shape[1]
        columns, patients = values[kept], self.patients[kept]
        many = len(np.unique(patients))
        if many == 1:
            means = columns.mean(axis=0)
            return [Interval(value=of, reason=_NO_MASK if np.isnan(of) else _ONE) for of in means]
        draws = Draws.of(patients, self.resamples, self.seed)
        means = draws.apply(lambda w: (w @ columns) / w.sum(axis=1, keepdims=True))
        return [
            exact_share(of[0], many) if share and of[0] in {0, 1} else draws.interval(of, _NO_MASK)
            for of in means.T
        ]


def _effect(
    answers: PairedAnswers, placed: MaskScores, means: _Means, rows: npt.NDArray[np.bool_]
) -> Effect:
    logit = answers.moved(answers.logits)
    moved = np.stack([logit, answers.moved(answers.probabilities)], axis=1)
    changes = means.of(moved, rows)
    (rises,) = means.of((logit > 0).astype(np.float64)[:, None], rows, share=True)
    return Effect(
        pairs=int(rows.sum()),
        masked=int((rows & answers.masks.any(axis=(1, 2))).sum()),
        logit=changes[0],
        probability=changes[1],
        rises=rises,
        **_scores(placed, means, rows),
    )


def _scores(placed: MaskScores, means: _Means, rows: npt.NDArray[np.bool_]) -> dict[str, Score]:
    """Give hit and IoU, with their controls and the differences to them."""
    found = {}
    for column, name in enumerate(SCORES):
        of = {control: scores[:, column] for control, scores in vars(placed).items()}
        value = of.pop("value")
        over = {f"over_{control}": value - of[control] for control in of if control != "ideal"}
        (own,) = means.of(value[:, None], rows, share=name == "hit")
        beside = {**of, **over}
        rest = means.of(np.stack(list(beside.values()), axis=1), rows)
        found[name] = Score(value=own, **dict(zip(beside, rest, strict=True)))
    return found


def _of_finding(
    answers: PairedAnswers, placed: MaskScores, means: _Means, name: str
) -> FindingEffect:
    k = answers.findings.index(name)
    rows = answers.drawn == k
    change = (answers.probabilities[:, 1] - answers.probabilities[:, 0]).astype(np.float64)
    moved = dict(zip(answers.findings, means.of(change, rows), strict=True))
    size = {each: abs(moved[each].value or 0.0) for each in moved}
    own = size.pop(name)
    return FindingEffect(
        **vars(_effect(answers, placed, means, rows)),
        crosstalk=moved,
        most_moved=max(size, key=lambda other: size[other], default=None),
        own_first=own >= max(size.values(), default=0.0),
    )


def _of_randomized(
    words: str,
    answers: PairedAnswers,
    trained: MaskScores,
    models: Sequence[PairedAnswers],
    means: _Means,
) -> RandomizedEffect:
    """Average each pair over the models first: the intervals are over patients."""
    placed = [mask_scores(m.change, m.drawn, m.masks, m.patients) for m in models]
    value = np.mean([_of_any_map(each, len(answers.findings)) for each in placed], axis=0)
    random = np.mean([each.random for each in placed], axis=0)
    shuffled = np.mean([each.shuffled for each in placed], axis=0)
    alike = np.mean([rank_correlation(answers.maps, model.maps) for model in models], axis=0)
    columns = np.concatenate([value, random, shuffled, trained.value - value], axis=1)
    rows = np.ones(len(columns), bool)
    scores = np.array(means.of(columns, rows), dtype=object).reshape(4, len(SCORES))
    (similarity,) = means.of(alike[:, None], rows)
    fields = tuple(RandomizedScore.model_fields)
    hit, iou = (RandomizedScore(**dict(zip(fields, of, strict=True))) for of in scores.T)
    return RandomizedEffect(
        layers=words, models=len(models), similarity=similarity, hit=hit, iou=iou
    )


def _of_any_map(placed: MaskScores, maps: int) -> Values:
    """Average the scores of a pair's own map and of the maps of all other findings, [n, 2]."""
    if maps == 1:
        return placed.value
    return (placed.value + (maps - 1) * placed.other_maps) / maps


def rank_correlation(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Values:
    """Give Spearman's rank correlation [n] of maps [n, h, w]; 0 where a map is constant."""
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    one, other = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    power = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    both = (one * other).sum(axis=1)
    return np.asarray(np.divide(both, power, out=np.zeros(len(both)), where=power > 0), np.float64)
