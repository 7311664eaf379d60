"""The viewer under other conditions: no server, large radiographs, dense screens, accessibility."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from viewer_parts import (
    CHROMIUM,
    add,
    heat,
    opened,
    picture,
    planted,
    readout,
    settle,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def reader(run: Path):
    return planted(run)


def state(page, place: int = 0) -> str:
    return page.locator("#list li").nth(place).get_attribute("data-state")


def lit(page) -> np.ndarray:
    """The middle of the extent of colour on the stage, as [x, y] in fractions of the frame."""
    colour = np.ptp(picture(page), axis=2) > 40
    middle = [np.flatnonzero(colour.any(axis=axis))[[0, -1]].mean() for axis in (0, 1)]
    return np.array(middle) / colour.shape[::-1]


@pytest.mark.parametrize(
    ("width", "height", "density"), [(512, 512, 1), (512, 512, 2), (512, 256, 2), (300, 600, 1)]
)
def test_heat_is_drawn_where_the_model_found_it(
    browser, service, radiographs, tmp_path, width, height, density
):
    """The contours are around the middle of cell 5 of the 4 x 4 map, 3/8 of the padded square."""
    radiograph = cv2.resize(cv2.imread(str(radiographs["a"]), 0), (width, height))
    cv2.imwrite(str(tmp_path / "radiograph.png"), radiograph)
    with opened(browser, service, device_scale_factor=density) as page:
        add(page, tmp_path / "radiograph.png")
        heat(page, "colours")
        page.locator("[data-finding=Nodule] button").click()  # finding and cell 5
        frame = page.locator("#frame").bounding_box()
        room = np.array([frame["width"], frame["height"]])
        shape = np.array([width, height]) / max(width, height)
        side = (room / shape).min()
        assert np.abs(lit(page) - (0.5 + (3 / 8 - 0.5) * side / room)).max() < 0.01


def test_actual_size_is_one_screen_pixel_per_pixel_of_the_file(
    browser, service, radiographs, tmp_path
):
    radiograph = cv2.resize(cv2.imread(str(radiographs["a"]), 0), (3000, 2500))
    cv2.imwrite(str(tmp_path / "large.png"), radiograph)
    with opened(browser, service, device_scale_factor=2) as page:
        add(page, tmp_path / "large.png")
        page.locator("#size:not(:empty)").wait_for()  # once its 7 million pixels are decoded
        assert page.locator("#size").inner_text() == "3000 × 2500, shown at 2048 × 1707"
        frame = page.locator("#frame").bounding_box()
        fitted = 2 * min(frame["width"] / 3000, frame["height"] / 2500)
        assert readout(page)[2] == pytest.approx(100 * fitted, abs=1)
        page.get_by_role("button", name="1:1").click()
        assert readout(page)[2] == 100


def test_a_radiograph_that_met_no_server_can_be_read_again(page, radiographs):
    page.route("**/v1/read*", lambda route: route.abort())
    add(page, radiographs["a"])
    assert state(page) == "unread"
    assert "cannot be reached" in page.get_by_role("alert").first.inner_text()
    page.unroute("**/v1/read*")
    page.get_by_role("button", name="Try again").click()
    page.locator("#list li[data-state=read]").wait_for()
    settle(page)
    assert page.locator("#failure").is_hidden()
    assert page.locator("#result").is_visible()


@pytest.mark.parametrize(
    "answer", ['{"image": ', '{"image": {"display": "AAAA", "width": 1}}'], ids=["json", "picture"]
)
def test_a_broken_answer_is_reported_and_not_as_another_ones_refusal(page, radiographs, answer):
    add(page, radiographs["refused"])
    page.route("**/v1/read*", lambda route: route.fulfill(body=answer))
    add(page, radiographs["a"])
    page.locator(".radiograph").nth(1).click()
    settle(page)
    assert state(page, 1) == "unread"
    said = page.locator("#failure").inner_text()
    assert "The answer is incomplete." in said
    assert "is rotated" not in said
    page.unroute("**/v1/read*")
    page.get_by_role("button", name="Try again").click()
    page.locator("#list li[data-state=read]").wait_for()


def test_no_retry_is_offered_where_it_would_fail_again(page, radiographs):
    add(page, radiographs["text"], radiographs["refused"])
    for place in range(2):
        page.locator(".radiograph").nth(place).click()
        assert page.get_by_role("button", name="Try again").count() == 0


def test_opened_before_the_server_is_up_it_reports_it_and_recovers(browser, service, radiographs):
    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/**", lambda route: route.abort())
    page.goto(str(service.base_url))
    trouble = page.get_by_role("alert")
    trouble.wait_for()
    assert "cannot be reached" in trouble.inner_text()
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    page.locator("#examples button").first.wait_for()
    assert trouble.is_hidden()
    add(page, radiographs["a"])
    assert state(page) == "read"
    context.close()


def test_while_the_server_is_busy_the_radiograph_waits(page, radiographs):
    busy = json.dumps({"code": "busy", "detail": "32 uploads in progress. Retry."})
    refused = iter([True, True])
    page.route(
        "**/v1/read*",
        lambda route: (
            route.fulfill(status=429, body=busy) if next(refused, False) else route.continue_()
        ),
    )
    add(page, radiographs["a"])
    assert state(page) == "read"


def test_findings_are_never_shown_beside_another_image(page, radiographs):
    """Stepping fast through radiographs ends on the last, its picture and its findings together."""
    add(page, radiographs["a"], radiographs["refused"], radiographs["b"])
    page.locator(".radiograph").nth(2).click()
    last = picture(page)
    page.locator(".radiograph").nth(0).click()
    settle(page)
    for key in "]]":
        page.keyboard.press(key)
    page.locator("#failure").wait_for(state="hidden")
    assert np.abs(picture(page) - last).max() <= 1
    for key in "[[]]":
        page.keyboard.press(key)
    for _ in range(100):  # as long as a busy machine needs
        page.wait_for_timeout(100)
        if np.abs(picture(page) - last).max() <= 1:
            break
    assert np.abs(picture(page) - last).max() <= 1


def test_warnings_are_counted_in_the_list_as_they_are_shown(page, radiographs):
    add(page, radiographs["a"])
    shown = page.locator("#warnings .warning").count()
    assert page.locator(".warned").inner_text() == f"{shown} warnings"
    assert page.locator("#flag").inner_text() == f"{shown} warnings"
    assert f" {shown} warnings." in page.locator("#status").inner_text()


def test_figures_are_not_rounded_to_certainty_or_onto_the_threshold(page):
    rows = [
        [0.0004, None],
        [0.9996, None],
        [0.123, None],
        [0.5, 0.5],
        [0.0466, 0.0471],
        [0.1702, 0.1698],
    ]
    shown = page.evaluate(
        """async (rows) => {
          const { figures } = await import("/static/formatting.js");
          return rows.map(([probability, threshold]) => figures({ probability, threshold }));
        }""",
        rows,
    )
    assert shown == [
        ["<\u00a00.1\u00a0%", None],
        [">\u00a099.9\u00a0%", None],
        ["12\u00a0%", None],
        ["50\u00a0%", "50\u00a0%"],
        ["4.66\u00a0%", "4.71\u00a0%"],
        ["17.02\u00a0%", "16.98\u00a0%"],
    ]


def test_a_frequency_is_neither_none_nor_all_unless_the_probability_is(page):
    probabilities = [0, 0.0004, 0.006, 0.123, 0.997, 0.9996, 1]
    shown = page.evaluate(
        """async (probabilities) => {
          const { share } = await import("/static/formatting.js");
          return probabilities.map(share);
        }""",
        probabilities,
    )
    assert shown == [
        "about 0 of 100",
        "fewer than 1 of 1000",
        "about 1 of 100",
        "about 12 of 100",
        "about 997 of 1000",
        "more than 999 of 1000",
        "about 100 of 100",
    ]


def test_single_key_shortcuts_can_be_switched_off_permanently(page, radiographs):
    add(page, radiographs["a"])
    page.keyboard.press("?")
    page.get_by_label("Use single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    assert page.locator("#invert").get_attribute("aria-pressed") == "false"
    page.reload()
    page.locator("#examples button").first.wait_for()
    assert not page.locator("#keys").is_checked()


def test_a_folder_is_not_reported_as_a_missing_server(page):
    said = page.evaluate(
        """async () => {
          const { read } = await import("/static/api.js");
          const gone = { slice: () => ({ arrayBuffer: () => Promise.reject(new Error()) }) };
          return read(gone).catch((problem) => [problem.code, problem.message]);
        }"""
    )
    assert said[0] == "file"
    assert "folder" in said[1]


@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_no_barrier(browser, service, radiographs, width):
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    with opened(
        browser, service, viewport={"width": width, "height": 900}, bypass_csp=True
    ) as page:
        page.evaluate(axe)

        def violations() -> list[str]:
            found = page.evaluate("axe.run()")["violations"]
            return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found]

        assert violations() == []
        add(page, radiographs["a"], radiographs["refused"])
        for key in "hmdc":  # contours, ruler, patient header, comparison
            page.keyboard.press(key)
        settle(page)
        assert violations() == []
        page.keyboard.press("Escape")
        page.locator("#prior-close").click()
        page.locator(".radiograph").nth(1).click()
        assert violations() == []
        page.keyboard.press("?")
        assert violations() == []


def test_nothing_moves_when_less_motion_is_requested(browser, service, radiographs):
    with opened(browser, service, reduced_motion="reduce") as page:
        page.route("**/v1/read*", lambda _: None)  # never answered
        page.set_input_files("#file", radiographs["a"])
        page.locator("#list li[data-state=reading]").wait_for()
        assert page.evaluate("document.getAnimations().length") == 0
        page.emulate_media(reduced_motion="no-preference")
        assert page.evaluate("document.getAnimations().length") == 1
