"""The page: whole in itself, complete, honest about what is missing, readable on a phone."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from chestxray.errors import ArtifactError
from chestxray.report import figure_set as plates
from chestxray.report import formatting as wording
from chestxray.report import interpretation as support
from chestxray.report import page
from chestxray.report import page as pictures
from chestxray.report import reporting_checklist as checklist
from chestxray.report.figures.style import VARIABLES
from chestxray.report.run_files import Files
from chestxray.sources.nih import FINDINGS
from fake_run import truth, write_run, write_training

CHROMIUM = shutil.which("chromium")

# Tables wider than their column, other than inside a box that scrolls.
STICKING_OUT = """[...document.querySelectorAll("main table, main svg, main pre, main p")]
  .filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def html(full: Path) -> str:
    return page.build(full)


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
            assert value.startswith(("#", pictures.PREFIX)), (tag, name, value[:60])
    assert not re.search(r"@import|url\((?!#)", html)


def test_names_inside_the_figures_do_not_clash(html: str) -> None:
    names = [attributes["id"] for _, attributes in elements(html) if "id" in attributes]
    assert len(names) == len(set(names))
    used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', html))
    assert used <= set(names)


def test_every_finding_and_every_part_of_the_story_is_there(html: str) -> None:
    for finding in FINDINGS:
        assert html.count(finding.replace("_", " ")) >= 4
    for section in page.SECTIONS:
        assert f'<section id="{section}">' in html
        assert f'<a href="#{section}">' in html
    assert "Not made yet" not in html
    assert "Not a medical device" in html
    assert "densenet121-3c1f0a9b77e4" in html
    assert html.count(pictures.PREFIX) == 3


def test_every_figure_of_the_metrics_is_on_the_page(full: Path, html: str) -> None:
    metrics = metrics_of(full)
    rows = [metrics["mean"], metrics["micro"], *metrics["findings"].values()]
    shown = {*page.MAIN, *page.PROBABILITIES, *page.CALLS} - {"threshold"}
    for row in rows:
        for name in shown:
            assert wording.figure(row[name]) in html, name
    for entry in metrics["findings"].values():
        for point in entry["operating_points"].values():
            for name in page.CALLS:
                assert wording.figure(point[name]) in html
    assert f"<b>{metrics['mean']['auroc']['value']:.3f}</b>" in html
    assert "over the 13 findings" in html


def test_figures_of_the_other_files_are_on_the_page(full: Path, html: str) -> None:
    for name, path in (
        ("subgroups", ("axes", "sex", "findings", "Mass", "female", "missed")),
        ("subgroups", ("shortcut", "Mass", "view_auroc")),
        ("reliability", ("Mass", "recalibrated", "slope")),
        ("localisation", ("findings", "Mass", "iou", "0.3", "hit")),
        ("reference", ("labels", "Nodule or mass", "nih_auroc")),
        ("comparison", ("findings", "Mass", "difference")),
    ):
        value = json.loads((full / "evaluation" / f"{name}.json").read_text(encoding="utf-8"))
        for key in path:
            value = value[key]
        assert wording.figure(value) in html, path


def test_null_is_a_dash_with_the_reason_and_never_zero(full: Path, html: str) -> None:
    hernia = metrics_of(full)["findings"]["Hernia"]
    undefined = [name for name in page.MAIN if hernia[name]["value"] is None]
    assert undefined == ["auroc", "auprc", "recall", "precision", "f1"]
    row = re.search(
        r"<th scope=\"row\"[^>]*>Hernia</th>\s*<td>0 <span.*?</td>(.*?)</tr>", html, re.DOTALL
    )
    assert row is not None
    assert row[1].count('<abbr title="no positives">–</abbr>') == len(undefined)
    assert "<li>Hernia (AUROC, AUPRC, sensitivity, precision, F1): no positives</li>" in html
    assert html.count('<div class="undefined">no positives</div>') == 2  # ROC, precision-recall


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

    html = page.build(changed(full, tmp_path / "run", "evaluation/metrics.json", forget))
    elements(html)
    assert f"sensitivity, specificity, precision, F1, threshold): {reason}" in html
    assert "thresholds are\n    never chosen on the images that are evaluated" in html


@pytest.mark.usefixtures("undrawn")
def test_few_positives_are_said_where_the_mean_is(full: Path, tmp_path: Path, html: str) -> None:
    assert "Few positives" not in html

    def thin(metrics: dict[str, Any]) -> None:
        metrics["findings"]["Mass"]["positives"] = 9

    few = page.build(changed(full, tmp_path / "run", "evaluation/metrics.json", thin))
    assert "<b>Few positives:</b> Mass has" in few
    assert "so 1 of them rests on little" in few
    assert "<b>Mass.</b> Fewer than 10 positives" in few
    claim = "Better than guessing, each by its own interval, uncorrected: "
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
    written = str(wording.figure(metric))
    assert re.sub(r"<[^>]+>", "", written) == shown
    assert metric.get("reason", "") in written


@pytest.mark.parametrize("point", [0.0, 0.5, 1.0])
def test_intervals_carry_claims_and_nothing_else_does(
    full: Path, tmp_path: Path, point: float
) -> None:
    def move(metrics: dict[str, Any]) -> None:
        low, high = max(0.0, point - 0.1), min(1.0, point + 0.1)
        for entry in (*metrics["findings"].values(), metrics["mean"]):
            entry["auroc"] |= {"value": point, "low": low, "high": high}

    run = changed(full, tmp_path / "run", "evaluation/metrics.json", move)
    said = " ".join(support.supported(Files.read(run)))
    assert ("the model ranks better than guessing" in said) == (point == 1)
    assert ("Not told apart from guessing: Atelectasis" in said) == (point == 0.5)
    assert ("Ranked the wrong way round: Atelectasis" in said) == (point == 0)


