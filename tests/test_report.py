"""The page: self-contained, complete for any findings, and readable on a phone."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from chestxray.errors import ArtifactError
from chestxray.evaluation.bundle_thresholds import model_identity
from chestxray.findings import label
from chestxray.reporting import (
    figure_set,
    formatting,
    interpretation,
    page,
    plots,
    report,
    reporting_checklist,
    svg,
)
from chestxray.reporting.run_files import RunFiles
from chestxray.reporting.svg import VARIABLES
from chestxray.sources.nih import FINDINGS
from fake_run import CARD, page_of, truth, write_run, write_training
from viewer_parts import CHROMIUM

PREFIX = "data:image/webp;base64,"

OWN = ["Effusion", "Pneumothorax", "Consolidation", "Rib fracture", "chest_drain"]
LONG = ["Endotracheal tube tip below the carina or in one main bronchus", "Q" * 64]

# Elements wider than the window, except inside a box that scrolls.
WIDE = """[...document.querySelectorAll("main table, main svg, main pre, main p")]
  .filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def html(full: Path) -> str:
    return page_of(full)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of the time that a page takes; not every test looks at figures."""
    monkeypatch.setattr(page, "inline", lambda drawing: f"<svg aria-label='{drawing.title}'></svg>")


def changed(full: Path, to: Path, name: str, change: Any) -> Path:
    """A copy of the run in which one file of JSON was changed."""
    shutil.copytree(full, to)
    path = to / name
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return to


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation" / "metrics.json").read_text(encoding="utf-8"))


class Elements(HTMLParser):
    """Collects start tags with their attributes, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "input", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(html)
    assert not parser.open
    return parser.seen


def test_the_page_loads_nothing(html: str) -> None:
    for tag, attributes in elements(html):
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", PREFIX)), (tag, name, value[:60])
    assert not re.search(r"@import|url\((?!#)", html)


def test_names_inside_the_figures_do_not_clash(html: str) -> None:
    names = [attributes["id"] for _, attributes in elements(html) if "id" in attributes]
    assert len(names) == len(set(names))
    used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', html))
    assert used <= set(names)


def test_every_finding_and_every_section_is_there(html: str) -> None:
    for finding in FINDINGS:
        assert html.count(label(finding)) >= 4
    for section in set(page.SECTIONS) - {"execution"}:  # only of what a cluster made
        assert f'<section id="{section}">' in html
        assert f'<a href="#{section}">' in html
    assert "Not available yet" not in html
    assert "Not a medical device" in html
    assert model_identity(CARD) in html
    assert html.count(PREFIX) == 4  # three examples and the pairs of phantoms


def test_every_figure_of_the_metrics_is_on_the_page(full: Path, html: str) -> None:
    metrics = metrics_of(full)
    rows = [metrics["mean"], metrics["micro"], *metrics["findings"].values()]
    shown = {*page.MAIN, *page.PROBABILITIES, *page.CALLS}
    for row in rows:
        for name in shown:
            assert formatting.figure(row[name]) in html, name
    for entry in metrics["findings"].values():
        for point in entry["operating_points"].values():
            for name in page.CALLS:
                assert formatting.figure(point[name]) in html
    assert f"<b>{metrics['mean']['auroc']['value']:.3f}</b>" in html
    assert "over the 13 findings" in " ".join(html.split())


def test_figures_of_the_other_files_are_on_the_page(full: Path, html: str) -> None:
    for name, path in (
        ("subgroups", ("axes", "sex", "findings", "Mass", "female", "missed")),
        ("subgroups", ("shortcut", "Mass", "view_auroc")),
        ("reliability", ("Mass", "recalibrated", "slope")),
        ("localization", ("findings", "Mass", "iou", "0.3", "hit")),
        ("reference", ("labels", "Nodule or mass", "nih_auroc")),
        ("comparison", ("findings", "Mass", "difference")),
    ):
        value = json.loads((full / "evaluation" / f"{name}.json").read_text(encoding="utf-8"))
        for key in path:
            value = value[key]
        assert formatting.figure(value) in html, path


