"""Calibration never changes a ranking: AUROC of the probabilities is AUROC of the logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from chestxray.evaluation import calibrators
from chestxray.evaluation.calibration import fit_calibration, stated_log_odds
from chestxray.evaluation.calibrators import FAMILIES, pooled, smoothed
from chestxray.evaluation.curves import recalibrated
from chestxray.evaluation.focal_link import FocalLink
from chestxray.model import bundle
from chestxray.model.torch_engine import batches
from evaluation_parts import pairs_of

FITS = {**{name: of.fit for name, of in FAMILIES.items()}, "pooled": pooled(0.4)}
# Multiples of 2^-17, which float32 holds up to 128: no two differ by less than 8e-6.
NEAR = st.integers(-(2**24), 2**24).map(lambda k: k / 2**17)
FAR = st.integers(-(2**24), 2**24).map(lambda k: k / 2**14)  # up to ±1,024


@settings(max_examples=40, deadline=None)
@given(
    logits=st.lists(st.one_of(NEAR, FAR), min_size=8, max_size=40),
    seed=st.integers(0, 1000),
    gamma=st.sampled_from([0.0, 2.0]),
    family=st.sampled_from(list(FITS)),
)
def test_auroc_and_average_precision_of_probabilities_are_those_of_logits(
    logits, seed, gamma, family
):
    """Fitted on ordinary logits, applied to any, also where sigmoid would round to 1."""
    rng = np.random.default_rng(seed)
    x = FocalLink(gamma=gamma).log_odds(rng.normal(0, 2, 300))
    calibrator = FITS[family](x, smoothed(rng.random(300) < 1 / (1 + np.exp(1 - x))))
    z = np.array(logits)
    p = calibrator.apply(FocalLink(gamma=gamma).log_odds(z))
    present = np.arange(len(z)) % 2 == seed % 2
    assert roc_auc_score(present, p) == pytest.approx(roc_auc_score(present, z), abs=1e-12)
    assert average_precision_score(present, p) == pytest.approx(
        average_precision_score(present, z), abs=1e-12
    )


@pytest.mark.parametrize("family", list(FITS))
@pytest.mark.parametrize("start", [-1000.0, -100.0, -1.0, 1.0, 10.0, 37.0, 100.0, 1000.0])
def test_neighbours_in_float32_are_never_tied(family, start):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, 2000)
    calibrator = FITS[family](x, smoothed(rng.random(2000) < 1 / (1 + np.exp(1 - x))))
    z = [np.float32(start)]
    for _ in range(100):
        z.append(np.nextafter(z[-1], np.float32(np.inf)))
    for gamma in (0.0, 2.0):
        p = calibrator.apply(FocalLink(gamma=gamma).log_odds(np.array(z, dtype=np.float64)))
        assert (np.diff(p) > 0).all()


@pytest.mark.parametrize("n", [60, 114, 5000])
def test_whatever_family_is_chosen_ranks_new_images_as_their_logits_do(n):
    """Steps, on which isotonic regression tied most images."""
    rng = np.random.default_rng(n)
    findings = [f"finding {k}" for k in range(4)]

    def drawn(count):
        logits = rng.normal(-1, 2, (count, 4)).astype(np.float32)
        eta = np.where(logits < -1, -3, np.where(logits < 1, -1, 1.5))
        return logits, (rng.random(logits.shape) < 1 / (1 + np.exp(-eta))).astype(float)

    logits, labels = drawn(n)
    calibration = fit_calibration(logits, labels, np.arange(n), findings)
    logits, labels = drawn(2000)
    p = calibration.apply(logits)
    for k in range(4):
        before = roc_auc_score(labels[:, k], logits[:, k])
        assert roc_auc_score(labels[:, k], p[:, k]) == pytest.approx(before, abs=1e-12)


def test_the_bundle_of_a_run_ranks_as_its_logits_do(run, dataset):
    loaded = bundle.load(run / "bundle")
    logits = np.concatenate([of.logits for of in batches(loaded.classifier, dataset.images)])
    p = loaded.card.calibration.apply(logits)
    labels = dataset.labels(np.arange(len(dataset.images)))
    scored = 0
    for k in range(logits.shape[1]):
        if len(np.unique(labels[:, k])) == 2:
            before = roc_auc_score(labels[:, k], logits[:, k])
            assert roc_auc_score(labels[:, k], p[:, k]) == pytest.approx(before, abs=1e-12)
            scored += 1
    assert scored


def test_recalibration_in_evaluation_ties_no_probabilities_however_small():
    rng = np.random.default_rng(0)
    p = 10.0 ** rng.uniform(-30, 0, (600, 14))
    labels = (rng.random(p.shape) < 0.3 * (p > 1e-10)).astype(float)
    pairs = pairs_of(labels, p, np.arange(600))
    _, after = recalibrated(pairs, pairs)
    for k in range(14):
        assert np.array_equal(np.argsort(p[:, k]), np.argsort(after[:, k]))
        assert len(np.unique(after[:, k])) == len(np.unique(p[:, k]))


def test_log_tails_join_without_a_step_and_rise():
    x = np.linspace(-20, 20, 40_001)
    y = calibrators.with_log_tails(x, -5, 5)
    assert (np.diff(y) > 0).all()
    assert np.abs(np.diff(y)).max() <= 0.001 + 1e-12
    assert np.array_equal(y[np.abs(x) <= 5], x[np.abs(x) <= 5])


def test_stated_log_odds_keep_every_pair_of_probabilities_apart():
    p = np.unique(
        np.concatenate([10.0 ** np.linspace(-307, -0.01, 5000), 1 - 2.0 ** -np.arange(1, 53)])
    )
    assert (np.diff(stated_log_odds(p)) > 0).all()
