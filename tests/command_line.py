"""The command line in this process: one of its own imports torch anew, which takes seconds."""

from __future__ import annotations

import contextlib
import io
import subprocess

import pytest

from chestxray.cli import main as command_line


def run_command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command on a terminal of 200 columns; give its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setenv("COLUMNS", "200")
        patch.setattr("sys.argv", ["chestxray", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            command_line.main()
    assert isinstance(end.value.code, int)
    return subprocess.CompletedProcess(words, end.value.code, out.getvalue(), err.getvalue())
