"""Simple baselines beside the model: planted truths, and scikit-learn as the oracle."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import log_loss, roc_auc_score

from chestxray.cli.evaluate import _show as show
from chestxray.evaluation import predictions
from chestxray.evaluation.baselines import (
    NO_TRAINING,
    TITLES,
    demographics,
    prevalence,
    sentence,
    thumbnail,
)
from chestxray.evaluation.bootstrap import Interval
from chestxray.evaluation.evaluation import evaluate
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.result_details import BaselineMean
from chestxray.evaluation.results import Results
from chestxray.evaluation.ridge import FOLDS, STRENGTHS, Ridge, folds_of
from chestxray.findings import Findings
from fake_run import page_of, predicted, truth

RNG = np.random.default_rng


def about_of(view: np.ndarray, sex: np.ndarray | str = "", age: np.ndarray | float = np.nan):
    rows = {"age": age, "follow_up": 0.0, "sex": sex, "view": view}
    return pd.DataFrame(rows, index=range(len(view)))


def labels_by_view(seed: int = 0) -> Labels:
    """Labels of which Mass depends on the view alone, and Nodule on nothing."""
    labels = truth(seed=seed, findings=("Mass", "Nodule"))
    rng, rows = RNG(seed), labels.rows.copy()
    chance = np.where(rows["view"] == "AP", 0.5, 0.1)
    rows["Mass"] = (rng.random(len(rows)) < chance).astype(float)
    rows["Nodule"] = (rng.random(len(rows)) < 0.3).astype(float)
    return dataclasses.replace(labels, rows=rows)


class FakeShards:
    """Packed images in memory, indexed as `Shards` are."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __getitem__(self, rows):
        return self.images[rows]


def with_images(labels: Labels, seed: int = 0, shift: float = 0.0, finding: str = "Mass") -> Labels:
    """Noise for images, brighter in the middle by `shift` grey levels where a finding is."""
    rng = RNG(seed)
    images = rng.normal(120, 30, (len(labels.rows), 32, 32))
    images[labels.rows[finding] == 1, 8:24, 8:24] += shift
    return dataclasses.replace(labels, images=FakeShards(images.clip(0, 255).astype(np.uint8)))


def of(labels: Labels, table: pd.DataFrame | None = None, resamples: int = 100) -> Results:
    table = predicted(labels, "test") if table is None else table
    given = predictions.Predictions(labels.findings, table)
    return evaluate(given, labels, resamples=resamples)


def noisy(labels: Labels, seed: int) -> pd.DataFrame:
    """Predictions of a model that ranks Mass about as well as the view does, and Nodule not."""
    table, rng = predicted(labels, "test"), RNG(seed)
    y = labels.rows.loc[table[predictions.IMAGE], "Mass"].to_numpy()
    logit = rng.normal(0.8 * y)
    return table.assign(prob_Mass=1 / (1 + np.exp(-logit)), prob_Nodule=rng.random(len(y)))


def test_demographics_find_labels_that_depend_on_the_view_alone() -> None:
    found = of(labels_by_view()).baselines.of["demographics"]
    assert set(found.inputs) == {"view", "sex", "age"}
    mass, nodule = (found.findings[name]["auroc"].baseline for name in ("Mass", "Nodule"))
    # P(AP | positive) = 0.5 / 0.6, P(AP | negative) = 0.5 / 1.4: 0.5 + half their difference
    assert mass.value == pytest.approx(0.5 + (5 / 6 - 5 / 14) / 2, abs=0.06)
    assert mass.low > 0.6
    assert nodule.low < 0.5 < nodule.high


