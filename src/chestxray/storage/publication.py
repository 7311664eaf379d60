"""Folders and files in a store: published whole, fetched whole.

    URL/.unfinished      there while a folder is being published, and after that was interrupted
    URL/…                the files, under their names
    URL/files.json       size and SHA-256 of each file, and the command that wrote them; last

A reader refuses what lies beside `.unfinished`. It trusts no file that `files.json` names and that
has another size or content, so that it never takes the files of two publications for one. Objects
that no `files.json` names, such as those that another tool copied there, are read as they are.
`files.json` of a folder also covers the folders in it. A command replaces only what the same
command published, never a run, a dataset or what another one published.

A single file is one object, which appears whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from chestxray.artifacts import sha256
from chestxray.errors import ArtifactError, StorageError
from chestxray.storage import cache
from chestxray.storage.objects import ObjectFolder, Version
from chestxray.storage.urls import is_url, known_as, path_of, shown

FILES: Final = "files.json"
UNFINISHED: Final = ".unfinished"
_AT_A_TIME: Final = 8
_ABOVE: Final = 2  # folders above a URL whose `files.json` may name what it holds
_MARKS: Final = {"run.json": "train", "dataset.json": "prepare", ".prepare/plan.json": "prepare"}
"""Files that tell what a folder without `files.json` holds, each with the command of it."""


class _Named(NamedTuple):
    """What a `files.json` says of a file."""

    bytes: int
    sha256: str


class _List(NamedTuple):
    """What a `files.json` says, or the mark of an unfinished publication, which names no files."""

    made_by: str
    files: dict[str, _Named]


def publish(folder: Path, url: str | Path, made_by: str) -> None:
    """Write the files of a folder to a store, so that a reader sees all of them or none.

    Files whose names, or whose folders' names, begin with a dot are left out. Files of an earlier
    publication there that are not in this one are deleted. After an interruption the same call
    resumes: what is there is not sent again.

    Args:
        folder: of this machine.
        url: of the folder in the store.
        made_by: command that wrote them, such as `evaluate`.

    Raises:
        ArtifactError: the URL holds something else, see `check_replaceable`; nothing is changed.
        StorageError: the store does not take them all.
    """
    check_replaceable(url, made_by)
    store = ObjectFolder(url)
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    names = [name for name in names if not _hidden(name)]
    before = _named_in(store, FILES) if store.version(FILES) else {}
    _write_list(store, UNFINISHED, _List(made_by, {}))
    upload(folder, store, names)
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        list(threads.map(store.delete, sorted(set(before) - set(names))))
    files = {name: _Named((folder / name).stat().st_size, sha256(folder / name)) for name in names}
    _write_list(store, FILES, _List(made_by, files))
    store.delete(UNFINISHED)


def check_replaceable(url: str | Path, made_by: str) -> None:
    """Refuse a URL of a folder where a command would replace what another command wrote.

    Raises:
        ArtifactError: it holds a dataset, a run, or what another command published or publishes.
        StorageError: the store does not answer.
    """
    store = ObjectFolder(url)
    lists = [_list_in(store, name) for name in (FILES, UNFINISHED) if store.version(name)]
    makers = {of.made_by for of in lists} or {
        maker for name, maker in _MARKS.items() if store.version(name)
    }
    for other in sorted(makers - {"", made_by}):
        raise ArtifactError(
            f"{store.url} holds what `chestxray {other}` wrote, which `chestxray {made_by}` does "
            f"not replace: choose another --out"
        )


def upload_alone(folder: Path, url: Path, names: Sequence[str]) -> None:
    """Write files of a folder that are no publication, the last one after all others.

    A `files.json` that names one of them, as of an earlier publication, does so no more.

    Args:
        folder: of this machine.
        url: path of the URL of the folder in the store.
        names: of the files.

    Raises:
        StorageError: the store does not take them all.
    """
    above = url
    for _ in range(_ABOVE + 1):
        if len(above.parts) < 2:
            break
        prefix = "".join(f"{part}/" for part in url.relative_to(above).parts)
        store = ObjectFolder(above)
        listed = _list_in(store, FILES) if store.version(FILES) else _List("", {})
        again = {f"{prefix}{name}" for name in names}
        kept = {name: of for name, of in listed.files.items() if name not in again}
        if kept != listed.files:
            _write_list(store, FILES, listed._replace(files=kept))
        above = above.parent
    upload(folder, ObjectFolder(url), names[:-1])
    upload(folder, ObjectFolder(url), names[-1:])


def _write_list(store: ObjectFolder, name: str, of: _List) -> None:
    files = {file: named._asdict() for file, named in of.files.items()}
    content = {"format": 1, "made_by": of.made_by, "files": files}
    store.write(name, (json.dumps(content, indent=2) + "\n").encode())


def upload(folder: Path, store: ObjectFolder, names: Iterable[str]) -> None:
    """Write files of a folder to a store, several at a time; raises as `ObjectFolder.upload`."""
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        list(threads.map(lambda name: store.upload(folder / name, name), names))


def fetched(argument: str | Path, beside: Sequence[str] = (), without: Sequence[str] = ()) -> Path:
    """Give a file or a folder on this machine: a path as it is, what a URL names from the cache.

    Args:
        argument: a path or a URL.
        beside: names of files in the same folder that belong to it, fetched too where they exist.
        without: names of folders that are left out, such as `checkpoints`.

    Raises:
        StorageError: nothing is there; it is being written or that was interrupted; a file is not
            what `files.json` says; or the store does not answer.
    """
    path = path_of(argument)
    if not is_url(path):
        return path
    wanted = path.name if len(path.parts) > 2 else ""  # a whole bucket has no folder above
    store = ObjectFolder(path.parent if wanted else path)
    chosen = _chosen(store, wanted, beside, without)
    named = _governing(path, wanted, chosen, without)
    listed = {name: (of, named.get(name)) for name, of in chosen.items()}
    key = hashlib.sha256(
        json.dumps([shown(path), *([n, v.bytes, m.sha256 if m else v.mark]
                                   for n, (v, m) in listed.items())]).encode()
    ).hexdigest()  # fmt: skip

    def make(target: Path) -> None:
        target.mkdir()
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            list(threads.map(lambda name: _download(store, name, target, listed[name]), listed))

    kept = cache.keep(key, sum(of.bytes for of in chosen.values()), make)
    known_as(kept, store.url)
    return kept / wanted if wanted else kept


def _download(
    store: ObjectFolder, name: str, folder: Path, expected: tuple[Version, _Named | None]
) -> None:
    version, named = expected
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    try:
        store.download(name, folder / name, version.bytes, named.sha256 if named else None)
    except FileNotFoundError:
        raise StorageError(
            f"{store.url}/{name} was deleted while it was read: run the same command again"
        ) from None


def _chosen(
    store: ObjectFolder, wanted: str, beside: Sequence[str], without: Sequence[str]
) -> dict[str, Version]:
    """List what is to be fetched, by name from the folder of `wanted`."""
    alone = store.version(wanted) if wanted else None
    if alone is not None:
        found = {wanted: alone}
    else:
        inner = ObjectFolder(f"{store.url}/{wanted}") if wanted else store
        prefix = f"{wanted}/" if wanted else ""
        found = {f"{prefix}{name}": of for name, of in inner.versions().items()}
        if not found:
            raise StorageError(f"nothing is at {inner.url}: check the URL")
        _refuse_unfinished(inner.url, found)
    for name in beside:
        version = store.version(name)
        if version is not None:
            found[name] = version
    left_out = set(without)
    return {
        name: of
        for name, of in found.items()
        if not left_out & set(PurePosixPath(name).parent.parts)
    }


def _refuse_unfinished(url: str, names: Iterable[str]) -> None:
    """Refuse a folder while it is being published.

    Raises:
        StorageError: it is, or that was interrupted.
    """
    if any(PurePosixPath(name).name == UNFINISHED for name in names):
        raise StorageError(
            f"{url} is unfinished: it is being written, or that was interrupted; wait, or run the "
            f"command that writes it again"
        )


def _governing(
    path: Path, wanted: str, chosen: Mapping[str, Version], without: Sequence[str]
) -> dict[str, _Named]:
    """Say what `files.json` in, beside and above a URL state of its files; the nearest counts.

    Raises:
        StorageError: one of them cannot be read, a folder above is unfinished, or a file that is
            named is missing or has another size.
    """
    here = path.parent if wanted else path
    found = _named_above(here)
    store = ObjectFolder(here)
    inside = (name for name in chosen if PurePosixPath(name).name == FILES)
    for name in sorted(inside, key=lambda name: name.count("/")):
        prefix = name.removesuffix(FILES)
        found = {file: of for file, of in found.items() if not file.startswith(prefix)}
        found |= {f"{prefix}{file}": of for file, of in _named_in(store, name).items()}
    for name, named in found.items():
        version = chosen.get(name)
        if version is None and not _belongs(name, wanted, without):
            continue
        if version is None or version.bytes != named.bytes:
            has = f"has {version.bytes} bytes" if version else "is missing"
            raise StorageError(
                f"{store.url}/{name} {has}, its {FILES} says {named.bytes} bytes: it is being "
                f"written, or was altered; wait, or run the command that writes it again"
            )
    return found


def _belongs(name: str, wanted: str, without: Sequence[str]) -> bool:
    """Tell whether a file is the wanted one or in the wanted folder, and is not left out."""
    inside = not wanted or name == wanted or name.startswith(f"{wanted}/")
    return inside and not set(without) & set(PurePosixPath(name).parent.parts)


def _named_above(here: Path) -> dict[str, _Named]:
    """Give what the nearest `files.json` of a folder, or of one above it, says of its files."""
    found: dict[str, _Named] | None = None
    above = here
    for _ in range(_ABOVE + 1):
        if len(above.parts) < 2:
            break
        store = ObjectFolder(above)
        if store.version(UNFINISHED):
            _refuse_unfinished(store.url, [UNFINISHED])
        if found is None and store.version(FILES):
            prefix = "".join(f"{part}/" for part in here.relative_to(above).parts)
            found = {
                name.removeprefix(prefix): named
                for name, named in _named_in(store, FILES).items()
                if name.startswith(prefix)
            }
        above = above.parent
    return found or {}


def _named_in(store: ObjectFolder, name: str) -> dict[str, _Named]:
    """Read the files that a `files.json` names; raises as `_list_in`."""
    return _list_in(store, name).files


def _list_in(store: ObjectFolder, name: str) -> _List:
    """Read a `files.json` or the mark of an unfinished publication.

    Raises:
        StorageError: it is not one that `publish` wrote.
    """
    try:
        content: Any = json.loads(store.read(name))
        if content["format"] == 1:
            files = {
                file: _Named(int(of["bytes"]), str(of["sha256"]))
                for file, of in content["files"].items()
            }
            return _List(str(content["made_by"]), files)
        reason = f"format {content['format']}"
    except FileNotFoundError:
        return _List("", {})  # deleted since it was listed
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = repr(error)
    raise StorageError(
        f"{store.url}/{name} is not a list of files of this version ({reason}): publish the folder "
        f"again"
    )


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
