"""Fetches a file over HTTP, and unpacks an archive of images from outside.

`fetch` resumes an interrupted transfer (RFC 9110, range requests). Bytes go to `NAME.part` beside
the target, which gets its own name only when it is whole.

`unpack` trusts nothing in the archive: only plain files and folders with names inside the target
are allowed; no links, no devices, no absolute names, no `..`. An archive that breaks this is
refused as a whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import httpx

from chestxray.artifacts import sync_folder
from chestxray.errors import DownloadError
from chestxray.progress import Advance, progress

ATTEMPTS: Final = 5  # in a row that bring no more bytes
MEGABYTE: Final = 1_000_000
_CHUNK: Final = 1 << 20
_LARGEST: Final = 100_000_000  # bytes of an unpacked image; NIH's have under 3 MB
_TRY_AGAIN: Final = {408, 425, 429, *range(500, 600)}

Pause = Callable[[float], None]


class _Interrupted(Exception):  # noqa: N818 - not a failure yet: the next attempt resumes
    """The transfer stopped early; the bytes so far are kept."""


@dataclass(frozen=True)
class Digests:
    """Checksums of one file, in hexadecimal."""

    md5: str
    sha256: str


def digests(path: Path) -> Digests:
    """Compute both checksums in one pass."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    return Digests(md5.hexdigest(), sha256.hexdigest())


def new_client() -> httpx.Client:
    """Create a client that follows redirects and gives up on a silent server."""
    return httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60.0, connect=15.0))


def make_folder(folder: Path) -> None:
    """Create the folder to fetch into; raises `DownloadError` where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{folder} cannot be created ({error}): choose another folder"
        ) from error


def part_of(target: Path) -> Path:
    """Name the file that holds the bytes so far."""
    return target.with_name(f"{target.name}.part")


def fetch(
    url: str,
    target: Path,
    client: httpx.Client,
    *,
    size: int | None = None,
    advance: Advance = lambda _=1: None,
    pause: Pause = time.sleep,
) -> None:
    """Fetch a file, resuming from `target.part` where there is one.

    Args:
        url: of the file.
        target: where it goes; replaced once the file is complete.
        client: sends the requests.
        size: in bytes, where known.
        advance: called for each megabyte.
        pause: waits that many seconds between attempts.

    Raises:
        DownloadError: refused, not found, of another size, a web page instead of a file, or no
            more bytes came in `ATTEMPTS` attempts. The part is kept for the next call.
    """
    part = part_of(target)
    farthest, fruitless = _length(part), 0
    while True:
        try:
            _resume(url, part, client, size, advance)
            break
        except (httpx.TransportError, _Interrupted) as error:
            fruitless = 0 if _length(part) > farthest else fruitless + 1
            farthest = max(farthest, _length(part))
            if fruitless == ATTEMPTS:
                raise DownloadError(
                    f"{target.name}: the connection stalled: {httpx.URL(url).host} sends no more "
                    f"bytes ({error}); check the connection, then run the same command again: it "
                    f"resumes at {_length(part)} bytes"
                ) from error
            pause(2.0**fruitless / 2)
        except OSError as error:
            raise DownloadError(
                f"{part} cannot be written ({error}): free some disk space"
            ) from error
    part.replace(target)
    sync_folder(target.parent)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _resume(url: str, part: Path, client: httpx.Client, size: int | None, advance: Advance) -> None:
    """Request the missing bytes and append them; raises `_Interrupted` when they end too early."""
    have = _length(part)
    if size is not None and have > size:
        part.unlink()
        have = 0
    if have and have == size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        start, total = _promised(response, part, have, size)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            done = start // MEGABYTE
            for chunk in response.iter_raw():  # unbuffered: a cut loses nothing that arrived
                file.write(chunk)
                advance(file.tell() // MEGABYTE - done)
                done = file.tell() // MEGABYTE
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _length(part) < total:
        raise _Interrupted(f"{_length(part)} of {total} bytes arrived")
    if total is not None and _length(part) > total:
        part.unlink()
        raise _Interrupted(f"more than {total} bytes arrived")


def _promised(
    response: httpx.Response, part: Path, have: int, size: int | None
) -> tuple[int, int | None]:
    """Read from the response where its bytes begin, and how long the whole file is."""
    status = response.status_code
    if status in _TRY_AGAIN:
        raise _Interrupted(f"the server returned {status} {response.reason_phrase}")
    covers = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "")
    )
    if status == 416 or (status == 206 and (not covers or covers[1] != str(have))):
        part.unlink(missing_ok=True)  # the part is not the beginning of the file there
        raise _Interrupted("the server cannot resume the transfer")
    if status not in {200, 206}:
        raise DownloadError(
            f"{part.name.removesuffix('.part')}: {httpx.URL(response.url).host} returned {status} "
            f"{response.reason_phrase}; the link may have moved, see the publisher's page"
        )
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError(
            f"{part.name.removesuffix('.part')}: a web page arrived instead of the file; "
            "download it in a browser"
        )
    if status == 206 and covers:
        start, total = have, None if covers[2] == "*" else int(covers[2])
    else:
        length = response.headers.get("Content-Length")
        start, total = 0, None if length is None else int(length)
    if size is not None and total is not None and total != size:
        raise DownloadError(
            f"{part.name.removesuffix('.part')} must have {size} bytes, the server offers {total}: "
            "this is another file; try again later, or download it in a browser"
        )
    return start, total if size is None else size


def unpack(archive: Path, folder: Path, images: int) -> None:
    """Unpack a `.tar.gz` into a new folder, which appears complete or not at all.

    Args:
        archive: the file.
        folder: to create; must not exist.
        images: how many files the archive must hold.

    Raises:
        DownloadError: damaged, unsafe, or with another number of files; nothing is left of it.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        count = _extract(archive, temporary, images)
        if count != images:
            raise DownloadError(
                f"{archive.name} must hold {images} images, but holds {count}: delete it and run "
                "the same command again"
            )
        temporary.rename(folder)
        sync_folder(folder.parent)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DownloadError(
            f"{archive.name} is damaged ({error}): delete it and run the same command again"
        ) from error
    except OSError as error:
        raise DownloadError(f"{archive.name} cannot be unpacked into {folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, folder: Path, images: int) -> int:
    names = set()
    with (
        tarfile.open(archive, "r|gz") as tar,
        progress(f"unpack {archive.name}", images) as advance,
    ):
        for member in tar:
            _refuse_unsafe(member, archive)
            tar.extract(member, folder, filter="data")
            if member.isreg():
                names.add(member.name)
                advance()
    return len(names)


def _refuse_unsafe(member: tarfile.TarInfo, archive: Path) -> None:
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
            f"{archive.name} is refused: its member {member.name!r} {reason}; this is not the "
            "published archive, delete it"
        )
