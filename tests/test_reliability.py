"""Reliability: scikit-learn's curve, no miscalibration where there is none, and mending it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from chestxray.evaluation import curves
from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.curves import NO_VALIDATION, recalibrated
from chestxray.evaluation.metrics import METRICS, value
from chestxray.sources.nih import FINDINGS
from evaluation_parts import dumped, pairs_of

EFFUSION = FINDINGS.index("Effusion")


def planted(n, seed, distort=lambda eta: eta):
    """Pairs of two images a patient whose true log-odds are known, given otherwise."""
    rng = np.random.default_rng(seed)
    eta = rng.normal(-1.5, 1.5, (n, len(FINDINGS)))
    labels = (rng.random(eta.shape) < expit(eta)).astype(float)
    return pairs_of(labels, expit(distort(eta)), np.arange(n) // 2)


def true_probabilities(n, seed):
    """The probabilities that `planted` draws its labels from."""
    return expit(np.random.default_rng(seed).normal(-1.5, 1.5, (n, len(FINDINGS))))


def diagram(y, p, draws):
    return dumped(curves.diagram(y, p, draws))


def reliability(pairs, validation, draws):
    return dumped(curves.reliability(pairs, validation, draws))


def draws_of(pairs, resamples=200):
    return Draws.of(pairs.patients, resamples=resamples)


def chance_error(p, times=300):
    """Calibration errors of labels drawn from the probabilities themselves."""
    rng = np.random.default_rng(7)
    labels = (rng.random((times, len(p))) < p).astype(float)
    return np.array([value("ece", y, p) for y in labels])


def sharpened(eta):
    return 2 * eta + 1


def test_bins_are_scikit_learns_quantile_bins():
    pairs = planted(1000, 0)
    y, p = pairs.labels[:, 0], pairs.probabilities[:, 0]
    bins = diagram(y, p, draws_of(pairs, 20))["bins"]
    observed, mean = calibration_curve(y, p, n_bins=10, strategy="quantile")
    assert [b["images"] for b in bins] == [100] * 10
    assert [b["observed"] for b in bins] == pytest.approx(observed, abs=1e-12)
    assert [b["mean_probability"] for b in bins] == pytest.approx(mean, abs=1e-12)


@pytest.mark.slow
def test_a_calibrated_model_shows_no_error_beyond_chance_and_a_sharpened_one_does():
    for distort, beyond in ((lambda eta: eta, False), (sharpened, True)):
        pairs = planted(4000, 1, distort)
        for k in range(4):
            y, p = pairs.labels[:, k], pairs.probabilities[:, k]
            error = diagram(y, p, draws_of(pairs, 0))["ece"]["value"]
            low, high = np.quantile(chance_error(p), [0.005, 0.995])
            assert (error > high) == beyond
            assert error > low


def test_what_was_sharpened_and_shifted_is_mended_to_the_truth():
    pairs, validation = planted(4000, 1, sharpened), planted(4000, 2, sharpened)
    shown = reliability(pairs, validation, draws_of(pairs))["Effusion"]
    before, after = shown["as_given"], shown["recalibrated"]
    assert shown["method"] == "pooled"  # all findings were sharpened alike
    assert "cross-validation" in shown["reason"]
    assert before["slope"]["value"] == pytest.approx(0.5, abs=0.05)
    assert before["slope"]["high"] < 1
    assert before["intercept"]["high"] < 0
    y, truth = pairs.labels[:, EFFUSION], true_probabilities(4000, 1)[:, EFFUSION]
    best = diagram(y, truth, draws_of(pairs, 0))
    for name, within in (("slope", 0.1), ("intercept", 0.1), ("bce", 0.002), ("brier", 0.001)):
        assert after[name]["value"] == pytest.approx(best[name]["value"], abs=within)
    assert after["ece"]["value"] < np.quantile(chance_error(truth), 0.995) < before["ece"]["value"]


def test_most_bins_of_a_calibrated_model_hold_their_mean_within_their_interval():
    pairs = planted(4000, 3)
    draws = draws_of(pairs)
    held = [
        b["low"] <= b["mean_probability"] <= b["high"]
        for k in range(6)
        for b in diagram(pairs.labels[:, k], pairs.probabilities[:, k], draws)["bins"]
    ]
    assert 0.85 < np.mean(held) <= 1


def test_repeating_the_images_of_every_patient_narrows_no_interval():
    pairs = planted(600, 4)
    y, p = pairs.labels[:, 0], pairs.probabilities[:, 0]
    once = diagram(y, p, draws_of(pairs))
    again = diagram(np.tile(y, 4), np.tile(p, 4), Draws.of(np.tile(pairs.patients, 4), 200))
    for first, second in zip(once["bins"], again["bins"], strict=True):
        for name in ("observed", "low", "high"):
            assert second[name] == pytest.approx(first[name], abs=1e-12)


def test_ties_stay_in_one_bin_and_empty_bins_are_left_out():
    y, p = np.tile([0.0, 0, 0, 1], 50), np.tile([0.1, 0.1, 0.1, 0.8], 50)
    bins = diagram(y, p, Draws.of(np.arange(200), 20))["bins"]
    assert [(b["mean_probability"], b["observed"], b["images"]) for b in bins] == [
        (pytest.approx(0.1), 0.0, 150), (pytest.approx(0.8), 1.0, 50),
    ]  # fmt: skip


def test_a_calibration_error_has_no_interval_and_says_why():
    pairs = planted(400, 8)
    error = diagram(pairs.labels[:, 0], pairs.probabilities[:, 0], draws_of(pairs, 50))["ece"]
    assert (error["low"], error["high"], error["reason"]) == (
        None,
        None,
        METRICS["ece"].no_interval,
    )
    assert error["percentile"]["low"] < error["percentile"]["high"]


def test_a_bin_without_positives_has_the_exact_interval_of_its_patients():
    y, p = np.tile([0.0, 0, 0, 1], 50), np.tile([0.1, 0.1, 0.1, 0.8], 50)
    low, high = diagram(y, p, Draws.of(np.arange(200) // 2, 20))["bins"]
    assert (low["low"], low["high"]) == (0, pytest.approx(binomtest(0, 100).proportion_ci().high))
    assert (high["low"], high["high"]) == (pytest.approx(binomtest(50, 50).proportion_ci().low), 1)


def test_recalibration_never_sees_the_labels_it_is_judged_by():
    pairs, validation = planted(400, 5, sharpened), planted(400, 6, sharpened)
    _, before = recalibrated(pairs, validation)
    pairs = dataclasses.replace(pairs, labels=1 - pairs.labels)
    _, after = recalibrated(pairs, validation)
    assert np.array_equal(before, after)


def test_without_validation_there_is_no_recalibration_and_the_reason_stands():
    pairs = planted(200, 7)
    shown = reliability(pairs, None, draws_of(pairs, 20))
    assert list(shown) == list(FINDINGS)
    for entry in shown.values():
        assert entry["recalibrated"] is None
        assert entry["method"] is None
        assert entry["reason"] == NO_VALIDATION
        assert entry["as_given"]["ece"]["value"] > 0


def test_what_is_one_sided_or_unknown_is_null_with_the_reason_and_strict_json():
    pairs, validation = planted(200, 8), planted(200, 9)
    pairs.labels[:, 0], pairs.labels[:, 1] = 0, np.nan
    validation.labels[:, 2] = 0
    shown = reliability(pairs, validation, draws_of(pairs, 20))
    one_sided, unknown, unfitted = (shown[finding] for finding in FINDINGS[:3])
    assert one_sided["as_given"]["slope"]["value"] is None
    assert one_sided["as_given"]["slope"]["reason"] == "no positives"
    assert {b["observed"] for b in one_sided["as_given"]["bins"]} == {0.0}
    assert unknown["as_given"]["bins"] == []
    assert unknown["as_given"]["ece"]["reason"] == "no positives and no negatives"
    assert unfitted["recalibrated"] is None
    assert "no positives in validation" in unfitted["reason"]
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
