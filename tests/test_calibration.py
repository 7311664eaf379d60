"""Calibration of all findings: the family that the data ask for, and what it mends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit

from chestxray.errors import PredictionsError
from chestxray.evaluation import calibration as fits
from chestxray.evaluation.calibration import (
    CLIP,
    Beta,
    Calibration,
    Isotonic,
    Logistic,
    fit_calibration,
    fit_slopes,
)
from chestxray.evaluation.logistic_regression import log_odds
from chestxray.evaluation.metrics import value


def planted(eta, n, seed=0, images=1):
    """Logits [n, 1], labels [n, 1] whose log-odds are eta(logit), patients with some images."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, (n, 1))
    return logit, (rng.random((n, 1)) < expit(eta(logit))).astype(float), np.arange(n) // images


def fitted(logits, labels, patients):
    return fit_calibration(logits, labels, patients, ["Mass"])


def steps(z):
    return np.where(z < -1, -4.0, np.where(z < 1, -0.5, 2.0))


def bent(z):
    return -2.0 * np.logaddexp(0, -z) + 0.2 * np.logaddexp(0, z)


@pytest.mark.parametrize(
    ("family", "eta"),
    [
        ("offset", lambda z: z - 2),
        ("temperature", lambda z: 0.4 * z),
        ("platt", lambda z: 0.4 * z - 2),
        ("beta", bent),
        ("isotonic", steps),
    ],
)
def test_the_family_that_made_the_data_is_found_where_there_is_enough_of_it(family, eta):
    calibration = fitted(*planted(eta, 20_000))
    assert calibration.calibrators["Mass"].family == family
    assert "cross-validation by patient" in calibration.reasons["Mass"]
    assert not calibration.unfitted


@pytest.mark.parametrize("eta", [bent, steps])
def test_little_data_get_a_simple_family_whatever_made_them(eta):
    families = [fitted(*planted(eta, 60, seed)).calibrators["Mass"].family for seed in range(10)]
    simple = sum(family in {"offset", "temperature", "platt"} for family in families)
    assert simple >= 8


@pytest.mark.parametrize("eta", [lambda z: z, lambda z: 0.3 * z, lambda z: 2 * z - 3, bent, steps])
def test_what_is_mended_is_as_good_as_the_truth_on_new_images(eta):
    calibration = fitted(*planted(eta, 20_000))
    logits, labels, _ = planted(eta, 20_000, seed=1)
    y, after = labels[:, 0], calibration.apply(logits)[:, 0]
    best = value("bce", y, expit(eta(logits[:, 0])))
    assert value("bce", y, after) == pytest.approx(best, abs=0.002)
    assert after.mean() == pytest.approx(y.mean(), abs=0.01)


@pytest.mark.parametrize("eta", [lambda z: 0.4 * z - 2, bent])
def test_a_smooth_calibration_leaves_auroc_as_it_was(eta):
    logits, labels, patients = planted(eta, 2000)
    p = fitted(logits, labels, patients).apply(logits)
    assert value("auroc", labels[:, 0], p[:, 0]) == value("auroc", labels[:, 0], logits[:, 0])


def test_isotonic_ties_images_but_turns_no_pair_round():
    logits, labels, patients = planted(steps, 5000)
    calibration = fitted(logits, labels, patients)
    assert calibration.calibrators["Mass"].family == "isotonic"
    p = calibration.apply(np.sort(logits, axis=0))[:, 0]
    assert (np.diff(p) >= 0).all()
    assert len(np.unique(p)) < len(p)


def test_images_of_one_patient_never_stand_on_both_sides_of_a_fold():
    """Twenty copies of a patient's image would make memorising look like calibration."""
    logits, labels, _ = planted(lambda z: 0.5 * z, 100, seed=3)
    logits, labels = np.repeat(logits, 20, axis=0), np.repeat(labels, 20, axis=0)
    by_patient = fitted(logits, labels, np.repeat(np.arange(100), 20))
    by_image = fitted(logits, labels, np.arange(2000))
    assert by_image.calibrators["Mass"].family == "isotonic"
    assert by_patient.calibrators["Mass"].family != "isotonic"


def test_the_order_of_rows_and_the_names_of_patients_change_nothing():
    logits, labels, patients = planted(bent, 600, images=3)
    order = np.random.default_rng(1).permutation(600)
    names = np.array([f"patient {patient:04d}" for patient in patients])
    first = fitted(logits, labels, patients)
    second = fitted(logits[order], labels[order], names[order])
    assert first.reasons == second.reasons
    assert second.apply(logits) == pytest.approx(first.apply(logits), abs=1e-9)