def test_sizes_stay_on_one_line(html: str) -> None:
    body = html[html.index("<body>") :]
    assert len(re.findall(r"\d\u00a0×\u00a0\d", body)) > 2
    assert not re.findall(r"\d\s+×\s|×\s+\d", body.replace("\u00a0", ""))


def test_null_is_a_dash_with_the_reason_and_never_zero(full: Path, html: str) -> None:
    hernia = metrics_of(full)["findings"]["Hernia"]
    undefined = [name for name in page.MAIN if hernia[name]["value"] is None]
    assert undefined == ["auroc", "auprc", "recall", "precision", "f1"]
    row = re.search(
        r"<th scope=\"row\"[^>]*>Hernia</th>\s*<td>0 <span.*?</td>(.*?)</tr>", html, re.DOTALL
    )
    assert row is not None
    assert row[1].count('<abbr title="no positives">–</abbr>') == len(undefined)
    reasons = html.split("<li>Hernia (")[1].split("</li>", maxsplit=1)[0]
    assert reasons.endswith("): no positives")
    for name in undefined:
        assert formatting.metric_label(name)[1:] in reasons
    assert html.count('<div class="undefined">no positives</div>') == 2  # ROC, precision-recall


@pytest.mark.usefixtures("undrawn")
def test_a_source_that_can_be_told_and_pays_is_a_limit_of_the_results(
    full: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(full, run)
    told = {"value": 0.93, "low": 0.9, "high": 0.95, "percentile": {"low": None, "high": None}}
    probe: dict[str, Any] = {"auroc": {"nih": told}, "too_few": {"site": "3 patients"}}
    for warns in (True, False):
        content = probe | {"sentence": "The source can be told.", "warning": warns}
        (run / "source_probe.json").write_text(json.dumps(content), encoding="utf-8")
        html = page_of(run)
        elements(html)
        assert ("Figures over all sources together" in html) == warns
        assert "The source can be told." in html
        assert "0.930" in html


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_without_validation_says_so(full: Path, tmp_path: Path) -> None:
    reason = "no validation predictions: --fit-on"
    nothing = {"value": None, "low": None, "high": None, "reason": reason}

    def forget(metrics: dict[str, Any]) -> None:
        metrics["fit_on"] = None
        for entry in (*metrics["findings"].values(), metrics["mean"], metrics["micro"]):
            entry.update(dict.fromkeys(page.CALLS, nothing))
        for entry in metrics["findings"].values():
            entry |= {"threshold": nothing, "confusion": None, "operating_points": {}}

    html = page_of(changed(full, tmp_path / "run", "evaluation/metrics.json", forget))
    elements(html)
    assert f"F1, threshold): {reason}" in html
    assert "thresholds are\n    never chosen on the evaluated images" in html


def test_findings_that_are_not_in_a_comparison_s_mean_are_named(html: str) -> None:
    assert "Not in the mean: Hernia (no positives)." in html


@pytest.mark.usefixtures("undrawn")
def test_few_positives_are_stated_where_the_mean_is(full: Path, tmp_path: Path, html: str) -> None:
    assert "Few positives" not in html

    def thin(metrics: dict[str, Any]) -> None:
        metrics["findings"]["Mass"]["positives"] = 9

    few = page_of(changed(full, tmp_path / "run", "evaluation/metrics.json", thin))
    assert "<b>Few positives:</b> Mass has" in few
    assert "including 1 with few positives" in few
    assert "<b>Mass.</b> There are fewer than 10 positives" in few
    claim = "AUROC above chance: "
    assert "Mass" in html.split(claim)[1].split(".", maxsplit=1)[0]
    assert "Mass" not in few.split(claim)[1].split(".")[0]


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ({"value": 0.81, "low": 0.8, "high": 0.8251}, "0.810 (0.800–0.825)"),
        ({"value": -0.1, "low": -0.2, "high": 0.05}, "−0.100 (−0.200 to 0.050)"),
        ({"value": 0.5, "low": None, "high": None}, "0.500"),
        ({"value": -0.0001, "low": None, "high": None}, "0.000"),
        ({"value": None, "low": None, "high": None, "reason": "none"}, "–"),
        ({"value": 0.5, "low": None, "high": None, "reason": "few"}, "0.500"),
    ],
)
def test_a_figure_is_written_with_its_interval(metric: dict[str, Any], shown: str) -> None:
    written = str(formatting.figure(metric))
    assert re.sub(r"<[^>]+>", "", written) == shown
    assert metric.get("reason", "") in written


