"""The page on the web service agrees with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from pydicom import dcmread

from chestxray.serving.admission import Limits
from chestxray.serving.web import create_app, example_png
from conftest import REPOSITORY
from dicom_files import dicom
from result_objects import USUAL
from viewer_parts import planted
from web_server import ready

PAGE = (REPOSITORY / "docs/web_service.md").read_text(encoding="utf-8")
SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted((REPOSITORY / "src/chestxray/serving").glob("*.py"))
)


def test_every_limit_is_documented():
    section = PAGE.split("\n## Limits\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {
        field.name for field in fields(Limits)
    }


@pytest.mark.parametrize("status", [400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 500, 503])
def test_every_code_of_a_status_is_documented(status):
    rows = re.findall(rf"^\| {status} \| (.*?) \|", PAGE, re.MULTILINE)
    documented = set(re.findall(r"`([a-z-]+)`", " ".join(rows)))
    states = {"starting", "stopping", "failed"} if status == 503 else set()  # named by the state
    assert documented == states | set(re.findall(rf'\b{status},\s*"([a-z-]+)"', SOURCE))


PAGE_CODE = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
REQUESTS = [code for kind, code in PAGE_CODE if "/v1/read" in code]


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[httpx.Client]:
    with ready(create_app(planted(run), Limits(decoders=1))) as client:
        yield client


def test_every_request_in_the_page_works_as_it_is_written(service, tmp_path, monkeypatch):
    """By curl and by Python, with the address of a service that runs here."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not there")
    image = cv2.imdecode(np.frombuffer(example_png("mass"), np.uint8), cv2.IMREAD_GRAYSCALE)
    (tmp_path / "radiograph.dcm").write_bytes(dicom(image, 8, **USUAL))
    (tmp_path / "other.png").write_bytes(example_png("clear"))
    monkeypatch.chdir(tmp_path)
    url = str(service.base_url).rstrip("/")
    commands = 0
    for code in REQUESTS:
        here = code.replace("http://127.0.0.1:8000", url)
        if "import httpx" in here:
            names: dict[str, Any] = {}
            exec(here, names)  # noqa: S102 - the page's own example
            assert names["arrays"]["findings"].tolist() == ["Effusion", "Mass"]
        for command in re.findall(r"^curl .*", here, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-c", command.replace("curl", "curl -sSf", 1)],
                capture_output=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, (command, done.stderr)
            commands += 1
    assert commands >= 7
    modalities = {
        name: dcmread(tmp_path / f"{name}.dcm").Modality
        for name in ("report", "picture", "evidence")
    }
    assert modalities == {"report": "SR", "picture": "OT", "evidence": "SEG"}
