"""Files become shards on all cores; may be stopped and resumed at any moment.

Worker processes decode a few files at a time and write the images straight to their place in a
temporary file, so no pixels travel between processes. A file that exceeds the limits of time or
memory, or kills its process, is one that cannot be read (`dataset.decoding`). When all files of a
shard are decoded, this process drops the rows of those that could not be read, syncs the file,
renames it, and then writes the shard's note: the size and hash of the file, and what became of each
listed image. A later call keeps the shards that have a note and repeats the others; a shard has the
same bytes each time.

On a cluster each worker does all of this for one shard after the other, with a decoder process of
its own. The folders, and the files under the same paths, must be on storage that all nodes share.
Files of a store are read here, some in advance, and their bytes go to the workers. A dataset that
is made in a store gets each shard as soon as it is finished (`remote.ShardStore`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, sha256, sync_folder, write_json
from chestxray.cluster import Done, joined
from chestxray.dataset import shards
from chestxray.dataset.decoding import SECONDS_PER_FILE, DecoderPool
from chestxray.dataset.radiograph import Radiograph
from chestxray.dataset.remote import ShardStore
from chestxray.dataset.shards import HEADER_BYTES, Shard
from chestxray.errors import ArtifactError, ImageError
from chestxray.execution import Tally
from chestxray.parallel import process_count
from chestxray.progress import progress
from chestxray.storage import Content, contents, is_url, origin_of, path_of

CHUNK: Final = 16  # files that a worker takes at a time
_AHEAD: Final = 2 * shards.SHARD  # files that are decoded while a shard goes to a store
_AHEAD_IN_MEMORY: Final = 128  # where the bytes of some come from a store
_AHEAD_OF_WORKER: Final = 2 * CHUNK  # likewise, in each worker of a cluster, which has one decoder


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Packed(_Strict):
    """A listed image that was packed.

    Attributes:
        width: of the decoded image, pixels.
        height: of the decoded image, pixels.
        sha256: of the decoded pixels, with their type and shape.
    """

    width: int
    height: int
    sha256: str


class Unreadable(_Strict):
    """A listed image that could not be read, and why."""

    reason: str


File = Packed | Unreadable


class _Note(_Strict):
    """What one shard holds.

    Attributes:
        shard: its file; None where none of the listed images could be read.
        files: what became of each listed image.
    """

    shard: Shard | None
    files: tuple[File, ...]


@dataclass(frozen=True)
class Packing:
    """All shards, and what became of each file, in the order of the files."""

    shards: tuple[Shard, ...]
    files: tuple[File, ...]


class _Listed(NamedTuple):
    """The files of one shard.

    Attributes:
        number: of the shard.
        paths: of its files.
        seen: one of them that exists where the list was made; empty where none does, and of
            files in a store.
    """

    number: int
    paths: tuple[str, ...]
    seen: str


class _Place(NamedTuple):
    """A file, or its bytes, and where its image belongs: the row in a shard."""

    file: str | Path | Content
    array: Path
    row: int

    def __str__(self) -> str:
        return str(self.file)


def pack(
    paths: Sequence[str],
    size: int,
    images: Path,
    notes: Path,
    workers: int | None = None,
    cluster: str | None = None,
    store: ShardStore | None = None,
) -> Packing:
    """Decode files into shards, resuming where an earlier call was stopped.

    Args:
        paths: of the listed images; the same in every call.
        size: side of the canonical image, pixels; the same in every call.
        images: folder of the shards.
        notes: folder of the notes, `00000.json` for the first shard.
        workers: processes on this machine; all cores when None.
        cluster: address of a Ray cluster whose workers do it instead, see `cluster.joined`.
        store: that takes each shard when it is finished, out of `images`.

    Raises:
        ArtifactError: the folders cannot be written; a later call resumes.
        StorageError: a store does not answer; likewise.
        WorkerError: a worker process died, or one of a cluster reports an error; a later call
            resumes.
        MissingExtraError: a cluster is named, and Ray is not installed.
    """
    numbers = range(-(-len(paths) // shards.SHARD))
    try:
        images.mkdir(parents=True, exist_ok=True)
        done = {n: note for n in numbers if (note := _finished(n, images, notes, store))}
        left = [n for n in numbers if n not in done]
        packed = (
            _packed_here(paths, left, size, images, notes, workers, store)
            if cluster is None
            else _packed_on(cluster, paths, left, size, images, notes, store)
        )
        done |= packed
    except OSError as error:
        raise ArtifactError(
            f"{images} cannot be written ({error}): free some disk space, then run the same "
            f"command again; it resumes"
        ) from error
    in_order = [done[number] for number in numbers]
    return Packing(
        shards=tuple(note.shard for note in in_order if note.shard),
        files=tuple(file for note in in_order for file in note.files),
    )


def renew(
    paths: Sequence[str], size: int, images: Path, wanted: Sequence[Shard]
) -> list[tuple[Shard, Shard | None]]:
    """Make some shards of a finished dataset again, each from its own files alone.

    Args:
        paths: of all listed images.
        size: side of the canonical image, pixels.
        images: folder of the shards.
        wanted: the shards to make.

    Returns:
        Each wanted shard beside what was made. The two differ where the files changed; what was
        made is then removed again.
    """
    numbers = {int(Path(shard.name).stem): shard for shard in wanted}
    made = _packed(paths, list(numbers), size, images, None, numbers)
    return [(numbers[number], note.shard) for number, note in made]


def _packed_here(
    paths: Sequence[str],
    left: Sequence[int],
    size: int,
    images: Path,
    notes: Path,
    workers: int | None,
    store: ShardStore | None,
) -> Iterator[tuple[int, _Note]]:
    """Write the shards with these numbers, each followed by its note."""
    for number, note in _packed(paths, left, size, images, workers, bounded=bool(store)):
        _write_note(number, note, notes)
        if store is not None:
            store.deliver(note.shard, images, notes / _note_name(number))
        yield number, note


def _packed_on(
    address: str,
    paths: Sequence[str],
    left: Sequence[int],
    size: int,
    images: Path,
    notes: Path,
    store: ShardStore | None,
) -> Iterator[tuple[int, _Note]]:
    """Let the workers of a cluster do the same, in any order."""
    if not left:
        return
    for number in left:
        _clear(number, images)
    shards_left = ((number, _list(number, paths)) for number in left)
    images_left = sum(len(_paths_of(number, paths)) for number in left)
    with (
        joined(address) as nodes,
        progress("prepare", len(paths), done=len(paths) - images_left) as advance,
    ):
        tally = Tally("prepare", nodes)
        try:
            url = None if store is None else store.url
            make = partial(_Packer, size, images.absolute(), notes.absolute(), url)
            for done in nodes.map(make, shards_left, len(left)):
                yield done.number, _written(done, images, notes, store)
                tally.add(done, done.result)
                advance(done.result)
        finally:
            tally.add_to(notes)
            for number in left:
                _clear(number, images)


def _written(done: Done[int], images: Path, notes: Path, store: ShardStore | None) -> _Note:
    """Give the note that a worker wrote, which shows that its storage is ours."""
    if store is not None:
        store.fetch_note(notes / _note_name(done.number))
    note = _finished(done.number, images, notes, store)
    if note is None:
        raise ArtifactError(
            f"node {done.node} wrote shard {done.number} of {images}, which is not there: name an "
            f"output folder on storage that all nodes of the cluster share"
        )
    return note


class _Packer:
    """Writes shards and their notes, one after the other, in a worker of a cluster.

    A dataset in a store, whose URL is given, gets them from a folder of this process.
    """

    def __init__(self, size: int, images: Path, notes: Path, url: str | None = None) -> None:
        self._size, self._images, self._notes = size, images, notes
        self._store = None if url is None else ShardStore(path_of(url))
        if self._store is not None:
            self._own = TemporaryDirectory(prefix="chestxray-")
            self._images = self._notes = Path(self._own.name)
        self._pool = DecoderPool(partial(_decode, size=size), 1, SECONDS_PER_FILE)

    def __call__(self, listed: _Listed) -> int:
        """Write one shard; give the number of its files."""
        if listed.seen and not Path(listed.seen).exists():
            raise ArtifactError(
                f"{listed.seen} does not exist there: put the raw trees on storage that all nodes "
                f"of the cluster share, under the same path"
            )
        if not self._images.is_dir():
            raise ArtifactError(
                f"{self._images} does not exist there: name an output folder on storage that all "
                f"nodes of the cluster share"
            )
        array = _new_array(listed.number, self._images)
        places = [_Place(path, array, row) for row, path in enumerate(listed.paths)]
        ahead = _ahead(places, None, _AHEAD_OF_WORKER)
        outcomes = self._pool.map(_with_contents(places), ahead, CHUNK)
        files = [_file(outcome) for outcome in outcomes]
        target = self._images / shards.shard_name(listed.number)
        note = _finish(array, target, self._size, files, None)
        _write_note(listed.number, note, self._notes)
        if self._store is not None:
            at = self._notes / _note_name(listed.number)
            self._store.deliver(note.shard, self._images, at)
        return len(files)


def _list(number: int, paths: Sequence[str]) -> _Listed:
    """List the files of a shard by names that hold on any node."""
    own = _paths_of(number, paths)
    listed = tuple(origin_of(path) or (str(Path(path).absolute()) if path else "") for path in own)
    seen = (path for path in listed if not is_url(path) and Path(path).exists())
    return _Listed(number, listed, next(seen, ""))


def _packed(
    paths: Sequence[str],
    left: Sequence[int],
    size: int,
    images: Path,
    workers: int | None,
    wanted: Mapping[int, Shard] | None = None,
    *,
    bounded: bool = False,
) -> Iterator[tuple[int, _Note]]:
    """Write the shards with these numbers one after the other, all cores at work on the next.

    Where `wanted` says what a shard is to be, another one is not put in its place. `bounded` limits
    the files that are decoded in advance, so that finished shards do not pile up.
    """
    arrays = {number: _temporary(number, images) for number in left}
    places = {number: list(_places(number, paths, arrays[number])) for number in left}
    every = [place for of in places.values() for place in of]
    processes = process_count(len(every), CHUNK, workers)
    with (
        DecoderPool(partial(_decode, size=size), processes, SECONDS_PER_FILE) as pool,
        progress("prepare", len(paths), done=len(paths) - len(every)) as advance,
    ):
        ahead = _ahead(every, _AHEAD if bounded else None, _AHEAD_IN_MEMORY)
        results = pool.map(_with_contents(every), ahead, CHUNK)
        for number in left:
            files: list[File] = []
            for outcome in islice(results, len(places[number])):
                files.append(_file(outcome))
                advance()
            target = images / shards.shard_name(number)
            expected = None if wanted is None else wanted[number]
            yield number, _finish(arrays[number], target, size, files, expected)


def _with_contents(places: Sequence[_Place]) -> Iterator[_Place]:
    """Give the places of files with the bytes of those that are in a store."""
    for place, file in zip(places, contents(place.file for place in places), strict=True):
        yield place._replace(file=file)


def _ahead(places: Sequence[_Place], otherwise: int | None, in_memory: int) -> int | None:
    """Give the number of files to decode in advance: `in_memory` where any is in a store."""
    remote = any(origin_of(str(place)) is not None for place in places)
    return in_memory if remote else otherwise


def _file(outcome: Packed | OSError | ImageError) -> File:
    """Give what became of a file; raises the error of an array that could not be written."""
    if isinstance(outcome, OSError):
        raise outcome
    return Unreadable(reason=outcome.reason) if isinstance(outcome, ImageError) else outcome


def _temporary(number: int, images: Path) -> Path:
    """Make an empty file of a name of its own, and remove what a killed call left of the shard.

    The name is new each time, since workers of a killed process may write for a moment longer.
    """
    _clear(number, images)
    return _new_array(number, images)


def _clear(number: int, images: Path) -> None:
    """Remove what killed calls left of a shard; what another one removes meanwhile is no error."""
    stem = Path(shards.shard_name(number)).stem
    for stale in images.glob(f".{stem}.*.tmp"):
        stale.unlink(missing_ok=True)


def _new_array(number: int, images: Path) -> Path:
    stem = Path(shards.shard_name(number)).stem
    path = images / f".{stem}.{uuid.uuid4().hex}.tmp"
    path.touch()
    return path


def _paths_of(number: int, paths: Sequence[str]) -> Sequence[str]:
    return paths[number * shards.SHARD : (number + 1) * shards.SHARD]


def _places(number: int, paths: Sequence[str], array: Path) -> Iterator[_Place]:
    for row, path in enumerate(_paths_of(number, paths)):
        yield _Place(path, array, row)


def _decode(place: _Place, size: int) -> Packed | OSError:
    """Read a file once and write its canonical image to its row.

    Gives its sides and the hash of its pixels; or why the array cannot be written, which is not
    the file's fault.
    """
    radiograph = Radiograph.read(place.file)
    height, width = radiograph.pixels.shape
    packed = Packed(width=width, height=height, sha256=radiograph.pixels_sha256)
    image = radiograph.canonical(size)
    try:
        with place.array.open("r+b") as array:
            array.seek(HEADER_BYTES + place.row * size**2)
            array.write(image.data)
    except OSError as error:
        return error
    return packed


def _finish(
    temporary: Path, target: Path, size: int, files: Sequence[File], expected: Shard | None
) -> _Note:
    """Drop the rows of unreadable files, and put the shard in its place, whole and synced.

    A shard that is not the expected one is removed.
    """
    kept = [row for row, file in enumerate(files) if isinstance(file, Packed)]
    if not kept:
        temporary.unlink()
        return _Note(shard=None, files=tuple(files))
    with temporary.open("r+b") as array:
        _close_gaps(array, kept, size**2)
        array.seek(0)
        array.write(shards.header(len(kept), (size, size)))
        array.flush()
        os.fsync(array.fileno())
    shard = Shard(
        name=target.name,
        images=len(kept),
        bytes=temporary.stat().st_size,
        sha256=sha256(temporary),
    )
    if expected is not None and shard != expected:
        temporary.unlink()
        return _Note(shard=shard, files=tuple(files))
    temporary.replace(target)
    sync_folder(target.parent)
    return _Note(shard=shard, files=tuple(files))


def _close_gaps(array: BinaryIO, kept: Iterable[int], image_bytes: int) -> None:
    """Move the rows that are kept to the front, and cut off what follows them."""
    place = 0
    for place, row in enumerate(kept, start=1):
        if row != place - 1:
            array.seek(HEADER_BYTES + row * image_bytes)
            image = array.read(image_bytes)
            array.seek(HEADER_BYTES + (place - 1) * image_bytes)
            array.write(image)
    array.truncate(HEADER_BYTES + place * image_bytes)


def _finished(number: int, images: Path, notes: Path, store: ShardStore | None) -> _Note | None:
    """Give the note of a shard that an earlier call finished, None where it is to be made."""
    path = notes / _note_name(number)
    if not path.exists():
        return None
    try:
        note = _Note.model_validate(read_json(path, "chestxray prepare"))
    except (ArtifactError, ValidationError):
        return None
    shard = note.shard
    if shard is None:
        return note
    if store is not None:
        return note if store.holds(shard) else None
    file = images / shard.name
    return note if file.exists() and file.stat().st_size == shard.bytes else None


def _write_note(number: int, note: _Note, notes: Path) -> None:
    write_json(notes / _note_name(number), note.model_dump(mode="json"))


def _note_name(number: int) -> str:
    return Path(shards.shard_name(number)).with_suffix(".json").name
