"""External validation: planted truths for each verdict, and one bundle on a tree and a dataset."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import chestxray
from chestxray import sources
from chestxray.cli.main import main
from chestxray.cli.validate import _show as show
from chestxray.errors import PredictionsError, SourceError
from chestxray.evaluation.bootstrap import Draws, Interval
from chestxray.evaluation.bundle_thresholds import BundleThresholds
from chestxray.evaluation.evaluation import Evaluation
from chestxray.evaluation.external_validation import (
    _halves,
    _of_calls,
    by_halves,
    judged,
    measured,
    warnings_of,
)
from chestxray.evaluation.focal_link import FocalLink
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.leave_out import Named, read_lists
from chestxray.evaluation.result_details import ValidationAuroc
from chestxray.evaluation.results import schema
from chestxray.evaluation.seen_images import Seen, list_sha256
from chestxray.evaluation.validation_results import UNCALIBRATED, ExternalValidation
from chestxray.findings import Findings
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.reading import validation
from chestxray.reading.validation import _unseen
from chestxray.reporting import validation_summary
from chestxray.reporting.validation_summary import opening, reasons
from chestxray.sources.phantom.tree import synth
from chestxray.training.data import Part
from chestxray.training.finalize import fit_on_validation
from chestxray.training.leakage import seen_through
from evaluation_parts import pairs_of
from seen_parts import named

# One finding for each verdict, in the order of `judge`'s planted truths.
FINDINGS = Findings(
    ["Effusion", "Mass", "Nodule", "Edema", "Hernia", "Fibrosis", "Pneumothorax", "Emphysema"]
)
N = 1500
OWN = {"auroc": 0.85, "low": 0.82, "high": 0.88, "patients": 200}


def bundle_of(*unfitted: str, **own: ValidationAuroc) -> BundleThresholds:
    """A bundle that calls from 0.5, does not assess Hernia, and validated at 0.85."""
    points: dict[str, float | None] = dict.fromkeys(FINDINGS, 0.5)
    points["Hernia"] = None
    said = {
        "format": 4,
        "model": "planted",
        "findings": list(FINDINGS),
        "operating_points": {"joint": points},
        "operating_point": "joint",
        "not_assessed": {"Hernia": "no positives in validation"},
        "prevalences": dict.fromkeys(FINDINGS, 0.3),
        "calibration": {
            "calibrators": {finding: {"family": "offset"} for finding in FINDINGS},
            "unfitted": dict.fromkeys(unfitted, "no positives in validation"),
        },
        "validation_auroc": dict.fromkeys(FINDINGS, ValidationAuroc(**OWN)) | own,
        "trained_on": {"policies": {}, "training_list_sha256": "", "synthetic": False},
    }
    return BundleThresholds.model_validate(said)


@pytest.fixture(scope="module")
def planted() -> Evaluation:
    """Calibrated probabilities of AUROC 0.86 that rank; then what each verdict is about is spoilt.

    Mass is noise; Nodule is ranked worse than in validation; Edema has odds squared; Fibrosis has
    five positives; Pneumothorax is noise in AP; Emphysema has odds a seventh.
    """
    rng = np.random.default_rng(0)
    y = (rng.random((N, len(FINDINGS))) < 0.3).astype(float)
    y[:, 5] = np.arange(N) < 5
    x = 1.5 * rng.normal(1.5 * y, 1) - 1.5**2 / 2 + logit(0.3)
    x[:, 1] = rng.normal(0, 0.3, N) + logit(0.3)
    x[:, 2] = 0.6 * rng.normal(0.6 * y[:, 2], 1) - 0.6**2 / 2 + logit(0.3)
    x[:, 3] *= 2
    x[:, 7] -= 2
    view = np.where(np.arange(N) % 2, "AP", "PA")
    x[view == "AP", 6] = rng.normal(-0.5, 1, N // 2)
    about = pd.DataFrame(
        {"age": np.nan, "follow_up": 0.0, "sex": "F", "view": view, "source": "a site"},
        index=range(N),
    )
    pairs = pairs_of(y, expit(x), np.arange(N), FINDINGS, about=about)
    rows = pd.DataFrame({"patient": pairs.patients.astype(str), "split": "test"}, pairs.images)
    truth = Labels("a site", False, "", FINDINGS, rows, None)
    return Evaluation(truth, pairs, None, 0, Draws.of(pairs.patients, 100), bundle_of())


@pytest.fixture(scope="module")
def results(planted: Evaluation) -> chestxray.Results:
    return measured(planted)[0]


def test_each_planted_fault_gives_its_verdict_and_no_other(planted, results):
    found = judged(planted, results, bundle_of(), "independent")
    assert {finding: of.status for finding, of in found.items() if finding != "Pneumothorax"} == {
        "Effusion": "no objection",
        "Mass": "do not use",
        "Nodule": "do not use",
        "Edema": "recalibrate",
        "Hernia": "not assessed",
        "Fibrosis": "too few",
        "Emphysema": "recalibrate",
    }
    assert "better than chance" in found["Mass"].reasons[0]
    assert "worse than in the bundle's own validation" in found["Nodule"].reasons[0]
    assert "too extreme: slope 0.5" in found["Edema"].reasons[0]
    assert "too low: intercept 2." in found["Emphysema"].reasons[0]
    assert found["Fibrosis"].reasons == [
        "fewer than 10 patients with or without the finding: 5; 5 images with and 1495 without it"
    ]
    assert not found["Effusion"].reasons
    given = [why for finding, of in found.items() if finding != "Hernia" for why in of.reasons]
    assert all(re.fullmatch(r"[^:]+: [^:]+", why) for why in given), "a statement, then figures"


def test_a_group_in_which_a_finding_is_not_ranked_is_named(planted, results):
    own = {"Pneumothorax": ValidationAuroc(auroc=0.7, low=0.6, high=0.8, patients=50)}
    found = judged(planted, results, bundle_of(**own), "independent")["Pneumothorax"]
    assert found.status in {"restricted", "recalibrate"}
    assert any("ranks worse in AP than in PA" in why for why in found.reasons)


def test_a_finding_that_the_bundle_does_not_calibrate_is_recalibrated_whatever_its_slope(
    planted, results
):
    found = judged(planted, results, bundle_of("Effusion", "Edema"), "independent")
    for finding in ("Effusion", "Edema"):
        assert found[finding].status == "recalibrate"
        assert found[finding].reasons[0] == f"{UNCALIBRATED}: no positives in validation"
        assert not any("slope" in why for why in found[finding].reasons)
    shown = {"findings": {name: of.model_dump() for name, of in found.items()}}
    assert not {"Effusion", "Edema"} & {*validation_summary.calibrated(shown)}
    assert "Emphysema" in validation_summary.calibrated(shown)


def test_where_training_images_may_be_among_them_nothing_is_cleared(planted, results):
    found = judged(planted, results, bundle_of(), "unknown")
    assert found["Effusion"].status == "not independent"
    assert found["Mass"].status == "do not use"
    doubts = ("The teacher that the model learned from was trained on NIH.",)
    warning, *_ = warnings_of(results, "unknown", doubts, synthetic=False)
    assert warning == f"{doubts[0]} This is no external validation."


def test_where_a_list_names_what_was_seen_the_verdict_rests_on_it_and_says_so(planted, results):
    found = judged(planted, results, bundle_of(), "listed")
    assert found["Effusion"].status == "no objection"
    of = {
        "relation": "listed", "synthetic": False,
        "findings": {"Effusion": {"status": "no objection"}},
    }  # fmt: skip
    assert opening(of).startswith("If the lists of images to leave out are complete, these rules")
    doubts = ("It was trained on NIH. Left out here are 2 images of 1 patient, by pairs.csv.",)
    assert warnings_of(results, "listed", doubts, synthetic=False)[0] == doubts[0]


def test_calls_that_say_no_more_than_chance_are_an_objection():
    def share(value: float) -> Interval:
        return Interval(value=value, low=value - 0.1, high=value + 0.1)

    assert list(_of_calls(share(0.4), share(0.6)))
    assert not list(_of_calls(share(0.7), share(0.6)))
    assert not list(_of_calls(Interval(value=None, reason="no threshold"), share(0.6)))


def test_recalibration_by_halves_mends_what_is_off(results):
    for finding in ("Edema", "Emphysema"):
        mended = results.reliability[finding].recalibrated
        assert mended.slope.value == pytest.approx(1, abs=0.1)
        assert mended.intercept.value == pytest.approx(0, abs=0.1)
    assert results.reliability["Fibrosis"].recalibrated is None


def test_each_half_has_the_line_that_was_fitted_to_the_other(planted):
    pairs = planted.pairs
    after, reasons = by_halves(pairs)
    assert set(reasons) == {"Fibrosis"}
    assert np.array_equal(after[:, 5], pairs.probabilities[:, 5])
    x, y, shown = (of[:, 3] for of in (logit(pairs.probabilities), pairs.labels, logit(after)))
    half = _halves(pairs.patients, y == 1, 0)
    for which in (0, 1):
        slope, level = np.polyfit(x[half == which], shown[half == which], 1)
        line = LogisticRegression(C=1e9).fit(x[half != which, None], y[half != which])
        assert slope == pytest.approx(line.coef_[0, 0], rel=0.02)
        assert level == pytest.approx(line.intercept_[0], abs=0.02)


@pytest.fixture(scope="module")
def validated(run, dataset, tmp_path_factory) -> Path:
    """The tiny run's bundle on its own dataset and on a tree of other phantoms."""
    base = tmp_path_factory.mktemp("validate")
    synth(base / "elsewhere", images=60, pixels=64, seed=9, balanced=True)
    shared = sources.read(base / "elsewhere").rows["path"].head(1)
    names = [str(Path(path).relative_to(base / "elsewhere")) for path in shared]
    pd.DataFrame({"a": "train/1.png", "b": names}).to_csv(base / "pairs.csv", index=False)
    words = [run / "bundle", dataset.folder, base / "elsewhere", "--out", base / "out"]
    words += ["--leave-out", base / "pairs.csv"]
    there = {path.name for path in (base / "elsewhere").rglob("*.png")}
    trained = dataset.index["image"].iloc[dataset.rows("train")]
    (ours, *_) = (name for name in trained if Path(name).name not in there)
    pd.DataFrame({"image": [ours, "strange"]}).to_csv(base / "list.csv", index=False)
    words += ["--leave-out", base / "list.csv"]
    with pytest.MonkeyPatch.context() as patch:
        given = ["chestxray", "validate", *map(str, words), "--resamples", "100"]
        patch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return base / "out"


