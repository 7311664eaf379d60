"""Families of calibration: scikit-learn's own fits, planted truths, a ranking that is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from chestxray.evaluation import calibrators as fits
from chestxray.evaluation.calibrators import (
    HIGHEST,
    Beta,
    Calibrator,
    Logistic,
    Spline,
    beta_features,
    probability,
)

CALIBRATOR = TypeAdapter(Calibrator)


def planted(eta, n=20_000, seed=0):
    """Logits, and labels whose log-odds are eta(logit)."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 3, n)
    return logit, rng.random(n) < expit(eta(logit))


def regression(features, target, intercept=True):
    """Fit scikit-learn's unpenalised regression to soft targets, as two weighted rows each."""
    x = np.concatenate([features, features])
    y = np.repeat([1, 0], len(features))
    model = LogisticRegression(
        C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000, fit_intercept=intercept
    )
    return model.fit(x, y, sample_weight=np.concatenate([target, 1 - target]))


def loss(logit, target, calibrator):
    p = calibrator.apply(logit)
    return -np.mean(target * np.log(p) + (1 - target) * np.log1p(-p))


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1.0), (1.0, 0.0), (2.0, -3.0)])
def test_platt_finds_a_planted_slope_and_offset(slope, offset):
    logit, present = planted(lambda z: slope * z + offset)
    fitted = fits.platt(logit, fits.smoothed(present))
    assert fitted.slope == pytest.approx(slope, rel=0.05)
    assert fitted.offset == pytest.approx(offset, abs=0.1)


def test_beta_finds_planted_slopes_and_offset():
    logit, present = planted(lambda z: _eta(z, 1.6, 0.4, -1.0))
    fitted = fits.beta(logit, fits.smoothed(present))
    assert (fitted.a, fitted.b, fitted.c) == pytest.approx((1.6, 0.4, -1.0), abs=0.1)


def _eta(z, a, b, c):
    q = expit(z)
    return a * np.log(q) - b * np.log(1 - q) + c


@pytest.mark.parametrize("n", [60, 2000])
def test_platt_temperature_and_beta_are_scikit_learns_unpenalised_regression(n):
    logit, present = planted(lambda z: 0.6 * z - 1.5, n)
    target = fits.smoothed(present)
    line = regression(logit[:, None], target)
    platt = fits.platt(logit, target)
    assert platt.slope == pytest.approx(line.coef_[0, 0], rel=1e-6)
    assert platt.offset == pytest.approx(line.intercept_[0], rel=1e-6)
    steep = regression(logit[:, None], target, intercept=False)
    assert fits.temperature(logit, target).slope == pytest.approx(steep.coef_[0, 0], rel=1e-6)
    curve = regression(np.stack(beta_features(logit), axis=1), target)
    beta = fits.beta(logit, target)
    assert (curve.coef_ > 0).all()
    assert (beta.a, beta.b) == pytest.approx(tuple(curve.coef_[0]), rel=1e-5)
    assert beta.c == pytest.approx(curve.intercept_[0], rel=1e-5)


def test_platt_is_scikit_learns_sigmoid_calibration():
    logit, present = planted(lambda z: 0.6 * z - 1.5, 500)
    model = LogisticRegression().fit(logit[:, None], present)
    decision = model.decision_function(logit[:, None])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="sigmoid")
    theirs.fit(logit[:, None], present)
    ours = fits.platt(decision, fits.smoothed(present)).apply(decision)
    assert ours == pytest.approx(theirs.predict_proba(logit[:, None])[:, 1], abs=1e-4)


def test_the_spline_finds_a_planted_bend_and_flat():
    def eta(z):
        return np.where(z < 0, -2 + 0.2 * z, -2 + 1.5 * z)

    logit, present = planted(eta, 40_000)
    fitted = fits.spline(logit, fits.smoothed(present))
    grid = np.linspace(-4, 4, 81)
    assert log_odds(fitted.apply(grid)) == pytest.approx(eta(grid), abs=0.35)
    assert np.mean(np.abs(log_odds(fitted.apply(grid)) - eta(grid))) < 0.12


def log_odds(p):
    return np.log(p) - np.log1p(-p)


def flattest(logit, target):
    return 0.05 * fits.platt(logit, target).slope


