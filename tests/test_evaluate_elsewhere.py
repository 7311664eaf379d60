"""A model at another place: its own thresholds, the calls it stated, its prevalence, its site.

The bundle's network plays no part: predictions are planted, so that the truth is known.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics as oracle

import chestxray
from chestxray.artifacts import sha256
from chestxray.cli import main
from chestxray.errors import BundleError, PredictionsError
from chestxray.evaluation import predictions
from chestxray.evaluation.bundle_thresholds import BundleThresholds
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.metrics import value
from chestxray.evaluation.predictions import Predictions
from chestxray.evaluation.seen_images import list_sha256
from chestxray.findings import Findings
from chestxray.model import model_card

SITE = Findings(["Pleural Effusion", "Mass", "Sclerosis"])
ROWS = 4000


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory) -> Path:
    """The tiny run's bundle, with thresholds and prevalences that are planted."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    folder.mkdir()
    for file in (run / "bundle").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    points = dict.fromkeys(card["findings"], 0.3)
    points["Mass"] = None
    card["operating_points"] = {"joint": points, "youden": dict.fromkeys(points, 0.1)}
    card["thresholds"], card["operating_point"] = points, "joint"
    card["not_assessed"] = {"Mass": "no evidence"}
    card["prevalences"] = dict.fromkeys(card["findings"], 0.05)
    card["calibration"] = {
        "calibrators": {name: {"family": "offset"} for name in card["findings"]},
        "reasons": dict.fromkeys(card["findings"], "planted"),
    }
    (folder / "bundle.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def site(prevalence: float = 0.2, seed: int = 0) -> tuple[Labels, np.ndarray]:
    """Labels of a site, and probabilities that are calibrated where the prevalence is 0.05."""
    rng = np.random.default_rng(seed)
    y = (rng.random((ROWS, len(SITE))) < prevalence).astype(float)
    log_ratio = 1.5 * rng.normal(1.5 * y, 1) - 1.5**2 / 2
    rows = pd.DataFrame(y, columns=list(SITE))
    rows["patient"] = [str(row // 2) for row in range(ROWS)]
    rows["split"] = "unknown"
    rows.index = pd.Index([f"{row}.png" for row in range(ROWS)], name="image")
    return Labels("a site", False, "", SITE, rows, None), expit(log_ratio + np.log(0.05 / 0.95))


def table_of(bundle: Path, p: np.ndarray, model: str | None = None) -> Predictions:
    """A table as `predict` writes it: the bundle's 14 findings, the planted ones filled in."""
    facts = model_card.read(bundle)
    all_p = np.full((len(p), len(facts.card.findings)), 0.02)
    for place, finding in enumerate(SITE):
        theirs = facts.card.findings.place(finding)
        if theirs is not None:
            all_p[:, theirs] = p[:, place]
    table = predictions.table([f"{row}.png" for row in range(len(p))], all_p, facts.card.findings)
    called = ["Effusion" if row[0] >= 0.3 else "" for row in p]
    rows = table.rows.assign(
        called=called, not_assessed="Mass", operating_point="joint", model=model or facts.identity
    )
    return Predictions(table.findings, rows)


def written(bundle: Path, folder: Path, p: np.ndarray) -> Path:
    path: Path = folder / "site.csv"
    table_of(bundle, p).rows.to_csv(path, index=False)
    return path


def test_the_bundles_own_thresholds_are_evaluated_and_said_to_come_from_elsewhere(bundle):
    labels, p = site()
    results = chestxray.evaluate(table_of(bundle, p), labels, bundle=bundle, resamples=0)
    effusion = results.findings["Effusion"]
    y, called = labels.rows["Pleural Effusion"], p[:, 0] >= 0.3
    assert results.thresholds_of == model_card.read(bundle).identity
    assert results.fit_on is None
    assert effusion.threshold.value == 0.3
    assert effusion.recall.value == pytest.approx(oracle.recall_score(y, called), abs=1e-12)
    assert effusion.precision.value == pytest.approx(oracle.precision_score(y, called), abs=1e-12)
    assert results.workload["joint"].validation is None
    assert results.workload["joint"].evaluated.flagged.value is not None


def test_a_finding_that_the_bundle_does_not_assess_has_no_metrics_of_calls(bundle):
    labels, p = site()
    results = chestxray.evaluate(table_of(bundle, p), labels, bundle=bundle, resamples=0)
    mass = results.findings["Mass"]
    assert mass.threshold.value is None
    assert mass.recall.value is None
    assert mass.recall.reason == "no evidence"
    assert mass.auroc.value > 0.8


def test_calls_in_the_table_are_scored_as_they_stand(bundle, tmp_path):
    labels, p = site()
    results = chestxray.evaluate(written(bundle, tmp_path, p), labels, resamples=50)
    stated = results.as_called.findings["Effusion"]
    y, called = labels.rows["Pleural Effusion"], p[:, 0] >= 0.3
    assert stated.recall.value == pytest.approx(oracle.recall_score(y, called), abs=1e-12)
    assert stated.threshold.value is None
    assert results.as_called.findings["Mass"].recall.value is None
    assert results.as_called.workload.calls_per_image.value == pytest.approx(called.mean())


def test_predictions_of_another_model_are_refused(bundle):
    labels, p = site()
    with pytest.raises(PredictionsError, match="made by other-123, the bundle is"):
        chestxray.evaluate(table_of(bundle, p, "other-123"), labels, bundle=bundle, resamples=0)


def test_calls_of_findings_without_a_column_are_refused(bundle, tmp_path):
    _, p = site()
    rows = table_of(bundle, p).rows.assign(called="Effusion|Measles")
    rows.to_csv(tmp_path / "site.csv", index=False)
    with pytest.raises(PredictionsError, match="column called names Measles"):
        predictions.read(tmp_path / "site.csv")


def test_another_prevalence_is_found_and_calibration_restored(bundle):
    labels, p = site(prevalence=0.2)
    results = chestxray.evaluate(table_of(bundle, p), labels, bundle=bundle, resamples=0)
    shown = results.reliability["Effusion"]
    assert shown.prior_shift.fitted == 0.05
    assert shown.prior_shift.here == pytest.approx(shown.prior_shift.observed, abs=0.02)
    assert abs(shown.as_given.intercept.value) > 1
    assert abs(shown.prior_corrected.intercept.value) < 0.15
    assert results.reliability["Mass"].prior_corrected is None  # not ranked, by the bundle


def test_a_known_prevalence_is_used_under_any_name_of_the_finding(bundle):
    labels, p = site()
    given = {"Pleural Effusion": 0.2}
    table = table_of(bundle, p)
    results = chestxray.evaluate(table, labels, bundle=bundle, prevalence=given, resamples=0)
    assert results.reliability["Effusion"].prior_shift.here == 0.2
    assert results.reliability["Effusion"].prior_shift.given
    for wrong in ({"Measles": 0.1}, {"Effusion": 1.2}):
        with pytest.raises(PredictionsError, match="prevalence"):
            chestxray.evaluate(table, labels, bundle=bundle, prevalence=wrong, resamples=0)


def test_a_known_prevalence_without_anything_to_correct_from_is_refused(bundle):
    labels, p = site()
    with pytest.raises(PredictionsError, match="give --bundle or --fit-on"):
        chestxray.evaluate(table_of(bundle, p), labels, prevalence={"Effusion": 0.2}, resamples=0)


def test_labels_that_are_all_unknown_give_no_workload_and_no_warning(bundle):
    labels, p = site()
    labels.rows[list(SITE)] = np.nan
    results = chestxray.evaluate(table_of(bundle, p), labels, bundle=bundle, resamples=0)
    work = results.workload["joint"].evaluated
    assert work.calls_per_image.value > 0
    assert (work.finding_free, work.prevalence, work.recall.value) == (0, None, None)
    assert work.recall.reason == "no finding with a threshold has positives"


def test_one_patient_gives_values_without_intervals_and_no_warning(bundle):
    labels, p = site()
    labels.rows["patient"] = "1"
    results = chestxray.evaluate(table_of(bundle, p), labels, bundle=bundle, resamples=20)
    calls = results.workload["joint"].evaluated.calls_per_image
    assert calls.value > 0
    assert (calls.low, calls.reason[:14]) == (None, "only 1 patient")


def test_validation_of_another_place_is_answered_with_the_option_that_works(bundle):
    labels, p = site()
    elsewhere = table_of(bundle, p)
    rows = elsewhere.rows.assign(**{predictions.IMAGE: [f"v{row}.png" for row in range(ROWS)]})
    with pytest.raises(PredictionsError, match="--bundle instead of --fit-on"):
        chestxray.evaluate(elsewhere, labels, fit_on=Predictions(elsewhere.findings, rows))


def test_the_command_line_says_where_thresholds_calls_and_prevalences_come_from(
    bundle, tmp_path, monkeypatch, capsys
):
    labels, p = site()
    labels.rows.drop(columns="split").reset_index().to_csv(tmp_path / "labels.csv", index=False)
    shared = f"evaluate {written(bundle, tmp_path, p)} --labels {tmp_path / 'labels.csv'} "
    shared += "--columns image=image,patient=patient --resamples 0 "
    said = []
    for options in (f"--bundle {bundle} --prevalence Effusion=0.2", ""):
        monkeypatch.setattr("sys.argv", ["chestxray", *shared.split(), *options.split()])
        with pytest.raises(SystemExit) as end:
            main.main()
        assert end.value.code == 0
        said.append(capsys.readouterr().out)
    with_bundle, alone = said
    identity = model_card.read(bundle).identity
    assert f"thresholds: those of {identity}, chosen on other images" in with_bundle
    assert "calibrated at" in with_bundle
    assert "thresholds: none (give --bundle or --fit-on)" in alone
    assert "as called in the table" in alone


def test_calibrating_for_a_site_restores_calibration_on_other_patients(bundle, tmp_path):
    labels, p = site(seed=1)
    after = chestxray.calibrate(bundle, table_of(bundle, p), labels, tmp_path / "new").card
    fresh, q = site(seed=2)
    place = after.findings.index("Effusion")
    logits = np.full((ROWS, len(after.findings)), -4.0)
    logits[:, place] = np.log(q[:, 0] / (1 - q[:, 0]))
    y = fresh.rows["Pleural Effusion"].to_numpy()
    there = after.calibration.apply(logits)[:, place]
    assert abs(value("calibration_intercept", y, q[:, 0])) > 1
    assert abs(value("calibration_intercept", y, there)) < 0.2
    assert value("calibration_slope", y, there) == pytest.approx(1, abs=0.15)
    assert after.prevalences["Effusion"] == pytest.approx(0.2, abs=0.03)
    site_stage = after.calibration.then
    reasons = site_stage.unfitted | site_stage.reasons
    assert reasons["Hernia"].endswith("in the images of the site: nothing was fitted")
    assert not any("in validation" in reason for reason in reasons.values())


def test_calibrating_for_a_site_keeps_ranking_and_every_call(bundle, tmp_path):
    labels, p = site()
    before = model_card.read(bundle).card
    after = chestxray.calibrate(bundle, table_of(bundle, p), labels, tmp_path / "new").card
    logits = np.random.default_rng(0).normal(-1, 3, (500, len(before.findings)))
    old, new = before.calibration.apply(logits), after.calibration.apply(logits)
    assert (old.argsort(axis=0) == new.argsort(axis=0)).all()
    for name in before.operating_points:
        for place, finding in enumerate(before.findings):
            low, high = (of.operating_points[name][finding] for of in (before, after))
            assert (low is None) == (high is None)
            if low is not None:
                assert ((old[:, place] >= low) == (new[:, place] >= high)).all()


def test_calibrating_leaves_the_bundle_untouched_and_names_the_new_one_anew(bundle, tmp_path):
    labels, p = site()
    hashes = {file.name: sha256(file) for file in bundle.iterdir()}
    new = chestxray.calibrate(bundle, table_of(bundle, p), labels, tmp_path / "new")
    assert {file.name: sha256(file) for file in bundle.iterdir()} == hashes
    assert new.identity != model_card.read(bundle).identity
    assert new.card.recalibrated_on.of == model_card.read(bundle).identity
    assert new.card.weights_sha256 == model_card.read(bundle).card.weights_sha256
    assert BundleThresholds.read(tmp_path / "new").model == new.identity
    with pytest.raises(PredictionsError, match="the predictions were made by"):
        chestxray.calibrate(tmp_path / "new", table_of(bundle, p), labels, tmp_path / "newer")


def test_a_site_without_a_finding_s_positives_leaves_no_prevalence_of_it(bundle, tmp_path):
    """Its offset is fitted to the site, so the bundle's prevalence is no longer contained."""
    labels, p = site()
    before = model_card.read(bundle).card
    labels.rows["Mass"] = 0.0
    after = chestxray.calibrate(bundle, table_of(bundle, p), labels, tmp_path / "new").card
    assert "Mass" in before.prevalences
    assert "Mass" not in after.prevalences
    unlabelled = set(before.findings) - {"Mass", "Effusion"}
    assert {name: after.prevalences[name] for name in unlabelled} == dict.fromkeys(unlabelled, 0.05)


def test_images_that_the_bundle_was_trained_on_do_not_calibrate_it(bundle, tmp_path):
    labels, p = site()
    labels.rows["split"] = "train"
    own = model_card.read(bundle).card.trained_on.split_sha256
    table = table_of(bundle, p)
    with pytest.raises(PredictionsError, match="was trained on these images"):
        chestxray.calibrate(
            bundle, table, replace(labels, split_sha256=own), tmp_path / "new", split="train"
        )
    other = replace(labels, split_sha256="0" * 64)  # the training part of another data set
    chestxray.calibrate(bundle, table, other, tmp_path / "new", split="train")


def test_a_calibrated_bundle_reads_and_can_be_calibrated_again(bundle, tmp_path):
    labels, p = site()
    chestxray.calibrate(bundle, table_of(bundle, p), labels, tmp_path / "new")
    first = model_card.read(tmp_path / "new").card.calibrated_on
    labels = replace(labels, source="Our ward", sources=("ward",))
    chestxray.calibrate(tmp_path / "new", table_of(tmp_path / "new", p), labels, tmp_path / "newer")
    latest, *before = model_card.read(tmp_path / "newer").card.calibrated_on
    assert latest.sources == ("ward",)
    assert latest.training_list_sha256 == list_sha256(labels.rows.index)
    assert tuple(before) == first
    image = np.random.default_rng(0).integers(0, 255, (1, 32, 32)).astype(np.uint8)
    old, new = (
        chestxray.load(folder, engine="torch").read_batch(image)[0]
        for folder in (bundle, tmp_path / "newer")
    )
    effusion = 2
    assert old.shape == new.shape
    assert old[0, effusion] != new[0, effusion]


def test_a_folder_that_is_not_empty_and_labels_without_both_sides_are_refused(bundle, tmp_path):
    labels, p = site()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("kept")
    with pytest.raises(BundleError, match="not empty"):
        chestxray.calibrate(bundle, table_of(bundle, p), labels, tmp_path / "full")
    healthy, q = site(prevalence=0.0)
    with pytest.raises(PredictionsError, match="positives and negatives"):
        chestxray.calibrate(bundle, table_of(bundle, q), healthy, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_report_of_an_evaluation_elsewhere_shows_the_bundles_operating_points(bundle, tmp_path):
    labels, p = site()
    table = table_of(bundle, p)
    chestxray.evaluate(table, labels, bundle=bundle, resamples=20, out=tmp_path / "evaluation")
    page = chestxray.report(tmp_path / "evaluation").read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert f"of {model_card.read(bundle).identity}, chosen on other images" in words
    assert "Confusion matrices" in words
    assert "Calibration before and after correction for another prevalence" in words
    assert "validation 0." not in words