def test_images_that_the_bundle_was_trained_or_tuned_on_are_left_out(validated, dataset, run):
    own, elsewhere = ExternalValidation.read(validated).sets
    counts = dataset.manifest.counts
    assert own.relation == "held out"
    assert own.left_out == {part: counts[part]["images"] for part in ("train", "val")}
    assert own.images == counts["test"]["images"]
    assert not elsewhere.left_out
    there = chestxray.Dataset.open(validated / "sets/elsewhere/dataset")
    card = model_card.read(run / "bundle").card
    assert _unseen(there, card).relation == "unknown"  # phantoms too, of another split


def test_images_that_files_of_the_user_name_are_left_out_with_their_patients(validated):
    _, elsewhere = ExternalValidation.read(validated).sets
    index = chestxray.Dataset.open(validated / "sets/elsewhere/dataset").index
    count = int((index["patient"] == index["patient"].iloc[0]).sum())
    left = elsewhere.left_out_images
    assert (left.images, left.patients, left.unmatched) == (count, 1, 0)
    assert elsewhere.images == 60 - count
    assert elsewhere.relation == "listed"
    said = f"Left out here are {left}; that these are all is not checked."
    assert elsewhere.warnings[0].endswith(said)
    page = html.unescape((validated / "validation.html").read_text(encoding="utf-8"))
    assert said in page
    assert f"of 1 patient (by {left.files[0]})" in page
    assert "those that a list of the user names were left out" in page


