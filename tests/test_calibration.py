"""Platt scaling: planted truths, scikit-learn's own, and what must never happen to a ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from chestxray.errors import PredictionsError
from chestxray.evaluation.calibration import Platt, fit_platt
from chestxray.evaluation.metrics import auroc, cross_entropy


def planted(slope: float, offset: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, size=(n, 1))
    chance = 1 / (1 + np.exp(-(slope * logits + offset)))
    return logits, (rng.random((n, 1)) < chance).astype(float)


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1.0), (1.0, 0.0), (2.0, -3.0)])
def test_a_planted_slope_and_offset_are_found(slope: float, offset: float) -> None:
    fitted = fit_platt(*planted(slope, offset), ["Mass"])
    assert fitted.slope["Mass"] == pytest.approx(slope, rel=0.05)
    assert fitted.offset["Mass"] == pytest.approx(offset, abs=0.1)
    assert not fitted.unfitted


def test_it_is_scikit_learns_sigmoid_calibration() -> None:
    logits, y = planted(0.6, -1.5, n=500)
    model = LogisticRegression().fit(logits, y[:, 0])  # its decision rises with the logit
    decisions = model.decision_function(logits)[:, None]
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="sigmoid").fit(logits, y[:, 0])
    ours = fit_platt(decisions, y, ["Mass"]).apply(decisions)
    assert ours[:, 0] == pytest.approx(theirs.predict_proba(logits)[:, 1], abs=1e-4)


def test_calibration_repairs_overconfidence() -> None:
    logits, y = planted(0.3, 0.0)
    raw = 1 / (1 + np.exp(-logits))
    fitted = fit_platt(logits, y, ["Mass"]).apply(logits)
    assert cross_entropy(y[:, 0], fitted[:, 0]) < cross_entropy(y[:, 0], raw[:, 0])
    assert fitted.mean() == pytest.approx(y.mean(), abs=1e-3)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.integers(-80, 80).map(lambda k: k / 4)),
        min_size=2,
        max_size=30,
    )
)
def test_the_ranking_is_never_changed(rows: list[tuple[float, float]]) -> None:
    y, logits = (np.array(column)[:, None] for column in zip(*rows, strict=True))
    fitted = fit_platt(logits, y, ["Mass"])
    assert fitted.slope["Mass"] > 0
    p = fitted.apply(logits)
    assert ((p >= 0) & (p <= 1)).all()
    order = np.argsort(logits[:, 0], kind="stable")
    assert (np.diff(p[order, 0]) >= 0).all()


def test_logits_that_fall_with_the_label_keep_slope_1_and_say_so() -> None:
    logits, y = planted(-1.0, -1.0)
    fitted = fit_platt(logits, y, ["Mass"])
    assert fitted.slope["Mass"] == 1
    assert "do not rise" in fitted.unfitted["Mass"]
    assert fitted.apply(logits).mean() == pytest.approx(y.mean(), abs=1e-3)
    assert auroc(y[:, 0], fitted.apply(logits)[:, 0]) == auroc(y[:, 0], logits[:, 0])


@pytest.mark.parametrize("logits", [[1e4, -1e4, 3e4, 5.0], [0.1, 0.1, 0.1, 0.1], [1e3] * 4])
def test_wild_or_constant_logits_are_fitted_without_running_away(logits: list[float]) -> None:
    y = np.array([[0.0], [1], [0], [0]])
    p = fit_platt(np.array(logits)[:, None], y, ["Mass"]).apply(np.array(logits)[:, None])
    # The mean of the smoothed targets 2/3, and 1/5 three times.
    assert p.mean() == pytest.approx((2 / 3 + 3 / 5) / 4, abs=1e-6)


def test_a_one_sided_finding_stays_as_it_is_with_the_reason() -> None:
    labels = np.array([[0.0, 1, math.nan], [0, 1, math.nan]])
    fitted = fit_platt(np.ones((2, 3)), labels, ["Mass", "Edema", "Hernia"])
    assert set(fitted.slope.values()) == {1.0}
    assert set(fitted.offset.values()) == {0.0}
    assert "no positives" in fitted.unfitted["Mass"]
    assert "no negatives" in fitted.unfitted["Edema"]
    assert "no positives" in fitted.unfitted["Hernia"]


def test_probabilities_stay_apart_in_the_far_tail() -> None:
    platt = Platt(slope={"Mass": 1.0}, offset={"Mass": 0.0})
    p = platt.apply(np.array([[-700.0], [-699.0], [-40.0], [800.0], [-5000.0]]))[:, 0]
    assert 0 < p[0] < p[1] < p[2]
    assert p[2] == pytest.approx(math.exp(-40), rel=1e-12)
    assert p[3] == 1
    assert p[4] == 0


def test_it_survives_json() -> None:
    fitted = fit_platt(*planted(0.5, -1.0), ["Mass"])
    assert Platt.model_validate_json(fitted.model_dump_json()) == fitted


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PredictionsError, match="finite"):
        fit_platt(np.array([[math.nan], [0.0]]), np.array([[0.0], [1.0]]), ["Mass"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"slope": {"Mass": 0.0}, "offset": {"Mass": 0.0}},
        {"slope": {"Mass": -1.0}, "offset": {"Mass": 0.0}},
        {"slope": {"Mass": 1.0}, "offset": {"Edema": 0.0}},
        {"slope": {"Mass": math.nan}, "offset": {"Mass": 0.0}},
        {"slope": {"Mass": 1.0}, "offset": {"Mass": 0.0}, "unfitted": {"Edema": "why"}},
    ],
)
def test_a_calibration_that_is_not_one_is_refused(wrong: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValidationError):
        Platt.model_validate(wrong)


def test_logits_of_another_number_of_findings_are_refused() -> None:
    with pytest.raises(PredictionsError, match=r"\[n, 1\]"):
        Platt(slope={"Mass": 1.0}, offset={"Mass": 0.0}).apply(np.zeros((2, 2)))
