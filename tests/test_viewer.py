"""The viewer in a real browser: reading, display, keyboard, screen reader, narrow screens."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from python_multipart.multipart import parse_options_header

from chestxray.dataset import pixels
from chestxray.errors import RefusedError
from chestxray.findings import label
from chestxray.model.origin import Origin
from chestxray.reading.overlay import blend
from chestxray.serving import uploads
from chestxray.serving.admission import Limits
from chestxray.serving.web import EXAMPLES, create_app
from chestxray.sources.nih import FINDINGS
from viewer_parts import (
    CHROMIUM,
    PlantedEngine,
    PlantedReader,
    add,
    drag,
    heat,
    middle,
    opened,
    picture,
    planted,
    readout,
    settle,
)
from web_server import ready

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def reader(run: Path):
    return planted(run)


def test_a_radiograph_is_read_and_its_findings_are_sorted(page, radiographs, reader):
    add(page, radiographs["a"])
    names = page.locator(".finding .name").all_inner_texts()
    by_label = {label(finding): finding for finding in FINDINGS}
    assert sorted(names) == sorted(by_label)
    reading = reader.read(radiographs["a"])
    thresholds = reader.bundle.card.thresholds

    def above(name):
        finding = by_label[name]
        odds = [p / (1 - p) for p in (reading.probabilities[finding], thresholds[finding] or 0.999)]
        return odds[0] / odds[1] if thresholds[finding] is not None else -1

    with_threshold = [name for name in names if thresholds[by_label[name]] is not None]
    assert with_threshold == sorted(with_threshold, key=above, reverse=True)
    assert names[: len(with_threshold)] == with_threshold
    called = sum(bool(call) for call in reading.calls.values())
    assert page.locator("#count").inner_text().startswith(f"{called} of 14 called")
    assert page.get_by_text("▲").count() == 0  # drawn by the style, next to the word
    assert page.locator(".call", has_text=re.compile("^called")).count() == called
    for finding, probability in reading.probabilities.items():
        shown = page.locator(f"[data-finding={finding}] .figure").inner_text()
        assert float(shown.strip("<> %")) == pytest.approx(100 * probability, abs=0.5)


def test_the_heatmap_is_that_of_the_selected_finding(page, radiographs):
    add(page, radiographs["a"])
    heat(page, "colours")
    page.locator("[data-finding=Atelectasis] button").click()  # cell 0: top left
    first = picture(page)
    page.locator("[data-finding=Pleural_Thickening] button").click()  # cell 12: the bottom row
    second = picture(page)
    heat(page, "off")
    plain = picture(page)
    for shown, row in ((first, 0), (second, 1)):
        colour = np.ptp(shown, axis=2) > 30
        half = colour.shape[0] // 2
        halves = (colour[:half].sum(), colour[half:].sum())
        assert halves[row] > 1000
        assert halves[row] > 5 * halves[1 - row]
    assert (np.ptp(plain[60:-60, 300:-300], axis=2) == 0).all()
    assert "Pleural thickening" in page.locator("#heat-of").inner_text()
    assert page.locator("[data-finding=Pleural_Thickening] .meaning").is_visible()
    assert page.locator("[data-finding=Atelectasis] .meaning").is_hidden()


def test_a_heatmap_without_a_place_says_so_and_one_with_a_place_does_not(page, radiographs):
    add(page, radiographs["a"])
    heat(page, "contours")
    page.locator("[data-finding=Cardiomegaly] button").click()  # peaks at 0.2
    assert page.locator("#no-place").inner_text() == (
        "No localised evidence: the heatmap peaks at 0.20, below 0.25 of its scale."
    )
    page.locator("[data-finding=Fibrosis] button").click()
    assert page.locator("#no-place").is_hidden()


def test_the_scale_of_this_image_makes_weak_heat_bright_and_is_labelled_so(page, radiographs):
    add(page, radiographs["a"])
    heat(page, "colours")
    page.locator("[data-finding=Cardiomegaly] button").click()
    weak = (np.ptp(picture(page), axis=2) > 40).sum()
    assert "same for all radiographs" in page.locator("#heat-note").inner_text()
    page.keyboard.press("s")
    assert page.locator("#scale-image").get_attribute("aria-pressed") == "true"
    assert (np.ptp(picture(page), axis=2) > 40).sum() > 100 + 2 * weak
    assert "Scaled to this radiograph only" in page.locator("#heat-note").inner_text()
    assert "Peak 0.20" in page.locator("#heat-note").inner_text(), (
        "the peak stays that of the scale"
    )
    assert page.locator("#no-place").is_visible()
    page.locator("#scale-finding").click()
    assert "same for all radiographs" in page.locator("#heat-note").inner_text()


def test_the_slider_changes_the_opacity_of_the_heatmap(page, radiographs):
    add(page, radiographs["a"])
    heat(page, "colours")
    page.locator("[data-finding=Nodule] button").click()
    shares = []
    for value in (0, 40, 100):
        page.locator("#opacity").fill(str(value))
        shares.append(int((np.ptp(picture(page), axis=2) > 30).sum()))
        assert page.locator("#opacity-value").inner_text() == f"{value} %"
    assert shares[0] < shares[1] < shares[2]


def test_dragging_changes_window_and_level_and_reset_restores_them(page, radiographs):
    add(page, radiographs["a"])
    before, figures = picture(page), readout(page)
    assert figures[:2] == (255, 128)
    drag(page, -120, 0)
    narrow = picture(page)
    assert readout(page)[0] == 135
    assert narrow.std() > before.std()
    drag(page, 0, -80)
    assert readout(page)[1] < 128
    assert picture(page).mean() > narrow.mean()
    page.get_by_role("button", name="Invert").click()
    page.mouse.move(*middle(page))
    page.mouse.wheel(0, -300)
    assert readout(page)[2] > figures[2]
    page.get_by_role("button", name="Reset").click()
    page.mouse.move(1, 1)
    assert readout(page) == figures
    assert np.abs(picture(page) - before).max() <= 1
    assert page.locator("#invert").get_attribute("aria-pressed") == "false"


def test_inverting_turns_black_to_white_and_panning_moves_the_image(page, radiographs):
    add(page, radiographs["a"])
    height, width, _ = (before := picture(page)).shape
    inside = (slice(80, height - 80), slice(width // 2 - 150, width // 2 + 150))
    page.keyboard.press("i")
    assert np.abs(before[inside] + picture(page)[inside] - 255).max() <= 2
    page.keyboard.press("i")
    page.keyboard.press("p")
    drag(page, 40, 0)
    moved = picture(page)
    assert np.abs(moved[80:-80, 240:-40] - before[80:-80, 200:-80]).mean() < 2


@pytest.mark.parametrize(
    ("width", "height", "cells"), [(96, 96, 7), (120, 80, 7), (70, 130, 7), (224, 200, 28)]
)
def test_what_the_viewer_shows_is_what_overlay_blends(page, width, height, cells):
    rng = np.random.default_rng(width)
    image = rng.integers(0, 256, (height, width), dtype=np.uint8)
    heat = (rng.random((cells, cells), dtype=np.float32) * 1.4).clip(0.2) - 0.2
    shown = page.evaluate(
        """async ({ grey, width, height, heat }) => {
          const { paint, smooth } = await import("/static/blend.js");
          const pixels = new Uint8ClampedArray(4 * width * height);
          const look = { width: 255, level: 127.5, invert: false, opacity: 1 };
          paint(pixels, Uint8Array.from(grey), smooth(heat, width, height), look);
          return Array.from(pixels);
        }""",
        {
            "grey": image.ravel().tolist(),
            "width": width,
            "height": height,
            "heat": heat.tolist(),
        },
    )
    rgba = np.array(shown).reshape(height, width, 4)
    side = max(width, height)
    square = pixels.canonical(image, side)
    left, top = (side - width) // 2, (side - height) // 2
    expected = blend(square, heat)[top : top + height, left : left + width].astype(int)
    difference = np.abs(rgba[..., :3] - expected)
    # Rounding can choose the next of 256 steps of heat, at an opacity of at most 0.3.
    assert difference.max() <= 3
    assert difference.mean() < 0.3
    assert np.ptp(expected, axis=2).max() > 60, "contours are among what is compared"
    assert (rgba[..., 3] == 255).all()


def test_a_refusal_is_prominent_and_shows_no_probabilities(page, radiographs):
    add(page, radiographs["refused"])
    refusal = page.get_by_role("alert")
    assert refusal.is_visible()
    assert "The radiograph is rotated." in refusal.inner_text()
    assert page.locator("#result").is_hidden()
    assert "%" not in page.locator("#reading").inner_text()
    assert "refused" in page.locator("#list").inner_text()
    assert picture(page)[50:-50, 300:-300].max() > 30  # the radiograph itself is still seen
    assert page.get_by_role("button", name="Read anyway").count() == 0  # not allowed here


def test_a_file_that_is_not_an_image_is_reported_and_the_next_one_is_read(page, radiographs):
    add(page, radiographs["text"], radiographs["b"])
    assert "neither PNG, JPEG nor DICOM" in page.get_by_role("alert").inner_text()
    page.keyboard.press("]")
    page.get_by_role("alert").wait_for(state="hidden")  # the next radiograph is decoded first
    assert page.locator("#result").is_visible()


def test_warnings_are_above_the_findings_and_on_the_image(page, radiographs):
    add(page, radiographs["a"])
    assert "The radiograph is rotated." in page.locator("#warnings").inner_text()
    assert "synthetic" in page.locator("#warnings").inner_text()
    flag = page.locator("#flag")
    assert flag.is_visible()
    flag.click()
    assert page.evaluate("document.activeElement.id") == "warnings"


def test_several_radiographs_keep_their_own_images(page, radiographs):
    add(page, radiographs["a"], radiographs["b"])
    first = picture(page)
    page.locator(".radiograph").nth(1).click()
    second = picture(page)
    page.locator(".radiograph").nth(0).click()
    assert np.abs(picture(page) - first).max() <= 1
    assert np.abs(second - first).mean() > 5
    assert page.locator(".radiograph[aria-current=true]").count() == 1
    page.get_by_role("button", name=f"Remove {radiographs['a'].name}").click()
    assert page.locator("#list li").count() == 1
    assert np.abs(picture(page) - second).max() <= 1


def test_an_example_is_read(page):
    page.locator("#examples button").nth(1).click()
    page.locator("#list li[data-state=read]").wait_for()
    assert "Effusion" in page.locator(".radiograph").inner_text()


def test_everything_can_be_done_by_keyboard(page, radiographs):
    add(page, radiographs["a"], radiographs["b"])
    heat(page, "colours")
    page.locator("#open").focus()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => { const e = document.activeElement;
                   const o = getComputedStyle(e);
                   return [e.id || e.className || e.tagName, o.outlineStyle !== "none"]; }"""
            )
        )
    names = [name for name, _ in reached]
    for needed in (
        "radiograph",
        "remove",
        "viewport",
        "tool-pan",
        "fit",
        "invert",
        "opacity",
        "tool-ruler",
        "compare",
        "patient-show",
        "print-show",
        "heat-contours",
    ):
        assert needed in names
    assert all(ring for name, ring in reached if name not in {"BODY", "reading"})
    page.locator("[role=radio][aria-checked=true]").focus()
    first = page.locator("#heat-of").inner_text()
    page.keyboard.press("ArrowDown")
    assert page.locator("#heat-of").inner_text() != first
    assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
    page.locator("#viewport").focus()
    page.keyboard.press("Shift+ArrowRight")
    assert readout(page)[0] == 263
    zoom = readout(page)[2]
    page.keyboard.press("+")
    assert readout(page)[2] > zoom
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_a_screen_reader_announces_the_findings(page, radiographs):
    add(page, radiographs["a"])
    status = page.get_by_role("status").first
    said = page.locator("#status").inner_text()
    assert status.is_visible() or said
    assert said.startswith(f"{radiographs['a'].name} is read.")
    assert "warnings." in said
    described = page.locator("[data-finding=Hernia] button").get_attribute("aria-label")
    assert re.match(
        r"Hernia, [<>]?\s?[\d.]+\s%(, threshold [\d.]+\s%)?, (called|not called|not assessed)",
        described,
    )
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, canvas, summary")].filter(e =>
           !e.hidden && !e.textContent.trim() && !e.getAttribute("aria-label") &&
           !e.labels?.length && e.getAttribute("aria-hidden") !== "true" &&
           e.type !== "file").map(e => e.outerHTML)"""
    )
    assert unnamed == []


def test_the_model_and_the_research_notice_are_always_visible(page, radiographs, reader):
    add(page, radiographs["a"])
    for place in ("#model", "#research"):
        box = page.locator(place).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 60
    assert reader.bundle.identity in page.locator("#model").inner_text()
    assert reader.bundle.card.trained_on.source in page.locator("#model").inner_text()
    assert "Not a medical device" in page.locator("#research").inner_text()


def test_what_is_not_known_of_an_imported_model_is_not_recorded(browser, reader):
    card = reader.bundle.card
    names = ("release", "split", "split_sha256", "train_images", "train_patients", "recipe")
    trained = card.trained_on.model_copy(update=dict.fromkeys(names))
    origin = Origin(format="timm", file="weights", sha256="0" * 64)
    unfitted = card.calibration.model_copy(
        update={"unfitted": dict.fromkeys(card.findings, "imported"), "reasons": {}}
    )
    update = {"trained_on": trained, "origin": origin, "calibration": unfitted}
    imported = replace(reader.bundle, card=card.model_copy(update=update))
    with (
        ready(create_app(PlantedReader(imported, PlantedEngine()), Limits(decoders=1))) as client,
        opened(browser, client) as page,
    ):
        page.locator("#about").evaluate("about => { about.open = true; }")
        about = page.locator("#about").inner_text()
        header = page.locator("#model").inner_text()
    assert header.endswith(f"trained on {trained.source}")
    assert about.count("not recorded") == 2  # split and recipe
    assert "is not calibrated" in about
    assert not {"null", "undefined", "NaN"} & set(re.findall(r"\w+", about + header))


@pytest.mark.parametrize("page", [{"viewport": {"width": 390, "height": 844}}], indirect=True)
def test_nothing_overflows_a_phone_screen(page, radiographs):
    add(page, radiographs["a"], radiographs["refused"], radiographs["text"])
    for place in range(3):
        page.locator(".radiograph").nth(place).click()
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".radiograph").first.click()
    page.locator("[data-finding=Hernia] button").click()
    page.mouse.wheel(0, 2000)
    research = page.locator("#research").bounding_box()
    assert 0 <= research["y"] < 60  # the header stays
    assert research["x"] + research["width"] <= 390


def test_two_fingers_zoom(browser, service, radiographs):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(str(service.base_url))
    page.locator("#examples button").first.wait_for()
    add(page, radiographs["a"])
    x, y = middle(page)
    before = readout(page)
    touch = context.new_cdp_session(page)

    def fingers(kind, apart):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        touch.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points if apart else []}
        )

    fingers("touchStart", 30)
    for apart in (40, 50, 60):
        fingers("touchMove", apart)
    fingers("touchEnd", 0)
    after = readout(page)
    assert after[2] == pytest.approx(2 * before[2], rel=0.1)
    assert after[:2] == before[:2]
    context.close()


def test_the_file_name_never_leaves_the_browser(page, radiographs, monkeypatch):
    headers = []

    def watched(value):
        headers.append(value)
        return parse_options_header(value)

    monkeypatch.setattr(uploads, "parse_options_header", watched)
    add(page, radiographs["a"])
    assert any(b'name="file"' in header for header in headers if isinstance(header, bytes))
    assert radiographs["a"].name not in str(headers)


def test_the_viewer_asks_for_the_token_that_the_server_requires(browser, reader, radiographs):
    word = "correct-horse-battery"
    with ready(create_app(reader, Limits(decoders=1), word)) as client:
        context = browser.new_context()
        page = context.new_page()
        page.goto(str(client.base_url))
        page.locator("#token-value").fill("wrong-wrong-wrong")
        page.keyboard.press("Enter")
        page.locator("#token-value").fill(word)
        page.keyboard.press("Enter")
        page.locator("#examples button").first.wait_for()
        add(page, radiographs["a"])
        assert page.locator("#list li[data-state=read]").count() == 1
        context.close()


def test_every_example_is_listed_with_its_findings(page):
    titles = page.locator("#examples button").all_inner_texts()
    assert len(titles) == len(EXAMPLES)
    assert titles[0] == "No finding"


def test_a_refused_radiograph_is_refused_by_the_reader_too(reader, radiographs):
    with pytest.raises(RefusedError):
        reader.read(radiographs["refused"])


def test_the_page_of_the_interface_shows_every_operation_and_tries_one(page, service, reader):
    """With all its parts from this service, and under its content security policy."""
    page.goto(f"{service.base_url}/docs")
    page.locator(".opblock").first.wait_for()
    paths = service.get("/openapi.json").json()["paths"]
    assert page.locator(".opblock").count() == sum(map(len, paths.values()))
    card = page.locator(".opblock", has=page.locator("[data-path='/v1/model']"))
    card.locator("button").first.click()
    card.get_by_role("button", name="Try it out").click()
    card.get_by_role("button", name="Execute").click()
    answer = card.locator(".live-responses-table td.response-col_description").last
    assert reader.bundle.identity in answer.inner_text()
