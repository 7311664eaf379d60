"""Artefacts have the modes that the umask gives, whatever library wrote them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from chestxray.artifacts import written


def modes(folder: Path) -> dict[str, int]:
    """The mode of every file below a folder, by its relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in files}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_gets_the_mode_of_the_umask_though_its_writer_makes_it_private(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with written(tmp_path / "weights.safetensors") as temporary:
            save_file({"a": np.zeros(3)}, temporary)
            assert temporary.stat().st_mode & 0o777 == 0o600, "or the test shows nothing"
    finally:
        os.umask(before)
    assert modes(tmp_path) == {"weights.safetensors": mode}


def test_a_file_that_was_not_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written(tmp_path / "table.csv"):
        pass
    assert modes(tmp_path) == {}


def test_every_file_of_dataset_and_run_can_be_read_by_whom_the_umask_allows(
    run: Path, dataset
) -> None:
    umask = os.umask(0)
    os.umask(umask)
    found = modes(run) | modes(Path(dataset.folder))
    assert {name for name in found if name.endswith(".safetensors")}, "the bundle is there"
    assert {name: mode for name, mode in found.items() if mode != 0o666 & ~umask} == {}
