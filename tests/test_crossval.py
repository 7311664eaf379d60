"""Cross-validation: patients stay in one fold, runs resume, and the interval holds what it says."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

import chestxray
from chestxray.cli.main import app
from chestxray.dataset.folds import fold_of, folds
from chestxray.errors import ArtifactError, RecipeError, SourceError, TrainingError
from chestxray.evaluation.bootstrap import Interval
from chestxray.evaluation.cross_validation import Folded, joined, pool, seed_deviation
from chestxray.findings import Findings
from chestxray.training import cross_validation as crossvals
from chestxray.training import fit

TINY = (
    "backbone=resnet10t", "size=32", "batch_size=16", "max_epochs=1", "schedule=constant",
)  # fmt: skip


def test_every_image_is_tested_once_and_no_patient_is_in_two_parts(dataset) -> None:
    dealt = folds(dataset, 4)
    tested = []
    for number in range(1, 5):
        part = fold_of(dataset, dealt, number, seed=0)
        assert part.index.groupby("patient")["split"].nunique().max() == 1
        tested += part.index["image"].iloc[part.rows("test")].tolist()
        assert len(part.rows("train")) > len(part.rows("val")) > 0
    assert sorted(tested) == sorted(dataset.index["image"])


def test_folds_hold_about_equally_many_patients_and_each_frequent_finding(dataset) -> None:
    dealt = folds(dataset, 4)
    patients = dealt.groupby("fold")["patient"].nunique()
    assert patients.max() <= 1.6 * patients.min()
    for finding in dataset.findings:
        positives = dataset.index[dataset.index[finding] == 1]
        count = positives["patient"].nunique()
        if count >= 4:
            assert dealt.loc[positives.index, "fold"].nunique() == 4, finding


def test_patients_who_share_a_radiograph_are_in_one_fold(dataset) -> None:
    rows = dataset.index.copy()
    first, other = rows["patient"].unique()[[0, 40]]
    place, twin = (int(np.flatnonzero(rows["patient"] == of)[0]) for of in (first, other))
    images = dataset.images[:]
    images[twin] = images[place]

    class Linked:
        folder, index, findings = dataset.folder, rows, dataset.findings
        manifest = dataset.manifest

    Linked.images = images
    for seed in range(5):
        dealt = folds(Linked, 4, seed)
        both = dealt[dealt["patient"].isin([first, other])]
        assert both["patient"].nunique() == 2
        assert both["fold"].nunique() == both["group"].nunique() == 1


def test_another_split_changes_counts_and_hash_and_copies_nothing(dataset) -> None:
    parts = dataset.index["split"].map({"train": "test", "val": "val", "test": "train"})
    turned = dataset.with_split(parts, "turned")
    assert turned.images is dataset.images
    assert turned.manifest.counts["test"] == dataset.manifest.counts["train"]
    assert turned.manifest.split.name == "turned"
    assert turned.manifest.split.sha256 != dataset.manifest.split.sha256
    assert turned.rows("test").tolist() == dataset.rows("train").tolist()
    assert dataset.index["split"].tolist() != turned.index["split"].tolist()
    again = dataset.with_split(dataset.index["split"], "same")
    assert again.manifest.counts == dataset.manifest.counts
    several = dataset.index["patient"].duplicated(keep=False)
    image = several.idxmax()
    parts = dataset.index["split"].copy()
    parts[image] = "val" if parts[image] != "val" else "train"
    with pytest.raises(SourceError, match="1 patient is in more than one split"):
        dataset.with_split(parts, "wrong")


@pytest.mark.parametrize("count", [1, 10_000])
def test_folds_that_cannot_be_dealt_are_refused(dataset, count) -> None:
    with pytest.raises(TrainingError, match=f"cannot be dealt into {count} folds"):
        folds(dataset, count)


@pytest.fixture(scope="module")
def study(dataset, tmp_path_factory):
    """Two folds and two seeds of a tiny recipe; not to be changed."""
    out = tmp_path_factory.mktemp("crossval") / "out"
    options = {"folds": 2, "seeds": 2, "overrides": TINY, "resamples": 50}
    return out, chestxray.crossval(dataset, "quick", out, **options)


def test_each_image_is_predicted_once_per_seed_by_the_model_of_its_fold(study, dataset) -> None:
    out, result = study
    table = pd.read_csv(out / "predictions.csv")
    dealt = pd.read_csv(out / "folds.csv").set_index("image")["fold"]
    assert len(table) == 2 * len(dataset.index)
    assert not table.duplicated(["Image Index", "seed"]).any()
    assert (dealt.loc[table["Image Index"]].to_numpy() == table["fold"].to_numpy()).all()
    for run in result.runs:
        folder = out / "runs" / f"fold{run.fold}-seed{run.seed}"
        assert fit.Run.open(folder).model == run.model
        own = chestxray.Predictions.read(folder / "predictions.csv")
        there = table[(table["fold"] == run.fold) & (table["seed"] == run.seed)]
        assert there["Image Index"].tolist() == own.rows["Image Index"].tolist()
        assert np.array_equal(there[list(own.rows.filter(like="prob_"))], own.probabilities)
    assert len({run.model for run in result.runs}) == 4


def test_figures_of_runs_and_of_all_are_scikit_learns(study, dataset) -> None:
    out, result = study
    table = pd.read_csv(out / "predictions.csv")
    labels = dataset.index.set_index("image")
    finding = max(dataset.findings, key=lambda name: labels[name].sum())
    values, weights = {}, {}
    for run in result.runs:
        rows = table[(table["fold"] == run.fold) & (table["seed"] == run.seed)]
        y, p = labels.loc[rows["Image Index"], finding], rows[f"prob_{finding}"]
        values[run.fold, run.seed] = roc_auc_score(y, p), average_precision_score(y, p)
        weights[run.fold] = y.sum() * (1 - y).sum(), y.sum()
        auroc, auprc = values[run.fold, run.seed]
        assert run.findings[finding]["auroc"] == pytest.approx(auroc, abs=1e-12)
        assert run.findings[finding]["auprc"] == pytest.approx(auprc, abs=1e-12)
    for place, name in enumerate(("auroc", "auprc")):
        total = sum(weights[f][place] for f in (1, 2))
        expected = sum(
            weights[f][place] * np.mean([values[f, s][place] for s in (0, 1)]) / total
            for f in (1, 2)
        )
        figure = getattr(result.findings[finding], name)
        assert figure.pooled.value == pytest.approx(expected, abs=1e-12)
    assert result.images == len(dataset.index)
    assert result.mean.auroc.pooled.low < result.mean.auroc.pooled.value
    assert "2 folds × 2 seeds" in repr(result)


def test_a_finished_cross_validation_trains_nothing_again_and_gives_the_same(
    study, dataset, monkeypatch
) -> None:
    out, result = study
    monkeypatch.setattr(crossvals, "train", lambda *_, **__: pytest.fail("trained again"))
    options = {"folds": 2, "seeds": 2, "overrides": TINY, "resamples": 50}
    assert chestxray.crossval(dataset, "quick", out, **options) == result


def test_a_killed_cross_validation_resumes_with_what_is_missing(
    study, dataset, tmp_path, monkeypatch
) -> None:
    """One run is gone, one stopped before it was predicted, one before its epoch ended."""
    out, result = study
    copy = shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(copy / "runs/fold2-seed1")
    (copy / "runs/fold1-seed1/predictions.csv").unlink()
    for name in ("run.json", "predictions.csv", "bundle", "checkpoints"):
        path = copy / "runs/fold2-seed0" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("crossval.json", "predictions.csv"):
        (copy / name).unlink()
    trained = []
    train = crossvals.train

    def watched(data, recipe, folder, resume):
        trained.append((folder.name, resume))
        return train(data, recipe, folder, resume=resume)

    monkeypatch.setattr(crossvals, "train", watched)
    options = {"folds": 2, "seeds": 2, "overrides": TINY, "resamples": 50}
    assert chestxray.crossval(dataset, "quick", copy, **options) == result
    assert trained == [("fold2-seed0", True), ("fold2-seed1", False)]
    for name in ("predictions.csv", "crossval.json"):
        assert (copy / name).read_bytes() == (out / name).read_bytes()


def test_another_recipe_folds_or_a_run_in_the_folder_are_refused(study, dataset, run) -> None:
    out, _ = study
    with pytest.raises(RecipeError, match="was started with another recipe"):
        chestxray.crossval(dataset, "quick", out, folds=2, overrides=(*TINY, "dropout=0.1"))
    with pytest.raises(ArtifactError, match="other folds or on another dataset"):
        chestxray.crossval(dataset, "quick", out, folds=3, overrides=TINY)
    with pytest.raises(ArtifactError, match="holds a run, not a cross-validation"):
        chestxray.crossval(dataset, "quick", run, folds=2, overrides=TINY)
    with pytest.raises(TrainingError, match="0 seeds"):
        chestxray.crossval(dataset, "quick", out, folds=2, seeds=0, overrides=TINY)


def test_the_command_line_prints_findings_runs_and_the_method(study, dataset) -> None:
    out, result = study
    words = ["crossval", str(dataset.folder), "--out", str(out), "--recipe", "quick"]
    words += ["--folds", "2", "--seeds", "2", "--resamples", "50"]
    words += [word for change in TINY for word in ("--set", change)]
    printed = CliRunner().invoke(app, words).output
    assert f"{result.mean.auroc.pooled.value:.3f}" in printed
    assert "fold 2" in printed
    assert "seed 1" in printed
    assert "Zou and Donner 2008" in printed


def folded_of(rng, effects, patients=120, folds=5, shift=1.2) -> Folded:
    """Draw labels and scores whose runs differ by `effects` [F, S], of the labels' shift."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n = len(patient)
    fold = rng.permutation(np.arange(patients) % folds)[patient] + 1
    y = (rng.normal(size=(n, 1)) + rng.normal(size=patients)[patient, None] > 0.9).astype(float)
    base = 0.7 * rng.normal(size=(n, 1)) + 0.7 * rng.normal(size=patients)[patient, None]
    shifts = shift + effects[fold - 1].T[:, :, None]
    scores = base + shifts * y + 3.0 * (fold % 2)[:, None]  # folds are on different scales
    p = 1 / (1 + np.exp(-scores))
    return Folded(Findings(["Mass"]), y, patient, fold, p)