@pytest.mark.parametrize("point", [0.0, 0.5, 1.0])
def test_only_intervals_support_statements(full: Path, tmp_path: Path, point: float) -> None:
    def move(metrics: dict[str, Any]) -> None:
        low, high = max(0.0, point - 0.1), min(1.0, point + 0.1)
        for entry in (*metrics["findings"].values(), metrics["mean"]):
            entry["auroc"] |= {"value": point, "low": low, "high": high}

    run = changed(full, tmp_path / "run", "evaluation/metrics.json", move)
    statements = " ".join(interpretation.supported(RunFiles.read(run)))
    for verdict, expected in (
        ("above chance", 1), ("not distinguishable from chance", 0.5), ("below chance", 0),
    ):  # fmt: skip
        mean = f"The mean AUROC over 13 of 14 findings is {verdict} (0.5): {point:.3f}, 95"
        assert (mean in statements) == (point == expected)
        assert (f"AUROC {verdict}: Atelectasis" in statements) == (point == expected)


@pytest.mark.parametrize(
    ("low", "told"),
    [
        (0.01, "The heatmap peak is inside the marked region more often than a random point"),
        (-0.01, "For no finding is the heatmap peak shown to be inside the marked region"),
        (None, "For no finding is the heatmap peak shown to be inside the marked region"),
    ],
)
def test_a_heatmap_is_called_better_by_the_paired_interval_alone(
    full: Path, tmp_path: Path, low: float | None, told: str
) -> None:
    def move(localization: dict[str, Any]) -> None:
        for entry in localization["findings"].values():
            entry["hit"] |= {"low": 0.99}  # above every baseline's value, and of no account
            for name, above in entry["above"].items():
                worst = low if name == "centre" else 0.2
                above |= {"value": 0.3, "low": worst, "high": 0.4}

    run = changed(full, tmp_path / "run", "evaluation/localization.json", move)
    assert told in " ".join(interpretation.supported(RunFiles.read(run)))


@pytest.mark.usefixtures("undrawn")
def test_published_results_are_matched_only_where_they_are_comparable(
    full: Path, tmp_path: Path, html: str
) -> None:
    assert "No published result is comparable" in html
    assert "verdict" not in html[html.index("<body>") :]

    def compare(benchmarks: dict[str, Any]) -> None:
        benchmarks["note"] = None
        for row in benchmarks["rows"]:
            row |= {"comparable": row["split"] == "official", "why": "own split"}
            row["verdict"] = "above" if row["comparable"] else "not comparable"

    html = page_of(changed(full, tmp_path / "run", "evaluation/benchmarks.json", compare))
    assert '<td class="word verdict above">above</td>' in html
    above = html.split("Mean AUROC above published results on the same split: ")[1].split("</li>")[
        0
    ]
    assert "Wang 2017" in above
    assert "CheXNet" not in above