def test_a_thumbnail_of_noise_is_guessing_and_a_planted_brightness_is_found() -> None:
    labels = labels_by_view()
    noise = of(with_images(labels)).baselines.of["thumbnail"]
    for name in ("Mass", "Nodule"):
        entry = noise.findings[name]["auroc"].baseline
        assert entry.low < 0.5 < entry.high, name
    bright = of(with_images(labels, shift=12.0)).baselines.of["thumbnail"]
    assert bright.findings["Mass"]["auroc"].baseline.value > 0.9
    assert bright.findings["Nodule"]["auroc"].baseline.low < 0.6


def test_prevalence_ranks_nothing_and_has_the_loss_of_the_training_share() -> None:
    labels = labels_by_view()
    result = of(labels)
    found = result.baselines.of["prevalence"]
    rows = labels.rows
    share = rows.loc[rows["split"] == "train", "Mass"].mean()
    y = rows.loc[rows["split"] == "test", "Mass"].to_numpy()
    mass = found.findings["Mass"]
    assert mass["auroc"].baseline.value == 0.5
    assert mass["auroc"].baseline.low is None
    assert mass["brier"].baseline.value == pytest.approx(np.mean((y - share) ** 2), abs=1e-12)
    assert mass["bce"].baseline.value == pytest.approx(
        log_loss(y, np.full(len(y), share)), abs=1e-12
    )
    model = result.findings["Mass"].auroc
    assert mass["auroc"].difference.value == pytest.approx(model.value - 0.5, abs=1e-12)
    assert mass["auroc"].difference.low == pytest.approx(model.low - 0.5, abs=1e-12)


def test_a_model_equal_to_a_baseline_differs_from_it_by_exactly_0() -> None:
    labels = labels_by_view()
    rows = labels.rows
    train, test = (rows[rows["split"] == part] for part in ("train", "test"))
    fitted = demographics(
        train[["Mass", "Nodule"]].to_numpy(),
        train.assign(view=train["view"]),
        test,
    )
    table = predictions.table(list(test.index), fitted.probabilities, labels.findings).rows
    found = of(labels, table).baselines.of["demographics"]
    for metric in ("auroc", "brier", "bce"):
        for entry in (found.findings["Mass"][metric], found.mean[metric]):
            assert (entry.difference.value, entry.difference.low, entry.difference.high) == (
                0,
                0,
                0,
            )
    assert found.mean["auroc"].p is None
    assert "not shown to rank the images better than view" in found.sentence


def test_the_difference_is_paired_so_its_interval_is_narrower_than_unpaired() -> None:
    labels = with_images(labels_by_view(), shift=5.0)
    rows = labels.rows
    test = rows[rows["split"] == "test"]
    images = np.asarray(labels.images.images, dtype=float)[:, 8:24, 8:24].mean(axis=(1, 2))
    p = 1 / (1 + np.exp(-(images - images.mean()) / images.std()))
    both = np.column_stack([p, p])[(rows["split"] == "test").to_numpy()]
    table = predictions.table(list(test.index), both, labels.findings).rows
    entry = of(labels, table, resamples=300).baselines.of["thumbnail"].findings["Mass"]["auroc"]
    spread = entry.difference.high - entry.difference.low
    assert spread < 0.9 * (entry.baseline.high - entry.baseline.low)


def test_a_finding_with_one_label_in_training_has_no_baseline_with_the_reason() -> None:
    labels = labels_by_view()
    rows = labels.rows.copy()
    rows.loc[rows["split"] == "train", "Nodule"] = 0.0
    result = of(with_images(dataclasses.replace(labels, rows=rows)))
    for baseline in result.baselines.of.values():
        assert baseline.not_fitted == {"Nodule": "no positives in training"}
        assert list(baseline.findings) == ["Mass"]
        assert baseline.mean["auroc"].findings == 1