def test_folds_on_different_scales_do_not_lower_the_pooled_figure() -> None:
    rng = np.random.default_rng(0)
    folded = folded_of(rng, np.zeros((5, 1)), patients=2000)
    truth = float(ndtr(1.2 / math.sqrt(2 * (0.7**2 + 0.7**2))))
    figure = pool(folded, resamples=0).findings["Mass"].auroc.pooled.value
    assert figure == pytest.approx(truth, abs=0.03)
    naive = roc_auc_score(folded.labels[:, 0], folded.probabilities[0, :, 0])
    assert naive < truth - 0.1


def test_a_fold_without_a_finding_has_no_weight_and_none_at_all_is_undefined() -> None:
    rng = np.random.default_rng(1)
    folded = folded_of(rng, np.zeros((5, 2)))
    folded.labels[folded.fold == 2] = 0.0
    found = pool(folded, resamples=0).findings["Mass"].auroc.pooled
    rest = folded.fold != 2
    cut = Folded(
        folded.findings,
        folded.labels[rest],
        folded.patients[rest],
        folded.fold[rest],
        folded.probabilities[:, rest],
    )
    cut.fold[cut.fold > 2] -= 1
    assert found.value == pytest.approx(
        pool(cut, resamples=0).findings["Mass"].auroc.pooled.value, abs=1e-12
    )
    folded.labels[:] = 0.0
    none = pool(folded, resamples=20)
    assert none.findings["Mass"].auroc.pooled.reason == "no positives"
    assert none.mean.auroc.pooled.value is None
    assert none.mean.findings == 0


