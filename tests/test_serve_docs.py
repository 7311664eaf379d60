"""The page on the web service agrees with the code."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from chestxray.serving.admission import Limits
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/web_service.md").read_text(encoding="utf-8")
SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted((REPOSITORY / "src/chestxray/serving").glob("*.py"))
)


def test_every_limit_is_documented():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == {
        field.name for field in fields(Limits)
    }


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503])
def test_every_code_of_a_status_is_documented(status):
    rows = re.findall(rf"^\| {status} \| (.*?) \|", PAGE, re.MULTILINE)
    documented = set(re.findall(r"`([a-z-]+)`", " ".join(rows)))
    states = {"starting", "stopping", "failed"} if status == 503 else set()  # named by the state
    assert documented == states | set(re.findall(rf'\b{status},\s*"([a-z-]+)"', SOURCE))
