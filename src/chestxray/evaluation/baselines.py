"""Is the model better than something simple? Three baselines, scored on the same images.

prevalence      the share of training images with the finding, for every image: no ranking
demographics    logistic regression on view, sex and age, as far as the labels record them
thumbnail       ridge regression on the radiograph shrunk to 16 × 16 pixels (see `ridge`)

Each is fitted on the training images alone and scored on the evaluated ones. The difference to the
model is taken on the same resamples of patients. That of the mean over findings is tested, and its
interval is that of the test (see `significance`). What the first two reach needs no radiograph, and
what the third reaches needs no network: exposure, size and posture differ between patients with and
without a finding. A model that is not better has not been shown to see more than that
(DeGrave 2021, doi:10.1038/s42256-021-00338-7, shows models that did not).

Demographics are standardised and have scikit-learn's default penalty, C = 1. Age also enters
squared. An unknown value counts as a category of its own.

The scores of ridge regression are not probabilities. Logistic regression of the labels on its
held-out training scores turns them into probabilities (Platt 1999), for Brier score and
cross-entropy; the AUROC is that of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from chestxray.dataset.shards import Shards
from chestxray.evaluation.bootstrap import Bounds, Draws, Floats, Interval, Values, average
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Labels, Pairs, about_images
from chestxray.evaluation.logistic_regression import fit_logistic
from chestxray.evaluation.metrics import resampled
from chestxray.evaluation.result_details import Baseline, BaselineFigure, BaselineMean, Baselines
from chestxray.evaluation.ridge import Ridge
from chestxray.evaluation.signed_numbers import signed
from chestxray.evaluation.significance import (
    ALPHA,
    FEWEST,
    Significance,
    degrees_of_mean,
    smaller_side,
)
from chestxray.evaluation.weighted_counts import Column
from chestxray.progress import progress

METRICS: Final = ("auroc", "brier", "bce")
THUMBNAIL: Final = 16  # pixels
TITLES: Final = {
    "prevalence": "Prevalence",
    "demographics": "View and demographics",
    "thumbnail": f"{THUMBNAIL} × {THUMBNAIL} thumbnail",
}
_THAN: Final = {
    "prevalence": "the prevalence alone",
    "demographics": "view and demographics alone",
    "thumbnail": f"a {THUMBNAIL} × {THUMBNAIL} thumbnail",
}
_ABOUT: Final = {
    "prevalence": "Gives every image the share of training images that have the finding.",
    "demographics": "Logistic regression on what is known without the radiograph.",
    "thumbnail": f"Ridge regression on the radiograph shrunk to {THUMBNAIL} × {THUMBNAIL} pixels.",
}
NO_TRAINING: Final = "the labels do not say which images are training images"
_ON_TRAINING: Final = "the evaluated images are training images themselves"
_NO_DEMOGRAPHICS: Final = "view, sex and age are unknown, or the same for all training images"
_NO_IMAGES: Final = (
    "the labels come from a table without images: give the prepared dataset as labels"
)
_CONSTANT: Final = "every image has the same score, which ranks nothing"
_TRAINING_SPLITS: Final = ("train", "train_val")  # `train_val` from official lists of a table
_CHUNK: Final = 1024  # images read at a time

_Scores = Mapping[str, Mapping[str, Values]]  # finding → metric → [1 + R + G]


@dataclass(frozen=True)
class Training:
    """The images that baselines are fitted on.

    Attributes:
        split: that they belong to.
        rows: int64 [n], of the labels.
        labels: float64 [n, K], 1, 0, NaN = unknown, in the order of the evaluated findings.
        patients: int64 [n].
        about: as `Pairs.about`.
    """

    split: str
    rows: npt.NDArray[np.int64]
    labels: Values
    patients: npt.NDArray[np.int64]
    about: pd.DataFrame

    @classmethod
    def of(cls, truth: Labels, pairs: Pairs) -> Training | str:
        """Find the training images, or say why there are none."""
        splits = truth.rows["split"].to_numpy(dtype=object)
        split = next((name for name in _TRAINING_SPLITS if (splits == name).any()), None)
        if split is None:
            return NO_TRAINING
        if truth.rows["split"].loc[pairs.images[0]] == split:
            return _ON_TRAINING
        rows = np.flatnonzero(splits == split)
        there = pairs.findings.common(truth.findings)
        names = [truth.findings[place] for _, place in there]
        table = truth.rows.iloc[rows]
        return cls(
            split=split,
            rows=rows,
            labels=table[names].to_numpy(dtype=np.float64),
            patients=np.unique(table["patient"], return_inverse=True)[1],
            about=about_images(table),
        )


@dataclass(frozen=True)
class Fitted:
    """A baseline's answers on the evaluated images.

    Attributes:
        scores: float64 [m, K], which rank the images; NaN for a finding that was not fitted.
        probabilities: float64 [m, K].
        inputs: what it was given.
    """

    scores: Values
    probabilities: Values
    inputs: tuple[str, ...] = ()


def baselines(truth: Labels, pairs: Pairs, draws: Draws, model: _Scores) -> Baselines:
    """Fit the baselines and compare the model with each.

    Args:
        truth: the labels, with the packed images where they are of a dataset.
        pairs: the evaluated images.
        draws: of their patients.
        model: finding → metric → the model's values in every row of `draws`.
    """
    training = Training.of(truth, pairs)
    if isinstance(training, str):
        return Baselines(
            images=0, patients=0, split=None, of={name: _none(name, training) for name in TITLES}
        )
    fits: dict[str, Callable[[], Fitted | str]] = {
        "prevalence": lambda: prevalence(training.labels, len(pairs.images)),
        "demographics": lambda: demographics(training.labels, training.about, pairs.about),
        "thumbnail": lambda: _of_images(truth, training, pairs),
    }
    found = {}
    for name, fit in fits.items():
        fitted = fit()
        found[name] = (
            _none(name, fitted)
            if isinstance(fitted, str)
            else _compared(name, fitted, training, pairs, draws, model)
        )
    return Baselines(
        images=len(training.rows),
        patients=len(np.unique(training.patients)),
        split=training.split,
        of=found,
    )


def prevalence(labels: Values, images: int) -> Fitted:
    """Give `images` images the share of positives among the known training labels [n, K]."""
    known = np.maximum((~np.isnan(labels)).sum(axis=0), 1)
    share = np.where(_two_sided(labels), (labels == 1).sum(axis=0) / known, np.nan)
    same = np.tile(share, (images, 1))
    return Fitted(same, same)


def demographics(labels: Values, about: pd.DataFrame, evaluated: pd.DataFrame) -> Fitted | str:
    """Fit logistic regression on view, sex and age; say why where none of them is known.

    Args:
        labels: float64 [n, K] of the training images.
        about: of the training images, as `Pairs.about`.
        evaluated: of the evaluated images.
    """
    columns = _design_of(about, evaluated)
    if not columns:
        return _NO_DEMOGRAPHICS
    x, z = (np.column_stack(of) for of in zip(*columns.values(), strict=True))
    p = np.full((len(z), labels.shape[1]), np.nan)
    for k in np.flatnonzero(_two_sided(labels)):
        theta = _logistic(x, labels[:, k])
        p[:, k] = expit(theta[0] + z @ theta[1:])
    inputs = dict.fromkeys(name.partition(" ")[0] for name in columns)
    return Fitted(p, p, tuple(inputs))


def thumbnail(
    labels: Values, patients: npt.NDArray[np.int64], small: Floats, evaluated: Floats
) -> Fitted:
    """Fit ridge regression on thumbnails.

    Args:
        labels: float64 [n, K] of the training images.
        patients: int64 [n].
        small: float [n, d], the training images' pixels.
        evaluated: float [m, d], those of the evaluated images.
    """
    ridge = Ridge.fit(small, labels, patients)
    scores = ridge.scores(evaluated)
    p = np.full_like(scores, np.nan)
    for k in np.flatnonzero(_two_sided(labels)):
        known = ~np.isnan(labels[:, k])
        p[:, k] = _platt(ridge.held_out[known, k], labels[known, k], scores[:, k])
    return Fitted(scores, p)


def thumbnails(images: Shards, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Shrink packed images to `THUMBNAIL` pixels by averaging areas, float32 [n, 256] in 0–255."""
    small = np.empty((len(rows), THUMBNAIL, THUMBNAIL), dtype=np.float32)
    with progress("thumbnails", len(rows)) as advance:
        for start in range(0, len(rows), _CHUNK):
            some = images[rows[start : start + _CHUNK]]
            for place, image in enumerate(some, start):
                small[place] = cv2.resize(
                    image.astype(np.float32),
                    (THUMBNAIL, THUMBNAIL),
                    interpolation=cv2.INTER_AREA,
                )
            advance(len(some))
    return small.reshape(len(rows), -1)


