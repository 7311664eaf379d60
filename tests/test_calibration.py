"""Calibration of all findings: the family that the data ask for, and what it mends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit

from chestxray.errors import PredictionsError
from chestxray.evaluation import calibrators as fits
from chestxray.evaluation.calibration import (
    Calibration,
    fit_calibration,
    stated_log_odds,
)
from chestxray.evaluation.calibrators import Beta, Logistic, Spline
from chestxray.evaluation.focal_link import FocalLink
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
        ("spline", steps),
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


@pytest.mark.parametrize(
    ("eta", "within"),
    [
        (lambda z: z, 0.002),
        (lambda z: 0.3 * z, 0.002),
        (lambda z: 2 * z - 3, 0.002),
        (bent, 0.002),
        (steps, 0.02),  # no strictly increasing line follows a jump
    ],
)
def test_what_is_mended_is_as_good_as_the_truth_on_new_images(eta, within):
    calibration = fitted(*planted(eta, 20_000))
    logits, labels, _ = planted(eta, 20_000, seed=1)
    y, after = labels[:, 0], calibration.apply(logits)[:, 0]
    best = value("bce", y, expit(eta(logits[:, 0])))
    assert value("bce", y, after) == pytest.approx(best, abs=within)
    assert after.mean() == pytest.approx(y.mean(), abs=0.01)


def test_images_of_one_patient_never_stand_on_both_sides_of_a_fold():
    """Ten copies of a patient's image would make memorising look like calibration."""
    logits, labels, _ = planted(lambda z: 0.5 * z, 500, seed=3)
    logits, labels = np.repeat(logits, 10, axis=0), np.repeat(labels, 10, axis=0)
    by_patient = fitted(logits, labels, np.repeat(np.arange(500), 10))
    by_image = fitted(logits, labels, np.arange(5000))
    assert by_image.calibrators["Mass"].family == "spline"
    assert by_patient.calibrators["Mass"].family != "spline"
    assert "not tried" not in by_patient.reasons["Mass"]


@pytest.mark.parametrize(
    ("patients", "untried"),
    [(15, "temperature (needs 20), platt (needs 40)"), (50, "beta (needs 60)"), (150, "spline")],
)
def test_a_family_is_tried_only_where_the_patients_with_the_finding_pay_for_it(patients, untried):
    """The truth is a spline; 3,000 patients are without the finding, and images do not count."""
    rng = np.random.default_rng(0)
    x, y = (column[:, 0] for column in planted(steps, 60_000)[:2])
    keep = np.concatenate(
        [np.flatnonzero(y == label)[:n] for label, n in ((1, patients), (0, 3000))]
    ).repeat(3)
    shuffled = rng.permutation(keep)
    calibration = fitted(x[shuffled, None], y[shuffled, None], shuffled)
    allowed = {"offset": 0, "temperature": 20, "platt": 40, "beta": 60, "spline": 200}
    assert allowed[calibration.calibrators["Mass"].family] <= patients
    reason = calibration.reasons["Mass"]
    assert f"not tried with {patients} patients with the finding: " in reason
    assert untried in reason


def overconfident(n, findings, slope, seed):
    """Logits whose log-odds are `slope` times too large, of findings with other offsets."""
    rng = np.random.default_rng(seed)
    eta = rng.normal(np.linspace(-3, -1, findings), 1.2, (n, findings))
    labels = (rng.random(eta.shape) < expit(eta)).astype(float)
    return slope * (eta + 1), labels


def test_one_slope_for_all_findings_mends_an_overconfident_network_that_no_finding_could():
    """114 images: alone, hardly any finding has the patients for a slope of its own."""
    names = [f"finding {k}" for k in range(14)]
    logits, labels = overconfident(114, 14, 2, seed=0)
    together = fit_calibration(logits, labels, np.arange(114), names)
    families = [of.family for of in together.calibrators.values()]
    assert families.count("pooled") >= 12
    assert "shared by 14 findings" in " ".join(together.unfitted.values())
    new, truth = overconfident(20_000, 14, 2, seed=1)
    p = together.apply(new)
    alone = [
        fit_calibration(logits[:, [k]], labels[:, [k]], np.arange(114), ["Mass"]).apply(
            new[:, [k]]
        )[:, 0]
        for k in range(14)
    ]
    slopes = [value("calibration_slope", truth[:, k], p[:, k]) for k in range(14)]
    before = [value("calibration_slope", truth[:, k], alone[k]) for k in range(14)]
    assert np.median(before) == pytest.approx(0.5, abs=0.05)
    assert np.median(slopes) == pytest.approx(1, abs=0.15)


