"""Raw trees in a store: their tables on this machine, their radiographs read when they are decoded.

`mirrored` gives a folder with the files of a URL. Tables, lists and other texts are whole. All
other files are stand-ins of the same size without content (sparse, so that they take no room);
`opened` and `contents` read the objects behind them, and so does whoever reads radiographs through
`dataset.pixels`. The folder is deleted when the process ends.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from chestxray.artifacts import lock
from chestxray.errors import ArtifactError, StorageError
from chestxray.storage import cache
from chestxray.storage.objects import ObjectFolder, Version
from chestxray.storage.urls import is_url, known_as, path_of, url_of

_FOLDER: Final = "trees"
_WHOLE: Final = (
    ".csv", ".tsv", ".parquet", ".json", ".jsonl", ".xml", ".txt", ".yaml", ".yml", ".gz", ".tgz",
)  # fmt: skip
_PACKED_IMAGES: Final = "images"  # begins the names of NIH's archives, some GB each
_AT_A_TIME: Final = 16
_BLOCK: Final = 2**18  # bytes of a file's header that are read at a time
_LONGEST: Final = 512 * 2**20  # bytes of a file that is read whole, as of `dataset.pixels`
_mirrors: Final[dict[Path, str]] = {}
_guard: Final = threading.Lock()


def mirrored(argument: str | Path) -> Path:
    """Give a raw tree, a table or a radiograph on this machine: a path as it is; see the module.

    Args:
        argument: a path, or the URL of a folder or of one file, whose folder is mirrored with it.

    Raises:
        StorageError: nothing is there, or the store does not answer.
    """
    path = path_of(argument)
    if not is_url(path):
        return path
    alone = len(path.parts) > 2 and ObjectFolder(path.parent).version(path.name) is not None
    store = ObjectFolder(path.parent if alone else path)
    files = store.versions(deep=not alone)
    if not files:
        raise StorageError(f"nothing is at {store.url}: check the URL")
    root = _new_folder() / PurePosixPath(store.url).name
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        list(threads.map(lambda name: _placed(store, name, files[name], root), files))
    with _guard:
        _mirrors[root] = store.url
    known_as(root, store.url)
    return root / path.name if alone else root


def origin_of(path: str | Path) -> str | None:
    """Give the URL of a file: of a path of a URL, or of a file in a mirrored tree; else None."""
    path = Path(path)
    for root, url in tuple(_mirrors.items()):
        if path.is_relative_to(root):
            return f"{url}/{path.relative_to(root).as_posix()}"
    return url_of(path)


class Content(io.BytesIO):
    """The bytes of an object, as a binary file that knows its name; travels between processes.

    Args:
        name: path or URL, for errors and for the suffix.
        data: the bytes.
    """

    def __init__(self, name: str, data: bytes) -> None:
        super().__init__(data)
        self.name: str = name

    def __str__(self) -> str:
        return self.name


def contents(paths: Iterable[str | Path | Content]) -> Iterator[str | Path | Content]:
    """Give what a decoder reads of each file, some of them read in advance.

    A path of this machine, or what was read already, is given as it is. A file that is not there
    any more is given as its path, which the decoder cannot open.

    Raises:
        StorageError: the store does not answer, or refuses; the file is not to blame.
    """
    waiting: deque[str | Path | Content | Future[str | Path | Content]] = deque()
    with ThreadPoolExecutor(_AT_A_TIME, "read") as threads:
        try:
            for path in paths:
                remote = not isinstance(path, Content) and origin_of(path) is not None
                waiting.append(threads.submit(content, path) if remote else path)
                if len(waiting) > (_AT_A_TIME if remote else 0):
                    yield _come(waiting.popleft())
            while waiting:
                yield _come(waiting.popleft())
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def content(path: str | Path | Content) -> str | Path | Content:
    """Give what a decoder reads of one file; see `contents`."""
    url = None if isinstance(path, Content) else origin_of(path)
    if url is None or isinstance(path, Content):
        return path
    size = Path(path).stat().st_size if not is_url(path) else None
    store, name = _place(url)
    if size is None:
        version = store.version(name)
        if version is None:
            return path
        size = version.bytes
    try:
        if size > _LONGEST:  # the decoder refuses it by its first byte too many
            return Content(str(path), store.read_range(name, 0, _LONGEST + 1))
        return Content(str(path), store.read(name, size))
    except FileNotFoundError:
        return path_of(url)


def opened(path: str | Path) -> BinaryIO:
    """Open a file for reading; one in a store is read in ranges.

    Raises:
        OSError: there is no such file.
        StorageError: while it is read: the store does not answer.
    """
    url = origin_of(path)
    if url is None:
        return Path(path).open("rb")
    return io.BufferedReader(_Ranges(url), _BLOCK)


class _Ranges(io.RawIOBase):
    """An object, read by ranges."""

    def __init__(self, url: str) -> None:
        self._store, self._name = _place(url)
        version = self._store.version(self._name)
        if version is None:
            raise FileNotFoundError(f"{url} does not exist")
        self._size, self._at = version.bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._size, self._at + len(buffer))
        data = self._store.read_range(self._name, self._at, end) if end > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _come(one: str | Path | Content | Future[str | Path | Content]) -> str | Path | Content:
    return one.result() if isinstance(one, Future) else one


def _place(url: str) -> tuple[ObjectFolder, str]:
    above, _, name = url.rpartition("/")
    return _folder_of(above), name


@lru_cache(maxsize=1024)
def _folder_of(url: str) -> ObjectFolder:
    return ObjectFolder(url)


def _placed(store: ObjectFolder, name: str, version: Version, root: Path) -> None:
    """Write a file of a mirror: whole, or its stand-in, whose time tells its version."""
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or {".", ".."} & set(parts):
        raise StorageError(f"{store.url} holds an object with the name {name!r}: rename it")
    path = root / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lowered = parts[-1].casefold()
        if lowered.endswith(_WHOLE) and not lowered.startswith(_PACKED_IMAGES):
            store.download(name, path, version.bytes)
        else:
            with path.open("wb") as file:
                file.truncate(version.bytes)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise StorageError(
            f"{store.url}/{name} is an object and a folder at once: rename one of them"
        ) from error
    except FileNotFoundError:
        raise StorageError(
            f"{store.url}/{name} was deleted while the folder was read: run the command again"
        ) from None
    mark = zlib.crc32(version.mark.encode())
    os.utime(path, ns=(mark, mark))


def _new_folder() -> Path:
    """Make a folder that is deleted with this process, and delete those of killed ones."""
    above = cache.folder() / _FOLDER
    above.mkdir(parents=True, exist_ok=True)
    for other in above.glob("*.lock"):
        try:
            with lock(other, ArtifactError("in use")):
                shutil.rmtree(other.with_suffix(""), ignore_errors=True)
                other.unlink(missing_ok=True)
        except ArtifactError:
            continue
    folder = Path(tempfile.mkdtemp(dir=above))
    held = lock(folder.with_suffix(".lock"), ArtifactError(f"{folder} is in use"))

    def delete() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
        held.close()

    atexit.register(delete)
    return folder