def _of_images(truth: Labels, training: Training, pairs: Pairs) -> Fitted | str:
    if truth.images is None:
        return _NO_IMAGES
    rows = truth.rows.index.get_indexer(pd.Index(pairs.images)).astype(np.int64)
    small = thumbnails(truth.images, np.concatenate([training.rows, rows]))
    of_training, evaluated = np.split(small, [len(training.rows)])
    return thumbnail(training.labels, training.patients, of_training, evaluated)


def _platt(held_out: Values, y: Values, scores: Values) -> Values:
    """Turn scores [m] into probabilities by held-out scores [n] and their labels.

    Held-out scores that do not rise with the label say nothing: the prevalence takes their place.
    """
    middle, spread = held_out.mean(), held_out.std() or 1.0
    level, slope = _logistic((held_out - middle)[:, None] / spread, y)
    if slope <= 0:
        return np.full(len(scores), y.mean())
    return np.asarray(expit(level + slope * (scores - middle) / spread))


def _two_sided(labels: Values) -> npt.NDArray[np.bool_]:
    """Tell which findings have positives and negatives, bool [K]."""
    return np.asarray((labels == 1).any(axis=0) & (labels == 0).any(axis=0))


def _logistic(x: Values, y: Values) -> Values:
    """Fit intercept and coefficients of standardised features to the known labels, C = 1."""
    known = ~np.isnan(y)
    x, y = x[known], y[known]
    penalty = np.append(0.0, np.full(x.shape[1], 1 / len(y)))
    design = np.column_stack([np.ones(len(y)), x])
    return fit_logistic(design, np.zeros(len(y)), y, penalty)


