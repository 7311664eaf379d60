"""Who can read the gateway's files: only the user it runs as.

The state folder holds patients' images. It must be closed to all other users (mode 0700); then
nothing below it can be reached by them, whatever its own mode. All that is made in it is 0600.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from chestxray import artifacts, file_locks
from chestxray.errors import ArtifactError, ConfigError

LOCK: Final = "lock"
"""Name of the file in the state folder that a running gateway has locked."""

_OTHERS: Final = 0o077  # group and others


def require_posix() -> None:
    """Check that the system has what the gateway's promises rest on.

    Raises:
        ConfigError: it is Windows.
    """
    if not file_locks.FLOCK:
        raise ConfigError(
            "the gateway runs on Linux and macOS only: Windows has neither the file modes that "
            "keep patients' images private nor the locks and signals that let a process be killed "
            "without loss; run it in WSL 2, a virtual machine or a container (deploy/Containerfile)"
        )


@contextmanager
def private_files() -> Iterator[None]:
    """Make all new files and folders accessible to their owner only."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def require_private(folder: Path) -> None:
    """Check that no other user can enter the state folder.

    Raises:
        ArtifactError: its mode allows that.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS:
        raise ArtifactError(
            f"state: {folder} has mode {mode:04o}, so other users can access it; it holds "
            "patients' images and must be accessible to its owner only: run "
            f"`chmod -R go-rwx {shlex.quote(str(folder))}`"
        )


def require_secret(path: Path) -> None:
    """Check that not every user can read a file with secrets; its group may.

    Raises:
        ConfigError: its mode allows that.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IROTH:
        raise ConfigError(
            f"{path} has `headers`, such as a token, and mode {mode:04o}, so every user of this "
            f"machine can read them: run `chmod o-rwx {shlex.quote(str(path))}`"
        )


def lock(state: Path) -> IO[bytes]:
    """Lock a state folder until the returned file is closed or this process ends.

    Raises:
        ConfigError: another process holds the lock.
    """
    return artifacts.lock(state / LOCK, _locked(state))


def check_unlocked(state: Path) -> None:
    """Check that no gateway runs on a state folder.

    Raises:
        ConfigError: one does.
    """
    if is_locked(state):
        raise _locked(state)


def _locked(state: Path) -> ConfigError:
    return ConfigError(
        f"state: a gateway runs on {state} already: stop it first, or use another folder"
    )


def is_locked(state: Path) -> bool:
    """Tell whether a gateway runs on a state folder."""
    try:
        with (state / LOCK).open(encoding="utf-8") as file:
            return file_locks.is_taken(file.fileno())
    except OSError:  # there is no folder yet, or none that this user can open
        return False
