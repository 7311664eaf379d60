"""Evaluation: what is undefined is said, nothing is left out unsaid, patients stay apart."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn import metrics as oracle

from chestxray.cli.evaluate import _show as show
from chestxray.cli.evaluate import evaluate as command
from chestxray.errors import PredictionsError
from chestxray.evaluation import bootstrap, prediction_columns, predictions
from chestxray.evaluation import evaluation as evaluations
from chestxray.evaluation.curves import NO_VALIDATION
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.metrics import METRICS, Metric, call_metrics, register, score_metrics
from chestxray.evaluation.results import Results, schema
from chestxray.findings import Findings
from chestxray.sources.nih import FINDINGS
from evaluation_parts import PROBABILITIES, dumped, rows_of, write
from fake_run import SHIFT, SIZES, predicted, truth

RANKING = ("auroc", "auprc", "partial_auroc")
FILES = ("metrics", "curves", "reliability", "subgroups", "localization", "reference", "benchmarks")

if TYPE_CHECKING:
    from chestxray.dataset.store import Dataset

LABELS = truth()


def table_of(split: str, folder: Path, seed: int = 0) -> Path:
    path: Path = write(folder / f"{split}.csv", predicted(LABELS, split, seed))
    return path


def without_split(labels: Labels) -> Labels:
    rows = labels.rows.assign(split="unknown").drop(columns=["width", "height"])
    return dataclasses.replace(labels, rows=rows, boxes=None)


def evaluate(
    path: Path,
    labels: Labels,
    out: Path,
    fit_on: Path | None = None,
    split: str | None = None,
    resamples: int = 40,
) -> dict:
    """Evaluate and give what `metrics.json` holds."""
    found: dict = dumped(
        evaluations.evaluate(path, labels, fit_on=fit_on, split=split, resamples=resamples, out=out)
    )
    return found


def test_a_planted_auroc_is_found_and_thresholds_come_from_validation(tmp_path: Path) -> None:
    val = table_of("val", tmp_path, seed=1)
    result = evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out", val)
    assert result["split"] == "test"
    assert result["images"] == SIZES["test"]
    assert result["patients"] == SIZES["test"] // 2
    assert result["fit_on"] == {"split": "val", "images": 300, "patients": 150}
    assert result["mean"]["auroc"]["value"] == pytest.approx(norm.cdf(SHIFT / 2**0.5), abs=0.02)
    effusion = result["findings"]["Effusion"]
    p = predicted(LABELS, "val", seed=1)["prob_Effusion"].to_numpy()
    y = LABELS.rows.loc[LABELS.rows["split"] == "val", "Effusion"].to_numpy()
    fpr, tpr, thresholds = oracle.roc_curve(y, p, drop_intermediate=False)
    points = effusion["operating_points"]
    assert points["youden"]["threshold"] == {"value": thresholds[(tpr - fpr).argmax()]}
    assert points["joint"]["threshold"] == effusion["threshold"]
    assert points["joint"]["recall"] == effusion["recall"]
    assert all(effusion[name]["value"] is not None for name in METRICS)


def test_the_calls_of_every_operating_point_are_counted_on_both_parts(tmp_path: Path) -> None:
    paths = [table_of("test", tmp_path), table_of("val", tmp_path, seed=1)]
    results = evaluations.evaluate(paths[0], LABELS, fit_on=paths[1], resamples=40)
    assert results.operating_point == next(iter(results.workload)) == "joint"
    for name, point in results.workload.items():
        thresholds = {f: r.operating_points[name].threshold for f, r in results.findings.items()}
        for split, path, of in (
            ("test", paths[0], point.evaluated),
            ("val", paths[1], point.validation),
        ):
            y = LABELS.rows[LABELS.rows["split"] == split][list(FINDINGS)].to_numpy()
            p = predictions.read(path).probabilities
            at = np.array([thresholds[f].value or np.inf for f in FINDINGS])
            called, free = p >= at, (y == 0).all(axis=1)
            assert of.finding_free == free.sum()
            assert of.calls_per_image.value == pytest.approx(called.sum() / len(y))
            assert of.flagged.value == pytest.approx(called[free].any(axis=1).mean())
            assert of.precision.value == pytest.approx(y[called].mean())
            shown = [
                called[y[:, k] == 1, k].mean()
                for k in range(14)
                if at[k] < np.inf and y[:, k].any()
            ]
            assert of.recall.value == pytest.approx(np.mean(shown))
        assert point.validation.flagged.low is None
        assert point.evaluated.calls_per_image.low < point.evaluated.calls_per_image.value
    joint, youden = (results.workload[name] for name in ("joint", "youden"))
    assert joint.validation.flagged.value <= 0.25 < youden.validation.flagged.value
    assert joint.evaluated.calls_per_image.value < youden.evaluated.calls_per_image.value


def test_a_finding_that_validation_does_not_support_has_no_metric_of_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [table_of("test", tmp_path), tmp_path / "useless.csv"]
    rows = predicted(LABELS, "val", seed=1)
    rows["prob_Mass"] = np.random.default_rng(0).random(len(rows))
    write(paths[1], rows, FINDINGS)
    results = evaluations.evaluate(paths[0], LABELS, fit_on=paths[1], resamples=40)
    mass = results.findings["Mass"]
    assert "no evidence" in results.not_assessed["Mass"]
    assert mass.threshold.value is mass.recall.value is mass.confusion is None
    assert mass.threshold.reason == mass.recall.reason == results.not_assessed["Mass"]
    assert mass.auroc.value > 0.8
    assert results.mean.recall.findings < results.mean.auroc.findings
    show(results)
    shown = capsys.readouterr().out
    assert re.search(r"^Mass .* not assessed$", shown, re.MULTILINE)
    assert f"Mass is not assessed: {results.not_assessed['Mass']}" in shown
    flagged = [results.workload["joint"].validation, results.workload["joint"].evaluated]
    assert " → ".join(f"{of.flagged.value:.3f}" for of in flagged) in shown


def test_what_is_written_is_strict_json_and_what_is_returned(tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = evaluations.evaluate(table_of("test", tmp_path), LABELS, resamples=40, out=out)
    parts = {name: results.part(name) for name in FILES[1:]} | {"metrics": results}
    for name, content in parts.items():
        if content is None:
            assert not (out / f"{name}.json").exists()
            continue
        text = (out / f"{name}.json").read_text(encoding="utf-8")
        assert json.loads(text, parse_constant=pytest.fail) == dumped(content)
    drawn = json.loads((out / "curves.json").read_text(encoding="utf-8"))
    assert list(drawn) == list(FINDINGS)
    assert drawn["Hernia"] is None


def test_a_finding_without_positives_is_null_with_the_reason_and_not_in_the_mean(
    tmp_path: Path,
) -> None:
    val = table_of("val", tmp_path)
    result = evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out", val)
    hernia = result["findings"]["Hernia"]
    for name in (*RANKING, "recall", "calibration_slope", "calibration_intercept"):
        assert hernia[name]["value"] is None, name
        assert hernia[name]["reason"] == "no positives"
    assert hernia["specificity"]["value"] is not None, "negatives alone have a specificity"
    assert (hernia["positives"], hernia["negatives"], hernia["unknown"]) == (0, 400, 0)
    others = [result["findings"][finding]["auroc"]["value"] for finding in FINDINGS[:-1]]
    assert result["mean"]["auroc"]["value"] == pytest.approx(np.mean(others), abs=1e-12)
    assert result["mean"]["auroc"]["findings"] == 13


def test_without_validation_the_metrics_at_a_threshold_are_null_with_the_reason(
    tmp_path: Path,
) -> None:
    result = evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out")
    mass = result["findings"]["Mass"]
    assert mass["auroc"]["value"] is not None
    assert mass["threshold"] == {"value": None, "reason": NO_VALIDATION}
    assert all(mass[name]["value"] is None for name in call_metrics())
    assert mass["f1"]["reason"] == NO_VALIDATION
    assert result["mean"]["f1"]["reason"].startswith("no validation")
    assert result["mean"]["f1"]["findings"] == 0


def test_a_finding_one_sided_in_validation_has_no_threshold(tmp_path: Path) -> None:
    rows = LABELS.rows.copy()
    rows.loc[rows["split"] == "val", "Mass"] = 0
    labels = dataclasses.replace(LABELS, rows=rows)
    val = table_of("val", tmp_path)
    mass = evaluate(table_of("test", tmp_path), labels, tmp_path / "out", val)["findings"]["Mass"]
    assert mass["threshold"]["value"] is None
    assert mass["recall"]["reason"] == "no positives in validation"
    assert mass["auroc"]["value"] is not None


def test_unknown_labels_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = LABELS.rows.copy()
    rows.loc[rows.index[-100:], "Mass"] = math.nan
    labels = dataclasses.replace(LABELS, rows=rows)
    mass = evaluate(table_of("test", tmp_path), labels, tmp_path / "out")["findings"]["Mass"]
    assert mass["unknown"] == 100
    assert mass["positives"] + mass["negatives"] == 300
    test = rows[rows["split"] == "test"][:300]
    p = predicted(LABELS, "test")["prob_Mass"][:300]
    assert mass["auroc"]["value"] == pytest.approx(oracle.roc_auc_score(test["Mass"], p), abs=1e-12)


def test_failed_rows_and_missing_predictions_are_counted(tmp_path: Path) -> None:
    rows = predicted(LABELS, "test").iloc[:390].copy()
    rows.loc[5, list(PROBABILITIES)] = math.nan
    rows.loc[5, "status"] = "error"
    write(tmp_path / "p.csv", rows)
    result = evaluate(tmp_path / "p.csv", LABELS, tmp_path / "out")
    assert (result["images"], result["failed"], result["unpredicted"]) == (389, 1, 10)


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    straight = evaluate(table_of("test", tmp_path), LABELS, tmp_path / "a")
    shuffled = predicted(LABELS, "test").sample(frac=1, random_state=0)
    write(tmp_path / "s.csv", shuffled)
    other = evaluate(tmp_path / "s.csv", LABELS, tmp_path / "b")
    first, second = (of["findings"]["Mass"]["auroc"] for of in (straight, other))
    assert first.pop("delong") == pytest.approx(second.pop("delong"), abs=1e-12)
    assert first == second


def test_images_without_labels_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predicted(LABELS, "test")
    rows.loc[[3, 4], "Image Index"] = ["x.png", "y.png"]
    write(tmp_path / "p.csv", rows)
    results = evaluations.evaluate(tmp_path / "p.csv", LABELS, resamples=10)
    show(results)
    result = dumped(results)
    assert (result["images"], result["unlabelled"], result["unpredicted"]) == (398, 2, 2)
    assert "2 predicted images have no labels" in capsys.readouterr().out


def test_validation_findings_are_aligned_by_name(tmp_path: Path) -> None:
    test, straight = table_of("test", tmp_path), table_of("val", tmp_path)
    rows = predicted(LABELS, "val").rename(
        columns={"prob_Pleural_Thickening": "prob_pleural thickening"}
    )
    turned = Findings([*reversed(FINDINGS[:-2]), "pleural thickening", FINDINGS[-1], "Pacemaker"])
    assert set(FINDINGS) - set(turned) == {"Pleural_Thickening"}
    write(tmp_path / "turned.csv", rows.assign(prob_Pacemaker=0.5), turned)
    first, second = (
        evaluations.evaluate(test, LABELS, fit_on=fit_on, resamples=0)
        for fit_on in (straight, tmp_path / "turned.csv")
    )
    assert dumped(first) == dumped(second)
    write(tmp_path / "few.csv", predicted(LABELS, "val"), Findings(FINDINGS[1:]))
    with pytest.raises(PredictionsError, match=f"validation predictions lack {FINDINGS[0]}, "):
        evaluations.evaluate(test, LABELS, fit_on=tmp_path / "few.csv", resamples=0)


def test_without_any_threshold_the_pooled_metrics_say_why(tmp_path: Path) -> None:
    rows = LABELS.rows.copy()
    rows.loc[rows["split"] == "val", list(FINDINGS)] = 0.0
    labels = dataclasses.replace(LABELS, rows=rows)
    test, val = table_of("test", tmp_path), table_of("val", tmp_path)
    result = evaluations.evaluate(test, labels, fit_on=val, resamples=0)
    assert result.micro.recall.reason == result.findings["Mass"].threshold.reason
    assert "validation predictions" not in (result.micro.recall.reason or "")


def test_predictions_of_mixed_parts_are_refused(tmp_path: Path) -> None:
    mixed = pd.concat([predicted(LABELS, "test"), predicted(LABELS, "val")])
    write(tmp_path / "p.csv", mixed)
    with pytest.raises(PredictionsError, match="400 test, 300 val"):
        evaluate(tmp_path / "p.csv", LABELS, tmp_path / "out")


def test_predictions_of_another_part_than_named_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="val"):
        evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out", split="val")


@pytest.mark.parametrize("part", ["test", "train"])
def test_thresholds_fitted_on_another_part_than_validation_are_refused(
    tmp_path: Path, part: str
) -> None:
    with pytest.raises(PredictionsError, match=f"the split '{part}'"):
        evaluate(
            table_of("test", tmp_path), LABELS, tmp_path / "out", table_of(part, tmp_path, seed=1)
        )


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    val = table_of("val", tmp_path)
    with pytest.raises(PredictionsError, match="share 150 patients"):
        evaluate(val, LABELS, tmp_path / "out", val, "val")
    half = predicted(LABELS, "test")
    write(tmp_path / "a.csv", half[:101])
    write(tmp_path / "b.csv", half[101:])
    with pytest.raises(PredictionsError, match="share 1 patient:"):
        evaluate(tmp_path / "a.csv", without_split(LABELS), tmp_path / "out", tmp_path / "b.csv")


def test_a_bare_table_leaves_the_split_unknown_unless_named(tmp_path: Path) -> None:
    bare = without_split(LABELS)
    path = table_of("test", tmp_path)
    assert evaluate(path, bare, tmp_path / "out")["split"] == "unknown"
    assert evaluate(path, bare, tmp_path / "out", split="test")["split"] == "test"
    assert evaluate(path, bare, tmp_path / "out")["unpredicted"] == 900


def test_nothing_to_evaluate_is_refused(tmp_path: Path) -> None:
    rows = predicted(LABELS, "test").assign(status="error")
    write(tmp_path / "p.csv", rows)
    with pytest.raises(PredictionsError, match="none of 400 rows has status ok"):
        evaluate(tmp_path / "p.csv", LABELS, tmp_path / "out")


def test_a_run_folder_stands_for_its_tables(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder / "predictions.csv", predicted(LABELS, "test"))
    write(folder / "validation.csv", predicted(LABELS, "val", 1))
    files = [folder / name for name in ("predictions.csv", "validation.csv")]
    by_file = evaluate(files[0], LABELS, tmp_path / "a", files[1], resamples=5)
    assert evaluate(folder, LABELS, tmp_path / "b", folder, resamples=5) == by_file
    assert evaluate(tmp_path, LABELS, tmp_path / "c", tmp_path, resamples=5) == by_file


def test_another_folder_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"a folder without predictions.csv: give a run fol"):
        evaluate(tmp_path, LABELS, tmp_path / "out")
    path = table_of("test", tmp_path)
    with pytest.raises(PredictionsError, match=r"is a folder without validation.csv"):
        evaluate(path, LABELS, tmp_path / "out", tmp_path)


def test_progress_counts_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out", resamples=5)
    assert "evaluate: 14/14 findings" in capsys.readouterr().err


def test_results_of_earlier_predictions_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in FILES:
        (tmp_path / "out" / f"{name}.json").write_text("{}", encoding="utf-8")
    evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out")
    assert not (tmp_path / "out" / "localization.json").exists()
    assert not (tmp_path / "out" / "reference.json").exists()


def test_intervals_are_there_repeat_with_the_seed_and_hold_the_value(tmp_path: Path) -> None:
    path, val = table_of("test", tmp_path), table_of("val", tmp_path, seed=1)
    first, again = (evaluate(path, LABELS, tmp_path / name, val) for name in "ab")
    assert first == again
    for entry in (*first["findings"].values(), first["mean"], first["micro"]):
        for name in METRICS:
            if entry[name]["value"] is not None and entry[name]["low"] is not None:
                assert entry[name]["low"] <= entry[name]["high"]
    for figures in (first["mean"]["auroc"], first["micro"]["auroc"]):
        assert figures["low"] < figures["value"] < figures["high"]
    assert first["intervals"] == {
        "level": 0.95, "resamples": 40, "seed": 0, "by": "patient", "weights": "multinomial"
    }  # fmt: skip


def test_micro_figures_are_those_of_all_pairs(tmp_path: Path) -> None:
    val = table_of("val", tmp_path, seed=1)
    result = evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out", val, resamples=0)
    y = LABELS.rows.loc[LABELS.rows["split"] == "test", list(FINDINGS)].to_numpy()
    p = predicted(LABELS, "test")[list(PROBABILITIES)].to_numpy()
    called = p >= [of["threshold"]["value"] or 2 for of in result["findings"].values()]
    found = result["micro"]
    assert found["auroc"]["value"] == pytest.approx(oracle.roc_auc_score(y.ravel(), p.ravel()))
    kept = [k for k, of in enumerate(result["findings"].values()) if of["confusion"]]
    expected = oracle.recall_score(y[:, kept].ravel(), called[:, kept].ravel())
    assert found["recall"]["value"] == pytest.approx(expected, abs=1e-12)
    assert found["auroc"]["reason"] == "no resamples were requested"


def write_bare_table(path: Path) -> None:
    """Write the labels as NIH's own table, which the reader understands."""
    lines = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"
    ]
    for image, row in LABELS.rows.iterrows():
        named = [finding for finding in FINDINGS if row[finding] == 1] or ["No Finding"]
        lines.append(f"{image},{'|'.join(named)},0,{row['patient']},60,F,PA")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_findings_without_a_figure_are_named_in_one_line_and_not_in_rows_of_dashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = LABELS.rows.assign(Hernia=0.0, Mass=0.0, Edema=np.nan)
    labels = dataclasses.replace(LABELS, rows=rows)
    show(evaluations.evaluate(table_of("test", tmp_path), labels, resamples=0))
    shown = capsys.readouterr().out
    assert "not measured: Mass, Hernia (no positives); Edema (" in shown
    assert not re.search(r"^(Hernia|Mass|Edema) ", shown, re.MULTILINE)
    assert re.search(r"^Effusion .*0\.\d{3}", shown, re.MULTILINE)