def test_the_checklist_follows_what_the_run_contains(full: Path, tmp_path: Path) -> None:
    files = RunFiles.read(full)
    everything = reporting_checklist.statuses(files)
    assert {name: len(items) for name, items in everything.items()} == {
        "CLAIM 2024": 44, "TRIPOD+AI": 52,
    }  # fmt: skip
    for items in everything.values():
        for item, status in items:
            assert not item.section or item.section in page.SECTIONS
            assert (status == reporting_checklist.REPORTED) <= bool(item.section)
    shutil.copytree(full, tmp_path / "run")
    for gone in ("subgroups", "reliability", "reference"):
        (tmp_path / "run" / "evaluation" / f"{gone}.json").unlink()
    less = reporting_checklist.statuses(RunFiles.read(tmp_path / "run"))
    changed_items = {
        (name, item.topic)
        for name, items in everything.items()
        for (item, was), (_, now) in zip(items, less[name], strict=True)
        if was != now
    }
    assert {
        ("CLAIM 2024", "Annotation of the test set"),
        ("CLAIM 2024", "Robustness"),
        ("TRIPOD+AI", "Fairness"),
    } <= changed_items
    assert all(status == reporting_checklist.MISSING
               for name, items in less.items() for item, status in items
               if (name, item.topic) in changed_items)  # fmt: skip
    assert everything["CLAIM 2024"][32][1] == reporting_checklist.MISSING  # no external data


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_figures_are_written_beside_the_page_as_vector_files(full: Path, tmp_path: Path) -> None:
    assert report(full, tmp_path / "report.html") == tmp_path / "report.html"
    files = sorted((tmp_path / "figures").glob("*.svg"))
    assert {path.stem for path in files} == set(figure_set.figure_sets(RunFiles.read(full)))
    for path in files:
        root = ET.parse(path).getroot()  # noqa: S314 - our own file
        assert root.tag.endswith("svg")
        text = path.read_text(encoding="utf-8")
        assert root.get("width", "").endswith("pt")
        assert float(root.get("width", "0pt")[:-2]) <= 7.3 * 72, "wider than a journal's page"
        assert "<text" in text
        assert "<image" not in text
        assert "var(--" not in text
        assert "http" not in re.sub(r"http://www\.w3\.org/[\w/]+", "", text)


