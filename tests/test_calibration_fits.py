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
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from chestxray.evaluation import calibration as fits
from chestxray.evaluation.calibration import (
    Beta,
    Calibrator,
    Isotonic,
    Logistic,
    beta_features,
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


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_isotonic_is_scikit_learns_with_ties_and_between_and_beyond_the_knots(decimals):
    logit, present = planted(lambda z: 0.6 * z - 1.5, 800)
    logit, target = logit.round(decimals), fits.smoothed(present)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(logit, target)
    grid = np.linspace(-20, 20, 4001)
    assert fits.isotonic(logit, target).apply(grid) == pytest.approx(
        theirs.predict(grid), abs=1e-12
    )


@pytest.mark.parametrize(("a", "b", "at_0"), [(2.0, -0.4, "b"), (-0.4, 2.0, "a")])
def test_a_slope_of_beta_that_would_be_negative_is_0_and_the_rest_the_best_there_is(a, b, at_0):
    logit, present = planted(lambda z: _eta(z, a, b, -0.5), 3000)
    target = fits.smoothed(present)
    fitted = fits.beta(logit, target)
    assert getattr(fitted, at_0) == 0
    low, high = beta_features(logit)

    def cost(theta):
        eta = theta[0] * low + theta[1] * high + theta[2]
        return np.mean(np.logaddexp(0, eta) - target * eta)

    best = minimize(cost, [1.0, 1.0, 0.0], bounds=[(0, None), (0, None), (None, None)], tol=1e-12)
    assert loss(logit, target, fitted) <= best.fun + 1e-9


def test_the_offset_gives_the_mean_of_the_targets():
    logit, present = planted(lambda z: 2 * z - 3, 300)
    fitted = fits.offset(logit, fits.smoothed(present))
    assert fitted.slope == 1
    assert fitted.apply(logit).mean() == pytest.approx(fits.smoothed(present).mean(), abs=1e-9)


def test_a_richer_family_never_fits_its_own_data_worse():
    logit, present = planted(lambda z: 0.7 * np.tanh(z) - 1, 400)
    target = fits.smoothed(present)
    losses = [loss(logit, target, fit(logit, target)) for fit in fits.FAMILIES.values()]
    offset, temperature, platt, beta, isotonic = losses
    assert isotonic <= beta + 1e-12 <= platt + 2e-12
    assert platt <= min(offset, temperature) + 1e-12


ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(-80, 80).map(lambda k: k / 4)), min_size=2, max_size=30
)


@settings(max_examples=60)
@given(ROWS, st.sampled_from(list(fits.FAMILIES)))
def test_no_family_turns_a_ranking_round_or_leaves_0_to_1(rows, family):
    present, logit = (np.array(column) for column in zip(*rows, strict=True))
    fitted = fits.FAMILIES[family](logit, fits.smoothed(present))
    rises = np.cov(logit, fits.smoothed(present))[0, 1] > 1e-9
    if family in {"platt", "beta", "isotonic"}:
        assert (fitted is not None) or not rises
    if fitted is None:
        assert family != "offset"
        return
    grid = np.sort(np.concatenate([logit, np.linspace(-30, 30, 61)]))
    p = fitted.apply(grid)
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) >= 0).all()
    assert CALIBRATOR.validate_json(CALIBRATOR.dump_json(fitted)) == fitted


@pytest.mark.parametrize("family", ["offset", "platt", "beta", "isotonic"])
def test_separated_classes_keep_the_loss_finite(family):
    logit = np.array([-3.0, -2, -1, 1, 2, 3])
    fitted = fits.FAMILIES[family](logit, fits.smoothed(logit > 0))
    p = fitted.apply(np.array([-3.0, -1, 0, 1, 3]))
    assert ((p > 0) & (p < 1)).all()
    assert p[0] < p[2] < p[4]


@pytest.mark.parametrize("logit", [[1e4, -1e4, 3e4, 5.0], [0.1] * 4, [1e3] * 4, [-800.0] * 4])
def test_wild_or_constant_logits_are_fitted_without_running_away(logit):
    logit = np.array(logit)
    target = fits.smoothed(np.array([False, True, False, False]))
    fitted = [fit(logit, target) for fit in fits.FAMILIES.values()]
    assert fitted[0] is not None
    for calibrator in fitted:
        if calibrator is not None and calibrator.family != "temperature":
            # The mean of the smoothed targets 2/3, and 1/5 three times.
            assert calibrator.apply(logit).mean() == pytest.approx((2 / 3 + 3 / 5) / 4, abs=1e-6)


@pytest.mark.parametrize("family", ["platt", "beta", "isotonic"])
def test_logits_that_fall_with_the_label_have_no_fit(family):
    logit, present = planted(lambda z: -z, 500)
    assert fits.FAMILIES[family](logit, fits.smoothed(present)) is None


def test_probabilities_stay_apart_in_the_far_tail():
    p = Logistic(family="offset").apply(np.array([-700.0, -699.0, -40.0, 800.0, -5000.0]))
    assert 0 < p[0] < p[1] < p[2]
    assert p[2] == pytest.approx(math.exp(-40), rel=1e-12)
    assert p[3] == 1
    assert p[4] == 0


@pytest.mark.parametrize(
    "same",
    [
        (Beta(a=1, b=1, c=-0.5), Logistic(family="offset", offset=-0.5)),
        (Logistic(family="platt"), Logistic(family="temperature")),
        (
            Isotonic(logit=[-1.0, 1.0], probability=[0.25, 0.75]),
            Isotonic(logit=[-1.0, 0.0, 1.0], probability=[0.25, 0.5, 0.75]),
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
        {"family": "beta", "a": 0.0, "b": 0.0, "c": 1.0},
        {"family": "beta", "a": -1.0, "b": 2.0, "c": 1.0},
        {"family": "beta", "slope": 1.0, "offset": 2.0},
        {"family": "isotonic", "logit": [0.0, 1.0], "probability": [0.5]},
        {"family": "isotonic", "logit": [1.0, 1.0], "probability": [0.2, 0.5]},
        {"family": "isotonic", "logit": [0.0, 1.0], "probability": [0.5, 0.2]},
        {"family": "isotonic", "logit": [0.0, 1.0], "probability": [0.0, 0.5]},
        {"family": "isotonic", "logit": [], "probability": []},
        {"family": "spline"},
    ],
)
def test_a_calibrator_that_is_not_one_is_refused(wrong):
    with pytest.raises(ValidationError):
        CALIBRATOR.validate_python(wrong)
