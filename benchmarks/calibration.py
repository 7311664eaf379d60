"""Calibration slope on new images, by the size of validation and the loss that was trained.

Fourteen findings with the prevalences of NIH ChestX-ray14 and AUROC of about 0.8; each simulated
model minimises its loss exactly, so that its logits are known functions of the true log-odds:

    cross-entropy       the log-odds, shifted
    focal               gamma 2, class weights of 12: focal's link undone
    focal, balanced     as recipe `baseline`: class weights, and images drawn by their findings
    overconfident       twice the log-odds, as a network that has memorised its training images

For each: the median over findings and repetitions of the calibration slope (ideal 1), and the mean
excess of log loss over that of the true probabilities. `slope 1` fits only an offset to the logits;
`logits` lets calibration choose without the link; `link` is what training does.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from chestxray.evaluation.calibration import Calibration, fit_calibration
from chestxray.evaluation.calibrators import offset, smoothed
from chestxray.evaluation.focal_link import FocalLink
from chestxray.evaluation.logistic_regression import fit_logistic, log_odds

Values = npt.NDArray[np.float64]

PREVALENCES = np.array(
    [0.10, 0.025, 0.12, 0.18, 0.05, 0.056, 0.013, 0.047, 0.042, 0.02, 0.022, 0.015, 0.03, 0.002]
)
FINDINGS = [f"finding {k}" for k in range(14)]
FOCAL = FocalLink(gamma=2)
SIZES = {100: 10, 1_000: 4, 11_000: 2}  # repetitions
NEW_IMAGES = 20_000

_GRID = np.linspace(-15, 15, 30_001)


def drawn(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    """Give the true log-odds of n images, [n, 14], and labels drawn by them."""
    eta = rng.normal(logit(PREVALENCES) - 0.5, 1.2, (n, 14))
    return eta, (rng.random(eta.shape) < expit(eta)).astype(np.float64)


def minimiser(log_odds: Values) -> Values:
    """Give the logits for which focal loss is least: the link, inverted."""
    return np.interp(log_odds, FOCAL.log_odds(_GRID), _GRID)


def balanced(eta: Values) -> Values:
    """Shift log-odds as class weights and drawing each finding equally often do.

    An image is drawn with weight Σ_k y_k / c_k + Π_k (1 - y_k) / c_0. Given the image, labels are
    independent here, so the odds of a finding are multiplied by the ratio of the mean weights with
    and without it. Class weights then multiply them by negatives ÷ positives among those drawn.
    """
    p = expit(eta)
    none = np.prod(1 - p, axis=1, keepdims=True)
    shares = p / p.mean(axis=0)
    others = shares.sum(axis=1, keepdims=True) - shares
    without = others + none / (1 - p) / none.mean()
    ratio = (1 / p.mean(axis=0) + others) / without
    shifted = expit(eta + np.log(ratio))
    weight = p * (1 / p.mean(axis=0) + others) + (1 - p) * without
    share = (weight * shifted).mean(axis=0) / weight.mean(axis=0)
    return np.asarray(logit(shifted) - logit(share))


MODELS: dict[str, tuple[Callable[[Values], Values], FocalLink]] = {
    "cross-entropy": (lambda eta: eta + 2.5, FocalLink()),
    "focal": (lambda eta: minimiser(eta + np.log(12)), FOCAL),
    "focal, balanced": (lambda eta: minimiser(balanced(eta)), FOCAL),
    "overconfident": (lambda eta: 2 * (eta + 1), FocalLink()),
}


def slope_1(logits: Values, labels: Values) -> Calibration:
    """Fit only an offset to each finding's logits."""
    columns = zip(FINDINGS, logits.T, labels.T, strict=True)
    return Calibration(calibrators={name: offset(x, smoothed(y > 0.5)) for name, x, y in columns})


def chosen(link: FocalLink, logits: Values, labels: Values) -> Calibration:
    """Let calibration choose, every image of its own patient."""
    return fit_calibration(logits, labels, np.arange(len(logits)), FINDINGS, link)


def slope(p: Values, labels: Values) -> float:
    """Give the calibration slope of one finding: 1 is ideal, above 1 is too timid."""
    design = np.stack([log_odds(p), np.ones_like(p)], axis=1)
    return float(fit_logistic(design, np.zeros_like(p), labels)[0])


def log_loss(p: Values, truth: Values) -> float:
    """Give the mean log loss, in expectation over labels drawn by the true probabilities."""
    return float(-np.mean(truth * np.log(p) + (1 - truth) * np.log1p(-p)))


WAYS: dict[str, Callable[[FocalLink, Values, Values], Calibration]] = {
    "slope 1": lambda _, logits, labels: slope_1(logits, labels),
    "logits": lambda _, logits, labels: chosen(FocalLink(), logits, labels),
    "link": chosen,
}


def measured(
    model: str, n: int, repetitions: int, ways: Sequence[str] = tuple(WAYS)
) -> dict[str, tuple[float, float]]:
    """Give median slope and mean excess of log loss on new images, by way of calibration."""
    compress, link = MODELS[model]
    slopes: dict[str, list[float]] = {way: [] for way in ways}
    excess: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        (eta, labels), (new_eta, new_labels) = drawn(n, rng), drawn(NEW_IMAGES, rng)
        logits, new_logits, truth = compress(eta), compress(new_eta), expit(new_eta)
        for way in ways:
            p = WAYS[way](link, logits, labels).apply(new_logits)
            slopes[way] += [slope(of, y) for of, y in zip(p.T, new_labels.T, strict=True)]
            excess[way].append(log_loss(p, truth) - log_loss(truth, truth))
    return {way: (float(np.median(slopes[way])), float(np.mean(excess[way]))) for way in ways}


def main() -> None:
    print(f"{'':17}{'images':>7}{'slope 1':>17}{'logits':>17}{'link':>17}")
    for model in MODELS:
        for n, repetitions in SIZES.items():
            of = measured(model, n, repetitions).values()
            print(f"{model:17}{n:7}", *(f"{s:8.2f} {e:7.4f}" for s, e in of), flush=True)


if __name__ == "__main__":
    main()
