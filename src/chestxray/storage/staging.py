"""Outputs on their way to a store: written on this machine, published when they are complete.

A command writes its output where `staged_folder` or `staged_file` says: to the path itself, or for
a URL into a folder of the cache, whose files are published in the end. After an interruption the
folder stays, so that the same command resumes there as it does with a path; another command does
not take it over.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chestxray.artifacts import lock
from chestxray.errors import ArtifactError, StorageError
from chestxray.storage import cache
from chestxray.storage.objects import ObjectFolder
from chestxray.storage.publication import check_replaceable, publish, upload_alone
from chestxray.storage.urls import is_url, known_as, path_of, shown, url_of

_FOLDER: Final = "staging"
_MADE_BY: Final = ".made_by"  # beside an output: the command that writes it


def staging_of(out: str | Path) -> Path:
    """Give where an output is written on this machine: the path itself, or that for a URL."""
    path = path_of(out)
    url = url_of(path)
    if url is None:
        return path
    folder = cache.folder() / _FOLDER / hashlib.sha256(url.encode()).hexdigest()[:32]
    known_as(folder / path.name, url)
    return folder / path.name


@contextmanager
def staged_folder(out: str | Path, made_by: str) -> Iterator[Path]:
    """Give the folder to write; for a URL its files are published at the end of the block.

    Args:
        out: path or URL of the folder.
        made_by: command that writes it, such as `evaluate`.

    Raises:
        StorageError: the URL is refused, or the store does not take the files.
        ArtifactError: the URL holds what another command wrote, see `check_replaceable`; or another
            process of this machine writes to it, or another command left its files, see
            `claim_staging`.
    """
    path = path_of(out)
    if not is_url(path):
        yield path
        return
    check_replaceable(path, made_by)
    with _alone(path, made_by) as staging:
        yield staging
        with _kept(staging):
            publish(staging, path, made_by)


@contextmanager
def staged_file(out: str | Path, made_by: str, beside: Sequence[str] = ()) -> Iterator[Path]:
    """Give the file to write; for a URL it is written to the store at the end of the block.

    An object that is there already is fetched first, so that the checks of a path hold for it.

    Args:
        out: path or URL of the file.
        made_by: command that writes it.
        beside: names of files in the same folder that belong to it, written before it.

    Raises:
        StorageError, ArtifactError: as `staged_folder` says.
    """
    path = path_of(out)
    if not is_url(path):
        yield path
        return
    store = ObjectFolder(path.parent)
    with _alone(path, made_by) as staging:
        if store.version(path.name) is not None:
            store.download(path.name, staging)
        yield staging
        with _kept(staging):
            names = [n for n in (*beside, path.name) if (staging.parent / n).is_file()]
            upload_alone(staging.parent, path.parent, names)


def claim_staging(out: str | Path, made_by: str) -> None:
    """Begin the staging of a URL, unless another command, interrupted, left there what it had made.

    Of a path nothing is done.

    Raises:
        ArtifactError: it did.
        StorageError: the URL is refused.
    """
    if not is_url(out):
        return
    above = staging_of(out).parent
    note = above / _MADE_BY
    other = note.read_text(encoding="utf-8") if note.exists() else made_by
    if other != made_by and any(p.is_file() and p != note for p in above.rglob("*")):
        raise ArtifactError(
            f"an interrupted `chestxray {other}` left what it made for {shown(path_of(out))} in "
            f"{above}: finish it, choose another --out, or delete that folder"
        )
    above.mkdir(parents=True, exist_ok=True)
    note.write_text(made_by, encoding="utf-8")


@contextmanager
def _alone(path: Path, made_by: str) -> Iterator[Path]:
    """Hold the staging of a URL; it is deleted when the block ends without an error."""
    staging = staging_of(path)
    staging.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"another process is writing {shown(path)}: wait until it ends"
    with lock(staging.parent.with_suffix(".lock"), ArtifactError(refusal)):
        claim_staging(path, made_by)
        yield staging
        shutil.rmtree(staging.parent)


@contextmanager
def _kept(staging: Path) -> Iterator[None]:
    """Say where the finished files are when the store does not take them."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}; the finished files are kept in {staging.parent}") from None
