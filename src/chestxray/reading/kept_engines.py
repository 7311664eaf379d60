"""Kept engines: what `auto` chose for a bundle on this machine, so that it need not choose again.

    CACHE/engines/KEY/
      engine.json   the choice, and what decided it
      export.json, bundle.json, graph.xml, graph.bin   an export; absent where torch was chosen

KEY is the SHA-256 of everything that decides the choice: the bundle's card, which has the SHA-256
of the weights; the code of this package that converts, compares and chooses; the versions of the
packages that do; and the processor. So nothing kept grows old, it is only no longer asked for: the
newest `MOST` are left. The engine has the name and gives the answers that it had when it was
chosen, since it was compiled from these files then too.

An entry appears whole, by a rename; of two processes that make one, the first wins. It is checked
as any export when it is read, and one that is damaged is made again. Entries of another user would
decide readings, so the folder must be the user's own. Nothing here needs torch.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, sha256, sync_folder, write_json
from chestxray.errors import ArtifactError, ChestXrayError, MissingExtraError
from chestxray.model.engines import Engine, needed
from chestxray.model.exported import EXPORT, open_graph
from chestxray.model.model_card import Facts
from chestxray.storage import cache
from chestxray.version import __version__

MOST: Final = 8
"""Entries that are left when one is made, those that were used last."""

_FOLDER: Final = "engines"
_RECORD: Final = "engine.json"
_MADE_BY: Final = "chestxray predict"
_PACKAGES: Final = ("onnx", "openvino", "timm", "torch")
_ENTRY: Final = re.compile("[0-9a-f]{64}")
_TEMPORARY: Final = ".tmp"
_LEFTOVER: Final = 24 * 3600.0  # seconds after which nobody writes a temporary folder any more
_OTHERS_MAY_WRITE: Final = 0o022
_log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """What `auto` chose.

    Attributes:
        name: of the engine.
        engine: None where it is torch, which needs the bundle's network.
    """

    name: str
    engine: Engine | None


class _Record(BaseModel):
    """The content of `engine.json`.

    Attributes:
        decided_by: see `_deciding`.
        name: of the engine.
        export_sha256: of `export.json`; None where torch was chosen.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    decided_by: dict[str, Any]
    name: str
    export_sha256: str | None


def find(facts: Facts) -> Kept | None:
    """Give what `auto` chose for a bundle here, None where it has to choose.

    Args:
        facts: of the bundle, at its own operating point.
    """
    decided_by = _deciding(facts)
    if decided_by is None:
        return None
    try:
        folder = _folder()
        entry = folder / _key(decided_by)
        if not entry.is_dir():
            return None
        _check_owner(folder)
    except OSError:  # `keep` says why
        return None
    try:
        kept = _read(entry, decided_by, facts.identity)
    except (OSError, ChestXrayError) as error:
        _log.warning("%s is damaged, so the engine is chosen again: %s", entry, error)
        _delete(entry)
        return None
    with suppress(OSError):  # a folder that cannot be written keeps the times of its making
        os.utime(entry)
    return kept


def keep(facts: Facts, name: str, write: Callable[[Path], object] | None) -> None:
    """Keep what `auto` chose; where that is not possible, a warning says so.

    Args:
        facts: of the bundle, at its own operating point.
        name: of the engine.
        write: writes the export to a folder; None where torch was chosen.
    """
    decided_by = _deciding(facts)
    if decided_by is None:
        return
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        entry = folder / _key(decided_by)
        with _written(entry) as temporary:
            if write is not None:
                write(temporary)
            export = None if write is None else sha256(temporary / EXPORT)
            record = _Record(decided_by=decided_by, name=name, export_sha256=export)
            write_json(temporary / _RECORD, record.model_dump(mode="json"))
        _make_room(folder)
    except OSError as error:
        _log.warning(
            "the engine is not kept (%s), so the next start chooses it again: set CHESTXRAY_CACHE "
            "to a folder of your own that can be written",
            error,
        )


def _read(entry: Path, decided_by: dict[str, Any], model: str) -> Kept:
    """Read an entry.

    Raises:
        ArtifactError: it is damaged, or not of this bundle.
    """
    try:
        record = _Record.model_validate(read_json(entry / _RECORD, _MADE_BY))
    except ValidationError as error:
        raise ArtifactError(f"{entry / _RECORD} has other values than this version's") from error
    if record.decided_by != decided_by:
        raise ArtifactError(f"{entry / _RECORD} is of another bundle, package or processor")
    if record.export_sha256 is None:
        return Kept(record.name, None)
    engine, _ = open_graph(entry, model)
    if sha256(entry / EXPORT) != record.export_sha256:
        raise ArtifactError(f"{entry / EXPORT} is not the file that {_RECORD} describes")
    if engine.name != record.name:
        raise ArtifactError(f"{entry} is now run by {engine.name}, and was by {record.name}")
    return Kept(engine.name, engine)


def _deciding(facts: Facts) -> dict[str, Any] | None:
    """Give all that decides the choice; None where a package is missing, so there is none."""
    try:
        core = needed("openvino").Core()
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    except (MissingExtraError, importlib.metadata.PackageNotFoundError):
        return None
    asked = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    name, able = (core.get_property("CPU", what) for what in asked)
    return {
        "card_sha256": hashlib.sha256(facts.card.model_dump_json().encode()).hexdigest(),
        "code_sha256": _code_sha256(),
        "versions": {"chestxray": __version__, **versions},
        "processor": {"name": name, "able": sorted(able)},
    }


@functools.cache
def _code_sha256() -> str:
    """Hash the code that decides: a version number would have to be raised by hand."""
    own = Path(__file__)
    model = own.parents[1] / "model"
    digest = hashlib.sha256()
    for path in (own, own.with_name("engine.py"), *sorted(model.glob("*.py"))):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _key(decided_by: dict[str, Any]) -> str:
    text = json.dumps(decided_by, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _folder() -> Path:
    try:
        return cache.folder() / _FOLDER
    except RuntimeError as error:
        raise OSError(f"this user has no home folder: {error}") from error


def _check_owner(folder: Path) -> None:
    """Raise `OSError` where others than this user and root can write; Windows cannot say."""
    if not hasattr(os, "geteuid"):
        return
    found = folder.lstat()  # a link could lead anywhere
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(f"{folder} can be written by others")


@contextmanager
def _written(entry: Path) -> Iterator[Path]:
    """Give a folder that gets the entry's name in the end, unless another process has made it."""
    temporary = _temporary(entry)
    try:
        temporary.mkdir()
        yield temporary
        try:
            temporary.rename(entry)
        except OSError:
            if not entry.exists():
                raise
        sync_folder(entry.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(entry: Path) -> Path:
    return entry.with_name(f".{entry.name}.{uuid.uuid4().hex}{_TEMPORARY}")


def _delete(entry: Path) -> None:
    """Delete an entry, which disappears whole; one that Windows has open stays."""
    temporary = _temporary(entry)
    with suppress(OSError):
        entry.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _make_room(folder: Path) -> None:
    """Delete the entries that were not used for longest, and what killed processes left."""
    with suppress(OSError):
        times = dict(_times(folder))
        entries = [path for path in times if _ENTRY.fullmatch(path.name)]
        for entry in sorted(entries, key=times.__getitem__, reverse=True)[MOST:]:
            _delete(entry)
        for path, then in times.items():
            if path.name.endswith(_TEMPORARY) and time.time() - then > _LEFTOVER:
                shutil.rmtree(path, ignore_errors=True)


def _times(folder: Path) -> Iterator[tuple[Path, float]]:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has just deleted it
            yield path, path.stat().st_mtime