def test_unknown_training_labels_are_left_out_as_if_their_images_were_not_there() -> None:
    rng = RNG(0)
    x, y = rng.normal(size=(200, 5)), (rng.random((200, 2)) < 0.4).astype(float)
    patients = np.arange(200) // 2
    cut = y.copy()
    cut[120:, 1] = np.nan
    whole = Ridge.fit(x, cut, patients)
    assert np.isnan(whole.held_out[120:, 1]).all()
    assert np.isfinite(whole.held_out[:, 0]).all()
    p = prevalence(cut, 3).probabilities
    assert p == pytest.approx(np.tile([y[:, 0].mean(), y[:120, 1].mean()], (3, 1)))
    views = np.where(rng.random(200) < 0.5, "PA", "AP")
    some = demographics(cut, about_of(views), about_of(views[:9])).probabilities
    few = demographics(cut[:120, 1:], about_of(views[:120]), about_of(views[:9])).probabilities
    assert some[:, 1] == pytest.approx(few[:, 0], abs=0.01)


def test_ridge_regression_is_scikit_learns_at_the_chosen_strength() -> None:
    rng = RNG(1)
    x = rng.normal(size=(300, 20)) @ rng.normal(size=(20, 20)) + 5
    y = (x @ rng.normal(size=(20, 3)) + 20 * rng.normal(size=(300, 3)) > 0).astype(float)
    y[250:, 2] = np.nan
    ridge = Ridge.fit(x, y, np.arange(300) // 3)
    for k in range(3):
        known = ~np.isnan(y[:, k])
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        oracle = SklearnRidge(alpha=ridge.strengths[k] * known.sum()).fit(z[known], y[known, k])
        assert ridge.scores(x)[:, k] == pytest.approx(oracle.predict(z), abs=1e-9)


def test_the_strength_is_the_one_with_the_least_error_over_folds_by_patient() -> None:
    rng = RNG(2)
    patients = np.arange(240) // 4
    x = rng.normal(size=(240, 15))
    y = (x[:, 0] + 2 * rng.normal(size=240) > 0).astype(float)[:, None]
    ridge = Ridge.fit(x, y, patients)
    fold = folds_of(patients, FOLDS, 0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    errors, held_out = [], []
    for strength in STRENGTHS:
        out, raw = np.empty(240), np.empty(240)
        for f in range(FOLDS):
            rest = fold != f
            model = SklearnRidge(alpha=strength * rest.sum()).fit(z[rest], y[rest, 0])
            out[~rest] = model.predict(z[~rest]) - y[rest].mean() + y.mean()
            raw[~rest] = model.predict(z[~rest])
        errors.append(np.mean((raw - y[:, 0]) ** 2))
        held_out.append(out)
    best = int(np.argmin(errors))
    assert ridge.strengths[0] == STRENGTHS[best]
    assert ridge.held_out[:, 0] == pytest.approx(held_out[best], abs=1e-9)


def test_folds_keep_patients_together() -> None:
    patients = RNG(3).integers(0, 40, 200).astype(str)
    fold = folds_of(patients, FOLDS, 0)
    assert all(len(set(fold[patients == of])) == 1 for of in set(patients))
    assert set(fold) == set(range(FOLDS))


def test_logistic_regression_on_demographics_is_scikit_learns() -> None:
    rng = RNG(4)
    view = np.where(rng.random(400) < 0.5, "PA", "AP")
    age = rng.uniform(20, 80, 400)
    age[:30] = np.nan
    sex = np.where(rng.random(400) < 0.5, "F", "M")
    y = (rng.random(400) < 0.2 + 0.3 * (view == "AP")).astype(float)[:, None]
    found = demographics(y, about_of(view, sex, age), about_of(view, sex, age))
    years = np.nan_to_num(age - np.nanmean(age))
    x = np.column_stack([view == "AP", view == "PA", sex == "F", sex == "M", years, years**2,
                         np.isnan(age)]).astype(float)  # fmt: skip
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(z, y[:, 0])
    assert found.probabilities[:, 0] == pytest.approx(oracle.predict_proba(z)[:, 1], abs=1e-5)


def test_thumbnail_probabilities_are_calibrated_on_training_images_it_did_not_see() -> None:
    rng = RNG(5)
    patients = np.arange(2000) // 2
    x = rng.normal(size=(2000, 60))
    y = (x[:, 0] + 2 * rng.normal(size=2000) > 1).astype(float)[:, None]
    train, test = slice(0, 400), slice(400, None)
    found = thumbnail(y[train], patients[train], x[train], x[test])
    assert found.probabilities.mean() == pytest.approx(y[test].mean(), abs=0.05)
    share = np.full(1600, y[train].mean())
    assert log_loss(y[test, 0], found.probabilities[:, 0]) < log_loss(y[test, 0], share)
    assert roc_auc_score(y[test, 0], found.scores[:, 0]) > 0.6


def test_a_thumbnail_of_noise_has_the_log_loss_of_the_prevalence() -> None:
    rng = RNG(7)
    for seed in range(20):
        x, y = rng.normal(size=(500, 40)), (rng.random((500, 1)) < 0.1).astype(float)
        p = thumbnail(y[:300], np.arange(300), x[:300], x[300:]).probabilities[:, 0]
        share = prevalence(y[:300], 200).probabilities[:, 0]
        assert log_loss(y[300:, 0], p) < log_loss(y[300:, 0], share) + 0.02, seed


def test_without_training_labels_or_images_a_baseline_says_why_it_is_missing() -> None:
    labels = labels_by_view()
    result = of(labels)
    assert "table without images" in (result.baselines.of["thumbnail"].reason or "")
    assert result.baselines.of["demographics"].reason is None
    alone = dataclasses.replace(labels, rows=labels.rows[labels.rows["split"] == "test"])
    found = of(alone).baselines
    assert {of.reason for of in found.of.values()} == {NO_TRAINING}
    assert found.split is None
    bare = labels.rows.drop(columns=["age", "sex", "view"])
    unknown = of(dataclasses.replace(labels, rows=bare)).baselines.of["demographics"]
    assert "view, sex and age are unknown" in (unknown.reason or "")


def test_training_images_are_not_scored_by_baselines_fitted_on_them() -> None:
    labels = labels_by_view()
    given = predictions.Predictions(labels.findings, predicted(labels, "train"))
    found = evaluate(given, labels, split="train", resamples=10).baselines
    assert all("training images themselves" in (of.reason or "") for of in found.of.values())


def test_test_labels_do_not_change_what_a_baseline_predicts() -> None:
    labels = with_images(labels_by_view(), shift=2.0)
    rows = labels.rows.copy()
    at_test = rows["split"] == "test"
    rows.loc[at_test, "Nodule"] = 1 - rows.loc[at_test, "Nodule"]
    turned = dataclasses.replace(labels, rows=rows)
    first, second = (of(each).baselines.of["thumbnail"] for each in (labels, turned))
    assert first.findings["Mass"] == second.findings["Mass"]
    straight, other = (of.findings["Nodule"]["auroc"].baseline.value for of in (first, second))
    assert straight == pytest.approx(1 - other, abs=1e-12)


def test_baselines_are_in_the_file_and_read_back(tmp_path) -> None:
    labels = with_images(labels_by_view())
    given = predictions.Predictions(labels.findings, predicted(labels, "test"))
    result = evaluate(given, labels, resamples=20, out=tmp_path)
    read = Results.read(tmp_path)
    assert read.baselines == result.baselines
    assert list(read.baselines.of) == list(TITLES)
    assert (read.baselines.images, read.baselines.split) == (600, "train")


def test_the_command_line_prints_each_baseline_beside_the_model(capsys) -> None:
    show(of(with_images(labels_by_view())))
    printed = capsys.readouterr().out
    assert "simple baselines (mean AUROC): prevalence 0.500, view and demographics 0." in printed
    assert (
        "The model ranks the images better than view and demographics alone: mean AUROC " in printed
    )


def mean_of(difference: Interval, p: float | None) -> BaselineMean:
    both = Interval(value=0.6, low=0.5, high=0.7)
    return BaselineMean(findings=2, model=both, baseline=both, difference=difference, p=p)


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (0.01, 0.05, 0.01, "The model ranks the images better than"),
        (-0.05, -0.01, 0.01, "The model ranks the images worse than"),
        (-0.01, 0.05, 0.3, "The model was not shown to rank the images better than the prev"),
    ],
)
def test_the_verdict_is_that_of_the_test(low, high, p, verdict) -> None:
    difference = Interval(value=(low + high) / 2, low=low, high=high)
    assert sentence("prevalence", mean_of(difference, p)).startswith(verdict)


