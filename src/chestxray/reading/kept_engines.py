"""Kept engines: what a bundle is read by on this machine, so that nothing is chosen or made again.

    CACHE/engines/KEY/
      engine.json            the choice, what decided it, and the SHA-256 of the other files
      graph.xml, graph.bin   the graph of OpenVINO; absent where torch was chosen

KEY is the SHA-256 of everything that decides the choice: the bundle's card, which has the SHA-256
of the weights; what was asked for, `auto` on a device or `openvino`; the code of this package that
converts, compares and chooses; the versions of the packages that do; and the processor. So nothing
kept grows old, it is only no longer asked for: the newest `MOST` are left. The engine has the name
and gives the answers that it had when it was chosen, since it was compiled from the same bytes then
too. `openvino` takes what `auto` chose, if that is OpenVINO in float32: it was made and compared
with torch in the same way.

An entry appears whole, by a rename; of two processes that make one, the first wins. Each file is
read once, checked and used from memory: a cache may be deleted while an engine runs. An entry that
is damaged is made again. Files of another user would decide readings, so each must be this user's
own, whoever owns the folders above. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import sync_folder, write_bytes, write_json
from chestxray.errors import ArtifactError, MissingExtraError, StorageError
from chestxray.model.engines import Arithmetic, Engine, OpenVinoEngine, last_line, needed
from chestxray.model.exported import BIN, XML
from chestxray.model.model_card import Facts
from chestxray.model.openvino_graph import GraphFiles
from chestxray.model.source_code import MODEL_SHA256, sha256_of
from chestxray.storage import cache
from chestxray.version import __version__

MOST: Final = 8
"""Entries that are left when one is made, those that were used last."""

OPENVINO: Final = "openvino"
"""What stands for the device where OpenVINO in float32 was asked for by its name."""

_FOLDER: Final = "engines"
_RECORD: Final = "engine.json"
_GRAPH: Final = (XML, BIN)
_PACKAGES: Final = ("onnx", "openvino", "timm", "torch")
_ENTRY: Final = re.compile("[0-9a-f]{64}")
_TEMPORARY: Final = ".tmp"
_LEFTOVER: Final = 24 * 3600.0  # seconds after which nobody writes a temporary folder any more
_OTHERS_MAY_WRITE: Final = 0o022
_CODE: Final = (
    MODEL_SHA256,
    sha256_of(Path(__file__).with_name(of) for of in ("engine.py", "kept_engines.py")),
)
_log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """What was chosen.

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
        arithmetic: in which it computes.
        sha256: of the graph's files, by name; empty where torch was chosen.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    decided_by: dict[str, Any]
    name: str
    arithmetic: Arithmetic
    sha256: dict[str, str]


def find(facts: Facts, device: str) -> Kept | None:
    """Give what `auto` chose for a bundle here, None where it has to choose.

    Args:
        facts: of the bundle, at its own operating point.
        device: that is asked for, `auto` or `cpu`. Only torch finds every GPU, so what it chose
            on a CPU that was named does not hold where it is to look for one.
    """
    return _find(facts, device)


def find_openvino(facts: Facts, threads: int | None = None) -> Engine | None:
    """Give OpenVINO in float32 for a bundle, as it or `auto` was kept; None where neither was.

    Args:
        facts: of the bundle, at its own operating point.
        threads: to compute with; all cores when None.
    """
    kept = (_find(facts, asked, True, threads) for asked in (OPENVINO, "auto", "cpu"))
    return next((of.engine for of in kept if of is not None), None)


def _find(
    facts: Facts, asked: str, float32: bool = False, threads: int | None = None
) -> Kept | None:
    """Do what `find` does; with `float32` for a graph in this arithmetic alone."""
    decided_by = _deciding(facts, asked)
    if decided_by is None:
        return None
    try:
        folder = _folder()
        entry = folder / _key(decided_by)
        if not entry.is_dir():
            return None
        _check_owner(folder, folder.lstat())
    except OSError:  # `keep` says why
        return None
    try:
        kept = _read(entry, decided_by, float32, threads)
    except ArtifactError as error:
        _log.warning("%s is damaged, so the engine is chosen again: %s", entry, error)
        _delete(entry)
        return None
    except (OSError, RuntimeError, MemoryError) as error:  # it may be sound: others may use it
        reason = last_line(error)
        _log.warning("%s cannot be used, so the engine is chosen again: %s", entry, reason)
        return None
    with suppress(OSError):  # a folder that cannot be written keeps the times of its making
        os.utime(entry)
    return kept


