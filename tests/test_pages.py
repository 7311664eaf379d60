"""Every page that a command writes, in a browser: accessible, as wide as its window, by itself."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from chestxray.evaluation import compare_models
from chestxray.reading.validation import validate
from chestxray.reporting import comparison_page, report
from chestxray.serving.gateway import report as gateway_report
from chestxray.serving.gateway.store import Store
from chestxray.sources.phantom.tree import synth
from fake_run import write_run
from gateway_parts import config
from page_faults import WIDTHS, faults_of
from test_comparison import TRUTH, model, written
from test_gateway_drift import MONDAY, VALIDATION, WEEK, note, remember
from viewer_parts import CHROMIUM

STYLES = ("journal", "slide")


@pytest.fixture(scope="module")
def pages(run: Path, dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page by its command; those with a style in each of them, which changes nothing."""
    folder = tmp_path_factory.mktemp("pages")
    made = {"validate": folder / "validated/validation.html"}
    synth(folder / "elsewhere", images=60, pixels=64, seed=9, balanced=True)
    sets = [dataset.folder, folder / "elsewhere"]
    validate(run / "bundle", sets, folder / "validated", resamples=100)
    full = write_run(folder / "run")
    tables = written(folder, base=model(1.0, 1, 0.7), wide=model(1.5, 2, 0.7)[:-30])
    compare_models(tables, TRUTH, resamples=100, out=folder / "compared")
    for name, write in (
        ("report", lambda style: report(full, folder / "report.html", style)),
        ("compare", lambda style: comparison_page(folder / "compared", style)),
    ):
        texts = {write(style).read_text(encoding="utf-8") for style in STYLES}
        assert len(texts) == 1, "a style is of the figures for print alone"
        made[name] = write(STYLES[0])
    made["gateway report"] = gateway_page(folder)
    return made


def gateway_page(folder: Path) -> Path:
    """The page of a gateway whose last week has drifted."""
    of, page = config(folder), folder / "gateway.html"
    store = Store(of.state)
    known = remember(store, {"Effusion": VALIDATION.model_dump()})
    draws = np.random.default_rng(6)
    with pytest.MonkeyPatch.context() as patch:
        for number, beta in enumerate(((2, 8), (6, 4))):
            patch.setattr(time, "time", lambda now=MONDAY + number * WEEK: now)
            note(store, known, draws.beta(*beta, 200), notices=["view-unknown"])
        gateway_report.write_page(gateway_report.gather(of, store, 4), page)
    store.close()
    return page


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("name", ["report", "validate", "compare", "gateway report"])
def test_a_page_is_accessible_fits_its_window_and_asks_nobody_else(name, pages, browser):
    address = pages[name].as_uri()
    looks = [(width, "light") for width in WIDTHS] + [(WIDTHS[0], "dark")]
    assert {look: found for look in looks if (found := faults_of(browser, address, *look))} == {}