def test_the_command_evaluates_others_predictions_against_a_bare_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bare_table(tmp_path / "Data_Entry.csv")
    command(
        table_of("test", tmp_path),
        labels=tmp_path / "Data_Entry.csv",
        out=tmp_path / "out",
        fit_on=table_of("val", tmp_path),
        split="test",
    )
    shown = capsys.readouterr().out
    assert "split test: 400 images of 200 patients" in shown
    assert "900 labelled images have no prediction" in shown
    assert "Hernia: no positives" in shown
    assert all(finding in shown for finding in FINDINGS)
    expected = evaluate(
        tmp_path / "test.csv", LABELS, tmp_path / "direct", tmp_path / "val.csv", resamples=1000
    )
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert written["findings"] == expected["findings"]


def test_a_dataset_tells_the_split_itself(dataset: Dataset, tmp_path: Path) -> None:
    names = dataset.index["image"].to_numpy()[dataset.rows("val")]
    rng = np.random.default_rng(0)
    write(tmp_path / "p.csv", rows_of(list(names), rng.random((len(names), len(FINDINGS)))))
    result = evaluate(
        tmp_path / "p.csv", Labels.read(dataset.folder), tmp_path / "out", split="val"
    )
    assert result["split"] == "val"
    assert result["unpredicted"] == 0
    positives = np.nansum(dataset.labels(dataset.rows("val")), axis=0)
    assert [entry["positives"] for entry in result["findings"].values()] == positives.tolist()


