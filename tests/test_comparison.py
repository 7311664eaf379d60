"""Two models side by side: a planted difference is found, no other is, nothing is left unsaid."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from chestxray.errors import PredictionsError
from chestxray.evaluation import comparison
from chestxray.evaluation.bootstrap import Draws, Interval
from chestxray.evaluation.comparison import Paired, sentence
from chestxray.evaluation.delong import compare_means, difference
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.metrics import resampled
from chestxray.evaluation.results import ComparedMean, Comparison, DeLongTest
from chestxray.evaluation.weighted_counts import Column
from chestxray.findings import Findings
from chestxray.sources.nih import FINDINGS
from command_line import run_command
from evaluation_parts import PROBABILITIES, dumped, rows_of, write

IMAGES, EACH = 600, 3  # images, and how many a patient has
NAMES = [f"{i // EACH + 1:08d}_{i % EACH:03d}.png" for i in range(IMAGES)]


def population(seed: int = 0) -> Labels:
    """Images of one part, Hernia in none of them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((IMAGES, len(FINDINGS))) < 0.25).astype(float)
    labels[:, FINDINGS.index("Hernia")] = 0
    rows = pd.DataFrame(labels, columns=list(FINDINGS), index=pd.Index(NAMES, name="image"))
    rows["patient"] = (np.arange(IMAGES) // EACH + 1).astype(str)
    rows = rows.assign(split="test")
    return Labels("planted", False, "v2020", FINDINGS, rows, None, split_name="official")


TRUTH = population()


def model(skill: float, seed: int, shared: float = 1.0) -> pd.DataFrame:
    """A model that sees labels through noise, a part of which all models share."""
    y = TRUTH.rows[list(FINDINGS)].to_numpy()
    common = np.random.default_rng(99).normal(size=y.shape)
    own = np.random.default_rng(seed).normal(size=y.shape)
    logits = skill * y + shared * common + (1 - shared**2) ** 0.5 * own
    return rows_of(NAMES, 1 / (1 + np.exp(-logits)))


def written(folder: Path, **models: pd.DataFrame) -> list[Path]:
    for name, rows in models.items():
        write(folder / f"{name}.csv", rows)
    return [folder / f"{name}.csv" for name in models]


def compare(a: Path, b: Path, labels: Labels = TRUTH, **options: Any) -> Any:
    """Compare and give what `comparison.json` holds."""
    return dumped(comparison.compare(a, b, labels, **options))


def test_the_difference_is_that_of_scikit_learn(tmp_path: Path) -> None:
    tables = {"a": model(1.0, 1, 0.8), "b": model(1.2, 2, 0.8)}
    result = compare(*written(tmp_path, **tables), TRUTH, resamples=20)
    expected = []
    for finding in FINDINGS[:-1]:
        y = TRUTH.rows[finding]
        a, b = (roc_auc_score(y, table[f"prob_{finding}"]) for table in tables.values())
        entry = result["findings"][finding]
        assert entry["difference"]["value"] == pytest.approx(b - a, abs=1e-12)
        assert entry["delong"]["difference"] == pytest.approx(b - a, abs=1e-12)
        assert (entry["a"]["value"], entry["b"]["value"]) == pytest.approx((a, b), abs=1e-12)
        expected.append(b - a)
    for value in (result["mean"]["difference"]["value"], result["mean"]["delong"]["difference"]):
        assert value == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_better_model_is_found_and_turned_around_it_is_worse(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1, 0.7), b=model(1.5, 2, 0.7))
    better, worse = compare(a, b, TRUTH), compare(b, a, TRUTH)
    assert better["sentence"].startswith("B is better than A: the mean AUROC is 0.7")
    assert worse["sentence"].startswith("B is worse than A")
    assert better["mean"]["delong"]["p"] < 1e-6
    assert better["mean"]["p"] < 1e-6
    forth, back = better["mean"]["difference"], worse["mean"]["difference"]
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert sum(better["findings"][f]["p_holm"] < 0.05 for f in FINDINGS[:-1]) > 5


def test_equally_good_models_are_not_told_apart(tmp_path: Path) -> None:
    result = compare(*written(tmp_path, a=model(1.0, 1, 0.7), b=model(1.0, 2, 0.7)), TRUTH)
    assert result["sentence"].startswith("No difference between A and B was shown")
    assert result["mean"]["difference"]["low"] < 0 < result["mean"]["difference"]["high"]
    assert min(result["findings"][f]["p_holm"] for f in FINDINGS[:-1]) > 0.05