@pytest.mark.parametrize(("a", "b", "flat"), [(2.0, -0.4, "b"), (-0.4, 2.0, "a")])
def test_a_slope_of_beta_that_would_be_too_flat_is_a_twentieth_of_platts_and_the_rest_the_best(
    a, b, flat
):
    logit, present = planted(lambda z: _eta(z, a, b, -0.5), 3000)
    target = fits.smoothed(present)
    fitted = fits.beta(logit, target)
    floor = flattest(logit, target)
    assert getattr(fitted, flat) == pytest.approx(floor, rel=1e-9)
    low, high = beta_features(logit)

    def cost(theta):
        eta = theta[0] * low + theta[1] * high + theta[2]
        return np.mean(np.logaddexp(0, eta) - target * eta)

    best = minimize(
        cost, [1.0, 1.0, 0.0], bounds=[(floor, None), (floor, None), (None, None)], tol=1e-12
    )
    assert loss(logit, target, fitted) <= best.fun + 1e-9


def test_no_piece_of_a_spline_is_flat_and_the_rest_is_the_best_there_is():
    logit, present = planted(lambda z: np.where(np.abs(z) < 1.5, -1.0, z - 1), 5000)
    target = fits.smoothed(present)
    fitted = fits.spline(logit, target)
    floor = flattest(logit, target)
    assert min(fitted.slopes) == pytest.approx(floor, rel=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        slopes = np.maximum(np.array(fitted.slopes) * rng.normal(1, 0.05, 9), floor)
        other = Spline(
            knots=fitted.knots, slopes=slopes.tolist(), level=fitted.level + rng.normal(0, 0.02)
        )
        assert loss(logit, target, fitted) <= loss(logit, target, other) + 1e-9


def test_one_slope_for_all_findings_is_scikit_learns_regression_with_an_intercept_each():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (700, 3))
    y = (rng.random(x.shape) < expit(0.4 * x + np.array([-2, 0, 1]))).astype(float)
    y[rng.random(x.shape) < 0.2] = np.nan
    known = ~np.isnan(y)
    finding = np.nonzero(known)[1]
    design = np.column_stack([x[known], finding[:, None] == np.arange(3)])
    theirs = regression(design, y[known], intercept=False)
    assert fits.pooled_slope(x, y) == pytest.approx(theirs.coef_[0, 0], rel=1e-6)
    assert fits.pooled_slope(-x, y) is None
    assert fits.pooled_slope(np.ones_like(x), y) is None


def test_the_offset_gives_the_mean_of_the_targets():
    logit, present = planted(lambda z: 2 * z - 3, 300)
    fitted = fits.offset(logit, fits.smoothed(present))
    assert fitted.slope == 1
    assert fitted.apply(logit).mean() == pytest.approx(fits.smoothed(present).mean(), abs=1e-9)


def test_a_richer_family_never_fits_its_own_data_worse():
    logit, present = planted(lambda z: 0.7 * np.tanh(z) - 1, 400)
    target = fits.smoothed(present)
    losses = [loss(logit, target, of.fit(logit, target)) for of in fits.FAMILIES.values()]
    offset, temperature, platt, beta, spline = losses
    assert beta <= platt + 1e-12
    assert spline <= platt + 1e-12
    assert platt <= min(offset, temperature) + 1e-12


ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(-80, 80).map(lambda k: k / 4)), min_size=2, max_size=30
)


@settings(max_examples=60)
@given(ROWS, st.sampled_from(list(fits.FAMILIES)))
def test_every_family_keeps_every_pair_in_its_order_within_0_to_1(rows, family):
    present, logit = (np.array(column) for column in zip(*rows, strict=True))
    fitted = fits.FAMILIES[family].fit(logit, fits.smoothed(present))
    rises = np.cov(logit, fits.smoothed(present))[0, 1] > 0.01 * max(np.var(logit), 1)
    if family in {"platt", "beta", "spline"}:
        assert (fitted is not None) or not rises
    if fitted is None:
        assert family != "offset"
        return
    grid = np.unique(np.concatenate([logit, np.linspace(-30, 30, 61)]))
    p = fitted.apply(grid)
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(p) > 0).all()
    assert CALIBRATOR.validate_json(CALIBRATOR.dump_json(fitted)) == fitted


