"""The systemd unit: its documented installation works for a user who is not root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gateway_service

NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
TOOLS = ("unshare", "setpriv", "useradd", "ip", "bash", "install")


def namespaces() -> list[str]:
    """The command that runs another in namespaces of its own."""
    if os.geteuid() != 0:
        pytest.skip("another user can be made by root only")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{missing} are not there")
    command = ["unshare", *NAMESPACES]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("namespaces cannot be made here, such as in a container without privileges")
    return command


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_documented_steps_install_a_service_that_runs_as_its_own_user(run: Path) -> None:
    driver = [sys.executable, gateway_service.__file__, run / "bundle"]
    done = subprocess.run(
        [*namespaces(), *driver], check=False, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    saw = json.loads(done.stdout)
    assert saw["answer"] == 0
    assert saw["status"].startswith("gateway: running\nread: 0 queued, 1 done")
    assert saw["health"] == {"status": "ok", "problems": []}
    assert saw["exit"] == 0
    assert saw["status of root"].startswith("gateway: not running\nread: 0 queued, 1 done")
    assert saw["others' files"] == []
    assert set(saw["modes"].values()) == {"600", "700"}
    assert len(saw["modes"]) > 8
    assert not any("intel" in name for name in saw["modes"]), "OpenVINO reports to its maker"
    assert saw["nobody"] == [1, 1]
    assert "Traceback" not in saw["log"]