def test_the_interval_of_the_mean_excludes_0_exactly_where_p_is_below_5_percent() -> None:
    near = 0
    for seed in range(12):
        labels = labels_by_view(seed=seed)
        found = of(labels, noisy(labels, seed)).baselines.of["demographics"].mean["auroc"]
        low, high = found.difference.low, found.difference.high
        assert (low > 0 or high < 0) == (found.p < 0.05)
        near += 0.005 < found.p < 0.3
    assert near


def test_a_mean_over_findings_of_too_few_patients_is_not_tested() -> None:
    labels = labels_by_view()
    test = labels.rows.index[labels.rows["split"] == "test"]
    labels.rows.loc[test[4:], ["Mass", "Nodule"]] = 0.0
    labels.rows.loc[test[:4], ["Mass", "Nodule"]] = 1.0
    found = of(labels).baselines.of["demographics"]
    assert found.mean["auroc"].p is None
    assert "a test needs at least 5" in found.sentence


@pytest.mark.slow
def test_baselines_of_the_size_of_nih_are_fitted_in_less_than_a_minute() -> None:
    rng = RNG(6)
    n, m = 86_524, 25_596
    x = rng.normal(size=(n + m, 256)).astype(np.float32)
    y = (rng.random((n + m, 14)) < 0.05).astype(float)
    patients = rng.integers(0, 28_008, n)
    start = time.perf_counter()
    found = thumbnail(y[:n], patients, x[:n], x[n:])
    assert time.perf_counter() - start < 60
    assert found.probabilities.shape == (m, 14)


