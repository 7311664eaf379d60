"""Calibrators: families of strictly increasing functions from log-odds to probability.

Six families, from the simplest to the most flexible, with x the log-odds that the model states:

    offset        sigmoid(x + offset)                              prior shift, Saerens 2002
    pooled        sigmoid(slope × x + offset), one slope for all findings of the model
    temperature   sigmoid(slope × x), slope = 1 / T                Guo 2017, arXiv 1706.04599
    platt         sigmoid(slope × x + offset)                      Platt 1999
    beta          sigmoid(a log q - b log(1 - q) + c), q = sigmoid(x)    Kull 2017
    spline        sigmoid of nine joined straight lines, each with its own slope

All are fitted by maximum likelihood to Platt's smoothed targets (Platt 1999; Lin, Lin and Weng
2007, doi:10.1007/s10994-007-5018-6): with P positives and N negatives, a positive counts as
(P + 1) / (P + 2) and a negative as 1 / (N + 2). This keeps the fit finite where the logits separate
the classes.

**The ranking is kept in floating point too.** No slope of `beta` or `spline` is below a twentieth
of Platt's, so no stretch is flat; isotonic regression is not among the families, since its steps
are. Where Platt's own slope is not above 0 by a margin, there is no fit. Near 1, float64 has no
room: above 36.7 log-odds every probability would be 1. So log-odds beyond `HIGHEST` grow by the
logarithm of the excess, which changes no probability by more than 2e-6, and likewise below
`LOWEST`. Log-odds up to 3,000 that differ as float32 then differ as probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy  # which loads `optimize` when something is fitted: reading fits nothing
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, logit

from chestxray.evaluation.bootstrap import Values
from chestxray.evaluation.logistic_regression import fit_logistic

LOWEST: Final = -600.0
"""Log-odds below which they fall by the logarithm of the excess: p = 1e-261, near float64's end."""
HIGHEST: Final = 12.0
"""Log-odds above which they grow by the logarithm of the excess: p = 1 - 6e-6."""

_PIECES: Final = 9
_LEAST_RISE: Final = 1e-3  # log-odds per standard deviation of the logits
_FLATTEST: Final = 0.05  # of Platt's slope
_LARGEST: Final = 1e9  # of a parameter: its products with log-odds stay finite

_Positive = Annotated[float, Field(gt=0, le=_LARGEST)]
_Finite = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]


def probability(log_odds: Values) -> Values:
    """Turn log-odds, float64 of any shape, into probabilities that keep their ranking.

    The logistic function between `LOWEST` and `HIGHEST`, precise in the far lower tail.
    """
    bounded = with_log_tails(log_odds, LOWEST, HIGHEST)
    return np.asarray(np.exp(-np.logaddexp(0.0, -bounded)))


def with_log_tails(x: Values, low: float, high: float) -> Values:
    """Let x beyond `low` and `high` grow by the logarithm of its excess; strictly increasing."""
    inner = np.clip(x, low, high)
    excess = x - inner
    return np.asarray(inner + np.sign(excess) * np.log1p(np.abs(excess)))