def test_slope_1_stays_where_a_shared_slope_is_not_better_by_a_standard_error():
    names = [f"finding {k}" for k in range(14)]
    shared = 0
    for seed in range(5):
        logits, labels = overconfident(114, 14, 1, seed)
        calibration = fit_calibration(logits, labels, np.arange(114), names)
        shared += any(of.family == "pooled" for of in calibration.calibrators.values())
    assert shared <= 1


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


def test_a_one_sided_finding_gets_the_mean_of_the_rule_of_succession_with_the_reason():
    """One of 2 + 2 images; a finding without labels stays as it is."""
    labels = np.array([[0.0, 1, math.nan], [0, 1, math.nan]])
    findings = ["Mass", "Edema", "Hernia"]
    calibration = fit_calibration(np.ones((2, 3)), labels, np.arange(2), findings)
    assert calibration.calibrators["Hernia"] == Logistic(family="offset")
    assert calibration.apply(np.ones((1, 3)))[0, :2] == pytest.approx([1 / 4, 3 / 4])
    assert "no positives" in calibration.unfitted["Mass"]
    assert "no negatives" in calibration.unfitted["Edema"]
    assert "no positives and no negatives" in calibration.unfitted["Hernia"]


def test_unknown_labels_are_left_out():
    logits, labels, patients = planted(bent, 900)
    labels[600:] = math.nan
    known = fitted(logits[:600], labels[:600], patients[:600])
    assert fitted(logits, labels, patients) == known


def test_every_family_and_the_link_survive_json_to_the_bit():
    logits = np.random.default_rng(0).normal(0, 3, (500, 6))
    ways = [of.fit for of in fits.FAMILIES.values()] + [fits.pooled(0.3)]
    of = [fit(*_column(logits[:, 0])) for fit in ways]
    calibration = Calibration(
        link=FocalLink(gamma=2),
        calibrators=dict(zip("abcdef", of, strict=True)),
        reasons={"a": "so"},
    )
    again = Calibration.model_validate_json(calibration.model_dump_json())
    assert again == calibration
    assert {type(one) for one in of} == {Logistic, Beta, Spline}
    assert np.array_equal(again.apply(logits), calibration.apply(logits))


def _column(logit):
    present = np.random.default_rng(1).random(len(logit)) < expit(0.7 * logit - 1)
    return logit, fits.smoothed(present)


def test_stated_log_odds_undo_a_sigmoid_and_stay_finite_and_apart_at_0_and_1():
    logits = np.linspace(-13, 13, 101)
    assert stated_log_odds(expit(logits)) == pytest.approx(logits, abs=1e-9)
    p = np.array([0.0, 1e-300, 1e-20, 1e-7, 0.5, 1 - 1e-7, 1 - 1e-15, 1.0])
    x = stated_log_odds(p)
    assert (np.diff(x) > 0).all()
    assert x[0] > -21
    assert x[-1] < 18


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(PredictionsError, match="finite"):
        fit_calibration(
            np.array([[math.nan], [0.0]]), np.array([[0.0], [1.0]]), np.arange(2), ["Mass"]
        )


def test_reasons_for_a_finding_without_a_calibrator_are_refused():
    with pytest.raises(ValidationError, match="Edema"):
        Calibration(calibrators={"Mass": Logistic(family="platt")}, unfitted={"Edema": "why"})


def test_logits_of_another_number_of_findings_are_refused():
    with pytest.raises(PredictionsError, match=r"\[n, 1\]"):
        Calibration(calibrators={"Mass": Logistic(family="platt")}).apply(np.zeros((2, 2)))
