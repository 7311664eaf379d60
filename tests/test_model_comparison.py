"""Any number of models side by side: each figure is that of its model alone, on the same images."""

from __future__ import annotations

import csv
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import markupsafe
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from chestxray.errors import ArtifactError, PredictionsError
from chestxray.evaluation import compare_models, predictions
from chestxray.evaluation.comparison import compare
from chestxray.evaluation.results import ModelComparison
from chestxray.reporting import comparison_page
from command_line import run_command
from test_comparison import FINDINGS, TRUTH, model, write_label_table

FEW = ("Atelectasis", "Effusion", "Mass", "Edema", "Hernia")  # of the last there are no positives


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three run folders: the second lacks images, the third a finding; one has a history."""
    folder = tmp_path_factory.mktemp("runs")
    tables = {
        "base": model(1.0, 1, 0.7),
        "wide": model(1.5, 2, 0.7)[:-30],
        "few & odd_": model(0.6, 3, 0.7).drop(columns="prob_Edema"),
    }
    left_out = [f"prob_{name}" for name in FINDINGS if name not in FEW]
    for name, whole in tables.items():
        rows = whole.drop(columns=left_out)
        (folder / name).mkdir()
        rows.to_csv(folder / name / "predictions.csv", index=False)
    history = "epoch,split,loss,bce,accuracy,auroc\n0,train,1,1,1,1\n0,val,0.5,0.5,0.9,0.7\n"
    (folder / "wide/history.csv").write_text(history)
    return [folder / name for name in tables]


@pytest.fixture(scope="module")
def compared(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared")
    compare_models(runs, TRUTH, resamples=40, out=out)
    comparison_page(out)
    return out


def test_all_figures_are_of_the_images_and_findings_that_all_models_have(
    compared: Path, runs: list[Path]
) -> None:
    result = ModelComparison.read(compared)
    assert [of.name for of in result.models] == ["base", "wide", "few & odd_"]
    assert [of.only for of in result.models] == [30, 0, 30]
    assert (result.images, "Edema" in result.models[0].findings) == (570, False)
    assert "Edema" in result.left_out
    names = TRUTH.rows.index[:570]
    for place, run in enumerate(runs):
        rows = pd.read_csv(run / "predictions.csv", index_col="Image Index").loc[names]
        versus = result.comparisons[max(place - 1, 0)]
        for finding in ("Effusion", "Mass"):
            expected = roc_auc_score(TRUTH.rows.loc[names, finding], rows[f"prob_{finding}"])
            found = versus.findings[finding]
            assert (found.b if place else found.a).value == pytest.approx(expected, abs=1e-12)
            roc = result.models[place].findings[finding].roc
            area = np.trapezoid(roc.tpr, roc.fpr)
            assert area == pytest.approx(expected, abs=2e-3)


def test_two_models_are_compared_as_by_compare(runs: list[Path], tmp_path: Path) -> None:
    pair = [runs[0], runs[1]]
    (found,) = compare_models(pair, TRUTH, resamples=40, seed=3, out=tmp_path).comparisons
    alone = compare(*pair, TRUTH, resamples=40, seed=3)
    assert found.model_copy(update={"a": alone.a, "b": alone.b}) == alone
    assert (tmp_path / "comparison.json").exists()


def test_the_order_of_the_others_changes_no_figure(runs: list[Path]) -> None:
    one, other = (
        compare_models([runs[0], *rest], TRUTH, resamples=40) for rest in (runs[1:], runs[:0:-1])
    )
    assert one.comparisons == other.comparisons[::-1]


def test_the_tables_hold_what_the_json_holds(compared: Path) -> None:
    result = ModelComparison.read(compared)
    rows = list(csv.DictReader((compared / "models.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 3 * (len(result.models[0].findings) + 1)
    (mean,) = [of for of in rows if (of["model"], of["finding"]) == ("wide", "mean")]
    assert float(mean["difference"]) == result.comparisons[0].mean.difference.value
    text = (compared / "models.tex").read_text(encoding="utf-8")
    assert r"Finding & base & wide & few \& odd\_ \\" in text
    values = re.search(r"^Mean & ([\d.]+) \([^)]*\) & ([\d.]+) \(", text, re.MULTILINE)
    assert values is not None
    expected = result.comparisons[0].mean
    assert [float(of) for of in values.groups()] == pytest.approx(
        [expected.a.value, expected.b.value], abs=5e-4
    )


def test_the_page_answers_first_and_shows_every_model(compared: Path) -> None:
    html = (compared / "models.html").read_text(encoding="utf-8")
    result = ModelComparison.read(compared)
    assert html.index("wide is better than base") < html.index('<section id="answer">')
    assert str(markupsafe.escape(result.sentences[1])) in html
    assert html.count('aria-label="ROC curves of ') == len(result.models[0].findings) - 1  # Hernia
    assert '<section id="training">' in html
    by_figure: dict[str, set[str]] = {}
    for path in (compared / "models_figures").iterdir():
        by_figure.setdefault(path.stem.split("-")[0], set()).add(path.suffix[1:])
    assert set(by_figure) == {"auroc", "calibration", "differences", "roc", "training"}
    assert all(found == {"svg", "pdf", "png"} for found in by_figure.values())
    drawn = ET.parse(compared / "models_figures/roc.svg").getroot()  # noqa: S314 - our own file
    said = " ".join(drawn.itertext())
    auroc = result.comparisons[0].findings["Atelectasis"].b.value
    assert f"wide, {auroc:.3f}" in said, "a panel gives each model's AUROC"
    assert "sensitivity" in said, "axes have names"


def sizes_of(svg: Path) -> tuple[float, Counter[float]]:
    """The width of a figure in inches, and how often each size of its text occurs, points."""
    root = ET.parse(svg).getroot()  # noqa: S314 - our own file
    _, _, width, _ = map(float, root.get("viewBox", "").split())
    points = float(root.get("width", "0pt")[:-2])
    assert points == pytest.approx(width)  # so a unit of the drawing is a point of the page
    styles = [of.get("style", "") for of in root.iter() if of.tag.endswith("text")]
    sizes = [float(found) for one in styles for found in re.findall(r"font-size: ([\d.]+)px", one)]
    return points / 72, Counter(sizes)


@pytest.mark.parametrize(("style", "points", "page"), [("10", 10, 7.2), ("slide", 16, 13.3)])
def test_a_style_sets_the_size_of_all_text_on_a_page_that_it_fits(
    compared: Path, tmp_path: Path, style: str, points: float, page: float
) -> None:
    shutil.copytree(compared, tmp_path / "compared")
    comparison_page(tmp_path / "compared", style)
    for name in ("auroc", "roc"):
        _, nominal = sizes_of(compared / f"models_figures/{name}.svg")
        assert max(nominal, key=nominal.__getitem__) == 7.5
        drawn = [*tmp_path.glob(f"compared/models_figures/{name}*.svg")]
        assert (len(drawn) == 1) == (tmp_path / f"compared/models_figures/{name}.svg").exists()
        for svg in drawn:
            width, sizes = sizes_of(svg)
            assert width <= page
            assert min(sizes) >= 0.8 * points - 1e-9
            grown = {round(size * points / 7.5, 3) for size in nominal}
            assert {round(size, 3) for size in sizes} == grown
    assert (tmp_path / "compared/models.html").read_text() == (compared / "models.html").read_text()


def test_a_style_that_there_is_not_is_told_before_anything_is_read(tmp_path: Path) -> None:
    for words in (("--style", "40", "--out", tmp_path / "out"), ("--style", "9")):
        told = run_command("compare", "a.csv", "b.csv", "--labels", "labels.csv", *words)
        assert told.returncode == (1 if "--out" in words else 2)
        assert ("from 6 to 12" if "--out" in words else "--out") in told.stderr


def test_tables_in_memory_have_a_page_too(runs: list[Path], tmp_path: Path) -> None:
    tables = [predictions.read(run / "predictions.csv") for run in runs[:2]]
    result = compare_models(tables, TRUTH, resamples=5, out=tmp_path)
    assert [of.name for of in result.models] == ["model 1", "model 2"]
    assert "a table in memory" in comparison_page(tmp_path).read_text(encoding="utf-8")


def test_what_cannot_be_compared_is_told(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="at least two tables"):
        compare_models(runs[:1], TRUTH)
    with pytest.raises(PredictionsError, match=r"names a, a: give as many names, each once"):
        compare_models(runs[:2], TRUTH, names=["a", "a"])
    model(1.0, 1)[-20:].to_csv(tmp_path / "elsewhere.csv", index=False)
    with pytest.raises(PredictionsError, match="no image in common"):
        compare_models([*runs, tmp_path / "elsewhere.csv"], TRUTH)
    with pytest.raises(ArtifactError, match="chestxray compare"):
        comparison_page(tmp_path)


def test_the_command_compares_three_and_names_them(runs: list[Path], tmp_path: Path) -> None:
    labels = write_label_table(tmp_path / "Data_Entry_2017.csv")
    named = [word for name in ("one", "two", "three") for word in ("--name", name)]
    told = run_command("compare", *runs, "--labels", labels, "--resamples", "20", *named)
    assert told.returncode == 0, told.stderr
    assert "one: 30 images are left out, not predicted by all" in told.stdout
    assert re.findall(r"A: (\w+)\nB: (\w+)\n", told.stdout) == [("one", "two"), ("one", "three")]
    assert "predicted by neither" not in told.stdout


def test_a_p_value_on_the_page_is_never_zero(compared: Path) -> None:
    """A test on resamples has no p of 0: a small one is below a limit."""
    html = (compared / "models.html").read_text(encoding="utf-8")
    assert "<td>0.0000</td>" not in html
    assert "<td>&lt; 0.001</td>" in html