def test_one_seed_gives_the_interval_of_patients_alone() -> None:
    folded = folded_of(np.random.default_rng(2), np.zeros((5, 1)))
    figure = pool(folded, resamples=100).findings["Mass"].auroc
    assert figure.pooled == figure.patients
    assert figure.seed_sd is None


def test_seeds_that_do_not_matter_leave_the_interval_as_it_is() -> None:
    folded = folded_of(np.random.default_rng(2), np.zeros((5, 3)))
    figure = pool(folded, resamples=100).findings["Mass"].auroc
    assert figure.seed_sd == pytest.approx(0, abs=1e-12)
    assert figure.pooled.low == pytest.approx(figure.patients.low, abs=1e-9)


def test_the_deviation_between_seeds_is_that_of_repeated_cross_validations() -> None:
    rng = np.random.default_rng(3)
    deviations = np.array([0.1, 0.2, 0.3])
    parts = rng.normal(size=(3, 4000)) * deviations[:, None] + np.array([[1], [5], [9]])
    assert seed_deviation(parts) == pytest.approx(parts.sum(axis=0).std(ddof=1), rel=0.03)
    assert seed_deviation(parts) == pytest.approx(math.hypot(*deviations), rel=0.03)


def test_an_interval_is_widened_by_squares_and_stays_a_proportion() -> None:
    wide = joined(Interval(value=0.8, low=0.77, high=0.83), 0.04)
    assert (wide.low, wide.high) == pytest.approx((0.75, 0.85))
    assert joined(Interval(value=0.98, low=0.9, high=0.99), 0.1).high == 1.0
    none = Interval(value=0.8, reason="too few patients")
    assert joined(none, 0.1) == none


def coverage(studies: int, seeds: int, effect: float, resamples: int) -> dict[str, float]:
    """Share of simulated cross-validations whose interval holds the mean over seeds.

    The AUROC of a run is Φ of its shift over a known deviation, so the mean over the normal effects
    of seeds is Φ of the mean shift over a larger one.
    """
    truth = float(ndtr(1.2 / math.sqrt(2 * (0.7**2 + 0.7**2) + effect**2)))
    held = {"pooled": 0, "patients": 0}
    for number in range(studies):
        rng = np.random.default_rng(number)
        folded = folded_of(rng, effect * rng.normal(size=(5, seeds)))
        figure = pool(folded, resamples, number).findings["Mass"].auroc
        for name in held:
            interval = getattr(figure, name)
            held[name] += interval.low <= truth <= interval.high
    return {name: count / studies for name, count in held.items()}


def test_the_interval_holds_patients_and_seeds_and_that_of_patients_alone_does_not() -> None:
    found = coverage(studies=100, seeds=2, effect=0.6, resamples=200)
    assert found["pooled"] >= 0.90, found
    assert found["patients"] < found["pooled"] - 0.05, found


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("effect", [0.0, 0.3, 0.6])
def test_coverage_is_95_percent_for_any_spread_of_seeds(seeds, effect) -> None:
    found = coverage(studies=400, seeds=seeds, effect=effect, resamples=300)
    error = math.sqrt(0.95 * 0.05 / 400)
    assert 0.95 - 3 * error <= found["pooled"] <= 0.95 + 3 * error, found
