"""ChestX-ray14 fetched from NIH's Box (`download_nih`) or from Kaggle (`download_kaggle`).

Both can be interrupted at any moment and called again, and leave the tree that `sources.nih` reads.
`download.json` records what was fetched.

From NIH come twelve archives, the label table and the official lists. An archive is fetched,
checked (size and MD5) and unpacked; then it is deleted, because archives and images together would
take 90 GB. `download.json` records every step once it is durable, so that the next call skips it.
Sources: the links of NIH's own `batch_download_zips.py`; the MD5 sums of NIH's
`FAQ_CHESTXRAY.pdf` (question 7); sizes as the server states them; the Box folder
https://nihcc.app.box.com/v/ChestXray-NIHCC for tables and lists.

From Kaggle, `kagglehub` fetches with the user's own token into a hidden folder of the target, where
it can resume. When everything is there, the files are moved to their places.
"""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from chestxray.artifacts import read_json, write_json
from chestxray.errors import DownloadError
from chestxray.progress import progress
from chestxray.sources.fetch import (
    MEGABYTE,
    Digests,
    Pause,
    digests,
    fetch,
    make_folder,
    new_client,
    part_of,
    unpack,
)

__all__ = ["BY_HAND", "FOLDER", "download_kaggle", "download_nih"]

FOLDER: Final = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
IMAGES: Final = 112_120
_STATIC: Final = "https://nihcc.box.com/shared/static"
_FILE: Final = (
    "https://nihcc.app.box.com/index.php?rm=box_download_shared_file"
    "&vanity_name=ChestXray-NIHCC&file_id=f_"
)


@dataclass(frozen=True)
class Archive:
    """One packed folder of images.

    Attributes:
        name: file name; the part before `.tar.gz` names the folder that it is unpacked to.
        url: where it is.
        size: bytes.
        md5: of the archive, as published; hexadecimal.
        images: how many files it holds.
    """

    name: str
    url: str
    size: int
    md5: str
    images: int

    @property
    def folder(self) -> str:
        """Name of the folder that it is unpacked to."""
        return self.name.removesuffix(".tar.gz")


@dataclass(frozen=True)
class Table:
    """A label table or an official list.

    Attributes:
        name: file name.
        url: where it is.
        lines: how many non-empty lines it has.
    """

    name: str
    url: str
    lines: int


_ARCHIVES: Final = (
    # Box link, bytes, MD5, images
    ("vfk49d74nhbxq3nqjg0900w5nvkorp5c", 2_008_470_987, "fe8ed0a6961412fddcbb3603c11b3698", 4_999),
    ("i28rlmbvmfjbl8p2n3ril0pptcmcu9d1", 3_952_623_504, "ab07a2d7cbe6f65ddd97b4ed7bde10bf", 10_000),
    ("f1t00wrtdk94satdfb9olcolqx20z2jp", 3_929_234_850, "2301d03bde4c246388bad3876965d574", 10_000),
    ("0aowwzs5lhjrceb3qp67ahp0rd1l1etg", 3_838_903_983, "9f1b7f5aae01b13f4bc8e2c44a4b8ef6", 10_000),
    ("v5e3goj22zr6h8tzualxfsqlqaygfbsn", 3_935_496_531, "1861f3cd0ef7734df8104f2b0309023b", 10_000),
    ("asi7ikud9jwnkrnkj99jnpfkjdes7l6l", 3_986_301_172, "456b53a8b351afd92a35bc41444c58c8", 10_000),
    ("jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", 4_016_328_426, "1075121ea20a137b87f290d6a4a5965e", 10_000),
    ("tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j", 4_018_347_353, "b61f34cec3aa69f295fbb593cbd9d443", 10_000),
    ("upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", 4_111_327_929, "442a3caa61ae9b64e61c561294d1e183", 10_000),
    ("l6nilvfa9cg3s28tqv1qc1olm3gnz54p", 4_181_556_296, "09ec81c4c31e32858ad8cf965c494b74", 10_000),
    ("hhq8fkdgvcari67vfhs7ppg2w6ni4jze", 4_187_084_020, "499aefc67207a5a97692424cf5dbeed5", 10_000),
    ("ioqwiy20ihqwyr8pf4c24eazhh281pbu", 2_914_187_733, "dc9fda1757c2de0032b63347a7d2895c", 7_121),
)  # fmt: skip

ARCHIVES: Final = tuple(
    Archive(f"images_{number:03d}.tar.gz", f"{_STATIC}/{link}.gz", size, md5, images)
    for number, (link, size, md5, images) in enumerate(_ARCHIVES, start=1)
)

