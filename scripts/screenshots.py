"""Take the pictures of the documentation from the program as it is, with Chromium.

    python scripts/screenshots.py RUN docs/pictures [BUNDLE]

RUN is the run folder of `chestxray demo`, BUNDLE the model of the viewer where it is another one.
All radiographs are phantoms: no patient is shown.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import chestxray
from chestxray.findings import label
from chestxray.sources.phantom.intervention import pairs

WIDTH, HEIGHT = 1440, 900
SHOWN = 1200  # pixels of the widest picture
MOST = 300_000  # bytes of all pictures
QUALITY = 72
SECONDS = 300
PHANTOMS = 32
CLEAR = 0.6  # of the scale of a heatmap
PAIRS = {"Effusion": 2, "Pneumothorax": 5, "Cardiomegaly": 4, "Mass": 3}  # finding: patient


def reading(browser: Browser, url: str, radiograph: Path, out: Path) -> None:
    """Show a radiograph in the viewer, with the heatmap of the first finding."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(SECONDS * 1000)
    page.goto(url)
    page.locator("#examples button").first.wait_for()
    page.set_input_files("#file", [radiograph])
    page.locator("#list li[data-state=read]").first.wait_for()
    page.keyboard.press("h")  # contours
    _write(page, out)


def report(browser: Browser, file: Path, out: Path) -> None:
    """Show the top of the report."""
    page = browser.new_page(viewport={"width": 1200, "height": 820})
    page.goto(file.resolve().as_uri())
    page.wait_for_load_state("networkidle")
    _write(page, out)


def phantoms(out: Path) -> None:
    """Show phantoms without a finding, and below them with it, its mask outlined."""
    figure, axes = plt.subplots(2, len(PAIRS), figsize=(12, 6.5), facecolor="black")
    for (finding, patient), (above, below) in zip(PAIRS.items(), axes.T, strict=True):
        *_, pair = pairs(patient, [finding], pixels=512)
        above.imshow(pair.without, "gray", vmin=0, vmax=255)
        below.imshow(pair.with_finding, "gray", vmin=0, vmax=255)
        below.contour(pair.mask, [0.5], colors="orange", linewidths=1)
        below.set_title(label(finding), color="white", fontsize=13)
    axes[0, 0].set_title("without a finding", color="white", fontsize=13, loc="left")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    _save(Image.fromarray(np.asarray(canvas.buffer_rgba())), out)
    plt.close(figure)


def _write(page: Page, out: Path) -> None:
    _save(Image.open(io.BytesIO(page.screenshot())), out)
    page.close()


def _save(image: Image.Image, out: Path) -> None:
    height = round(image.height * SHOWN / image.width)
    small = image.convert("RGB").resize((SHOWN, height), Image.Resampling.LANCZOS)
    small.save(out, "WEBP", quality=QUALITY, method=6)


def clearest(bundle: Path, folder: Path) -> Path:
    """Draw phantoms, and give the one with right calls alone whose heat is most where they are."""
    chestxray.synth(folder, images=PHANTOMS, pixels=512, seed=9, balanced=True)
    table = pd.read_csv(folder / "Data_Entry_2017.csv").set_index("Image Index")
    reader = chestxray.load(bundle)
    found: list[tuple[float, Path]] = []
    for name, labels in table["Finding Labels"].items():
        file = next(folder.rglob(f"images/{name}"))
        with contextlib.suppress(chestxray.RefusedError):
            reading = reader.read(file)
            called = [finding for finding, call in reading.calls.items() if call]
            wrong = [finding for finding in called if finding not in labels.split("|")]
            if called and not wrong:
                shares = [_share_inside(reading, finding, file, folder) for finding in called]
                found.append((min(shares), file))
    if not found:
        sys.exit("the model has no phantom with right calls alone: train longer")
    return max(found)[1]


def _share_inside(reading: chestxray.Reading, finding: str, file: Path, folder: Path) -> float:
    """Give the share of a heatmap that lies in the finding's mask; 0 where it is faint."""
    heat = reading.heatmaps[finding]
    if heat.max() < CLEAR or finding in reading.not_localised:
        return 0.0
    mask = Image.open(folder / "masks" / f"{file.stem}_{finding}.png").convert("F")
    inside = np.asarray(mask.resize(heat.shape[::-1], Image.Resampling.BOX)) / 255
    return float((heat * inside).sum() / heat.sum())


@contextlib.contextmanager
def service(bundle: Path) -> Iterator[str]:
    """Serve a bundle; gives the address once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "chestxray", "serve", str(bundle), "--port", str(port)]
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}/"
    end = time.monotonic() + SECONDS
    try:
        while not _is_ready(url):
            if time.monotonic() > end or server.poll() is not None:
                sys.exit("serve did not become ready")
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "readyz", timeout=5):  # noqa: S310 - this machine's
            return True
    except OSError:
        return False


def main() -> None:
    """Take all pictures."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    run, out = map(Path, sys.argv[1:3])
    bundle = Path(sys.argv[3]) if len(sys.argv) == 4 else run / "bundle"
    out.mkdir(parents=True, exist_ok=True)
    phantoms(out / "phantoms.webp")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        with tempfile.TemporaryDirectory() as folder, service(bundle) as url:
            radiograph = clearest(bundle, Path(folder) / "phantoms")
            reading(browser, url, radiograph, out / "reading.webp")
        report(browser, run / "report.html", out / "report.webp")
        browser.close()
    size = sum(file.stat().st_size for file in out.iterdir())
    if size > MOST:
        sys.exit(f"the pictures have {size} bytes, more than {MOST}")


if __name__ == "__main__":
    main()