@pytest.mark.parametrize(("label", "side"), [(1.0, "with"), (0.0, "without")])
def test_a_finding_of_few_patients_gets_its_offset_alone_and_says_so(label, side):
    logits, labels, patients = planted(lambda z: 5 * z, 400)
    labels[:] = 1 - label
    few = np.argsort(logits[:, 0])[:8] if label == 0 else np.argsort(-logits[:, 0])[:8]
    labels[few], patients[few] = label, np.repeat([1000, 1001, 1002, 1003], 2)
    calibration = fitted(logits, labels, patients)
    assert calibration.calibrators["Mass"].family == "offset"
    assert (
        f"fewer than 5 patients {side} the finding in validation (4)"
        in calibration.unfitted["Mass"]
    )


def test_logits_that_fall_with_the_label_keep_slope_1_and_say_so():
    logits, labels, patients = planted(lambda z: -z - 1, 2000)
    calibration = fitted(logits, labels, patients)
    assert calibration.calibrators["Mass"].slope == 1
    assert "do not rise" in calibration.unfitted["Mass"]
    p = calibration.apply(logits)[:, 0]
    assert p.mean() == pytest.approx(labels.mean(), abs=1e-3)
    assert value("auroc", labels[:, 0], p) == value("auroc", labels[:, 0], logits[:, 0])


def test_a_one_sided_finding_stays_as_it_is_with_the_reason():
    labels = np.array([[0.0, 1, math.nan], [0, 1, math.nan]])
    findings = ["Mass", "Edema", "Hernia"]
    calibration = fit_calibration(np.ones((2, 3)), labels, np.arange(2), findings)
    same = Logistic(family="offset")
    assert calibration.calibrators == dict.fromkeys(findings, same)
    assert "no positives" in calibration.unfitted["Mass"]
    assert "no negatives" in calibration.unfitted["Edema"]
    assert "no positives and no negatives" in calibration.unfitted["Hernia"]
    slopes = fit_slopes(np.ones((2, 3)), labels, findings)
    assert slopes == dict.fromkeys(findings, 1.0)


def test_unknown_labels_are_left_out():
    logits, labels, patients = planted(bent, 900)
    labels[600:] = math.nan
    known = fitted(logits[:600], labels[:600], patients[:600])
    assert fitted(logits, labels, patients) == known


def test_heat_is_worth_platts_slope_whatever_family_was_chosen():
    logits, labels, _ = planted(steps, 5000)
    (slope,) = fit_slopes(logits, labels, ["Mass"]).values()
    assert slope == fits.platt(logits[:, 0], fits.smoothed(labels[:, 0] > 0.5)).slope
    assert fit_slopes(-logits, labels, ["Mass"]) == {"Mass": 1.0}


def test_every_family_survives_json_to_the_bit():
    logits = np.random.default_rng(0).normal(0, 3, (500, 5))
    of = [fit(*_column(logits[:, 0])) for fit in fits.FAMILIES.values()]
    calibration = Calibration(calibrators=dict(zip("abcde", of, strict=True)), reasons={"a": "so"})
    again = Calibration.model_validate_json(calibration.model_dump_json())
    assert again == calibration
    assert {type(one) for one in of} == {Logistic, Beta, Isotonic}
    assert np.array_equal(again.apply(logits), calibration.apply(logits))


def _column(logit):
    present = np.random.default_rng(1).random(len(logit)) < expit(0.7 * logit - 1)
    return logit, fits.smoothed(present)


def test_log_odds_undo_a_sigmoid_and_stay_finite_at_0_and_1():
    logits = np.linspace(-13, 13, 101)
    assert log_odds(expit(logits), CLIP) == pytest.approx(logits, abs=1e-9)
    assert log_odds(np.array([0.0, 1.0]), CLIP) == pytest.approx(
        [math.log(CLIP), -math.log(CLIP)], abs=1e-5
    )


@pytest.mark.parametrize(
    "fit", [lambda *a: fit_calibration(*a[:2], np.arange(2), a[2]), fit_slopes]
)
def test_logits_that_are_not_finite_are_refused(fit):
    with pytest.raises(PredictionsError, match="finite"):
        fit(np.array([[math.nan], [0.0]]), np.array([[0.0], [1.0]]), ["Mass"])


def test_reasons_for_a_finding_without_a_calibrator_are_refused():
    with pytest.raises(ValidationError, match="Edema"):
        Calibration(calibrators={"Mass": Logistic(family="platt")}, unfitted={"Edema": "why"})


def test_logits_of_another_number_of_findings_are_refused():
    with pytest.raises(PredictionsError, match=r"\[n, 1\]"):
        Calibration(calibrators={"Mass": Logistic(family="platt")}).apply(np.zeros((2, 2)))
