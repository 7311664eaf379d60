"""Few finding-free radiographs have any call, in validation and on average elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, ndtri

from chestxray.evaluation.joint_threshold import (
    FEWEST_PATIENTS,
    SHARE,
    finding_free,
    joint_thresholds,
)

K = 14
SHIFTS = np.linspace(0.5, 2.0, K)


def population(rng, images, prevalence=0.12):
    """Correlated findings whose probabilities are calibrated, each patient one image."""
    common = rng.normal(size=(images, 2, 1))
    latent = math.sqrt(0.15) * common[:, 0] + math.sqrt(0.85) * rng.normal(size=(images, K))
    labels = (latent > -ndtri(prevalence)).astype(float)
    noise = math.sqrt(0.3) * common[:, 1] + math.sqrt(0.7) * rng.normal(size=(images, K))
    logits = SHIFTS * (SHIFTS * labels + noise) - SHIFTS**2 / 2 + logit(prevalence)
    return expit(logits), labels, np.arange(images)


ALL = np.ones(K, dtype=np.bool_)


def flagged(probabilities, labels, thresholds):
    free = finding_free(labels, ALL)
    return float((probabilities[free] >= thresholds).any(axis=1).mean())


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_at_most_the_chosen_share_of_finding_free_radiographs_has_a_call(share):
    probabilities, labels, patients = population(np.random.default_rng(0), 400)
    thresholds, _ = joint_thresholds(probabilities, labels, patients, ALL, share)
    free = int(finding_free(labels, ALL).sum())
    most = math.floor(share * (free + 1))
    assert flagged(probabilities, labels, thresholds) == pytest.approx(most / free)


@given(st.integers(0, 10_000), st.sampled_from([4, 8, 64]))
def test_no_lower_level_keeps_to_the_share(seed, steps):
    """Against trying every level, with ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((60, 3)) < 0.3).astype(float)
    probabilities = np.clip(np.round(rng.random((60, 3)) * steps) / steps, 0.01, 0.99)
    every = np.ones(3, dtype=np.bool_)
    thresholds, why = joint_thresholds(probabilities, labels, np.arange(60), every)
    free = finding_free(labels, every)
    highest = (logit(probabilities) - logit(labels.mean(axis=0)))[free].max(axis=1)
    most = math.floor(SHARE * (free.sum() + 1))
    serving = [level for level in np.unique(highest) if (highest >= level).sum() <= most]
    if free.sum() < FEWEST_PATIENTS or not serving:
        assert thresholds is None
        assert why
        return
    wanted = (highest >= serving[0]).sum()
    assert (probabilities[free] >= thresholds).any(axis=1).sum() == wanted


def test_every_finding_is_called_from_the_same_likelihood_ratio():
    probabilities, labels, patients = population(np.random.default_rng(1), 600)
    thresholds, _ = joint_thresholds(probabilities, labels, patients, ALL)
    ratios = logit(thresholds) - logit(labels.mean(axis=0))
    assert ratios == pytest.approx(np.full(K, ratios[0]), abs=1e-9)


def test_what_is_not_assessed_has_no_threshold_and_moves_no_other():
    probabilities, labels, patients = population(np.random.default_rng(2), 400)
    assessed = ALL.copy()
    assessed[3] = False
    thresholds, _ = joint_thresholds(probabilities, labels, patients, assessed)
    probabilities[:, 3] = 0.999
    again, _ = joint_thresholds(probabilities, labels, patients, assessed)
    assert np.isnan(thresholds[3])
    np.testing.assert_array_equal(thresholds, again)


def test_a_radiograph_with_an_unknown_label_is_not_finding_free():
    labels = np.array([[0.0, 0], [0, np.nan], [np.nan, 0], [1, 0], [0, 1]])
    every = np.ones(2, dtype=np.bool_)
    assert finding_free(labels, every).tolist() == [True, False, False, False, False]
    assert finding_free(labels, np.array([True, False])).tolist() == [1, 1, 0, 0, 0]
    assert not finding_free(labels, np.zeros(2, dtype=np.bool_)).any()


def test_too_few_finding_free_patients_give_no_level_but_a_reason():
    probabilities, labels, _ = population(np.random.default_rng(3), 200)
    one, why = joint_thresholds(probabilities, labels, np.zeros(200), ALL)
    assert one is None
    assert why == ("validation has finding-free radiographs of 1 patient, at least 5 are needed")


@pytest.mark.parametrize("images", [100, 400])
def test_on_other_radiographs_the_share_is_kept_on_average(images):
    """The level is one order statistic, so it is not biased towards too many calls."""
    rng = np.random.default_rng(images)
    shares = []
    for _ in range(150):
        thresholds, why = joint_thresholds(*population(rng, images), ALL)
        assert not why
        shares.append(flagged(*population(rng, 400)[:2], thresholds))
    assert np.mean(shares) <= SHARE + 2 * np.std(shares) / math.sqrt(150)
    assert np.mean(shares) > 0.2