def keep(
    facts: Facts, device: str, name: str, graph: GraphFiles | None, arithmetic: Arithmetic
) -> None:
    """Keep what was chosen; where that is not possible, a warning says so.

    Args:
        facts: of the bundle, at its own operating point.
        device: see `find`; or `OPENVINO`.
        name: of the engine.
        graph: that it runs; None where torch was chosen.
        arithmetic: in which it computes.
    """
    decided_by = _deciding(facts, device)
    if decided_by is None:
        return
    files = {} if graph is None else dict(zip(_GRAPH, graph, strict=True))
    hashes = {of: hashlib.sha256(content).hexdigest() for of, content in files.items()}
    record = _Record(decided_by=decided_by, name=name, arithmetic=arithmetic, sha256=hashes)
    try:
        folder = _folder()
        above = next(path for path in folder.parents if path.exists())
        _check_owner(above, above.stat(), forbidden=0)  # root makes nothing in a user's home
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder, folder.lstat())
        entry = folder / _key(decided_by)
        with _written(entry) as temporary:
            for of, content in files.items():
                write_bytes(temporary / of, content)
            write_json(temporary / _RECORD, record.model_dump(mode="json"))
        _make_room(folder)
    except OSError as error:
        _log.warning(
            "the engine is not kept (%s), so the next start chooses it again: set CHESTXRAY_CACHE "
            "to a folder of your own that can be written",
            error,
        )


def _read(
    entry: Path, decided_by: dict[str, Any], float32: bool, threads: int | None
) -> Kept | None:
    """Read an entry; gives None where a graph in float32 is wanted and it is something else.

    Raises:
        ArtifactError: it is damaged, or not of this bundle.
        OSError: a file cannot be read, or is not this user's own.
        RuntimeError: OpenVINO cannot run it; as `MemoryError`.
    """
    try:
        record = _Record.model_validate_json(_content(entry / _RECORD))
    except ValidationError as error:
        raise ArtifactError(f"{entry / _RECORD} has other values than this version's") from error
    if record.decided_by != decided_by:
        raise ArtifactError(f"{entry / _RECORD} is of another bundle, package or processor")
    if float32 and not (record.sha256 and record.arithmetic == "f32"):
        return None
    if not record.sha256:
        return Kept(record.name, None)
    files = {of: _content(entry / of) for of in _GRAPH}
    if {of: hashlib.sha256(files[of]).hexdigest() for of in files} != record.sha256:
        raise ArtifactError(f"the graph in {entry} is not the one that {_RECORD} describes")
    engine = OpenVinoEngine(GraphFiles(files[XML], files[BIN]).read(), record.arithmetic, threads)
    if engine.name != record.name:
        raise ArtifactError(f"{entry} is now run by {engine.name}, and was by {record.name}")
    return Kept(engine.name, engine)


def _content(path: Path) -> bytes:
    """Read a file of this user; its owner is that of the open file, which nobody can exchange."""
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            return file.read()
    except FileNotFoundError as error:
        if not path.parent.exists():  # another process has just deleted the entry
            raise
        raise ArtifactError(f"{path} does not exist") from error


def _deciding(facts: Facts, device: str) -> dict[str, Any] | None:
    """Give all that decides the choice; None where there is none, or it cannot be told.

    That is where a package is missing, OpenVINO cannot use the processor, or the code has no files.
    """
    asked = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    try:
        core = needed("openvino").Core()
        name, able = (core.get_property("CPU", what) for what in asked)
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    except (MissingExtraError, importlib.metadata.PackageNotFoundError, RuntimeError):
        return None
    if None in _CODE:
        return None
    return {
        "card_sha256": hashlib.sha256(facts.card.model_dump_json().encode()).hexdigest(),
        "device": device,
        "code_sha256": list(_CODE),
        "versions": {"chestxray": __version__, **versions},
        "processor": {"name": name, "able": sorted(able)},
    }


def _key(decided_by: dict[str, Any]) -> str:
    text = json.dumps(decided_by, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _folder() -> Path:
    try:
        return cache.folder() / _FOLDER
    except StorageError as error:
        raise OSError(str(error)) from error


def _check_owner(path: Path, found: os.stat_result, forbidden: int = _OTHERS_MAY_WRITE) -> None:
    """Raise `OSError` where others than this user and root can write; Windows cannot say."""
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & forbidden:
        raise PermissionError(f"{path} is another user's, or can be written by others")


@contextmanager
def _written(entry: Path) -> Iterator[Path]:
    """Give a folder that gets the entry's name in the end, unless another process has made it."""
    temporary = _temporary(entry)
    try:
        temporary.mkdir(mode=0o755)
        yield temporary
        for path in temporary.iterdir():  # whatever the umask is
            path.chmod(path.stat().st_mode & ~_OTHERS_MAY_WRITE)
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