def _design_of(about: pd.DataFrame, evaluated: pd.DataFrame) -> dict[str, tuple[Values, Values]]:
    """Give each column of the design for training and evaluated images, standardised by training.

    A column that is constant in training is left out.
    """
    raw: dict[str, tuple[Values, Values]] = {}
    for name in ("view", "sex"):
        values = (of[name].fillna("").to_numpy(dtype=object) for of in (about, evaluated))
        ours, theirs = values
        for value in sorted(set(ours)):
            raw[f"{name} {value}"] = ((ours == value) * 1.0, (theirs == value) * 1.0)
    ours, theirs = (of["age"].to_numpy(dtype=np.float64) for of in (about, evaluated))
    if not np.isnan(ours).all():
        middle = float(np.nanmean(ours))
        years, others = np.nan_to_num(ours - middle), np.nan_to_num(theirs - middle)
        raw["age in years"] = (years, others)
        raw["age squared"] = (years**2, others**2)
        raw["age unknown"] = (np.isnan(ours) * 1.0, np.isnan(theirs) * 1.0)
    found = {}
    for name, (x, z) in raw.items():
        if x.std() > 0:
            found[name] = ((x - x.mean()) / x.std(), (z - x.mean()) / x.std())
    return found


def _compared(
    name: str, fitted: Fitted, training: Training, pairs: Pairs, draws: Draws, model: _Scores
) -> Baseline:
    """Score a baseline on the evaluated images beside the model."""
    figures: dict[str, dict[str, BaselineFigure]] = {}
    values: dict[str, dict[str, Values]] = {}
    not_fitted = {}
    for k, finding in enumerate(pairs.findings):
        why = one_sided(training.labels[:, k])
        if why:
            not_fitted[finding] = f"{why} in training"
            continue
        values[finding] = of = _measured(fitted, pairs, draws, k)
        missing = one_sided(pairs.labels[:, k])
        figures[finding] = {
            metric: BaselineFigure(
                baseline=_interval(of[metric], draws, missing),
                difference=_difference(model[finding][metric], of[metric], draws, missing),
            )
            for metric in METRICS
        }
    mean = {metric: _mean(metric, values, model, pairs, draws) for metric in METRICS}
    return Baseline(
        title=TITLES[name],
        about=_ABOUT[name],
        inputs=list(fitted.inputs),
        not_fitted=not_fitted,
        findings=figures,
        mean=mean,
        sentence=sentence(name, mean["auroc"]),
    )


