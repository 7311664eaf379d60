"""The viewer with one, five and forty findings, and with names that look like markup or code."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from chestxray.findings import label, term
from chestxray.model import bundle as bundles
from finding_sets import FIVE, FORTY, HOSTILE, ONE, with_findings
from viewer_parts import (
    CHROMIUM,
    PlantedEngine,
    PlantedReader,
    add,
    heat,
    opened,
    pages_of,
    picture,
    settle,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module", params=[ONE, FIVE, HOSTILE, FORTY], ids=lambda f: str(len(f)))
def reader(run: Path, request) -> PlantedReader:
    bundle = with_findings(bundles.load(run / "bundle"), request.param)
    return PlantedReader(bundle, PlantedEngine(len(request.param)))


def row(page, finding: str):
    """The row of a finding; its name may hold anything, so no selector is made of it."""
    place = page.evaluate(
        """(finding) => [...document.querySelectorAll(".finding")]
           .findIndex((row) => row.dataset.finding === finding)""",
        finding,
    )
    return page.locator(".finding").nth(place)


def test_each_finding_has_its_row_bar_mark_and_heatmap(browser, service, reader, radiographs):
    with opened(browser, service) as page:
        add(page, radiographs["a"])
        reading = reader.read(radiographs["a"])
        names = page.locator(".finding .name").all_text_contents()
        assert sorted(names) == sorted(label(finding) for finding in reader.findings)
        called = sum(bool(call) for call in reading.calls.values())
        none = sum(call is None for call in reading.calls.values())
        words = f"{called} of {len(names)} called" + (f", {none} not assessed" if none else "")
        assert page.locator("#count").inner_text() == words
        for finding in reader.findings:
            item = row(page, finding)
            track = item.locator(".track").bounding_box()["width"]
            fill = item.locator(".fill").bounding_box()["width"]
            share = math.sqrt(reading.probabilities[finding])
            assert fill == pytest.approx(share * track, abs=1)
            threshold = reader.bundle.card.thresholds[finding]
            marks = item.locator(".mark")
            assert marks.count() == (threshold is not None)
            if threshold is not None:
                left = marks.evaluate("mark => mark.offsetLeft")
                assert left == pytest.approx(math.sqrt(threshold) * track, abs=2)


def test_findings_that_are_not_assessed_stand_apart_at_the_end(
    browser, service, reader, radiographs
):
    with opened(browser, service) as page:
        add(page, radiographs["a"])
        reasons = reader.bundle.card.unavailable
        heading = page.locator("#findings > .not-assessed")
        assert heading.count() == bool(reasons)
        if not reasons:
            return
        assert heading.inner_text().startswith(f"Not assessed ({len(reasons)}): ")
        after = page.locator(".not-assessed ~ .finding .name").all_text_contents()
        assert sorted(after) == sorted(label(finding) for finding in reasons)
        finding, reason = next(iter(reasons.items()))
        row(page, finding).locator("button").click()
        assert row(page, finding).locator(".call").inner_text().startswith("not assessed")
        assert f"never called: {reason}." in row(page, finding).locator(".meaning").inner_text()
        page.keyboard.press("End")
        assert page.locator(".finding").last.locator("[aria-checked=true]").count() == 1


def test_selecting_a_finding_shows_its_heatmap_and_its_meaning(
    browser, service, reader, radiographs
):
    with opened(browser, service) as page:
        add(page, radiographs["a"])
        heat(page, "colours")
        for finding in (reader.findings[0], reader.findings[-1]):
            button = row(page, finding).locator("button")
            button.click()
            assert page.locator("#heat-of").inner_text() == f"Heatmap: {label(finding)}"
            assert page.locator(".meaning:visible").count() == 1
            known = term(finding)
            described = row(page, finding).locator(".description").all_inner_texts()
            assert described == ([known.description] if known else [])
            target = button.get_attribute("aria-describedby")
            assert page.locator(f"[id='{target}']").count() == 1
            assert button.get_attribute("aria-label").startswith(f"{label(finding)}, ")
        colour = np.ptp(picture(page), axis=2) > 30
        assert colour.sum() > 1000
        page.keyboard.press("Home")
        page.keyboard.press("End")
        last = page.locator(".finding").last
        assert last.locator("button").get_attribute("aria-checked") == "true"
        box = last.bounding_box()
        assert box["y"] + box["height"] <= 800  # scrolled into view


def apart(first: dict, second: dict) -> bool:
    """Whether the first box is left of the second or above it."""
    beside = first["x"] + first["width"] <= second["x"] + 1
    return beside or first["y"] + first["height"] <= second["y"] + 1


def test_every_row_fits_the_screen(browser, service, reader, radiographs):
    longest = sorted(reader.findings, key=len)[-3:]
    with opened(browser, service) as page:
        add(page, radiographs["a"])
        for width in (390, 1024):
            page.set_viewport_size({"width": width, "height": 844})
            for finding in longest:
                item = row(page, finding)
                item.locator("button").click()
                settle(page)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                parts = [".name", ".call", ".figure", ".meaning"]
                boxes = [item.locator(part).bounding_box() for part in parts]
                assert all(box["x"] >= 0 for box in boxes)
                assert all(box["x"] + box["width"] <= width for box in boxes)
                name, call, figure, _ = boxes
                assert apart(name, call)
                assert apart(name, figure)
                assert apart(call, figure)
            last = page.locator("#heat-colours").bounding_box()
            assert last["x"] + last["width"] <= width


@pytest.mark.parametrize("reader", [FORTY], indirect=True, ids=["40"])
def test_the_scale_stays_visible_while_many_findings_scroll(browser, service, radiographs):
    with opened(browser, service) as page:
        add(page, radiographs["a"])
        page.locator(".finding button").last.click()
        top = page.locator("#reading").bounding_box()["y"]
        axis = page.locator("#axis").bounding_box()
        assert axis["y"] >= top
        for _ in page.locator(".finding").all():
            page.keyboard.press("ArrowUp")
            selected = page.locator(".finding [aria-checked=true]").bounding_box()
            axis = page.locator("#axis").bounding_box()
            assert selected["y"] >= axis["y"] + axis["height"] - 1  # not hidden by the scale


@pytest.mark.parametrize("reader", [FORTY], indirect=True, ids=["40"])
def test_axe_finds_no_barrier(browser, service, radiographs):
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    with opened(browser, service, bypass_csp=True) as page:
        add(page, radiographs["a"])
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        assert [f"{v['id']}: {v['nodes'][0]['html']}" for v in found] == []


@pytest.mark.parametrize("reader", [FORTY], indirect=True, ids=["40"])
def test_forty_findings_are_printed_on_one_page(browser, service, reader, radiographs):
    with opened(browser, service) as page:
        add(page, radiographs["a"])
        assert pages_of(page.pdf(format="Letter")) == 1
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 717, "height": 980})  # Letter less its margins
        rows = page.locator("#print .findings .name").all_inner_texts()
        assert sorted(rows) == sorted(label(finding) for finding in reader.findings)
        box = page.locator("#print canvas").bounding_box()
        assert box["height"] > 250, "the radiograph keeps a third of the page"
        footer = page.locator("#print .foot").bounding_box()
        assert footer["y"] + footer["height"] <= 980


def answering(body: dict):
    return lambda route: route.fulfill(json=body)


def changed(body: dict, script: str) -> dict:
    """An answer in which a finding's name and all other text is a script."""
    body = json.loads(json.dumps(body).replace("Pacemaker", json.dumps(script)[1:-1]))
    for entry in (body, *body["findings"]):
        for key in entry.keys() & {
            "label",
            "description",
            "uncalibrated",
            "calibrated_on",
            "identity",
        }:
            entry[key] = script
    body["warnings"] = [{"code": "x", "sentence": script, "values": {}, "refuses": False}]
    if "trained_on" in body:
        body["trained_on"]["source"] = script
    return body


@pytest.mark.parametrize("reader", [FIVE], indirect=True, ids=["5"])
def test_whatever_the_server_sends_is_shown_as_text(browser, service, radiographs):
    """Also what no valid bundle holds: the page relies on no check elsewhere."""
    script = '<img src=x onerror="document.title=1"><script>document.title=1</script>'

    answers = {
        "**/v1/model": service.get("/v1/model"),
        "**/v1/read*": service.post(
            "/v1/read",
            files={"file": radiographs["a"].read_bytes()},
            params={"heatmaps": "json", "display": "true"},
        ),
    }
    bodies = {route: changed(answer.json(), script) for route, answer in answers.items()}

    with opened(browser, service) as page:
        for route, body in bodies.items():
            page.route(route, answering(body))
        page.reload()
        page.locator("#examples button").first.wait_for()
        add(page, radiographs["a"])
        row(page, script).locator("button").click()
        assert page.locator("#heat-of").inner_text() == f"Heatmap: {script}"
        assert page.locator("body img, body script").count() == 0
        assert page.title() == "chestxray"
        for place in ("#model", "#warnings", ".finding .name >> nth=0", ".meaning:visible"):
            assert script in page.locator(place).inner_text()