def test_a_finding_made_better_alone_is_the_one_found(tmp_path: Path) -> None:
    a = model(1.0, 1, 0.9)
    b = a.assign(prob_Mass=model(2.0, 2, 0.9)["prob_Mass"])
    findings = compare(*written(tmp_path, a=a, b=b), TRUTH)["findings"]
    assert findings["Mass"]["p_holm"] < 0.001
    assert findings["Mass"]["difference"]["low"] > 0
    assert findings["Nodule"]["difference"]["value"] == 0
    assert findings["Nodule"]["p"] is None


def test_the_same_predictions_differ_by_exactly_0(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1), b=model(1.0, 1))
    result = compare(a, b, TRUTH)
    for entry in (result["mean"], result["findings"]["Mass"]):
        assert [entry["difference"][key] for key in ("value", "low", "high")] == [0, 0, 0]
        degrees = entry["delong"].pop("degrees_of_freedom")
        assert degrees > 50
        assert entry["delong"] == {"difference": 0, "low": 0, "high": 0, "p": 1}
    assert result["sentence"].startswith("A and B rank the images equally")


def test_another_calibration_of_the_same_model_ranks_alike(tmp_path: Path) -> None:
    a = model(1.0, 1)
    b = a.assign(**{column: a[column] ** 2 for column in PROBABILITIES})
    result = compare(*written(tmp_path, a=a, b=b), TRUTH, resamples=50)
    assert result["sentence"].startswith("A and B rank the images equally")


def test_pairing_makes_the_interval_narrower(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1, 0.95), b=model(1.1, 2, 0.95))
    mass = compare(a, b, TRUTH)["findings"]["Mass"]
    paired = mass["difference"]["high"] - mass["difference"]["low"]
    pair = Paired.read(a, b, TRUTH)
    k = FINDINGS.index("Mass")
    unpaired = []
    for seed, p in enumerate((pair.a, pair.b)):
        column = Column(pair.labels[:, k], p[:, k])
        draws = Draws.of(pair.patients, seed=seed)
        unpaired.append(resampled(column, draws, ("auroc",))["auroc"])
    apart = draws.interval(unpaired[1] - unpaired[0])
    assert paired < 0.6 * (apart.high - apart.low)


def test_holm_is_closed_testing_with_bonferroni(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1, 0.7), b=model(1.15, 2, 0.7))
    findings = compare(a, b, TRUTH)["findings"]
    p = [findings[finding]["p"] for finding in FINDINGS[:-1]]
    assert findings["Hernia"]["p_holm"] is None
    for place, finding in enumerate(FINDINGS[:-1]):
        others = p[:place] + p[place + 1 :]
        worst = max(
            (1 + size) * min(p[place], *chosen)
            for size in range(1, 13)
            for chosen in itertools.combinations(others, size)
        )
        assert findings[finding]["p_holm"] == pytest.approx(min(1, max(worst, p[place])))


def test_delong_and_bootstrap_agree_on_the_spread(tmp_path: Path) -> None:
    result = compare(*written(tmp_path, a=model(1.0, 1, 0.8), b=model(1.2, 2, 0.8)), TRUTH)
    for entry in (result["mean"], *(result["findings"][f] for f in FINDINGS[:-1])):
        bootstrap = entry["difference"]["high"] - entry["difference"]["low"]
        assert entry["delong"]["high"] - entry["delong"]["low"] == pytest.approx(
            bootstrap, rel=0.15
        )