def test_a_card_says_how_well_the_model_ranks_the_images_that_it_is_fitted_on(run, dataset):
    """Here those of training, since the few of validation give no interval."""
    part = Part(dataset, "train")
    found = fit_on_validation(
        bundles.load(run / "bundle").classifier, part, dataset.findings, FocalLink()
    )
    said = found.fitted["validation_auroc"]
    patients = dataset.index["patient"].iloc[part.rows].to_numpy()
    for place, finding in enumerate(dataset.findings):
        y, p = part.labels[:, place], found.probabilities[:, place]
        sides = [len(set(patients[y == label])) for label in (0, 1)]
        assert (finding in said) == (min(sides) >= 5)
        if finding in said:
            assert said[finding].patients == min(sides)
            assert said[finding].auroc == pytest.approx(roc_auc_score(y, p), abs=1e-12)
            assert said[finding].low <= said[finding].auroc <= said[finding].high
    assert len(said) > 5


def test_validation_json_satisfies_its_schema(validated):
    content = json.loads((validated / "validation.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema(ExternalValidation))
    validator.validate(content)
    assert not validator.is_valid(content | {"strange": 1})


def test_the_page_begins_with_what_to_do_and_carries_everything_itself(validated):
    page = html.unescape((validated / "validation.html").read_text(encoding="utf-8"))
    results = ExternalValidation.read(validated)
    for of in results.model_dump(mode="json")["sets"]:
        assert page.index(opening(of)) < page.index("What to do, and why")
        assert all(warning in page for warning in of["warnings"])
        assert f"sets/{of['name']}" in page
        for _, what, cases in reasons(of):
            assert page.count(f"{what[1:]}<span") <= len(results.sets), "once per set"
            assert all(figures in page for _, figures in cases)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert (validated / "validation_figures" / "forest.svg").exists()


def test_the_command_says_what_to_do_first_and_no_figure_twice(validated, capsys):
    for of in ExternalValidation.read(validated).sets:
        show(of)
        first, then, *lines = capsys.readouterr().out.strip().splitlines()
        assert first.startswith(f"{of.name}: ")
        assert then == opening(of.model_dump(mode="json"))
        rows = [line for line in lines if line.split(" ")[0] in of.findings]
        assert len(rows) == len(of.findings)
        assert not any("AUROC" in row for row in rows), "it stands in the column"


def test_a_bundle_that_saw_all_images_of_a_set_is_refused(run, dataset):
    index = dataset.index[dataset.index["split"] == "train"]
    card = model_card.read(run / "bundle").card
    with pytest.raises(SourceError, match="trained or tuned on all images"):
        _unseen(replace(dataset, index=index), card)


@pytest.mark.parametrize("resamples", [0, 99])
def test_without_intervals_there_is_no_verdict(run, dataset, tmp_path, resamples):
    with pytest.raises(PredictionsError, match="give at least 100"):
        chestxray.validate(run / "bundle", dataset.folder, tmp_path / "out", resamples=resamples)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def elsewhere(run, dataset) -> tuple[model_card.ModelCard, chestxray.Dataset]:
    """The card of a model that says it was trained on NIH alone, and a dataset of PadChest."""
    card = model_card.read(run / "bundle").card
    told = {"policies": {"nih": {}}, "training_list_sha256": "0", "seen": ()}
    trained = card.trained_on.model_copy(update=told)
    record = dataset.manifest.sources[0].model_copy(update={"name": "padchest"})
    manifest = dataset.manifest.model_copy(update={"sources": (record,)})
    return (
        card.model_copy(update={"trained_on": trained}),
        replace(dataset, manifest=manifest, index=dataset.index.assign(source="padchest")),
    )


def calibrated(card: model_card.ModelCard, *, titled: str = "", listed: str = ""):
    seen = (
        Seen(
            through="calibration",
            sources=("padchest",),
            synthetic=False,
            training_list_sha256=listed,
        ),
    )
    on = model_card.Recalibration(
        source=titled or "PadChest", images=9, patients=9, of="m", seen=() if titled else seen
    )
    return card.model_copy(update={"recalibrated_on": on})


def test_names_that_no_image_has_are_shown_by_command_and_page(validated, capsys):
    own, _ = ExternalValidation.read(validated).sets
    page = html.unescape((validated / "validation.html").read_text(encoding="utf-8"))
    assert "; 1 name there of no image, such as strange" in page
    show(own)
    assert "(1 name there, such as strange, is of no image)" in capsys.readouterr().out


def test_images_that_a_bundle_was_calibrated_on_are_left_out(elsewhere):
    card, dataset = elsewhere
    assert _unseen(dataset, card).relation == "independent"
    listed = list_sha256(dataset.index["image"].iloc[dataset.rows("test")])
    found = _unseen(dataset, calibrated(card, listed=listed))
    assert found.relation == "held out"
    assert found.left_out == {"test": len(dataset.rows("test"))}


@pytest.mark.parametrize("by", [{"listed": "another list"}, {"titled": "PadChest"}])
def test_a_bundle_that_was_calibrated_on_the_same_source_is_not_independent_of_it(elsewhere, by):
    card, dataset = elsewhere
    found = _unseen(dataset, calibrated(card, **by))
    assert found.relation == "unknown"
    assert found.doubts[0].startswith("The model was calibrated on images of PadChest")


def test_a_set_that_shares_radiographs_is_judged_without_those_that_a_file_names(elsewhere):
    card, dataset = elsewhere
    siim = named(dataset, "siim")
    whole = _unseen(siim, card)
    assert whole.relation == "unknown"
    patient = siim.index["patient"] == siim.index["patient"].iloc[0]
    found = _unseen(siim, card, Named(patient.to_numpy(), ("pairs.csv",), 0))
    assert found.relation == "listed"
    assert found.left_out_images.images == patient.sum()
    assert len(found.dataset.rows("test")) == len(siim.index) - patient.sum()
    assert [each.partition(" Left out")[0] for each in found.doubts] == [*whole.doubts]
    with pytest.raises(SourceError, match=r"is left: \d+ images .* were left out; give a data set"):
        _unseen(siim, card, Named(np.ones(len(patient), bool), ("pairs.csv",), 0))


def test_a_file_that_does_not_answer_the_doubt_leaves_it_and_says_why(elsewhere, tmp_path):
    card, dataset = elsewhere
    siim = named(dataset, "siim")
    first = siim.index["image"].iloc[0]
    for words, names in (("no file names an image", []), ("1 name, such as x, is", [first, "x"])):
        pd.DataFrame({"image": names}).to_csv(tmp_path / "l.csv", index=False)
        (of,) = Named.of_each(read_lists(tmp_path / "l.csv"), [Labels.of_dataset(siim)])
        found = _unseen(siim, card, of)
        assert found.relation == "unknown"
        assert found.left_out_images.images == of.rows.sum()
        assert f"This does not lift the doubt: {words}" in found.doubts[0]


@pytest.mark.parametrize(
    ("initial", "relation"),
    [
        ({"kind": "none"}, "independent"),
        ({"kind": "imagenet"}, "independent"),
        ({"kind": "phantoms", "model": "m"}, "independent"),
        ({"kind": "file", "sha256": "0" * 64}, "unknown"),
        ({"kind": "hub", "repository": "someone/chest@1"}, "unknown"),
        ({"kind": "bundle", "model": "m"}, "unknown"),
        (None, "unknown"),
    ],
)
def test_weights_whose_images_are_not_recorded_leave_no_set_independent(
    elsewhere, initial, relation
):
    card, dataset = elsewhere
    weights = None if initial is None else model_card.InitialWeights(**initial)
    trained = card.trained_on.model_copy(update={"initial_weights": weights})
    card = card.model_copy(update={"trained_on": trained})
    found = _unseen(dataset, card)
    assert found.relation == relation
    assert all("`chestxray overlap`" in doubt for doubt in found.doubts)
    heir = seen_through("weights", model_card.Facts(card, None, "first"))
    bundle = model_card.InitialWeights(kind="bundle", model="first")
    trained = trained.model_copy(update={"initial_weights": bundle, "seen": heir})
    assert _unseen(dataset, card.model_copy(update={"trained_on": trained})).relation == relation


def test_a_set_without_a_common_finding_is_refused_before_anything_is_predicted(
    run, phantoms, tmp_path
):
    rows = sources.read(phantoms).rows.head(12)
    (tmp_path / "ward" / "images").mkdir(parents=True)
    for path in rows["path"]:
        shutil.copy(path, tmp_path / "ward" / "images")
    table = pd.DataFrame({"image": rows["image"], "patient": rows["patient"], "Scoliosis": 0})
    table.loc[::2, "Scoliosis"] = 1
    table.to_csv(tmp_path / "ward" / "labels.csv", index=False)
    with pytest.raises(PredictionsError, match=r"ward labels Scoliosis.*no finding in common"):
        chestxray.validate(run / "bundle", tmp_path / "ward", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("predictions.csv"))


def test_a_finished_set_is_not_predicted_again(run, dataset, tmp_path, monkeypatch):
    reader, asked = chestxray.load(run / "bundle", engine="torch"), []
    predict = validation.predict

    def counted(*words, **options):
        asked.append(words)
        return predict(*words, **options)

    monkeypatch.setattr(validation, "predict", counted)
    table = validation._predicted(reader, dataset, tmp_path)
    content = table.read_bytes()
    assert validation._predicted(reader, dataset, tmp_path) == table
    assert len(asked) == 1
    table.write_bytes(content[:-9])  # no longer the table that was finished
    validation._predicted(reader, dataset, tmp_path)
    assert table.read_bytes() == content
    turned = dataset.index["split"].map({"train": "train", "val": "test", "test": "val"})
    validation._predicted(reader, dataset.with_split(turned, "turned"), tmp_path)
    assert len(asked) == 3
