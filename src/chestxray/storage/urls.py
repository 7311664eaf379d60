"""Paths and URLs: which arguments name objects of a store, and which of them are refused.

A path argument is a path of this machine or a URL: `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, or
`file:///FOLDER`, which is the path itself. `memory://NAME` is a store inside one process, for
tests. The rest of the package handles both as `pathlib.Path`: `path_of` gives `s3:/BUCKET/KEY` for
a URL, which joins and compares like any path, and `url_of` tells it from a path of this machine.

A URL never carries credentials. They come from the environment or from fsspec's configuration, and
a URL with a user, a key or a query is refused without being repeated.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from chestxray.errors import StorageError

PROTOCOLS: Final = {"s3": "s3fs", "gs": "gcsfs", "memory": "fsspec"}
"""The stores that are known, each with the package that reads it."""

_LOCAL: Final = "file"
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_stand_ins: Final[dict[str, str]] = {}
_COLLAPSED: Final = re.compile(rf"\b({'|'.join(PROTOCOLS)}):/(?=[^/\s])")


def path_of(argument: str | Path) -> Path:
    """Give an argument as a path; that of a URL is for `url_of` and the functions of this room.

    Raises:
        StorageError: a URL of another protocol, without a bucket, or with credentials or a query.
    """
    found = _URL.fullmatch(str(argument))
    if found is None:
        return Path(argument)
    protocol, rest = found[1].lower(), found[2]
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise StorageError(
            f"a URL of {protocol} holds a user, a key or a query: give only PROTOCOL://BUCKET/KEY; "
            f"credentials come from the environment or from fsspec's configuration"
        )
    if protocol == _LOCAL:
        return Path(f"/{rest}")
    if protocol not in PROTOCOLS:
        raise StorageError(
            f"a URL begins with {protocol}://, which is not supported: give a path, or a URL of "
            f"s3://, gs:// or file://"
        )
    path = Path(f"{protocol}:/{rest}")
    if len(path.parts) < 2 or ".." in path.parts:
        raise StorageError(
            f"the URL {protocol}://{rest} names no place: give {protocol}://BUCKET/KEY without .."
        )
    return path


def url_of(argument: str | Path) -> str | None:
    """Give the URL of an argument, `s3://BUCKET/KEY` without a final `/`; None of a local path.

    Raises:
        StorageError: as `path_of` says.
    """
    if _URL.fullmatch(str(argument)) is None:
        return None
    path = path_of(argument)
    protocol = path.parts[0].removesuffix(":")
    return f"{protocol}://{'/'.join(path.parts[1:])}" if protocol in PROTOCOLS else None


def is_url(argument: str | Path) -> bool:
    """Tell whether an argument names objects of a store; raises `StorageError` as `path_of`."""
    return url_of(argument) is not None


def known_as(folder: Path, url: str) -> None:
    """Note that a folder of this machine stands for a URL, so that messages name the URL."""
    _stand_ins[str(folder)] = url


def shown(text: str | Path) -> str:
    """Give a text for people, in which paths that stand for URLs are URLs again."""
    text = str(text)
    for folder, url in _stand_ins.items():
        text = text.replace(folder, url)
    return _COLLAPSED.sub(r"\1://", text)