@pytest.mark.usefixtures("undrawn")
def test_published_figures_are_matched_only_where_they_are_comparable(
    full: Path, tmp_path: Path, html: str
) -> None:
    assert "Not comparable with any published figure" in html
    assert "verdict" not in html[html.index("<body>") :]

    def compare(standing: dict[str, Any]) -> None:
        standing["note"] = None
        for row in standing["rows"]:
            row |= {"comparable": row["split"] == "official", "why": "own split"}
            row["verdict"] = "above" if row["comparable"] else "not comparable"

    html = page.build(changed(full, tmp_path / "run", "evaluation/standing.json", compare))
    assert '<td class="word verdict above">above</td>' in html
    assert "Above these published figures of the same split: Wang 2017" in html
    assert "Above these published figures of the same split: CheXNet" not in html


def test_the_checklist_follows_what_the_run_contains(full: Path, tmp_path: Path) -> None:
    files = Files.read(full)
    everything = checklist.statuses(files)
    assert {name: len(items) for name, items in everything.items()} == {
        "CLAIM 2024": 44, "TRIPOD+AI": 52,
    }  # fmt: skip
    for items in everything.values():
        for item, status in items:
            assert not item.section or item.section in page.SECTIONS
            assert (status == checklist.REPORTED) <= bool(item.section)
    shutil.copytree(full, tmp_path / "run")
    for gone in ("subgroups", "reliability", "reference"):
        (tmp_path / "run" / "evaluation" / f"{gone}.json").unlink()
    less = checklist.statuses(Files.read(tmp_path / "run"))
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
    assert all(status == checklist.MISSING
               for name, items in less.items() for item, status in items
               if (name, item.topic) in changed_items)  # fmt: skip
    assert everything["CLAIM 2024"][32][1] == checklist.MISSING  # no external data


@pytest.mark.usefixtures("undrawn")
def test_figures_stand_beside_the_page_as_vector_files(full: Path, tmp_path: Path) -> None:
    page.write(full, tmp_path / "report.html")
    files = sorted((tmp_path / "figures").iterdir())
    assert {path.stem for path in files} == set(plates.plates(Files.read(full)))
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


def test_figures_on_the_page_follow_its_colours_and_say_what_they_show(html: str) -> None:
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


def test_a_page_of_many_pictures_stays_small(full: Path, tmp_path: Path) -> None:
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
    assert len(page.build(run)) < 3_000_000


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_made_yet_is_named_with_its_command(tmp_path: Path) -> None:
    write_training(tmp_path / "run", truth())
    (tmp_path / "run" / "history.csv").unlink()
    (tmp_path / "run" / "recipe.yaml").unlink()
    html = page.build(tmp_path / "run")
    elements(html)
    assert html.count("Not made yet") == 11
    for verb in ("train", "evaluate", "explain"):
        assert f"chestxray {verb} " in html
    assert "It has not been evaluated yet." in html


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="chestxray train"):
        page.write(tmp_path, tmp_path / "report.html")
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
        ("evaluation/standing.json", '{"rows": [1]}'),
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
        page.build(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_without_intervals_is_refused_with_the_command(
    full: Path, tmp_path: Path
) -> None:
    run = changed(
        full, tmp_path / "run", "evaluation/metrics.json", lambda metrics: metrics.pop("intervals")
    )
    with pytest.raises(ArtifactError, match="older version made it, run `chestxray evaluate`"):
        page.build(run)


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_is_gone_is_an_artifact_error(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "run")
    (tmp_path / "run" / "explanations" / "Edema_missed.png").unlink()
    with pytest.raises(ArtifactError, match="chestxray explain"):
        page.build(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_another_model_are_said_to_be(full: Path, tmp_path: Path, html: str) -> None:
    assert "made by another model" not in html
    shutil.copytree(full, tmp_path / "run")
    path = tmp_path / "run" / "explanations" / "explanations.json"
    listed = json.loads(path.read_text(encoding="utf-8")) | {"model": "other-1"}
    path.write_text(json.dumps(listed), encoding="utf-8")
    assert "made by another model, other-1" in page.build(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_text_from_files_cannot_become_markup(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("<script>alert(1)</script>", encoding="utf-8")
    assert "<script" not in page.build(tmp_path / "run")


def test_the_same_run_gives_the_same_page(full: Path, html: str) -> None:
    assert page.build(full) == html


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_window(html: str, tmp_path: Path, width: int) -> None:
    from playwright.sync_api import sync_playwright

    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        view = browser.new_page(viewport={"width": width, "height": 844})
        problems: list[str] = []
        view.on("console", lambda message: problems.append(message.text))
        view.on("request", lambda request: problems.append(request.url[:80]))
        view.goto((tmp_path / "report.html").as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert not view.evaluate(STICKING_OUT)
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.getAttribute('href')") == "#support"
        view.locator(".picture").first.click()
        box = view.locator(".picture img").first.bounding_box()
        assert box is not None
        assert box["width"] == pytest.approx(width, abs=20)
        browser.close()
    loaded = [p for p in problems if not p.startswith(("file:", "data:image/webp"))]
    assert not loaded
