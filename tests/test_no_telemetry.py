"""Reading a radiograph reports nothing to anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORTED = """
import sys
PREPARE
import openvino
print("sends" if sys.modules.get("openvino_telemetry") else "silent")
"""
OURS = "from chestxray.model.engines import needed; needed('openvino')"


@pytest.mark.parametrize(("prepare", "said"), [("", "sends"), (OURS, "silent")])
def test_openvino_reports_its_use_unless_this_package_imports_it(
    tmp_path: Path, prepare: str, said: str
) -> None:
    pytest.importorskip("openvino", reason="needs the export extra")
    pytest.importorskip(
        "openvino_telemetry", reason="comes with OpenVINO; without it, none reports"
    )
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    environment |= {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:1"}  # to nobody
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.replace("PREPARE", prepare)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stdout.split() == [said]
    assert (tmp_path / "intel").exists() == (said == "sends"), "where it keeps its client id"
