"""Predicts millions of radiographs into a folder of Parquet shards, here or on a Ray cluster.

Each shard is made from its own images alone, by the same steps wherever it is made, so a folder has
the same bytes after any interruption, from any number of workers. What is kept of a shard while
others are made is its name, its hash and its counts. See `evaluation.predictions_folder` for the
layout and `prediction` for the columns.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from chestxray.artifacts import lock, write_json
from chestxray.cluster import Cluster, Processor, joined
from chestxray.dataset.decoding import SECONDS_PER_FILE, DecoderPool
from chestxray.errors import ArtifactError, MissingExtraError, SourceError
from chestxray.evaluation import predictions
from chestxray.evaluation.predictions_folder import (
    MANIFEST,
    SHARD,
    Counts,
    PredictionShard,
    PredictionsManifest,
    is_shard,
    is_whole,
    plan_of_shard,
    shard_files,
    shard_name,
    shard_of,
    write_shard,
)
from chestxray.execution import EXECUTION, Tally
from chestxray.findings import Findings
from chestxray.model.model_card import Facts
from chestxray.progress import Advance, progress
from chestxray.reading.inputs import Inputs, Part, RadiographFiles
from chestxray.reading.judged_image import JudgedImage, load
from chestxray.reading.prediction_rows import BATCH, ERROR, REFUSED, answered, rows_of
from chestxray.reading.predictions_writer import columns
from chestxray.reading.reader import Reader, read_facts
from chestxray.reading.reader import load as load_reader
from chestxray.storage import ObjectFolder, is_url, shown
from chestxray.storage.publication import FILES, UNFINISHED

EXAMPLES: Final = 100  # images that are named because they were not read
_LOCK: Final = ".predict.lock"
_TEMPORARY: Final = ".*.tmp.parquet"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderPlan:
    """What a folder of predictions is to hold.

    Attributes:
        out: the folder.
        plan: hash of all that decides the rows.
        force: read what the gate refuses.
    """

    out: Path
    plan: str
    force: bool


@dataclass(frozen=True)
class BundleChoice:
    """How a worker of a cluster loads the model; see `reader.load`.

    Attributes:
        bundle: its folder, which all nodes share, or `hub:OWNER/NAME@REVISION`.
        engine: `auto` is torch on a GPU; on a processor OpenVINO in float32, or torch where
            OpenVINO cannot run the model: every node chooses the same.
        operating_point: that calls findings.
        require_signature: public key of who must have signed it.
    """

    bundle: str | Path
    engine: str | Path
    operating_point: str | None
    require_signature: str | Path | None

    def facts(self) -> Facts:
        """Read what the bundle says of itself, at the operating point."""
        return read_facts(self.bundle, self.operating_point, self.require_signature)

    def open(self) -> Reader:
        """Load the model, to compute with one thread."""
        if self.engine != "auto" or os.environ.get("CUDA_VISIBLE_DEVICES"):
            return self._load(self.engine)
        try:
            return self._load("openvino")
        except (ArtifactError, MissingExtraError):
            return self._load("torch")

    def _load(self, engine: str | Path) -> Reader:
        return load_reader(
            self.bundle, engine, self.operating_point, self.require_signature, threads=1
        )


class Made(NamedTuple):
    """A shard that was written, and the engine that computed it."""

    shard: PredictionShard
    engine: str


class ShardPredictor:
    """Predicts one shard after the other with one reader.

    Args:
        reader: with the network.
        of: the folder and its plan.
        pool: processes that decode files; None where the images are packed.
    """

    def __init__(
        self, reader: Reader, of: FolderPlan, pool: DecoderPool[JudgedImage] | None
    ) -> None:
        self._reader = reader
        self._of = of
        # Two images make the engine ready for batches.
        blank = np.zeros((2, reader.size, reader.size), dtype=np.uint8)
        self._shape = reader.read_batch(blank)[1].shape[1:]
        self._pool = pool

    def __call__(self, given: tuple[int, Part]) -> Made:
        """Predict the images of a shard, and write it."""
        number, part = given
        if isinstance(part, RadiographFiles):
            part = replace(part, pool=self._pool)
        reader, done = self._reader, 0
        tables: list[pd.DataFrame] = []
        for batch, answer in answered(reader, iter(part.batches(BATCH))):
            names = part.names[done : done + len(batch)]
            tables.append(rows_of(reader, names, batch, answer, self._shape, self._of.force)[0])
            done += len(batch)
        path = self._of.out / shard_name(number)
        rows = _arrow(pd.concat(tables, ignore_index=True), reader.findings)
        write_shard(path, rows, self._of.plan, reader.engine.name)
        return Made(shard_of(path), reader.engine.name)


def begun_shards(out: Path) -> tuple[str, str] | None:
    """Give the plan and the engine of the first whole shard in a folder; None without any."""
    there = shard_files(out) if out.is_dir() else []
    return next((plan_of_shard(path) for path in there if is_whole(path)), None)


def predict_here(reader: Reader, inputs: Inputs, of: FolderPlan) -> PredictionsManifest:
    """Predict into a folder on this machine.

    Raises:
        ArtifactError: another process writes the folder, or another engine started it.
    """
    with _working(of, len(inputs)) as work, work.bar() as advance:
        work.check_engine(reader.engine.name)
        if work.left:
            pool = inputs.pool if isinstance(inputs, RadiographFiles) else None
            predictor = ShardPredictor(reader, of, pool)
            for number, part in work.parts(inputs):
                work.add(number, predictor((number, part)), "this machine")
                advance(len(part.names))
        return work.finish(reader.bundle)


def predict_on(
    address: str, model: BundleChoice, facts: Facts, inputs: Inputs, of: FolderPlan
) -> PredictionsManifest:
    """Predict into a folder by the workers of a Ray cluster, each of which holds the model.

    Args:
        address: of the cluster, see `cluster.joined`.
        model: what the workers load.
        facts: the bundle's, at the operating point.
        inputs: on storage that all nodes share, as is the folder.
        of: the folder and its plan.

    Raises:
        ArtifactError: as `predict_here` says, the engines of the nodes differ, or a shard that a
            worker wrote is not there.
        WorkerError: a worker reports an error, or no cluster answers.
        MissingExtraError: Ray is not installed.
    """
    with _working(of, len(inputs)) as work:
        if work.left:
            with joined(address) as cluster, work.bar() as advance:
                _predict_left(cluster, model, inputs, work, advance)
        return work.finish(facts)


def _predict_left(
    cluster: Cluster, model: BundleChoice, inputs: Inputs, work: _Work, advance: Advance
) -> None:
    on = _processor(cluster, model.engine)
    first = inputs.part(0, 1)
    seen = str(first.paths[0]) if isinstance(first, RadiographFiles) else str(first.folder)
    make = partial(_predictor, model, work.of, work.engine, seen, on, cluster.cores(on))
    given = ((number, (number, part)) for number, part in work.parts(inputs))
    tally = Tally("predict", cluster)
    try:
        for done in cluster.map(make, given, len(work.left), on):
            work.add(done.number, done.result, f"node {done.node}")
            tally.add(done, done.result.shard.counts.rows)
            advance(done.result.shard.counts.rows)
    finally:
        tally.add_to(work.of.out)


def _processor(cluster: Cluster, engine: str | Path) -> Processor:
    """Choose what the workers take: a GPU where the cluster has one and the engine uses it."""
    return "GPU" if engine in {"auto", "torch"} and cluster.count("GPU") else "CPU"


def _predictor(
    model: BundleChoice,
    of: FolderPlan,
    engine: str | None,
    seen: str,
    on: Processor,
    processes: int,
) -> ShardPredictor:
    """Load the model in a worker of a cluster, which decodes with so many processes."""
    if on == "CPU":  # a GPU of the node is another job's
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for path in (seen, str(of.out)):
        if not is_url(path) and not Path(path).exists():
            raise ArtifactError(
                f"{path} does not exist there: put the radiographs and the output folder on "
                f"storage that all nodes of the cluster share, under the same paths"
            )
    reader = model.open()
    _check_engine(of.out, engine, reader.engine.name)
    pool = DecoderPool(partial(load, size=reader.size), processes, SECONDS_PER_FILE)
    return ShardPredictor(reader, of, pool)


def _check_engine(out: Path, there: str | None, now: str) -> None:
    if there not in {None, now}:
        raise ArtifactError(
            f"shards of {out} came from {there}, this is {now}, and predictions must not mix "
            f"engines: use the same --engine on the same kind of processor, choose another --out, "
            f"or remove {out} to restart"
        )


class _Work:
    """The shards of a folder that are there, and those that are left to make."""

    def __init__(self, of: FolderPlan, images: int) -> None:
        self.of = of
        self.engine: str | None = None
        self._images = images
        self._made: dict[int, PredictionShard] = {}
        self.left: list[int] = []
        for number in range(-(-images // SHARD)):
            self._look(number)

    def bar(self) -> AbstractContextManager[Advance]:
        """Show the progress over all rows."""
        return progress("predict", self._images, done=self.rows_done)

    @property
    def rows_done(self) -> int:
        """Give the number of rows that are there."""
        return sum(shard.counts.rows for shard in self._made.values())

    def parts(self, inputs: Inputs) -> Iterator[tuple[int, Part]]:
        """Give the images of each shard that is left."""
        for number in self.left:
            yield number, inputs.part(number * SHARD, min((number + 1) * SHARD, self._images))

    def check_engine(self, now: str) -> None:
        """Check that an engine is that of the shards which are there."""
        _check_engine(self.of.out, self.engine, now)

    def add(self, number: int, made: Made, where: str) -> None:
        """Note a shard that was made, after a look at its file."""
        self.check_engine(made.engine)
        path = self.of.out / shard_name(number)
        if plan_of_shard(path) != (self.of.plan, made.engine):
            raise ArtifactError(
                f"{where} wrote {path}, which is not there: name an --out on storage that all "
                f"nodes of the cluster share"
            )
        self.engine = made.engine
        self._made[number] = made.shard

    def finish(self, facts: Facts) -> PredictionsManifest:
        """Write the manifest, now that all shards are there."""
        made = tuple(self._made[number] for number in sorted(self._made))
        counts = Counts(read=0, refused=0, failed=0)
        manifest = PredictionsManifest(
            findings=facts.card.findings,
            model=facts.identity,
            engine=self.engine or "",
            plan=self.of.plan,
            counts=sum((shard.counts for shard in made), counts),
            shards=made,
        )
        write_json(self.of.out / MANIFEST, manifest.model_dump(mode="json"))
        return manifest

    def discard(self) -> None:
        """Remove the shards of another plan, and say what is kept."""
        kept = {shard.name for shard in self._made.values()}
        stale = [path for path in shard_files(self.of.out) if path.name not in kept]
        for path in stale:
            path.unlink()
        if stale:
            _log.warning(
                "%s is restarted: %d of its shards were not whole, or of other inputs, another "
                "model or other options",
                self.of.out,
                len(stale),
            )
        if kept:
            _log.warning("%s: resuming after %d rows", self.of.out, self.rows_done)

    def _look(self, number: int) -> None:
        """See whether a shard is there, by which engine."""
        path = self.of.out / shard_name(number)
        found = plan_of_shard(path) if path.exists() and is_whole(path) else None
        if found is None or found[0] != self.of.plan:
            self.left.append(number)
            return
        self.check_engine(found[1])
        self.engine = found[1]
        self._made[number] = shard_of(path)


@contextmanager
def _working(of: FolderPlan, images: int) -> Iterator[_Work]:
    """Hold the folder alone: a new one, or that of an earlier call."""
    out = of.out
    out.mkdir(parents=True, exist_ok=True)
    refusal = ArtifactError(f"another process writes {out}: wait until it ends")
    with lock(out / _LOCK, refusal):
        _clear(out)
        work = _Work(of, images)
        if work.left:
            (out / MANIFEST).unlink(missing_ok=True)
            work.discard()
        try:
            yield work
        finally:
            _clear(out)
            (out / _LOCK).unlink()


def _clear(out: Path) -> None:
    """Remove what killed workers left."""
    for path in out.glob(_TEMPORARY):
        path.unlink(missing_ok=True)


def check_folder(out: Path) -> None:
    """Refuse a folder, or the URL of one, that holds anything but predictions.

    Raises:
        SourceError: it does.
        StorageError: a store does not answer.
    """
    for name in sorted(_names_in(out) - {MANIFEST, EXECUTION, _LOCK}):
        if not is_shard(name) and not Path(name).match(_TEMPORARY):
            raise SourceError(
                f"{shown(out)} is a folder with other files, such as {name}: --out must name a "
                f"table (.csv, .parquet or .jsonl), or a new folder for shards"
            )


def _names_in(out: Path) -> set[str]:
    """List the files and folders in a folder; of a URL without those that publish it."""
    if is_url(out):
        return {name.split("/")[0] for name in ObjectFolder(out).versions()} - {FILES, UNFINISHED}
    return {path.name for path in out.iterdir()} if out.is_dir() else set()


def examples(folder: Path, manifest: PredictionsManifest) -> tuple[dict[str, str], dict[str, str]]:
    """Give image → reason of the first refused and the first failed rows, `EXAMPLES` of each."""
    found: dict[str, dict[str, str]] = {REFUSED: {}, ERROR: {}}
    names = [predictions.IMAGE, "status", "reason"]
    for shard in manifest.shards:
        if shard.counts.rows == shard.counts.read:
            continue
        table = parquet.read_table(folder / shard.name, columns=names)
        for image, status, reason in zip(*(table[name].to_pylist() for name in names), strict=True):
            if status in found and len(found[status]) < EXAMPLES:
                found[status][image] = reason
        if all(len(of) >= EXAMPLES for of in found.values()):
            break
    return found[REFUSED], found[ERROR]


def _arrow(rows: pd.DataFrame, findings: Findings) -> pa.Table:
    """Give rows in the types that all shards have: text, and float64 for probabilities."""
    numbers = set(predictions.probability_columns(findings))
    names = columns(findings)
    fields = [(name, pa.float64() if name in numbers else pa.string()) for name in names]
    return pa.Table.from_pandas(rows[list(names)], pa.schema(fields), preserve_index=False)