def test_evaluating_and_reporting_need_no_torch(tmp_path: Path) -> None:
    write_bare_table(tmp_path / "Data_Entry.csv")
    code = (
        "import sys; from pathlib import Path; from chestxray import evaluate;"
        "import chestxray.reporting.page;"
        f"evaluate(Path({str(table_of('test', tmp_path))!r}),"
        f" Path({str(tmp_path / 'Data_Entry.csv')!r}), out=Path({str(tmp_path / 'out')!r}));"
        "slow = {'torch', 'timm', 'lightning', 'sklearn', 'kornia'} & set(sys.modules);"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_the_official_test_set_is_evaluated_in_seconds(real: Path, tmp_path: Path) -> None:
    table = real / "nih-metadata" / "Data_Entry_2017_v2020.csv.gz"
    with gzip.open(real / "nih-metadata" / "test_list.txt.gz", "rt") as file:
        names = file.read().split()
    rng = np.random.default_rng(0)
    write(tmp_path / "p.csv", rows_of(list(names), rng.random((len(names), len(FINDINGS)))))
    truth_table = Labels.read(table)
    start = time.process_time()
    result = evaluate(tmp_path / "p.csv", truth_table, tmp_path / "out", resamples=0)
    assert time.process_time() - start < 20
    assert result["images"] == 25_596
    assert (result["split"], result["split_name"]) == ("test", "official")
    assert result["findings"]["Effusion"]["positives"] == 4658
    assert result["mean"]["auroc"]["value"] == pytest.approx(0.5, abs=0.01)


NOT_NIH = Findings(["Pleural effusion", "Rib fracture", "pleural thickening", "mass", "Pacemaker"])


def relabelled(labels: Labels, findings: Findings = NOT_NIH) -> Labels:
    """The same images with five findings, three of them NIH's under other spellings."""
    own = {name: labels.findings.place(name) for name in findings}
    columns = {
        name: 0.0 if place is None else labels.rows[labels.findings[place]]
        for name, place in own.items()
    }
    rows = labels.rows.drop(columns=list(labels.findings)).assign(**columns)
    return dataclasses.replace(labels, findings=findings, rows=rows)


def test_fourteen_predicted_findings_are_scored_on_the_three_of_five_that_are_labelled(
    tmp_path: Path,
) -> None:
    path, val = table_of("test", tmp_path), table_of("val", tmp_path, seed=1)
    whole = evaluate(path, LABELS, tmp_path / "whole", val)
    result = evaluate(path, relabelled(LABELS), tmp_path / "out", val)
    assert list(result["findings"]) == ["Effusion", "Mass", "Pleural_Thickening"]
    for finding, entry in result["findings"].items():
        before = whole["findings"][finding]
        assert all(entry[name] == before[name] for name in score_metrics())
        for name, at in entry["operating_points"].items():  # the joint one is of these three
            assert name == "joint" or at == before["operating_points"][name]
    left_out = result["left_out"]
    assert len(left_out) == 11 + 2
    assert left_out["Edema"] == "not labelled"
    assert left_out["Rib fracture"] == left_out["Pacemaker"] == "not predicted"
    assert result["mean"]["auroc"]["findings"] == 3
    standing = json.loads((tmp_path / "out" / "benchmarks.json").read_text(encoding="utf-8"))
    assert not any(row["comparable"] for row in standing["rows"])


def test_one_finding_is_enough(tmp_path: Path) -> None:
    one = Findings(["Pneumothorax"])
    rows = predicted(LABELS, "test")[["Image Index", "prob_Pneumothorax", "status", "reason"]]
    write(tmp_path / "p.csv", rows, one)
    labels = relabelled(LABELS, one)
    result = evaluate(tmp_path / "p.csv", labels, tmp_path / "out")
    assert list(result["findings"]) == ["Pneumothorax"]
    assert result["left_out"] == {}
    value = result["findings"]["Pneumothorax"]["auroc"]["value"]
    assert result["mean"]["auroc"]["value"] == pytest.approx(value, abs=1e-12)
    assert result["micro"]["auroc"]["value"] == pytest.approx(value, abs=1e-12)


def test_predictions_and_labels_without_a_common_finding_are_refused(tmp_path: Path) -> None:
    labels = relabelled(LABELS, Findings(["Rib fracture"]))
    with pytest.raises(PredictionsError, match=r"labels are of Rib fracture.*no finding in common"):
        evaluate(table_of("test", tmp_path), labels, tmp_path / "out")


def test_a_table_in_memory_gives_what_its_file_gives(tmp_path: Path) -> None:
    path = table_of("test", tmp_path)
    from_file = evaluations.evaluate(path, LABELS, resamples=10)
    from_memory = evaluations.evaluate(predictions.read(path), LABELS, resamples=10)
    assert from_file == from_memory
    assert dumped(from_file.subgroups) == dumped(from_memory.subgroups)


def test_nothing_is_written_unless_a_folder_is_given(tmp_path: Path) -> None:
    path = table_of("test", tmp_path)
    evaluations.evaluate(path, LABELS, resamples=0)
    assert list(tmp_path.iterdir()) == [path]


def test_masks_without_heatmaps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="masks need heatmaps"):
        evaluations.evaluate(table_of("test", tmp_path), LABELS, masks=tmp_path)