def clustered(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Labels, two equally good models, and patients whose images go wrong together."""
    patients = np.repeat(np.arange(60), 4)
    ill = np.repeat(rng.random((60, 3)) < 0.4, 4, axis=0)
    labels = (ill ^ (rng.random(ill.shape) < 0.1)).astype(float)
    models = [
        labels + np.repeat(rng.normal(size=(60, 3)), 4, axis=0) + 0.3 * rng.normal(size=ill.shape)
        for _ in range(2)
    ]
    return labels, *models, patients


def test_the_mean_s_variance_is_that_of_leaving_out_each_patient() -> None:
    labels, a, b, patients = clustered(np.random.default_rng(0))
    found = compare_means(labels, a, b, patients)
    left = []
    for patient in range(60):
        keep = patients != patient
        aurocs = [
            roc_auc_score(labels[keep, k], b[keep, k]) - roc_auc_score(labels[keep, k], a[keep, k])
            for k in range(3)
        ]
        left.append(np.mean(aurocs))
    jackknife = (59 / 60 * np.sum((np.array(left) - np.mean(left)) ** 2)) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * jackknife, rel=0.05)


def test_the_mean_over_one_finding_is_that_finding() -> None:
    labels, a, b, patients = clustered(np.random.default_rng(1))
    alone = compare_means(labels[:, :1], a[:, :1], b[:, :1], patients)
    plain = difference(labels[:, 0], b[:, 0], a[:, 0], patients)
    assert alone.difference == pytest.approx(plain.value, abs=1e-12)
    assert alone.low == pytest.approx(plain.interval[0], abs=0.05 * plain.variance**0.5)


def test_equal_models_are_called_different_one_time_in_twenty_and_by_image_far_more_often() -> None:
    rng = np.random.default_rng(0)
    by_patient, by_image = [], []
    for _ in range(300):
        labels, a, b, patients = clustered(rng)
        by_patient.append(compare_means(labels, a, b, patients).p)
        images = np.arange(len(patients))
        by_image.append(compare_means(labels, a, b, images).p)
    assert 0.02 < np.mean(np.array(by_patient) < 0.05) < 0.09
    assert np.mean(np.array(by_image) < 0.05) > 0.2


def test_images_of_one_table_alone_are_counted_and_left_out_of_both(tmp_path: Path) -> None:
    a, b = model(1.0, 1, 0.8), model(1.2, 2, 0.8)
    b.loc[10:14, "status"] = "error"
    b.loc[10:14, list(PROBABILITIES)] = np.nan
    result = compare(*written(tmp_path, a=a[3:-1], b=b[:-1]), TRUTH, resamples=20)
    assert (result["images"], result["only_a"], result["only_b"]) == (IMAGES - 9, 5, 3)
    assert result["neither"] == 1
    kept = pd.concat([a[3:10], a[15:-1]])
    alone = roc_auc_score(TRUTH.rows.loc[kept["Image Index"], "Mass"], kept["prob_Mass"])
    assert result["findings"]["Mass"]["a"]["value"] == pytest.approx(alone, abs=1e-12)


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    a, b = model(1.0, 1, 0.8), model(1.2, 2, 0.8)
    straight = compare(*written(tmp_path, a=a, b=b), TRUTH, resamples=50)
    shuffled = {"a": a, "b": b.sample(frac=1, random_state=0)}
    assert compare(*written(tmp_path, **shuffled), TRUTH, resamples=50) == straight


def test_what_is_undefined_is_null_with_the_reason_and_not_in_the_mean(tmp_path: Path) -> None:
    paths = written(tmp_path, a=model(1.0, 1, 0.8), b=model(1.2, 2, 0.8))
    result = compare(*paths, TRUTH, resamples=20)
    hernia = result["findings"]["Hernia"]
    assert hernia["difference"] == hernia["a"] | {"reason": "no positives"}
    assert hernia["difference"]["value"] is hernia["p"] is hernia["delong"]["p"] is None
    assert result["mean"]["findings"] == 13
    assert result["mean"]["left_out"] == {"Hernia": "no positives"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    healthy = TRUTH.rows.assign(**dict.fromkeys(FINDINGS, 0.0))
    nothing = compare(*paths, dataclasses.replace(TRUTH, rows=healthy), resamples=20)
    assert "no finding has at least 5 patients with it" in nothing["sentence"]
    assert nothing["mean"]["findings"] == 0


def test_tables_without_a_common_image_are_refused(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1)[:30], b=model(1.0, 1)[30:])
    with pytest.raises(PredictionsError, match="no image in common"):
        compare(a, b, TRUTH)


def told(value: float, low: float | None, high: float | None, p: float | None) -> str:
    nothing = DeLongTest(difference=None, low=None, high=None, p=None)
    difference = Interval(value=value, low=low, high=high, reason="too few patients")
    a, b = Interval(value=0.8), Interval(value=0.82)
    return sentence(ComparedMean(findings=2, a=a, b=b, difference=difference, p=p, delong=nothing))


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "start"),
    [
        (0.02, 0.01, 0.03, 0.001, "B is better than A"),
        (0.02, -0.001, 0.041, 0.06, "No difference between A and B was shown"),
        (-0.02, -0.03, -0.01, 0.0004, "B is worse than A"),
        (0.0, 0.0, 0.0, None, "A and B rank the images equally"),
        (0.02, None, None, None, "It is not known which model is better"),
    ],
)
def test_the_sentence_goes_by_the_p_value_and_names_it(
    value: float, low: float | None, high: float | None, p: float | None, start: str
) -> None:
    text = told(value, low, high, p)
    assert text.startswith(start)
    if p is not None:
        assert f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})" in text


def test_a_finding_of_3_patients_is_not_tested_and_not_in_the_mean(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1, 0.8), b=model(1.2, 2, 0.8))
    rows = TRUTH.rows.copy()
    rows["Mass"] = 0.0
    rows.iloc[[0, 1, 30, 60], rows.columns.get_loc("Mass")] = 1.0  # images of 3 patients
    result = compare(a, b, dataclasses.replace(TRUTH, rows=rows), resamples=50)
    mass = result["findings"]["Mass"]
    assert mass["difference"]["value"] is not None
    assert mass["difference"]["low"] is mass["p"] is mass["p_holm"] is mass["delong"]["p"] is None
    for entry in (mass["difference"], mass["delong"]):
        assert entry["reason"] == "only 3 patients with the finding: a test needs at least 5"
    others = [e["difference"]["value"] for f, e in result["findings"].items() if f != "Mass"]
    expected = np.mean([value for value in others if value is not None])
    assert result["mean"]["findings"] == 12
    assert result["mean"]["difference"]["value"] == pytest.approx(expected, abs=1e-12)
    assert result["mean"]["delong"]["difference"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("margin", "shown", "start"),
    [
        (0.1, True, "B is not inferior to A with a margin of 0.1 in mean AUROC"),
        (0.01, False, "That B is not inferior to A was not shown with a margin of 0.01"),
    ],
)
def test_non_inferiority_is_the_lower_limit_above_the_margin(
    tmp_path: Path, margin: float, shown: bool, start: str
) -> None:
    tables = written(tmp_path, a=model(1.0, 1, 0.8), b=model(0.9, 2, 0.8))
    result = compare(*tables, resamples=200, margin=margin)
    found, low = result["noninferiority"], result["mean"]["difference"]["low"]
    assert found["shown"] is shown is (low > -margin) is (found["p"] < 0.025)
    assert found["sentence"].startswith(start)
    assert f"{low:+.3f}".replace("-", "−") in found["sentence"]


def test_a_model_is_not_inferior_to_itself(tmp_path: Path) -> None:
    tables = written(tmp_path, a=model(1.0, 1), b=model(1.0, 1))
    found = compare(*tables, resamples=20, margin=0.001)["noninferiority"]
    assert (found["shown"], found["p"]) == (True, 0)


@pytest.mark.parametrize("margin", [0.0, -0.02, 1.0, float("nan")])
def test_a_margin_outside_0_to_1_is_refused(tmp_path: Path, margin: float) -> None:
    with pytest.raises(PredictionsError, match="between 0 and 1, not"):
        compare(*written(tmp_path, a=model(1.0, 1), b=model(1.0, 2)), margin=margin)


def test_findings_are_matched_by_name_and_the_others_listed(tmp_path: Path) -> None:
    a, b = model(1.0, 1, 0.8), model(1.2, 2, 0.8)
    fewer = Findings(["mass", "Pleural effusion", "Rib fracture"])
    renamed = b.rename(columns={"prob_Mass": "prob_mass", "prob_Effusion": "prob_Pleural effusion"})
    renamed = renamed.assign(**{"prob_Rib fracture": 0.5})
    columns = ["Image Index", *(f"prob_{name}" for name in fewer), "status", "reason"]
    write(tmp_path / "fewer.csv", renamed[columns], fewer)
    whole = compare(*written(tmp_path, a=a, b=b), resamples=20)
    result = compare(tmp_path / "a.csv", tmp_path / "fewer.csv", resamples=20)
    assert list(result["findings"]) == ["Effusion", "Mass"]
    for finding, entry in result["findings"].items():
        assert entry["difference"] == whole["findings"][finding]["difference"]
    assert result["left_out"]["Rib fracture"] == "not labelled"
    assert result["left_out"]["Edema"] == "predicted by only one of the two"


def test_a_comparison_is_written_and_read_back(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1, 0.8), b=model(1.2, 2, 0.8))
    found = comparison.compare(a, b, TRUTH, resamples=20, out=tmp_path / "out")
    assert Comparison.read(tmp_path / "out") == found
    assert repr(found).startswith("Comparison(600 images of 200 patients; ")


def write_label_table(path: Path) -> Path:
    lines = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"
    ]
    for image, row in TRUTH.rows.iterrows():
        named = [finding for finding in FINDINGS if row[finding] == 1] or ["No Finding"]
        lines.append(f"{image},{'|'.join(named)},0,{row['patient']},60,F,PA")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_command_tells_which_is_better_and_writes_it_down(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.0, 1, 0.7)[:-1], b=model(1.5, 2, 0.7)[:-3])
    labels = write_label_table(tmp_path / "Data_Entry_2017.csv")
    told = run_command(
        "compare", a, b, "--labels", labels, "--out", tmp_path / "out", "--seed", "3"
    )
    assert told.returncode == 0, told.stderr
    assert "2 images are predicted by A alone and left out of both" in told.stdout
    assert "1 labelled images are predicted by neither" in told.stdout
    assert "Hernia: no positives" in told.stdout
    assert "not in the mean: Hernia\n" in told.stdout
    assert "\nB is better than A: the mean AUROC is 0.7" in told.stdout
    kept = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert kept["sentence"] in told.stdout
    assert kept["intervals"] == {
        "level": 0.95, "resamples": 1000, "seed": 3, "by": "patient", "weights": "multinomial"
    }  # fmt: skip
    (tmp_path / "b.csv").write_text("Image Index\n", encoding="utf-8")
    failed = run_command("compare", a, b, "--labels", labels)
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1


def test_a_loss_has_a_minus_sign_where_people_read_it_and_a_hyphen_in_files(tmp_path: Path) -> None:
    a, b = written(tmp_path, a=model(1.5, 1, 0.7), b=model(1.0, 2, 0.7))
    labels = write_label_table(tmp_path / "Data_Entry_2017.csv")
    given = ("compare", a, b, "--labels", labels, "--resamples", "20", "--margin", "0.02")
    printed = run_command(*given).stdout
    assert not re.findall(r"(?<!\w)-[0-9.]+", printed)
    difference = json.loads(run_command(*given, "--json").stdout)["comparisons"][0]["mean"]
    value = difference["difference"]["value"]
    assert value < -0.01
    assert f" −{-value:.3f} " in next(of for of in printed.splitlines() if of.startswith("mean"))
    assert f"difference −{-value:.3f} (95 % interval −" in printed
    assert "not above −0.02 " in printed


def test_the_command_takes_run_folders_and_a_margin(tmp_path: Path) -> None:
    for name, skill in (("one", 1.0), ("two", 1.5)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "predictions.csv", model(skill, 1, 0.7))
    labels = write_label_table(tmp_path / "Data_Entry_2017.csv")
    runs = [tmp_path / name for name in ("one", "two")]
    told = run_command(
        "compare", *runs, "--labels", labels, "--resamples", "50", "--margin", "0.05"
    )
    assert told.returncode == 0, told.stderr
    assert "B is not inferior to A with a margin of 0.05 in mean AUROC" in told.stdout
    empty = run_command("compare", runs[0], tmp_path, "--labels", labels)
    assert empty.returncode == 1
    assert "is a folder without predictions.csv" in empty.stderr
    assert "Errno" not in empty.stderr


def test_a_finding_that_is_left_out_under_two_spellings_is_listed_once(tmp_path: Path) -> None:
    more = [Findings([*FINDINGS, name]) for name in ("Rib fracture", "rib_fracture")]
    for name, findings in zip("ab", more, strict=True):
        rows = model(1.0, 1, 0.8).assign(**{f"prob_{findings[-1]}": 0.5})
        write(tmp_path / f"{name}.csv", rows, findings)
    left_out = compare(tmp_path / "a.csv", tmp_path / "b.csv", resamples=10)["left_out"]
    assert left_out == {"Rib fracture": "not labelled"}
