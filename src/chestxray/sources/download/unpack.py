"""Unpacks an archive of images that came from outside: nothing it says is believed.

Only plain files and folders with names inside the target are allowed; no links, no devices, no
absolute names, no `..`. An archive that breaks this is refused whole.
"""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from chestxray.artifacts import sync_folder
from chestxray.errors import DownloadError
from chestxray.progress import progress

_LARGEST: Final = 100_000_000  # bytes; NIH's images have under 3 MB


def unpack(archive: Path, folder: Path, images: int) -> None:
    """Unpack a `.tar.gz` into a new folder, which appears whole or not at all.

    Args:
        archive: the file.
        folder: must not exist.
        images: how many files the archive must hold.

    Raises:
        DownloadError: damaged, unsafe, or with another number of files; nothing is left behind.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        count = _extract(archive, temporary, images)
        if count != images:
            raise DownloadError(
                f"{archive.name} must hold {images} images, it holds {count}: delete it and run "
                "the same command again"
            )
        temporary.rename(folder)
        sync_folder(folder.parent)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DownloadError(
            f"{archive.name} is damaged ({error}): delete it and run the same command again"
        ) from error
    except OSError as error:
        raise DownloadError(f"{archive.name} can't be unpacked into {folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, folder: Path, images: int) -> int:
    names = set()
    with (
        tarfile.open(archive, "r|gz") as tar,
        progress(f"unpack {archive.name}", images) as advance,
    ):
        for member in tar:
            refuse_unsafe(member, archive)
            tar.extract(member, folder, filter="data")
            if member.isreg():
                names.add(member.name)
                advance()
    return len(names)


def refuse_unsafe(member: tarfile.TarInfo, archive: Path) -> None:
    """Raise `DownloadError` unless a member is a plain file or folder inside the target."""
    name = PurePosixPath(member.name)
    reason = None
    if not (member.isreg() or member.isdir()):
        reason = "is neither a file nor a folder"
    elif name.is_absolute() or ".." in name.parts or "\\" in member.name:
        reason = "leads out of the folder"
    elif member.size > _LARGEST:
        reason = f"would take {member.size} bytes"
    if reason:
        raise DownloadError(
            f"{archive.name} is refused: its member {member.name!r} {reason}; this is not NIH's "
            "archive, delete it"
        )