def test_a_metric_registered_from_outside_is_in_metrics_json_and_in_its_schema(
    tmp_path: Path,
) -> None:
    register(
        Metric(
            name="mean_score",
            label="Mean probability",
            meaning="Mean probability of the images.",
            scores=lambda of: (of.w @ of.column.p) / of.w.sum(axis=1),
        )
    )
    try:
        result = evaluate(table_of("test", tmp_path), LABELS, tmp_path / "out")
        described = schema()["$defs"]["FindingResult"]["properties"]["mean_score"]
    finally:
        del METRICS["mean_score"]
    assert described["title"] == "Mean probability"
    mean = predicted(LABELS, "test")["prob_Mass"].mean()
    found = result["findings"]["Mass"]["mean_score"]
    assert found["value"] == pytest.approx(mean, abs=1e-12)
    assert found["low"] < mean < found["high"]
    assert result["mean"]["mean_score"]["findings"] == 14
    assert Results.read(tmp_path / "out").mean.mean_score.findings == 14


def numbers(of: object, path: str = "") -> dict[str, object]:
    """Every value of nested JSON by its path."""
    if isinstance(of, dict):
        return {k: v for name in of for k, v in numbers(of[name], f"{path}/{name}").items()}
    if isinstance(of, list):
        return {k: v for n, each in enumerate(of) for k, v in numbers(each, f"{path}/{n}").items()}
    return {path: of}


