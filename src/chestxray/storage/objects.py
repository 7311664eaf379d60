"""Objects of a store: read, written, listed, each operation checked and tried again.

A store has no folders and renames nothing, but an object appears whole or not at all: a writer that
is killed leaves no half object. `ObjectFolder` is the objects whose names begin alike. An operation
that fails is tried again a few times, with growing pauses; what was read or written is compared in
size, and in content where its hash is known. An answer that another attempt would not change (no
such object, no permission, no credentials) is not waited for.

fsspec finds credentials, endpoint and region by itself: in the environment (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, …), in the files of the store's own tools, or in
`~/.config/fsspec`. They are never passed through this package; errors are cleaned of them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from chestxray.artifacts import sha256, written
from chestxray.errors import MissingExtraError, StorageError
from chestxray.storage.urls import PROTOCOLS, url_of

_ATTEMPTS: Final = 5
_INNER_ATTEMPTS: Final = 2
_PAUSE: Final = 0.5  # seconds before the second attempt; then doubled
_LONGEST_PAUSE: Final = 8.0
_LONGEST_REASON: Final = 300  # characters
_SECRET_NAME: Final = re.compile(r"secret|token|passw|key|credential", re.IGNORECASE)
_SHORTEST_SECRET: Final = 6  # characters; shorter values are words such as `true`
_IN_A_QUERY: Final = re.compile(r"(?i)((?:signature|credential|token|secret|key\w*)=)[^&\s\"']+")
_PLAIN_MD5: Final = re.compile(r"[0-9a-f]{32}")
_FINAL: Final = {
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound",
    "NoRegionError", "ParamValidationError", "DefaultCredentialsError",
}  # fmt: skip

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Version:
    """An object as a listing shows it.

    Attributes:
        bytes: its size.
        mark: a text that differs after the object was replaced: the store's ETag, or a time.
        md5: of its content, in hexadecimal; None where the store does not say.
    """

    bytes: int
    mark: str
    md5: str | None = None


class ObjectFolder:
    """The objects of a store whose names begin with a URL.

    Names are relative to the URL, with `/`; the empty name is the object of the URL itself.

    Args:
        url: of the folder, or its path as `path_of` gives it.

    Raises:
        StorageError: the URL is refused, see `urls.path_of`.
        MissingExtraError: the package for this store is not installed.
    """

    def __init__(self, url: str | Path) -> None:
        found = url_of(url)
        if found is None:
            raise StorageError(f"{url} is a path of this machine: give a URL such as s3://…")
        self.url: Final = found
        protocol, self._root = found.split("://", 1)
        self._files = _file_system(protocol)

    def versions(self, *, deep: bool = True) -> dict[str, Version]:
        """List the objects below the URL, by name, in the order of their names.

        Args:
            deep: those of folders in it too.
        """
        depth = None if deep else 1

        def find() -> dict[str, Any]:
            try:
                found: dict[str, Any] = self._files.find(self._root, maxdepth=depth, detail=True)
            except FileNotFoundError:  # no such bucket, or nothing there
                return {}
            return found

        listed = self._tried("list", "", find)
        prefix = f"{self._root}/"
        named = ((path.lstrip("/"), about) for path, about in listed.items())
        return dict(
            sorted(
                (path.removeprefix(prefix), _version(about))
                for path, about in named
                if path.startswith(prefix) and about.get("type") != "directory"
            )
        )

    def version(self, name: str = "") -> Version | None:
        """Give what the store says of an object; None where there is none."""
        try:
            about = self._tried("look at", name, lambda: self._files.info(self._path(name)))
        except FileNotFoundError:
            return None
        return _version(about) if about.get("type") != "directory" else None

    def read(self, name: str = "", size: int | None = None) -> bytes:
        """Read an object whole.

        Args:
            name: of the object.
            size: that it must have, bytes.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the store does not answer, or not with all of the object.
        """

        def cat() -> bytes:
            content: bytes = self._files.cat_file(self._path(name))
            if size is not None and len(content) != size:
                raise OSError(f"{len(content)} bytes came instead of {size}")
            return content

        return self._tried("read", name, cat)

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Read the bytes from `start` up to `end`, all of them in the object; raises as `read`."""

        def cat() -> bytes:
            content: bytes = self._files.cat_file(self._path(name), start=start, end=end)
            if len(content) != end - start:
                raise OSError(f"{len(content)} bytes came instead of {end - start}")
            return content

        return self._tried("read", name, cat) if end > start else b""

    def download(
        self, name: str, path: Path, size: int | None = None, digest: str | None = None
    ) -> None:
        """Write an object to a file of this machine, whole or not at all.

        Args:
            name: of the object.
            path: of the file.
            size: that it must have, bytes; as the store says where None.
            digest: SHA-256 that it must have.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: as `read` says; or it has another size or content.
        """
        if size is None and (found := self.version(name)) is not None:
            size = found.bytes

        def get() -> None:
            with written(path) as temporary:
                self._files.get_file(self._path(name), str(temporary))
                came = temporary.stat().st_size
                if size is not None and came != size:
                    raise OSError(f"{came} bytes came instead of {size}")
                if digest is not None and sha256(temporary) != digest:
                    raise OSError("its content is not what its manifest says")

        self._tried("read", name, get)

    def upload(self, path: Path, name: str) -> None:
        """Write a file of this machine as an object, and check what the store has then.

        An object that is there already with this content is left as it is.

        Raises:
            StorageError: it cannot be written whole.
        """
        size = path.stat().st_size
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, _md5).hexdigest()
        there = self.version(name)
        if there is not None and there.md5 == md5 and there.bytes == size:
            return

        def put() -> None:
            self._files.put_file(str(path), self._path(name))
            self._check(name, size, md5, path.read_bytes)

        self._tried("write", name, put)

    def write(self, name: str, content: bytes) -> None:
        """Write an object of these bytes, and check what the store has then; raises as `upload`."""
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()

        def pipe() -> None:
            self._files.pipe_file(self._path(name), content)
            self._check(name, len(content), md5, lambda: content)

        self._tried("write", name, pipe)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

        self._tried("delete", name, remove)

    def _check(self, name: str, size: int, md5: str, content: Callable[[], bytes]) -> None:
        """Compare an object with what was written; raises `OSError` where it is another."""
        there = _version(self._files.info(self._path(name)))
        if there.bytes != size:
            raise OSError(f"the store has {there.bytes} bytes instead of {size}")
        # An encrypted object may have another mark than the MD5 of what was written.
        if there.md5 not in {None, md5} and self._files.cat_file(self._path(name)) != content():
            raise OSError("the store has another content")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _tried(self, what: str, name: str, call: Callable[[], _T]) -> _T:
        """Call until it succeeds; gives the last error as one of this package."""
        url = f"{self.url}/{name}" if name else self.url
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return call()
            except FileNotFoundError:
                raise FileNotFoundError(f"{url} does not exist") from None
            except Exception as error:  # noqa: BLE001 - each store has its own classes
                reason = _reason(error)
                last = attempt == _ATTEMPTS or _is_final(error)
            if last:
                raise StorageError(
                    f"cannot {what} {url} ({reason}): check the name, your permissions and the "
                    f"store, then run the same command again"
                ) from None  # the chain might repeat what `_reason` leaves out
            _log.debug("cannot %s %s (%s): attempt %d", what, url, reason, attempt)
            time.sleep(_pause(attempt))
        raise AssertionError("unreachable")