TABLES: Final = (
    Table("Data_Entry_2017_v2020.csv", f"{_FILE}219760887468", 112_121),
    Table("train_val_list.txt", f"{_FILE}256056636701", 86_524),
    Table("test_list.txt", f"{_FILE}256055473534", 25_596),
)

BY_HAND: Final = ("BBox_List_2017.csv",)  # no link to the file itself is known


JOURNAL: Final = "download.json"
_COMMAND: Final = "chestxray download OUT --from nih"


def download_nih(
    out: Path,
    archives: Sequence[Archive] = ARCHIVES,
    tables: Sequence[Table] = TABLES,
    pause: Pause = time.sleep,
) -> dict[str, str]:
    """Fetch, check and unpack everything that is not there yet.

    Args:
        out: folder of the tree; created where it is missing.
        archives: what to fetch and unpack.
        tables: what else to fetch; a file of that name that is already there stays as it is.
        pause: waits that many seconds between attempts.

    Returns:
        Files that must still be fetched by hand, with the reason.

    Raises:
        DownloadError: an archive cannot be fetched or is not what NIH published, a file was changed
            since it was fetched, or there is not enough space.
    """
    make_folder(out)
    journal = _Journal(out / JOURNAL)
    missing = [archive for archive in archives if not _is_done(out, archive, journal)]
    _require_room(out, missing)
    with new_client() as client:
        for archive in missing:
            _archive(out, archive, client, journal, pause)
        lacking = [name for name in BY_HAND if not (out / name).exists()]
        by_hand = dict.fromkeys(lacking, "no link to the file itself is known")
        for table in tables:
            if not _is_there(out / table.name, journal):
                try:
                    _table(out / table.name, table, client, journal, pause)
                except DownloadError as error:
                    by_hand[table.name] = str(error)
    return by_hand