def _measured(fitted: Fitted, pairs: Pairs, draws: Draws, k: int) -> dict[str, Values]:
    """Measure a baseline for one finding: metric → float64 [1 + R + G]."""
    y = pairs.labels[:, k]
    ranked = resampled(Column(y, fitted.scores[:, k]), draws, ("auroc",))
    return ranked | resampled(Column(y, fitted.probabilities[:, k]), draws, METRICS[1:])


def _mean(metric: str, values: _Scores, model: _Scores, pairs: Pairs, draws: Draws) -> BaselineMean:
    """Average over the findings for which both the baseline and the model have the metric."""
    both = {
        finding: (model[finding][metric], of[metric])
        for finding, of in values.items()
        if not np.isnan([model[finding][metric][0], of[metric][0]]).any()
    }
    if not both:
        none = Interval(value=None, reason="no finding has this metric for both")
        return BaselineMean(findings=0, model=none, baseline=none, difference=none, p=None)
    ours, theirs = (average(of) for of in zip(*both.values(), strict=True))
    sides = [
        smaller_side(pairs.labels[:, pairs.findings.index(finding)], pairs.patients)[0]
        for finding in both
    ]
    test = _mean_test(list(both.values()), ours, theirs, sides, draws)
    return BaselineMean(
        findings=len(both),
        model=draws.interval(ours),
        baseline=_interval(theirs, draws),
        difference=test.interval,
        p=test.p,
    )


def _mean_test(
    both: list[tuple[Values, Values]],
    ours: Values,
    theirs: Values,
    sides: list[int],
    draws: Draws,
) -> Significance:
    """Test the difference of the means `ours` - `theirs` over patients."""
    if np.array_equal(ours, theirs, equal_nan=True):
        return Significance.of_equals()
    degrees = degrees_of_mean(draws, [a - b for a, b in both], sides)
    most = max(sides)
    patients = most if most < FEWEST else draws.patients
    group = "with, or without, each finding"
    return Significance.of(draws, ours - theirs, patients, degrees=degrees, group=group)


def _interval(values: Values, draws: Draws, missing: str = "") -> Interval:
    found = draws.interval(values, missing)
    if found.value is not None and np.ptp(values[~np.isnan(values)]) == 0:
        return Interval(value=found.value, reason=_CONSTANT)
    return found


def _difference(model: Values, baseline: Values, draws: Draws, missing: str = "") -> Interval:
    """Give model - baseline; for equal scores it is 0, whichever patients are drawn."""
    if not np.isnan(model[0]) and np.array_equal(model, baseline, equal_nan=True):
        return Interval(value=0.0, low=0.0, high=0.0, percentile=Bounds(low=0.0, high=0.0))
    return draws.interval(model - baseline, missing)


def _none(name: str, reason: str) -> Baseline:
    title = TITLES[name]
    return Baseline(
        title=title,
        about=_ABOUT[name],
        reason=reason,
        sentence=f"{title}: not computed, because {reason}.",
    )


def sentence(name: str, mean: BaselineMean) -> str:
    """Say in one sentence whether the model ranks the images better than a baseline."""
    difference, ours, theirs = mean.difference, mean.model.value, mean.baseline.value
    if ours is None or theirs is None or difference.value is None:
        return f"{TITLES[name]}: not compared, because {difference.reason}."
    means = f"{'mean ' * (mean.findings > 1)}AUROC {ours:.3f} against {theirs:.3f}"
    if difference.low is None or difference.high is None:
        return (
            f"It is not known whether the model ranks the images better than {_THAN[name]}: "
            f"{means}, and {difference.reason}."
        )
    means += (
        f", difference {signed(difference.value)} (95 % interval {signed(difference.low)} to "
        f"{signed(difference.high)})"
    )
    if mean.p is None or mean.p >= ALPHA:
        return f"The model was not shown to rank the images better than {_THAN[name]}: {means}."
    verdict = "better" if difference.value > 0 else "worse"
    return f"The model ranks the images {verdict} than {_THAN[name]}: {means}."