class _Rising(BaseModel):
    """A strictly increasing function from log-odds to probability."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    def corrected(self, log_odds: Values) -> Values:
        """Correct log-odds, float64 [n]."""
        raise NotImplementedError

    def apply(self, log_odds: Values) -> Values:
        """Turn log-odds, float64 [n], into probabilities, float64 [n]."""
        return probability(self.corrected(log_odds))


class Logistic(_Rising):
    """A straight line in log-odds; `offset` fixes the slope at 1, `temperature` the offset at 0."""

    family: Literal["offset", "pooled", "temperature", "platt"]
    slope: _Positive = 1.0
    offset: _Finite = 0.0

    @model_validator(mode="after")
    def _is_of_its_family(self) -> Self:
        if self.family == "offset" and self.slope != 1:
            raise ValueError(f"family offset has slope 1, not {self.slope}")
        if self.family == "temperature" and self.offset != 0:
            raise ValueError(f"family temperature has offset 0, not {self.offset}")
        return self

    def corrected(self, log_odds: Values) -> Values:
        """Correct log-odds, float64 [n]."""
        return log_odds * self.slope + self.offset


class Beta(_Rising):
    """A line in log-odds whose slope may differ between low and high probabilities.

    Kull, Silva Filho and Flach 2017, AISTATS, "Beta calibration". Both slopes are above 0: one of 0
    would make the far end flat in floating point.
    """

    family: Literal["beta"] = "beta"
    a: _Positive
    b: _Positive
    c: _Finite

    def corrected(self, log_odds: Values) -> Values:
        """Correct log-odds, float64 [n]."""
        low, high = beta_features(log_odds)
        return self.a * low + self.b * high + self.c


class Spline(_Rising):
    """Joined straight lines in log-odds; the outermost go on beyond the outermost knots.

    Attributes:
        knots: log-odds at which the slope changes, rising.
        slopes: before the first knot, between neighbours, and after the last.
        level: calibrated log-odds at the first knot.
    """

    family: Literal["spline"] = "spline"
    knots: list[_Finite] = Field(min_length=1)
    slopes: list[_Positive]
    level: _Finite

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.slopes) != len(self.knots) + 1:
            raise ValueError("slopes must be one more than knots")
        if (np.diff(self.knots) <= 0).any():
            raise ValueError("knots must rise")
        return self

    def corrected(self, log_odds: Values) -> Values:
        """Correct log-odds, float64 [n]."""
        pieces = zip(self.slopes, _pieces(log_odds, np.array(self.knots)), strict=True)
        return sum((s * piece for s, piece in pieces), np.full(len(log_odds), self.level))


Calibrator = Annotated[Logistic | Beta | Spline, Field(discriminator="family")]

Fit = Callable[[Values, Values], Logistic | Beta | Spline | None]
"""Fits log-odds, float64 [n], to targets, float64 [n]; None where no fit would rise."""


@dataclass(frozen=True)
class Family:
    """A family of calibrators: its fit, and the number of parameters that it fits."""

    fit: Fit
    parameters: int


def beta_features(log_odds: Values) -> tuple[Values, Values]:
    """Give log q and -log(1 - q) of q = sigmoid(log_odds), whose sum are the log-odds."""
    return -np.logaddexp(0.0, -log_odds), np.logaddexp(0.0, log_odds)


def smoothed(present: npt.NDArray[np.bool_]) -> Values:
    """Give Platt's target of each label, float64 [n] strictly inside (0, 1)."""
    positives = int(present.sum())
    negatives = len(present) - positives
    return np.where(present, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def offset(log_odds: Values, target: Values) -> Logistic:
    """Fit the offset alone, so that the mean probability equals the mean target."""
    return Logistic(family="offset", offset=_level(log_odds, target))


def pooled(slope: float) -> Callable[[Values, Values], Logistic]:
    """Give the fit of the offset alone beside a slope that all findings share."""

    def fit(log_odds: Values, target: Values) -> Logistic:
        return Logistic(family="pooled", slope=slope, offset=_level(slope * log_odds, target))

    return fit


def temperature(log_odds: Values, target: Values) -> Logistic | None:
    """Fit the slope alone; None where probabilities would have to fall as log-odds rise."""
    scale = float(np.abs(log_odds).max())
    if scale == 0:
        return None
    (slope,) = fit_logistic((log_odds / scale)[:, None], np.zeros_like(log_odds), target)
    if slope < _LEAST_RISE:
        return None
    return Logistic(family="temperature", slope=float(slope) / scale)


def platt(log_odds: Values, target: Values) -> Logistic | None:
    """Fit slope and offset; None where the log-odds do not rise with the label."""
    (slope,), level = _regress([log_odds], target)
    if slope * float(log_odds.std()) < _LEAST_RISE:
        return None
    return Logistic(family="platt", slope=slope, offset=level)


def beta(log_odds: Values, target: Values) -> Beta | None:
    """Fit a, b and c; None where the log-odds do not rise with the label."""
    line = platt(log_odds, target)
    if line is None:
        return None
    (a, b), c = _regress(list(beta_features(log_odds)), target, _FLATTEST * line.slope)
    return Beta(a=a, b=b, c=c)


def spline(log_odds: Values, target: Values) -> Spline | None:
    """Fit the slopes of the pieces; None where the log-odds do not rise with the label.

    The knots divide the images into equal parts, where positives and negatives weigh alike.
    """
    line = platt(log_odds, target)
    if line is None:
        return None
    present = target > 0.5
    weights = np.where(present, 1 / max(present.sum(), 1), 1 / max((~present).sum(), 1))
    inside = np.arange(1, _PIECES) / _PIECES
    knots = np.unique(np.quantile(log_odds, inside, weights=weights, method="inverted_cdf"))
    slopes, level = _regress(_pieces(log_odds, knots), target, _FLATTEST * line.slope)
    return Spline(knots=knots.tolist(), slopes=slopes, level=level)


# The offset comes before the temperature since a network trained on balanced classes has its
# prevalence wrong above all. `pooled` takes the place of `offset`; see `calibration`.
FAMILIES: Final[dict[str, Family]] = {
    "offset": Family(offset, 1),
    "temperature": Family(temperature, 1),
    "platt": Family(platt, 2),
    "beta": Family(beta, 3),
    "spline": Family(spline, _PIECES + 1),
}


def pooled_slope(log_odds: Values, target: Values) -> float | None:
    """Fit one slope for all findings, each with its own offset; None where it is not above 0.

    Args:
        log_odds: float64 [n, k].
        target: float64 [n, k] in [0, 1], NaN where unknown; known somewhere in each column.
    """
    known = ~np.isnan(target)
    y = np.where(known, target, 0.0)
    x = np.where(known, log_odds - np.mean(log_odds, axis=0, where=known), 0.0)
    scale = float(np.sqrt(np.square(x).sum() / known.sum()))
    if scale == 0:
        return None
    x /= scale
    count = float(known.sum())

    def loss(theta: Values) -> float:
        eta = theta[0] * x + theta[1:]
        return float((known * (np.logaddexp(0, eta) - y * eta)).sum()) / count

    def gradient(theta: Values) -> Values:
        error = known * (expit(theta[0] * x + theta[1:]) - y)
        return np.append((x * error).sum(), error.sum(axis=0)) / count

    def curvature(theta: Values) -> Values:
        p = expit(theta[0] * x + theta[1:])
        w = known * p * (1 - p)
        found = np.diag(np.append((w * x * x).sum(), w.sum(axis=0)))
        found[0, 1:] = found[1:, 0] = (w * x).sum(axis=0)
        return found / count

    start = np.zeros(1 + x.shape[1])
    best = scipy.optimize.minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-9}
    )
    return float(best.x[0]) / scale if best.x[0] >= _LEAST_RISE else None


