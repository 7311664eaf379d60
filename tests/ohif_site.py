"""OHIF in front of Orthanc: its files as npm has them, and DICOMweb at the same address.

It is what Orthanc's OHIF plugin does: a static site under `/`, whose data source is `/dicom-web`.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from conftest import REPOSITORY
from viewer_parts import CHROMIUM

PACKAGE = "@ohif/app@3.12.10"
KEPT = REPOSITORY / "build/ohif-3.12.10"
"""Where its files stay, about 150 MB, so that they are fetched once."""

CONFIG = """
window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
      qidoSupportsIncludeField: false, supportsFuzzyMatching: false, supportsWildcard: true,
      omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true },
    },
  }],
};
"""


def files() -> Path:
    """The folder of OHIF's files; the test is skipped where npm cannot have them."""
    if not (KEPT / "index.html").is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not there, which has OHIF")
        KEPT.parent.mkdir(exist_ok=True)
        command = [npm, "pack", "--silent", PACKAGE, "--pack-destination", str(KEPT.parent)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            pytest.skip(f"npm has no {PACKAGE}: {done.stderr[-300:]}")
        archive = KEPT.parent / done.stdout.split()[-1]
        with tarfile.open(archive) as packed:
            packed.extractall(KEPT.with_suffix(".new"), filter="data")
        (KEPT.with_suffix(".new") / "package/dist").rename(KEPT)
        shutil.rmtree(KEPT.with_suffix(".new"))
        archive.unlink()
    return KEPT


class _Handler(SimpleHTTPRequestHandler):
    pacs = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith(("/dicom-web", "/wado")):
            self._forward()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", CONFIG.encode())
        else:
            if not (Path(self.directory) / path.lstrip("/")).is_file():
                self.path = "/index.html"  # a page of the application
            super().do_GET()

    def _forward(self) -> None:
        to = http.client.HTTPConnection(self.pacs, timeout=60)
        to.request("GET", self.path, headers={"Accept": self.headers.get("Accept", "*/*")})
        answer = to.getresponse()
        kind = answer.getheader("Content-Type", "application/octet-stream")
        self._answer(answer.status, kind, answer.read())
        to.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def ohif(pacs: str) -> Iterator[str]:
    """OHIF for a PACS, `http://host:port`; its address."""

    def handler(*arguments: object) -> _Handler:
        return bound(*arguments, directory=str(files()))

    bound = type("Handler", (_Handler,), {"pacs": urlsplit(pacs).netloc})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextlib.contextmanager
def chromium() -> Iterator[object]:
    """A browser that draws WebGL without a graphics card."""
    from playwright.sync_api import sync_playwright

    drawing = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *drawing]
        )
        yield browser
        browser.close()


def opened(browser, address: str, study: str):
    """A page with a study, whose list of series is there; it may ask nobody else."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.route(lambda url: not url.startswith((address, "data:", "blob:")), lambda r: r.abort())
    page.set_default_timeout(120_000)
    page.add_init_script("localStorage.setItem('shownTours', '[\"basicViewerTour\"]')")
    page.goto(f"{address}/viewer?StudyInstanceUIDs={study}")
    page.locator("[data-cy=study-browser-thumbnail]").first.wait_for()
    return page


def choose(page, modality: str) -> bytes:
    """Show the series of a modality; a screenshot of what is drawn, PNG."""
    series = page.locator("[data-cy^=study-browser-thumbnail]", has_text=modality)
    series.first.dblclick()
    page.wait_for_timeout(5000)
    return page.locator("[data-cy=viewport-pane]").first.screenshot()
