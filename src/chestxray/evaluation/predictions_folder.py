"""A folder of predictions: one table of predictions as many Parquet files, for millions of rows.

    predictions/
      00000.parquet …    rows SHARD · k to SHARD · (k + 1) - 1, with the columns of one table
      predictions.json   the manifest, written last

The footer of each shard names the plan that its rows are of, so a folder that is written again
keeps the shards that are whole and of the same plan, and repeats the others; a hash of the rows in
the footer shows whether they are whole. A folder without a manifest is unfinished and not read.
`reading.sharded_prediction` writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chestxray.artifacts import read_json, sha256, written
from chestxray.errors import ArtifactError, PredictionsError
from chestxray.findings import Findings
from chestxray.table_limits import read_parquet

MANIFEST: Final = "predictions.json"
SHARD: Final = 2048  # rows: 0.4 MB, and about a minute of one core
_PLAN: Final = b"chestxray.plan"
_ENGINE: Final = b"chestxray.engine"
_ROWS: Final = b"chestxray.rows"
_NAME: Final = re.compile(r"[0-9]{5,}\.parquet")
_MADE_BY: Final = "chestxray predict"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Counts(_Strict):
    """How many rows have which status.

    Attributes:
        read: rows with probabilities.
        refused: by the gate.
        failed: that are not readable radiographs.
    """

    read: int = Field(ge=0)
    refused: int = Field(ge=0)
    failed: int = Field(ge=0)

    @property
    def rows(self) -> int:
        """Give the number of all rows."""
        return self.read + self.refused + self.failed

    def __add__(self, other: Counts) -> Counts:
        """Add the counts of other rows."""
        return Counts(
            read=self.read + other.read,
            refused=self.refused + other.refused,
            failed=self.failed + other.failed,
        )


class PredictionShard(_Strict):
    """One file of rows.

    Attributes:
        name: of the file, such as `00000.parquet`.
        bytes: size of the file.
        sha256: of the file.
        counts: of its rows.
    """

    name: str = Field(pattern=r"^[0-9]{5,}\.parquet$")
    bytes: int
    sha256: str
    counts: Counts


class PredictionsManifest(_Strict):
    """The content of `predictions.json`.

    Attributes:
        findings: one column of probabilities each, in this order.
        model: identity of the weights.
        engine: what computed the probabilities.
        plan: hash of all that decides the rows.
        counts: of all rows.
        shards: in row order.
    """

    format: Literal[1] = 1
    findings: Findings
    model: str
    engine: str
    plan: str
    counts: Counts
    shards: tuple[PredictionShard, ...]


class PredictionsFolder:
    """A finished folder of predictions.

    Attributes:
        folder: of the files.
        manifest: what they hold.

    Raises:
        PredictionsError: it is unfinished, or a file is missing.
        ArtifactError: it has no manifest of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _manifest(folder)
        for shard in self.manifest.shards:
            path = folder / shard.name
            found = path.stat().st_size if path.is_file() else None
            if found != shard.bytes:
                wrong = "is missing" if found is None else f"has {found} bytes, not {shard.bytes}"
                raise _damaged(path, wrong)

    def tables(self) -> Iterator[pa.Table]:
        """Give the rows shard by shard, in order, with the columns of a table of predictions.

        Raises:
            PredictionsError: a file was altered, or is not such a table.
        """
        for shard in self.manifest.shards:
            path = self.folder / shard.name
            if sha256(path) != shard.sha256:
                raise _damaged(path, "was altered")
            try:
                table = read_parquet(path).replace_schema_metadata(None)
            except (OSError, pa.ArrowException) as error:
                raise _damaged(path, f"is not a Parquet table ({error})") from error
            if table.num_rows != shard.counts.rows:
                raise _damaged(path, f"has {table.num_rows} rows, not {shard.counts.rows}")
            yield table


def is_folder(path: Path) -> bool:
    """Say whether a path is a folder of predictions, finished or not."""
    return path.is_dir() and ((path / MANIFEST).exists() or bool(shard_files(path)))


def shard_name(number: int) -> str:
    """Give the file name of the shard with this number, counted from 0."""
    return f"{number:05d}.parquet"


def shard_files(folder: Path) -> list[Path]:
    """Give the files in a folder that are named as shards, in order."""
    return sorted(path for path in folder.iterdir() if is_shard(path.name))


def is_shard(name: str) -> bool:
    """Tell whether a name is that of a shard."""
    return _NAME.fullmatch(name) is not None


def write_shard(path: Path, table: pa.Table, plan: str, engine: str) -> None:
    """Write one shard, whole or not at all, unless there is one of this plan.

    That one may be in the manifest by now, and from a processor that rounds otherwise.
    """
    found = plan_of_shard(path)
    if found is None or found[0] != plan:
        path.unlink(missing_ok=True)
    says = {_PLAN: plan, _ENGINE: engine, _ROWS: _hash_of(table, plan, engine)}
    named = table.replace_schema_metadata({key: text.encode() for key, text in says.items()})
    with written(path, once=True) as temporary:
        parquet.write_table(named, temporary)


def plan_of_shard(path: Path) -> tuple[str, str] | None:
    """Give the plan and the engine that a shard's footer names; None where it has none."""
    try:
        metadata: dict[bytes, Any] = parquet.read_schema(path).metadata or {}
        return metadata[_PLAN].decode(), metadata[_ENGINE].decode()
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException):
        return None


def is_whole(path: Path) -> bool:
    """Tell whether plan, engine and rows of a shard are those that were written."""
    try:
        table = parquet.read_table(path)
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
        says = {key: text.decode() for key, text in metadata.items()}
        return says[_ROWS] == _hash_of(table, says[_PLAN], says[_ENGINE])
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException):
        return False


def _hash_of(table: pa.Table, plan: str, engine: str) -> str:
    """Hash what a shard says, whichever version of PyArrow writes or reads it."""
    return hashlib.sha256(json.dumps([plan, engine, table.to_pydict()]).encode()).hexdigest()


def shard_of(path: Path) -> PredictionShard:
    """Describe a shard that was written."""
    status = parquet.read_table(path, columns=["status"])["status"].to_pylist()
    read, refused = status.count("ok"), status.count("refused")
    counts = Counts(read=read, refused=refused, failed=len(status) - read - refused)
    return PredictionShard(
        name=path.name, bytes=path.stat().st_size, sha256=sha256(path), counts=counts
    )


def _manifest(folder: Path) -> PredictionsManifest:
    if not (folder / MANIFEST).exists():
        raise PredictionsError(
            f"{folder} is unfinished: run the same `{_MADE_BY}` again; it resumes"
        )
    try:
        return PredictionsManifest.model_validate(read_json(folder / MANIFEST, _MADE_BY))
    except ValidationError as error:
        raise ArtifactError(
            f"{folder / MANIFEST} is not a manifest of this version: predict again with "
            f"`{_MADE_BY}`"
        ) from error


def _damaged(path: Path, wrong: str) -> PredictionsError:
    return PredictionsError(
        f"{path} {wrong}: remove it and {path.with_name(MANIFEST).name}, and run the same "
        f"`{_MADE_BY}` again; it makes only missing files"
    )