def _pause(attempt: int) -> float:
    """Give the seconds to wait after an attempt; random, so that processes do not ask in step."""
    longest: float = min(_LONGEST_PAUSE, _PAUSE * 2.0 ** (attempt - 1))
    # It decides nothing that has to be secret.
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # nosec B311


def _is_final(error: Exception) -> bool:
    """Tell whether another attempt would end in the same way."""
    return isinstance(error, PermissionError | NotImplementedError) or bool(
        _FINAL & {kind.__name__ for kind in type(error).__mro__}
    )


def _md5() -> Any:  # noqa: ANN401 - hashlib's class has no public name
    return hashlib.md5(usedforsecurity=False)


def _version(about: Mapping[str, Any]) -> Version:
    """Read what fsspec gives of an object: its names differ by store."""
    etag = str(about.get("ETag") or about.get("etag") or "").strip('"')
    changed = about.get("LastModified") or about.get("updated") or about.get("created") or ""
    md5 = about.get("md5Hash")
    if md5:  # Google's, in base64
        md5 = base64.b64decode(md5).hex()
    elif _PLAIN_MD5.fullmatch(etag):  # S3's, unless it came in parts or is encrypted
        md5 = etag
    return Version(int(about["size"]), etag or str(changed), md5 or None)


@cache
def _file_system(protocol: str) -> Any:  # noqa: ANN401 - fsspec has no types
    # gcsfs asks by gRPC which kind of bucket it is: a minute without an answer where a proxy lets
    # HTTP alone through, and of no use for whole objects.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        fsspec = importlib.import_module("fsspec")
        importlib.import_module(PROTOCOLS[protocol])
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or PROTOCOLS[protocol], "scale") from error
    files = fsspec.filesystem(protocol, use_listings_cache=False, **_options(protocol))
    if hasattr(files, "retries"):  # of s3fs, inside each attempt of this module
        files.retries = _INNER_ATTEMPTS
    return files


def _options(protocol: str) -> dict[str, Any]:
    """Leave the attempts to this module: three libraries that repeat each other take minutes."""
    if protocol != "s3":
        return {}
    own = dict(importlib.import_module("fsspec.config").conf.get("s3", {}).get("config_kwargs", {}))
    return {"config_kwargs": {"retries": {"total_max_attempts": 1}, **own}}


def _reason(error: Exception) -> str:
    """Give the first line of an error without credentials."""
    text = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return redacted(text)[:_LONGEST_REASON]


def redacted(text: str) -> str:
    """Give a text without the credentials of the environment and of fsspec's configuration."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    return _IN_A_QUERY.sub(r"\1***", text)


def _secrets() -> Iterator[str]:
    fsspec_config = importlib.import_module("fsspec.config")
    for name, value in (*os.environ.items(), *_leaves(fsspec_config.conf)):
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            yield value


def _leaves(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", str(value)
