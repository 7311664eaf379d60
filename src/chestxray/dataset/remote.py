"""Datasets in a store: what a reader fetches of them, and how shards get there one by one.

The objects have the names of a dataset's files. `images/NNNNN.npy` and `.prepare/NNNNN.json`, the
note of a shard, are written as each shard is finished, so that `prepare` resumes on any machine;
masks and tables follow, and `dataset.json` is written last. A reader begins with it and checks all
else against the hashes in it, so that nothing half-written is ever read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from chestxray.dataset.shards import FOLDER, Shard
from chestxray.errors import ArtifactError
from chestxray.storage import ObjectFolder, cache, is_url, known_as, shown, upload

MANIFEST: Final = "dataset.json"
UNFINISHED: Final = ".prepare"  # the folder of an unfinished dataset
PLAN: Final = "plan.json"  # in it
_AT_A_TIME: Final = 8


def is_dataset(path: Path) -> bool:
    """Tell whether a path or URL holds a dataset, finished or not.

    Raises:
        StorageError: the store does not answer.
    """
    if is_url(path):
        store = ObjectFolder(path)
        return any(store.version(name) for name in (MANIFEST, f"{UNFINISHED}/{PLAN}"))
    return (path / MANIFEST).exists() or (path / UNFINISHED).exists()


def is_finished(path: Path) -> bool:
    """Tell whether a path or URL holds a finished dataset; raises as `is_dataset`."""
    if is_url(path):
        return ObjectFolder(path).version(MANIFEST) is not None
    return (path / MANIFEST).exists()


def fetched_tables(folder: Path, tables: Iterable[str], made_by: str) -> Path:
    """Give a folder of this machine with a dataset's manifest and tables: itself, of a path.

    Args:
        folder: path or URL.
        tables: names of the tables' files.
        made_by: the command that makes a dataset, for errors.

    Raises:
        ArtifactError: there is no dataset, or it is unfinished.
        StorageError: a table is not what the manifest says, or the store does not answer.
    """
    if not is_url(folder):
        return folder
    store = ObjectFolder(folder)
    try:
        content = store.read(MANIFEST)
    except FileNotFoundError:
        raise ArtifactError(_absence(store, made_by)) from None
    hashes = _hashes(content)
    tables = tuple(tables)
    wanted = {name: store.version(name) for name in tables if name in hashes}

    def make(target: Path) -> None:
        (target / folder.name).mkdir(parents=True)
        (target / folder.name / MANIFEST).write_bytes(content)
        for name, version in wanted.items():
            if version is not None:
                path = target / folder.name / name
                store.download(name, path, version.bytes, hashes[name])

    key = hashlib.sha256("\n".join((store.url, *tables, "")).encode() + content).hexdigest()
    size = len(content) + sum(version.bytes for version in wanted.values() if version)
    kept = cache.keep(key, size, make) / folder.name
    known_as(kept, store.url)
    return kept


def _absence(store: ObjectFolder, made_by: str) -> str:
    if store.version(f"{UNFINISHED}/{PLAN}"):
        return (
            f"{store.url} is unfinished: run `chestxray prepare` again with the same options; it "
            f"resumes"
        )
    return f"{store.url}/{MANIFEST} does not exist: make it with `{made_by}`"


def _hashes(content: bytes) -> dict[str, str]:
    """Read the hashes of the tables; none where it is no manifest, as its reader will say."""
    try:
        manifest: Any = json.loads(content)
        return {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def lacking(folder: Path, files: Iterable[tuple[str, Shard]]) -> list[tuple[str, Shard, str]]:
    """List the shards that a dataset in a store has not, or has in another size, and why.

    Args:
        folder: URL of the dataset.
        files: folder and shard of each file.
    """
    there = ObjectFolder(folder).versions()
    found = []
    for place, shard in files:
        version = there.get(f"{place}/{shard.name}")
        path = shown(folder / place / shard.name)
        if version is None:
            found.append((place, shard, f"{path} does not exist"))
        elif version.bytes != shard.bytes:
            found.append((place, shard, f"{path} has {version.bytes} bytes, not {shard.bytes}"))
    return found


class ShardStore:
    """An unfinished dataset in a store, which takes shards one by one.

    Args:
        out: URL of the dataset.
    """

    def __init__(self, out: Path) -> None:
        self._store = ObjectFolder(out)
        self._there = {name: of.bytes for name, of in self._store.versions().items()}

    @property
    def empty(self) -> bool:
        """Whether nothing is there."""
        return not self._there

    def plan(self) -> bytes | None:
        """Give the plan that it was started with; None where none is there."""
        try:
            return self._store.read(f"{UNFINISHED}/{PLAN}")
        except FileNotFoundError:
            return None

    def begin(self, plan: Path) -> None:
        """Write the plan, before any shard."""
        self._store.upload(plan, f"{UNFINISHED}/{PLAN}")

    def restore_notes(self, notes: Path) -> None:
        """Fetch the notes of the shards that are there, those that this machine lacks."""
        names = [name for name in self._there if name.startswith(f"{UNFINISHED}/")]
        wanted = {name: notes / name.removeprefix(f"{UNFINISHED}/") for name in names}
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            list(
                threads.map(
                    lambda name: self._store.download(name, wanted[name], self._there[name]),
                    (name for name, path in wanted.items() if not path.exists()),
                )
            )

    @property
    def url(self) -> str:
        """URL of the dataset."""
        return self._store.url

    def fetch_note(self, note: Path) -> None:
        """Fetch the note of a shard that another process delivered, and look for the shard."""
        self._store.download(f"{UNFINISHED}/{note.name}", note)
        name = f"{FOLDER}/{note.stem}.npy"
        version = self._store.version(name)
        if version is not None:
            self._there[name] = version.bytes

    def holds(self, shard: Shard) -> bool:
        """Tell whether a shard is there, by its name and size."""
        return self._there.get(f"{FOLDER}/{shard.name}") == shard.bytes

    def deliver(self, shard: Shard | None, images: Path, note: Path) -> None:
        """Write a finished shard and then its note; the file on this machine is deleted.

        Args:
            shard: its file in `images`; None where no image of it could be read.
            images: folder of the file.
            note: what became of its files.
        """
        if shard is not None:
            self._store.upload(images / shard.name, f"{FOLDER}/{shard.name}")
            (images / shard.name).unlink()
            self._there[f"{FOLDER}/{shard.name}"] = shard.bytes
        self._store.upload(note, f"{UNFINISHED}/{note.name}")

    def finish(self, work: Path, names: Iterable[str]) -> None:
        """Write the other files, the manifest last, and delete the notes.

        Args:
            work: folder of the files on this machine.
            names: of the files besides the manifest.
        """
        upload(work, self._store, names)
        self._store.upload(work / MANIFEST, MANIFEST)
        self.delete_notes()

    def delete_notes(self) -> None:
        """Delete what a finished dataset does not need any more."""
        left = [name for name in self._store.versions() if name.startswith(f"{UNFINISHED}/")]
        # The plan last: without it, what is left would belong to nobody.
        for name in sorted(left, key=lambda name: name.endswith(PLAN)):
            self._store.delete(name)