@pytest.mark.usefixtures("undrawn")
def test_each_figure_is_a_pdf_and_a_png_of_the_size_of_its_svg(full: Path, tmp_path: Path) -> None:
    sets = figure_set.figure_sets(RunFiles.read(full))
    figure_set.write({name: sets[name] for name in ("confusion", "forest")}, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    for path in tmp_path.glob("*.svg"):
        root = ET.parse(path).getroot()  # noqa: S314 - our own file
        inches = [float(root.get(side, "0pt")[:-2]) / 72 for side in ("width", "height")]
        with Image.open(path.with_suffix(".png")) as image:
            assert [side / 300 for side in image.size] == pytest.approx(inches, abs=0.01)
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        pdf = path.with_suffix(".pdf").read_bytes()
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", pdf)
        assert box is not None
        assert [float(side) / 72 for side in box.groups()] == pytest.approx(inches, abs=0.01)
        assert b"/Type3" not in pdf, "journals refuse Type 3 fonts"
        again = tmp_path / "again"
        figure_set.write({path.stem: sets[path.stem]}, again)
        assert (again / path.with_suffix(".pdf").name).read_bytes() == pdf


def marks(files: RunFiles) -> dict[str, str]:
    return {name: each.note for name, each in figure_set.figure_sets(files).items()}


def test_a_figure_explains_the_marks_that_it_has_and_no_others(full: Path) -> None:
    """The prevalence is always there; the rest only where something was computed."""
    files = RunFiles.read(full)
    notes = marks(files)
    assert "Dot: threshold." in notes["roc"]
    assert "Band: pointwise 95 % interval." in notes["roc"]
    assert "prevalence (AUPRC)" in notes["forest"]
    metrics, curves = copy.deepcopy(files.metrics), copy.deepcopy(files.curves)
    for entry in metrics["findings"].values():
        entry["prevalence"] = None
        for metric in ("recall", "precision", "specificity"):
            entry[metric]["value"] = None
    for curve in curves.values():
        for kind in ("roc", "pr"):
            if curve is not None:
                curve[kind]["band"] = None
    bare = marks(dataclasses.replace(files, metrics=metrics, curves=curves, benchmarks=None))
    for name in ("roc", "precision-recall"):
        assert "Dot:" not in bare[name]
        assert "Band" not in bare[name]
    assert "Ticks" not in bare["forest"]


def test_panels_of_a_forest_have_their_axes_and_labels_in_line(full: Path) -> None:
    """Whatever their longest label; a label begins where the caption does, not at the edge."""
    for name in ("forest", "gaps"):
        panels = figure_set.figure_sets(RunFiles.read(full))[name].panels.values()
        assert len({panel.margins for panel in panels}) == 1
        for panel in panels:
            axes = Figure(figsize=panel.inches).add_axes((0.3, 0.1, 0.4, 0.8))
            panel.draw(axes)
            offsets = {round(text.xyann[0] / 72 + panel.margins[0], 6) for text in axes.texts}
            assert min(offsets) == 0.04


def test_figures_on_the_page_follow_its_colours_and_have_text_alternatives(html: str) -> None:
    figures = [attributes for tag, attributes in elements(html) if tag == "svg"]
    titles = [attributes["aria-label"] for attributes in figures]
    assert len(titles) == len(set(titles)) > 60
    body = html[html.index("<body>") :]
    assert not [colour for colour in VARIABLES if colour in body]
    assert all(attributes["alt"] for tag, attributes in elements(html) if tag == "img")


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_stands_out_in_both_schemes(html: str) -> None:
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL)[:2]
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        for text, ground, least in (
            ("ink", "card", 7), ("quiet", "page", 4.5), ("quiet", "soft", 4.5),
            ("first", "card", 4.5), ("second", "card", 3), ("notice-ink", "notice", 4.5),
        ):  # fmt: skip
            one, other = sorted((luminance(scheme[text]), luminance(scheme[ground])))
            assert (other + 0.05) / (one + 0.05) >= least, (text, ground)


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_many_overlays_stays_small(full: Path, tmp_path: Path, html: str) -> None:
    def multiply(listed: dict[str, Any]) -> None:
        listed["shown"] = [
            listed["shown"][0] | {"finding": finding, "kind": kind}
            for finding in FINDINGS
            for kind in page.KINDS
        ]

    run = changed(full, tmp_path / "run", "explanations/explanations.json", multiply)
    smooth = np.random.default_rng(0).normal(size=(25, 46)).astype(np.float32)
    radiograph = Image.fromarray(smooth * 40 + 128).resize((920, 445), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(1).normal(0, 3, (445, 920))
    grain = np.clip(np.asarray(radiograph) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(grain).save(run / "explanations" / "Mass_true_call.png")
    assert len(page_of(run)) + len(html) < 3_000_000  # the figures are in the other page


@pytest.mark.usefixtures("undrawn")
def test_the_training_section_says_how_the_epoch_was_chosen_and_images_drawn(tmp_path) -> None:
    run = tmp_path / "run"
    write_training(run, truth(source="NIH ChestX-ray14"))
    html = page_of(run)
    assert "which has the lowest validation loss" in html
    assert "an epoch draws 600 times and shows 46.9" in html
    assert "is drawn 4 times" in html
    assert "effective sample size is 219 images" in html
    summary = json.loads((run / "run.json").read_text(encoding="utf-8"))
    summary["monitor"] = "auroc"
    summary["sampling"]["name"] = "natural"
    (run / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    html = page_of(run)
    assert "which has the highest mean AUROC on validation" in html
    assert "Balanced sampling" not in html
    for key in ("monitor", "sampling"):  # a run of an earlier version
        del summary[key]
    (run / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "which has the lowest validation loss" in page_of(run)


@pytest.mark.usefixtures("undrawn")
def test_what_does_not_exist_yet_is_named_with_its_command(tmp_path: Path) -> None:
    write_training(tmp_path / "run", truth(source="NIH ChestX-ray14"))
    (tmp_path / "run" / "history.csv").unlink()
    (tmp_path / "run" / "recipe.yaml").unlink()
    html = page_of(tmp_path / "run")
    elements(html)
    assert html.count("Not available yet") == 11
    for verb in ("train", "evaluate", "explain"):
        assert f"chestxray {verb} " in html
    assert "It has not been evaluated yet." in html


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_of_others_predictions_has_a_report_of_its_own(
    full: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(full / "evaluation", tmp_path / "evaluation")
    html = report(folder).read_text(encoding="utf-8")
    elements(html)
    for section in ("results", "curves", "calibration", "subgroups", "localization"):
        assert f'<section id="{section}">' in html
    for section in ("model", "data", "training", "recipe"):
        assert f'<section id="{section}">' not in html
    assert "Evaluation of predictions" in html
    assert "Not available yet" not in html


def test_a_folder_with_neither_run_nor_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="chestxray train"):
        report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", '{"backbone": "x"}'),
        ("evaluation/metrics.json", '{"findings": {}}'),
        ("evaluation/metrics.json", '{"findings": {}, "intervals": {}}'),
        ("evaluation/subgroups.json", '{"axes": {"sex": {}}}'),
        ("evaluation/reliability.json", '{"Mass": 1}'),
        ("evaluation/benchmarks.json", '{"rows": [1]}'),
        ("evaluation/curves.json", "[]"),
        ("explanations/explanations.json", '{"shown": [{"finding": "Mass"}]}'),
        ("history.csv", "epoch,loss\n1,2\n"),
        ("history.csv", ""),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_a_file_that_is_not_what_it_should_be_is_an_artifact_error(
    full: Path, tmp_path: Path, file: str, content: str
) -> None:
    shutil.copytree(full, tmp_path / "run")
    (tmp_path / "run" / file).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError):
        page_of(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_without_intervals_is_refused_with_the_command(
    full: Path, tmp_path: Path
) -> None:
    run = changed(
        full, tmp_path / "run", "evaluation/metrics.json", lambda metrics: metrics.pop("intervals")
    )
    with pytest.raises(ArtifactError, match="no intervals: run `chestxray evaluate` again"):
        page_of(run)


@pytest.mark.usefixtures("undrawn")
def test_a_missing_overlay_is_an_artifact_error(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "run")
    (tmp_path / "run" / "explanations" / "Edema_missed.png").unlink()
    with pytest.raises(ArtifactError, match="chestxray explain"):
        page_of(tmp_path / "run")


@pytest.mark.parametrize("way", ["absolute", "parent", "link"])
@pytest.mark.usefixtures("undrawn")
def test_an_image_outside_the_run_is_never_embedded(full: Path, tmp_path: Path, way: str) -> None:
    private = tmp_path / "private.png"
    Image.new("L", (8, 8)).save(private)
    name = {"absolute": str(private), "parent": "../../private.png", "link": "link.png"}[way]

    def lead_out(listed: dict[str, Any]) -> None:
        listed["shown"][0]["file"] = name

    run = changed(full, tmp_path / "run", "explanations/explanations.json", lead_out)
    (run / "explanations" / "link.png").symlink_to(private)
    with pytest.raises(ArtifactError, match=r"not a file in that folder: run `chestxray explain`"):
        page_of(run)


@pytest.mark.usefixtures("undrawn")
def test_overlays_of_another_model_are_marked(full: Path, tmp_path: Path, html: str) -> None:
    assert "made with another model" not in html
    shutil.copytree(full, tmp_path / "run")
    path = tmp_path / "run" / "explanations" / "explanations.json"
    listed = json.loads(path.read_text(encoding="utf-8")) | {"model": "other-1"}
    path.write_text(json.dumps(listed), encoding="utf-8")
    assert "made with another model, other-1" in page_of(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_a_single_example_says_why(full: Path, tmp_path: Path, html: str) -> None:
    said = "no assessed finding is called or missed"
    assert said not in html
    name = "explanations/explanations.json"
    run = changed(full, tmp_path / "run", name, lambda listed: listed.update(shown=[]))
    assert said in page_of(run)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs on labels of one's own, by number of findings; 40 include names of 64 characters."""
    folder = tmp_path_factory.mktemp("hospital")
    findings = {1: ["Pneumothorax"], 5: OWN, 40: [*OWN, *LONG, *(f"Sign {i}" for i in range(33))]}
    return {
        count: write_run(
            folder / str(count), truth(findings=names, source="St Elsewhere"), resamples=8
        )
        for count, names in findings.items()
    }


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("count", [1, 5, 40])
def test_any_findings_have_every_section_and_figure(hospital: dict[int, Path], count: int) -> None:
    html = page_of(hospital[count])
    elements(html)
    names = json.loads((hospital[count] / "run.json").read_text(encoding="utf-8"))["findings"]
    assert len(names) == count
    for section in set(page.SECTIONS) - {"benchmarks", "execution", "reference"}:
        assert f'<section id="{section}">' in html
    for name in names:
        for kind in ("ROC curve", "Precision-recall curve", "Reliability diagram"):
            assert html.count(f"aria-label='{kind} of {label(name)}'") == 1
        assert html.count(f"aria-label='Confusion matrix of {label(name)}'") == 1
        assert len(re.findall(rf"<th scope=\"row\"[^>]*>{label(name)}</th>", html)) >= 5
    assert 'title=""' not in html
    assert "<p></p>" not in html


@pytest.mark.usefixtures("undrawn")
def test_text_follows_the_number_and_the_source_of_the_findings(
    hospital: dict[int, Path], html: str
) -> None:
    pages = {count: page_of(run) for count, run in hospital.items()}
    for count, run in hospital.items():  # sentences of the evaluation are not the report's
        subgroups, comparison = (
            json.loads((run / "evaluation" / name).read_text(encoding="utf-8"))
            for name in ("subgroups.json", "comparison.json")
        )
        for sentence in (*subgroups["rules"].values(), comparison["sentence"]):
            pages[count] = pages[count].replace(sentence, "")
    assert "Published results" in html
    for text in pages.values():
        for word in ("NIH", "Wang 2017</span>", "14 findings", "Published results"):
            assert word not in text
        assert "Labels of St Elsewhere: planted by a random generator." in text
    assert "A classifier of 5 findings on" in pages[5]
    assert "A classifier of the finding Pneumothorax on" in pages[1]
    for word in ("Mean AUROC", "mean AUROC", ">Mean<", ">Pooled<", "Co-occurring", "1 findings"):
        assert word not in pages[1], word


@pytest.mark.slow
def test_forty_findings_are_drawn_on_pages_that_can_be_printed(
    hospital: dict[int, Path], tmp_path: Path
) -> None:
    sets = figure_set.figure_sets(RunFiles.read(hospital[40]))
    few = {name: sets[name] for name in ("confusion", "distribution", "forest")}
    figure_set.write(few, tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {
        "confusion", "distribution-1", "distribution-2", "forest",
    }  # fmt: skip
    for path in tmp_path.glob("*.svg"):
        root = ET.parse(path).getroot()  # noqa: S314 - our own file
        assert float(root.get("width", "0pt")[:-2]) <= 7.3 * 72
        assert float(root.get("height", "0pt")[:-2]) <= 10 * 72


@pytest.mark.slow
def test_a_figure_that_is_too_tall_becomes_numbered_pages_with_every_panel(tmp_path: Path) -> None:
    counts = {"tp": 5, "fn": 1, "fp": 2, "tn": 9}
    panels = [(f"Sign {i}", plots.confusion(counts, f"sign {i}")) for i in range(60)]
    svg.save(tmp_path / "confusion.svg", panels, 5, "Confusion", "Numbers of images.")
    pages = sorted(tmp_path.glob("*.svg"))
    assert [path.name for path in pages] == ["confusion-1.svg", "confusion-2.svg"]
    assert len(list(tmp_path.iterdir())) == 6, "each as SVG, PDF and PNG"
    texts = [path.read_text(encoding="utf-8") for path in pages]
    assert "<title>Confusion (1 of 2)</title>" in texts[0]
    shown = [int(number) for text in texts for number in re.findall(r">Sign (\d+)<", text)]
    assert shown == list(range(60))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("inside", [pytest.param(True, marks=pytest.mark.slow), False])
def test_an_evaluation_without_a_run_has_a_page(
    hospital: dict[int, Path], tmp_path: Path, inside: bool
) -> None:
    folder = tmp_path / "others"
    shutil.copytree(hospital[5] / "evaluation", folder / "evaluation" if inside else folder)
    assert report(folder) == folder / "report.html"
    html = (folder / "report.html").read_text(encoding="utf-8")
    elements(html)
    for section in ("interpretation", "results", "curves", "calibration", "subgroups", "card"):
        assert f'<section id="{section}">' in html
    for section in ("model", "data", "training", "recipe", "examples"):
        assert f'<section id="{section}">' not in html
        assert f'"#{section}"' not in html
    assert "Not available yet" not in html
    assert "Predictions of 5 findings on chest radiographs of St Elsewhere." in html
    assert "The origin of the labels is not recorded." in html


@pytest.mark.usefixtures("undrawn")
def test_findings_left_out_are_listed_with_the_reason(
    hospital: dict[int, Path], tmp_path: Path
) -> None:
    def leave_out(metrics: dict[str, Any]) -> None:
        metrics["left_out"] = {"rib_lesion": "it is not predicted"}

    run = changed(hospital[5], tmp_path / "run", "evaluation/metrics.json", leave_out)
    html = page_of(run)
    assert '<th scope="row">Rib lesion</th><td class="word wrap">it is not predicted</td>' in html
    assert "<b>Rib lesion.</b>" in html
    assert "were not evaluated" not in page_of(hospital[5])


@pytest.mark.usefixtures("undrawn")
def test_a_metric_unknown_to_the_report_is_shown(hospital: dict[int, Path], tmp_path: Path) -> None:
    def add(metrics: dict[str, Any]) -> None:
        for entry in (metrics["mean"], *metrics["findings"].values()):
            entry["rank_loss"] = {"value": 0.1234, "low": 0.1, "high": 0.2}
        for entry in metrics["findings"].values():
            for point in (entry, *entry["operating_points"].values()):
                point["lift"] = {"value": 4.321, "low": 4.1, "high": 4.5}

    run = changed(hospital[5], tmp_path / "run", "evaluation/metrics.json", add)
    html = page_of(run)
    further = html.split("<summary>Further metrics</summary>")[1].split("</details>")[0]
    assert '<th scope="col">Rank loss</th>' in further
    assert further.count("0.123 ") == 6  # five findings and the mean
    assert html.count('<th scope="col">Lift</th>') == 6  # one per operating point
    assert "Further metrics" not in page_of(hospital[5])


@pytest.mark.usefixtures("undrawn")
def test_text_from_files_cannot_become_markup(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("<script>alert(1)</script>", encoding="utf-8")
    assert "<script" not in page_of(tmp_path / "run")


def test_the_same_run_gives_the_same_page(full: Path, html: str) -> None:
    assert page_of(full) == html


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("count", [14, 40])
def test_nothing_extends_beyond_the_window(
    html: str, hospital: dict[int, Path], tmp_path: Path, count: int
) -> None:
    from playwright.sync_api import sync_playwright

    text = html if count == 14 else page_of(hospital[40])  # figures of 40 are like those of 14
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        problems: list[str] = []
        for width in (390, 1280):
            view = browser.new_page(viewport={"width": width, "height": 844})
            view.on("console", lambda message: problems.append(message.text))
            view.on("request", lambda request: problems.append(request.url[:80]))
            view.goto((tmp_path / "report.html").as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert not view.evaluate(WIDE)
            view.keyboard.press("Tab")
            focused = view.evaluate("document.activeElement.getAttribute('href')")
            assert focused == "#interpretation"
            view.locator(".overlay").first.click()
            box = view.locator(".overlay img").first.bounding_box()
            assert box is not None
            assert box["width"] == pytest.approx(width, abs=20)
            view.close()
        browser.close()
    loaded = [p for p in problems if not p.startswith(("file:", "data:image/webp"))]
    assert not loaded