@pytest.mark.parametrize("family", ["offset", "platt", "beta", "spline"])
def test_separated_classes_keep_the_loss_finite(family):
    logit = np.array([-3.0, -2, -1, 1, 2, 3])
    fitted = fits.FAMILIES[family].fit(logit, fits.smoothed(logit > 0))
    p = fitted.apply(np.array([-3.0, -1, 0, 1, 3]))
    assert ((p > 0) & (p < 1)).all()
    assert p[0] < p[2] < p[4]


@pytest.mark.parametrize("logit", [[1e4, -1e4, 3e4, 5.0], [0.1] * 4, [1e3] * 4, [-800.0] * 4])
def test_wild_or_constant_logits_are_fitted_without_running_away(logit):
    logit = np.array(logit)
    target = fits.smoothed(np.array([False, True, False, False]))
    fitted = [of.fit(logit, target) for of in fits.FAMILIES.values()]
    assert fitted[0] is not None
    for calibrator in fitted:
        if calibrator is not None and calibrator.family != "temperature":
            # The mean of the smoothed targets 2/3, and 1/5 three times.
            assert calibrator.apply(logit).mean() == pytest.approx((2 / 3 + 3 / 5) / 4, abs=1e-6)


@pytest.mark.parametrize("family", ["platt", "beta", "spline"])
def test_logits_that_fall_with_the_label_have_no_fit(family):
    logit, present = planted(lambda z: -z, 500)
    assert fits.FAMILIES[family].fit(logit, fits.smoothed(present)) is None


def test_probabilities_stay_apart_in_both_far_tails():
    x = np.array([-5000.0, -4999, -700, -699, -40, 36.9, 37, 40, 800, 801, 3000])
    p = Logistic(family="offset").apply(x)
    assert (np.diff(p) > 0).all()
    assert p[0] > 0
    assert p[-1] < 1
    assert p[4] == pytest.approx(math.exp(-40), rel=1e-12)


def test_the_tails_change_no_probability_by_more_than_2e_6():
    x = np.linspace(-700, 700, 140_001)
    assert np.abs(probability(x) - expit(x)).max() < 2e-6
    inside = x[(x > -600) & (x <= HIGHEST)]
    assert np.abs(probability(inside) / expit(inside) - 1).max() < 1e-12


@pytest.mark.parametrize(
    "same",
    [
        (Beta(a=1, b=1, c=-0.5), Logistic(family="offset", offset=-0.5)),
        (Logistic(family="platt"), Logistic(family="temperature")),
        (
            Spline(knots=[-1.0, 3.0], slopes=[0.5, 0.5, 0.5], level=0.25),
            Logistic(family="platt", slope=0.5, offset=0.75),
        ),
    ],
)
def test_families_meet_where_they_say_the_same(same):
    grid = np.linspace(-10, 10, 101)
    assert same[0].apply(grid) == pytest.approx(same[1].apply(grid), rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"family": "platt", "slope": 0.0},
        {"family": "platt", "slope": -1.0},
        {"family": "platt", "slope": math.nan},
        {"family": "offset", "slope": 2.0},
        {"family": "temperature", "offset": 1.0},
        {"family": "pooled", "slope": 0.0},
        {"family": "beta", "a": 0.0, "b": 1.0, "c": 1.0},
        {"family": "beta", "a": 1.0, "b": 0.0, "c": 1.0},
        {"family": "beta", "a": -1.0, "b": 2.0, "c": 1.0},
        {"family": "beta", "slope": 1.0, "offset": 2.0},
        {"family": "spline", "knots": [0.0, 1.0], "slopes": [1.0, 1.0], "level": 0.0},
        {"family": "spline", "knots": [0.0], "slopes": [1.0, 0.0], "level": 0.0},
        {"family": "spline", "knots": [1.0, 1.0], "slopes": [1.0, 1.0, 1.0], "level": 0.0},
        {"family": "spline", "knots": [], "slopes": [1.0], "level": 0.0},
        {"family": "isotonic", "logit": [0.0, 1.0], "probability": [0.2, 0.5]},
        {"family": "spline"},
    ],
)
def test_a_calibrator_that_is_not_one_is_refused(wrong):
    with pytest.raises(ValidationError):
        CALIBRATOR.validate_python(wrong)
