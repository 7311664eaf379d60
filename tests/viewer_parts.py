"""The viewer in a real browser, with a model of known answers, and user input."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import httpx
import numpy as np

from chestxray.errors import Notice
from chestxray.model import bundle as bundles
from chestxray.model.engines import Answer
from chestxray.reading.reader import Reader
from chestxray.sources.phantom.tree import synth

CHROMIUM = shutil.which("chromium")


class PlantedEngine:
    """Finding k of n has a logit from -7 to 6 by its place, and heat in the cell k of a square map.

    With 14 findings that is the logit k - 7 and the cell k of a 4 x 4 map.
    """

    name = "planted"

    def __init__(self, findings: int = 14) -> None:
        self._logits = np.linspace(-7, 6, findings, dtype=np.float32)
        self._side = max(4, math.ceil(math.sqrt(findings)))

    def run(self, images) -> Answer:
        count, findings = len(images), len(self._logits)
        maps = np.full((count, findings, self._side**2), -1e6, np.float32)
        for finding in range(findings):
            maps[:, finding, finding] = 1e6
        maps = maps.reshape(count, findings, self._side, self._side)
        return Answer(np.tile(self._logits, (count, 1)), maps, np.zeros((count, 8), np.float32))


class PlantedReader(Reader):
    """Has a warning for every radiograph, and a refusal where the left edge is white.

    Heat ends at 0.6, where a heatmap has a veil and a contour; that of the second finding at 0.2.
    """

    def judge(self, films, answer):
        probabilities, heat, _ = super().judge(films, answer)
        heat = np.minimum(heat, 0.6)
        heat[:, 1:2] = np.minimum(heat[:, 1:2], 0.2)
        notices = [
            (Notice("rotated", "the radiograph is rotated", refuses=bool(film.image[8, 0] > 250)),)
            for film in films
        ]
        return probabilities, heat, notices


def planted(run: Path) -> PlantedReader:
    bundle = replace(bundles.load(run / "bundle"), detector=None)
    return PlantedReader(bundle, PlantedEngine())


def write_radiographs(folder: Path) -> dict[str, Path]:
    """Two phantoms, one to be refused, and a file that is not an image."""
    synth(folder / "raw", images=2, pixels=256, seed=3)
    made = dict(zip(("a", "b"), sorted((folder / "raw").rglob("0*.png")), strict=True))
    white = cv2.imread(str(made["a"]), cv2.IMREAD_GRAYSCALE)
    white[:, :32] = 255
    made["refused"] = folder / "refused.png"
    cv2.imwrite(str(made["refused"]), white)
    made["text"] = folder / "notes.png"
    made["text"].write_text("not a radiograph")
    return made


@contextlib.contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, service: httpx.Client, **options) -> Iterator:
    """The viewer; nothing may go wrong in it, and nothing may be fetched from elsewhere."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    expected = re.compile("the server responded with a status of|net::ERR_FAILED")
    page.on("console", lambda m: expected.search(m.text) or problems.append(m.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    own = str(service.base_url).rstrip("/")
    page.on(
        "request",
        lambda r: r.url.startswith((own, "blob:" + own)) or problems.append(r.url),
    )
    page.goto(own)
    page.locator("#examples button").first.wait_for()
    yield page
    context.close()
    assert problems == []


def add(page, *paths: Path) -> None:
    """Give files to the viewer and wait until all are read or refused."""
    before = page.locator("#list li").count()
    page.set_input_files("#file", paths)
    done = ", ".join(f"#list li[data-state={state}]" for state in ("read", "refused", "unread"))
    page.locator(done).nth(before + len(paths) - 1).wait_for()
    settle(page)


def heat(page, mode: str) -> None:
    """Switch the heatmap off, to contours or to colours."""
    page.locator(f"#heat-{mode}").click()


def settle(page) -> None:
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def picture(page) -> np.ndarray:
    """The pixels of the image area, RGB."""
    settle(page)
    data = page.locator("#frame").screenshot()
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)


def pages_of(pdf: bytes) -> int:
    """The number of pages of a PDF that Chromium printed."""
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def middle(page) -> tuple[float, float]:
    box = page.locator("#viewport").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, dx: int, dy: int) -> None:
    x, y = middle(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=4)
    page.mouse.up()


def readout(page) -> tuple[int, int, int]:
    """Window, level, zoom."""
    settle(page)
    return tuple(map(int, re.findall(r"-?\d+", page.locator("#readout").inner_text())))
