"""The page: whole in itself, complete, honest about what is missing, readable on a phone."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chestxray.errors import ArtifactError
from chestxray.findings import FINDINGS
from chestxray.report import page
from fake_run import truth, write_run, write_training

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def html(full: Path) -> str:
    return page.build(full)


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
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:60])
    assert not re.search(r"@import|url\((?!#)", html)


def test_names_inside_the_figures_do_not_clash(html: str) -> None:
    names = [attributes["id"] for _, attributes in elements(html) if "id" in attributes]
    assert len(names) == len(set(names))
    used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', html))
    assert used <= set(names)


def test_every_finding_and_every_part_of_the_story_is_there(html: str) -> None:
    for finding in FINDINGS:
        assert html.count(finding.replace("_", " ")) >= 4
    for section in (
        "trained", "data", "training", "results", "localisation", "examples", "recipe", "limits",
    ):  # fmt: skip
        assert f'<section id="{section}">' in html
    assert "Not made yet" not in html
    assert "Not a medical device" in html
    assert "densenet121-3c1f0a9b77e4" in html
    assert html.count("data:image/png;base64,") == 3


def test_figures_on_the_page_are_those_of_the_files(full: Path, html: str) -> None:
    metrics = json.loads((full / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    for finding in FINDINGS[:-1]:
        assert f"{metrics['findings'][finding]['auroc']['value']:.3f}" in html
    assert f"<b>{metrics['mean']['auroc']['value']:.3f}</b>" in html
    assert "over the 13 findings" in html


def test_null_is_a_dash_with_the_reason_and_never_zero(html: str) -> None:
    row = re.search(r"<th scope=\"row\"[^>]*>Hernia</th>\s*<td>0</td>(.*?)</tr>", html, re.DOTALL)
    assert row is not None
    assert row[1].count('<abbr title="no positives">–</abbr>') == 8
    assert "Hernia (all figures): no positives" in html


def test_an_evaluation_without_validation_says_so(full: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(full, run)
    path = run / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    reason = "no validation predictions: --fit-on"
    metrics["fit_on"] = None
    for entry in (*metrics["findings"].values(), metrics["mean"]):
        for name in ("accuracy", "precision", "recall", "specificity", "f1"):
            entry[name] |= {"value": None, "reason": reason}
        if "threshold" in entry:
            entry["threshold"] = {"value": None, "reason": reason}
    path.write_text(json.dumps(metrics), encoding="utf-8")
    html = page.build(run)
    assert f"sensitivity, specificity, precision, F1, accuracy, threshold): {reason}" in html


def test_intervals_are_shown_when_there_are_some() -> None:
    shown = page.figure({"value": 0.81, "low": 0.8, "high": 0.8251})
    assert shown == "0.810 (0.800–0.825)"


def test_what_is_not_made_yet_is_named_with_its_command(tmp_path: Path) -> None:
    write_training(tmp_path / "run", truth())
    (tmp_path / "run" / "history.csv").unlink()
    (tmp_path / "run" / "recipe.yaml").unlink()
    html = page.build(tmp_path / "run")
    elements(html)
    assert html.count("Not made yet") == 5
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
        ("evaluation/curves.json", "[]"),
        ("explanations/explanations.json", '{"shown": [{"finding": "Mass"}]}'),
        ("history.csv", "epoch,loss\n1,2\n"),
        ("history.csv", ""),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_an_artifact_error(
    full: Path, tmp_path: Path, file: str, content: str
) -> None:
    shutil.copytree(full, tmp_path / "run")
    (tmp_path / "run" / file).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError):
        page.build(tmp_path / "run")


def test_a_picture_that_is_gone_is_an_artifact_error(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "run")
    (tmp_path / "run" / "explanations" / "Edema_missed.png").unlink()
    with pytest.raises(ArtifactError, match="chestxray explain"):
        page.build(tmp_path / "run")


def test_pictures_of_another_model_are_said_to_be(full: Path, tmp_path: Path, html: str) -> None:
    assert "made by another model" not in html
    shutil.copytree(full, tmp_path / "run")
    path = tmp_path / "run" / "explanations" / "explanations.json"
    listed = json.loads(path.read_text(encoding="utf-8")) | {"model": "other-1"}
    path.write_text(json.dumps(listed), encoding="utf-8")
    assert "made by another model, other-1" in page.build(tmp_path / "run")


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
        view.locator(".picture").first.click()
        box = view.locator(".picture img").first.bounding_box()
        assert box is not None
        assert box["width"] == pytest.approx(width, abs=20)
        browser.close()
    loaded = [p for p in problems if not p.startswith(("file:", "data:image/png"))]
    assert not loaded
