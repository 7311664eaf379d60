"""ChestX-ray14 from Kaggle through `kagglehub`, with the user's own token.

kagglehub fetches into a hidden folder of the target, where it can go on after an interruption;
when all is there, the files are moved to their places.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chestxray.artifacts import read_json, write_json
from chestxray.errors import DownloadError
from chestxray.sources.download.fetch import make_folder
from chestxray.sources.download.nih_box import IMAGES

HANDLE: Final = "nih-chest-xrays/data"
_CACHE: Final = ".kagglehub"
_JOURNAL: Final = "download.json"
_WHAT_TO_DO: Final = (
    "make a token at https://www.kaggle.com/settings (API), put it into ~/.kaggle/access_token or "
    "the variable KAGGLE_API_TOKEN"
)


def download_kaggle(
    out: Path, fetch: Callable[[str], str] | None = None, images: int = IMAGES
) -> None:
    """Fetch Kaggle's copy of the data set, unless it is there already.

    Args:
        out: folder of the tree; made where it is missing.
        fetch: gives the folder of a dataset handle; kagglehub's where None.
        images: how many images must come.

    Raises:
        DownloadError: no token, no connection, no room, or not all the images came.
    """
    journal = out / _JOURNAL
    if journal.exists() and read_json(journal, "chestxray download OUT").get("source") == HANDLE:
        return
    make_folder(out)
    with _cache_in(out / _CACHE):
        came = Path(fetch(HANDLE) if fetch else _fetch(HANDLE))
    for path in sorted(came.iterdir()):
        if (out / path.name).exists():
            raise DownloadError(f"{out / path.name} is in the way of what came: move it away")
        path.rename(out / path.name)
    count = sum(path.suffix == ".png" for path in out.glob("images_*/images/*"))
    if count != images:
        raise DownloadError(
            f"{count} of {images} images came from Kaggle: delete {out} and run the same command "
            "again"
        )
    write_json(journal, {"source": HANDLE, "images": count})
    shutil.rmtree(out / _CACHE, ignore_errors=True)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Let kagglehub work in a folder; it knows no other way than this variable."""
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
            raise DownloadError(f"Kaggle needs your token: {_WHAT_TO_DO}")
        return str(kagglehub.dataset_download(handle))
    except exceptions.KaggleApiHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in {401, 403}:
            raise DownloadError(f"Kaggle refuses your token ({status}): {_WHAT_TO_DO}") from error
        raise DownloadError(f"Kaggle answers {status}: run the same command again later") from error
    except (exceptions.UnauthenticatedError, exceptions.CredentialError, ValueError) as error:
        raise DownloadError(f"your Kaggle token can't be used ({error}): {_WHAT_TO_DO}") from error
    except (
        exceptions.BackendError,
        exceptions.NotFoundError,
        exceptions.DataCorruptionError,
    ) as error:
        raise DownloadError(f"Kaggle: {error}: run the same command again later") from error
    except (OSError, zipfile.BadZipFile) as error:  # requests' failures are OSErrors
        raise DownloadError(
            f"the data set does not come from Kaggle ({error}): check the connection and the room "
            "on the disk, then run the same command again: it goes on"
        ) from error
