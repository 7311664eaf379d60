"""torchxrayvision, the wheel with real label tables and the installed package, downloaded once.

The tables belong to their owners: they are downloaded, never kept in this repository. Without a
package index the tests that need them are skipped.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

VERSION = "1.5.7"
SHA256 = "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chestxray-tests"
PINNED = (
    f"torchxrayvision=={VERSION}", "scikit-image==0.26.0", "lazy_loader==0.6", "imageio==2.38.1",
    "tifffile==2026.3.3", "networkx==3.6.1",
)  # fmt: skip
_PIP = (sys.executable, "-m", "pip")
_QUIETLY = ("--quiet", "--no-deps", "--timeout", "20")


def downloaded() -> zipfile.ZipFile:
    """The wheel."""
    path = CACHE / f"torchxrayvision-{VERSION}-py3-none-any.whl"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as beside:  # another test process may download
            run = subprocess.run(
                [*_PIP, "download", *_QUIETLY, "--dest", beside, PINNED[0]],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if run.returncode:
                pytest.skip(f"torchxrayvision {VERSION} cannot be downloaded: {run.stderr[-200:]}")
            Path(beside, path.name).replace(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    return zipfile.ZipFile(path)


def installed() -> Path:
    """A folder to put on the path of a process that imports torchxrayvision."""
    site = CACHE / f"torchxrayvision-{VERSION}"
    if not site.exists():
        run = subprocess.run(
            [*_PIP, "install", *_QUIETLY, "--target", str(site), *PINNED],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if run.returncode:
            pytest.skip(f"torchxrayvision cannot be installed: {run.stderr[-200:]}")
    return site


def answer(code: str, *arguments: str | Path) -> str:
    """What a program prints that may import torchxrayvision as `xrv`; `arguments` are `argv[1:]`.

    torchxrayvision changes the state of the process, so it has one of its own.
    """
    head = f"import sys; sys.path.insert(0, {str(installed())!r})\nimport torchxrayvision as xrv\n"
    run = subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return run.stdout