def test_the_evaluation_of_millions_gives_what_that_of_a_few_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All results, from Parquet and by blocks of resamples, against a CSV and weights of images."""
    findings = Findings(FINDINGS[:3])
    tables = {
        split: predicted(LABELS, split, seed).drop(columns=list(PROBABILITIES[3:]))
        for seed, split in enumerate(("test", "val"))
    }
    for split, table in tables.items():
        for suffix in ("csv", "parquet"):
            write(tmp_path / f"{split}.{suffix}", table, findings)
    folders = [tmp_path / "few", tmp_path / "many"]
    evaluate(tmp_path / "test.csv", LABELS, folders[0], tmp_path / "val.csv")
    monkeypatch.setattr(bootstrap, "MOST_EXPANDED", 0)
    monkeypatch.setattr(prediction_columns, "_IN_MEMORY", 0)
    evaluate(tmp_path / "test.parquet", LABELS, folders[1], tmp_path / "val.parquet")
    for name in ("metrics", "curves", "reliability", "subgroups", "benchmarks"):
        one, other = (
            numbers(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
            for folder in folders
        )
        assert one.keys() == other.keys()
        for path, value in one.items():
            # Resamples of a constant score tie with its value, up to rounding, which moves BCa.
            if "/of/prevalence/" in path and path.endswith(("low", "high")):
                continue
            if isinstance(value, float):
                assert other[path] == pytest.approx(value, rel=1e-12, abs=1e-12), f"{name}{path}"
            else:
                assert other[path] == value, f"{name}{path}"