class _Journal:
    """`download.json`: what was fetched, its checksums, and whether it was unpacked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        value = read_json(path, _COMMAND) if path.exists() else {}
        self.files: dict[str, dict[str, Any]] = value.get("files", {})

    def record(self, name: str, **facts: str | int | bool) -> None:
        self.files[name] = self.files.get(name, {}) | facts
        write_json(self.path, {"source": FOLDER, "files": self.files})

    def check(self, name: str, found: Digests) -> None:
        recorded = self.files.get(name, {}).get("sha256", found.sha256)
        if recorded != found.sha256:
            raise DownloadError(
                f"{self.path.parent / name} was changed since it was downloaded (SHA-256 "
                f"{found.sha256[:12]}…, recorded {recorded[:12]}…): delete it and run the same "
                "command again"
            )


def _is_done(out: Path, archive: Archive, journal: _Journal) -> bool:
    """Tell whether an archive was unpacked before and its images are still there."""
    folder, entry = out / archive.folder, journal.files.get(archive.name)
    if not folder.exists():
        return False
    if entry is None:
        raise DownloadError(
            f"{folder} exists, but {journal.path.name} does not list it: move it away, or choose "
            "another folder"
        )
    if not entry["unpacked"]:  # stopped after the folder got its name, which it gets when whole
        journal.record(archive.name, unpacked=True)
    (out / archive.name).unlink(missing_ok=True)  # stopped after the record
    count = sum(path.is_file() for path in folder.rglob("*"))
    if count != archive.images:
        raise DownloadError(
            f"{folder} holds {count} of {archive.images} images: delete it and run the same "
            "command again"
        )
    return True


def _require_room(out: Path, missing: Sequence[Archive]) -> None:
    """Images take about as much as their archives, one of which is there in addition."""
    if not missing:
        return
    have = sum(
        path.stat().st_size
        for archive in missing
        for path in (out / archive.name, part_of(out / archive.name))
        if path.exists()
    )
    need = (
        sum(archive.size for archive in missing) + max(archive.size for archive in missing) - have
    )
    free = shutil.disk_usage(out).free
    if free < need:
        raise DownloadError(
            f"{out} has {free / 1e9:.1f} GB free, but the download needs {need / 1e9:.1f} GB: free "
            "some space, or choose a folder on another disk"
        )


def _archive(
    out: Path, archive: Archive, client: httpx.Client, journal: _Journal, pause: Pause
) -> None:
    path = out / archive.name
    if not path.exists():
        done = part_of(path).stat().st_size // MEGABYTE if part_of(path).exists() else 0
        with progress(archive.name, archive.size // MEGABYTE, "MB", done) as advance:
            fetch(archive.url, path, client, size=archive.size, advance=advance, pause=pause)
    found = digests(path)
    if found.md5 != archive.md5:
        path.unlink()
        raise DownloadError(
            f"{archive.name} has the MD5 {found.md5}, NIH publishes {archive.md5}: it was deleted, "
            "run the same command again"
        )
    journal.check(archive.name, found)
    journal.record(
        archive.name, url=archive.url, size=archive.size, md5=found.md5, sha256=found.sha256,
        images=archive.images, unpacked=False,
    )  # fmt: skip
    unpack(path, out / archive.folder, archive.images)
    journal.record(archive.name, unpacked=True)
    path.unlink()


def _is_there(path: Path, journal: _Journal) -> bool:
    """Tell whether a table is there, put by hand or fetched and unchanged since."""
    if path.exists() and path.name in journal.files:
        journal.check(path.name, digests(path))
    return path.exists()


def _table(path: Path, table: Table, client: httpx.Client, journal: _Journal, pause: Pause) -> None:
    fetch(table.url, path, client, pause=pause)
    with path.open("rb") as file:
        lines = sum(1 for line in file if line.strip())
    if lines != table.lines:
        path.unlink()
        raise DownloadError(f"the file has {lines} lines instead of {table.lines}")
    found = digests(path)
    journal.record(
        table.name, url=table.url, size=path.stat().st_size, md5=found.md5, sha256=found.sha256
    )


_HANDLE: Final = "nih-chest-xrays/data"
_CACHE: Final = ".kagglehub"
_HOW_TO_SIGN_IN: Final = (
    "create one at https://www.kaggle.com/settings (API) and put it into ~/.kaggle/access_token or "
    "the variable KAGGLE_API_TOKEN"
)


def download_kaggle(
    out: Path, fetch: Callable[[str], str] | None = None, images: int = IMAGES
) -> None:
    """Fetch Kaggle's copy of the data set, unless it is there already.

    Args:
        out: folder of the tree; created where it is missing.
        fetch: gives the folder of a dataset handle; kagglehub does where None.
        images: how many images there must be.

    Raises:
        DownloadError: no token, no connection, no space, or images are missing.
    """
    journal = out / JOURNAL
    if journal.exists() and read_json(journal, "chestxray download OUT").get("source") == _HANDLE:
        return
    make_folder(out)
    with _cache_in(out / _CACHE):
        came = Path(fetch(_HANDLE) if fetch else _fetch(_HANDLE))
    for path in sorted(came.iterdir()):
        if (out / path.name).exists():
            raise DownloadError(f"{out / path.name} exists already: move it away")
        path.rename(out / path.name)
    count = sum(path.suffix == ".png" for path in out.glob("images_*/images/*"))
    if count != images:
        raise DownloadError(
            f"Kaggle delivered only {count} of {images} images: delete {out} and run the same "
            "command again"
        )
    write_json(journal, {"source": _HANDLE, "images": count})
    shutil.rmtree(out / _CACHE, ignore_errors=True)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Let kagglehub work in a folder; this variable is the only way to set it."""
    before = os.environ.get("KAGGLEHUB_CACHE")
    os.environ["KAGGLEHUB_CACHE"] = str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["KAGGLEHUB_CACHE"]
        else:
            os.environ["KAGGLEHUB_CACHE"] = before


def _fetch(handle: str) -> str:
    import kagglehub  # noqa: PLC0415 - loads requests and more, for this one call
    from kagglehub import exceptions  # noqa: PLC0415
    from kagglehub.config import get_kaggle_credentials  # noqa: PLC0415

    try:
        if get_kaggle_credentials() is None:
            raise DownloadError(f"Kaggle needs your token: {_HOW_TO_SIGN_IN}")
        return str(kagglehub.dataset_download(handle))
    except exceptions.KaggleApiHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in {401, 403}:
            raise DownloadError(
                f"Kaggle refuses your token ({status}): {_HOW_TO_SIGN_IN}"
            ) from error
        raise DownloadError(
            f"Kaggle returned {status}: run the same command again later"
        ) from error
    except (exceptions.UnauthenticatedError, exceptions.CredentialError, ValueError) as error:
        raise DownloadError(
            f"your Kaggle token cannot be used ({error}): {_HOW_TO_SIGN_IN}"
        ) from error
    except (
        exceptions.BackendError,
        exceptions.NotFoundError,
        exceptions.DataCorruptionError,
    ) as error:
        raise DownloadError(f"Kaggle: {error}: run the same command again later") from error
    except (OSError, zipfile.BadZipFile) as error:  # requests' failures are OSErrors
        raise DownloadError(
            f"the download from Kaggle failed ({error}): check the connection and the space on the "
            "disk, then run the same command again: it resumes"
        ) from error