def _level(base: Values, target: Values) -> float:
    """Give the level for which the mean of sigmoid(base + level) is the mean target."""
    mean = float(target.mean())
    low, high = logit(mean) - base.max(), logit(mean) - base.min()
    if low == high:
        return float(low)
    return float(
        scipy.optimize.brentq(lambda level: expit(base + level).mean() - mean, low - 1, high + 1)
    )


def _pieces(x: Values, knots: Values) -> list[Values]:
    """Give the parts of x below the first knot, between neighbours, and above the last.

    Each is counted from the knot that bounds it, so that their sum is x less the first knot.
    """
    edges = [-np.inf, *knots, np.inf]
    starts = [knots[0], *knots]
    return [
        np.clip(x, low, high) - start
        for low, high, start in zip(edges[:-1], edges[1:], starts, strict=True)
    ]


def _regress(
    columns: list[Values], target: Values, least: float | None = None
) -> tuple[list[float], float]:
    """Fit sigmoid(slopes · columns + level), slopes no less than `least` where it is given.

    Columns are standardised while fitting, so that their units do not matter. One that is constant
    gets slope 0, or `least`.
    """
    spread = np.array([column.std() if np.ptp(column) > 0 else 0.0 for column in columns])
    middle = np.array([column.mean() for column in columns])
    unit = np.where(spread > 0, spread, 1.0)
    x = (np.stack(columns, axis=1) - middle) / unit * (spread > 0)
    design = np.append(x, np.ones((len(target), 1)), axis=1)
    theta = fit_logistic(design, np.zeros(len(target)), target)
    slopes = np.where(spread > 0, theta[:-1] / unit, 0.0)
    if least is not None and slopes.min() < least:
        theta = _bounded(design, least * unit, target)
        slopes = np.maximum(theta[:-1] / unit, least)
    return slopes.tolist(), float(theta[-1] - slopes @ middle)


def _bounded(design: Values, least: Values, target: Values) -> Values:
    """Fit as `fit_logistic` does, all but the last of θ no less than `least`."""

    def loss(theta: Values) -> float:
        eta = design @ theta
        return float(np.mean(np.logaddexp(0, eta) - target * eta))

    def gradient(theta: Values) -> Values:
        return np.asarray(design.T @ (expit(design @ theta) - target) / len(design))

    found = scipy.optimize.minimize(
        loss,
        np.append(least, 0.0),
        jac=gradient,
        method="L-BFGS-B",
        bounds=[*((float(low), None) for low in least), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000, "maxfun": 20_000},
    )
    return np.asarray(found.x, dtype=np.float64)