def test_findings_are_matched_by_meaning() -> None:
    labels = with_images(labels_by_view(), shift=12.0)
    table = predicted(labels, "test").rename(columns={"prob_Mass": "prob_mass"})
    given = predictions.Predictions(Findings(["Nodule", "mass"]), table)
    found = evaluate(given, labels, resamples=20).baselines.of["thumbnail"]
    assert found.findings["mass"]["auroc"].baseline.value > 0.9


def test_the_report_shows_each_baseline_beside_the_model(tmp_path) -> None:
    labels = with_images(labels_by_view(), shift=12.0)
    given = predictions.Predictions(labels.findings, predicted(labels, "test"))
    result = evaluate(given, labels, resamples=40, out=tmp_path)
    page = page_of(tmp_path).replace("\u00a0", " ")
    assert '<section id="baselines">' in page
    for baseline in result.baselines.of.values():
        assert baseline.sentence in page
        mass = baseline.findings["Mass"]["auroc"].baseline.value
        assert f"{mass:.3f}" in page
    assert "600 training images of 300 patients" in page


def test_the_report_says_why_there_is_no_baseline_and_older_results_have_no_section(
    tmp_path,
) -> None:
    labels = labels_by_view()
    alone = dataclasses.replace(labels, rows=labels.rows[labels.rows["split"] == "test"])
    given = predictions.Predictions(labels.findings, predicted(labels, "test"))
    evaluate(given, alone, resamples=10, out=tmp_path)
    page = page_of(tmp_path)
    assert page.count(NO_TRAINING) == 3
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    del metrics["baselines"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert 'id="baselines"' not in page_of(tmp_path)
    assert Results.read(tmp_path).baselines is None
