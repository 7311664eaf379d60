"""Predicts many radiographs into a table, and optionally their heatmaps, with constant memory.

The table is CSV, Parquet or JSON lines, by the suffix of its name, with one row per image:

| column          | holds                                                                        |
|-----------------|------------------------------------------------------------------------------|
| `Image Index`   | unique key of the image: its file name, or its path where names repeat       |
| `prob_<Finding>`| calibrated probability of each finding; empty where the image was not read   |
| `status`        | `ok`, `refused` (by the gate) or `error` (not a readable radiograph)         |
| `reason`        | why, as `code: sentence` where it is the gate's; and the gate's warnings, as |
|                 | `warning: code: sentence`, also beside probabilities; that an imported model |
|                 | is not calibrated; of files, that a bundle detects no unusual images         |
| `called`        | findings whose probability reaches the bundle's threshold, joined by a bar   |
| `not_assessed`  | findings without a threshold, which are never called; likewise               |
| `operating_point` | name of the rule that chose the thresholds                                 |
| `model`         | identity of the weights                                                      |
| `origin`        | `hub:OWNER/NAME@COMMIT` of a model of the hub; empty for any other           |

A name without suffix is a folder: the same rows as Parquet shards, for millions of images, which
the workers of a Ray cluster can make too. See `sharded_prediction`.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from chestxray import hub
from chestxray.errors import SourceError
from chestxray.evaluation import predictions
from chestxray.evaluation.predictions_folder import Counts, PredictionsManifest
from chestxray.model import model_card
from chestxray.model.model_card import Facts
from chestxray.progress import progress
from chestxray.reading.inputs import Given, Inputs, find, leakage
from chestxray.reading.prediction_rows import BATCH, REFUSED, answered, plan_of, rows_of
from chestxray.reading.predictions_writer import (
    HEATMAPS,
    SUFFIXES,
    PredictionsWriter,
    begun_rows,
)
from chestxray.reading.reader import RUNTIMES, Reader, at, opened, warnings_of
from chestxray.reading.sharded_prediction import (
    BundleChoice,
    FolderPlan,
    begun_shards,
    check_folder,
    examples,
    predict_here,
    predict_on,
)
from chestxray.storage import is_url, path_of, shown, staged_file, staged_folder

_BESIDE: Final = (HEATMAPS, str(Path(HEATMAPS).with_suffix(".json")))
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionRun:
    """What `predict` wrote.

    Attributes:
        path: the table.
        rows: one per image.
        refused: image → reason, of those that the gate refused.
        failed: image → reason, of those that are not readable radiographs.
        heatmaps: `heatmaps.npy`, None where none were asked for.
        engine: name of what computed them.
        counts: of a folder, of which `refused` and `failed` name the first hundred only.
    """

    path: Path
    rows: int
    refused: dict[str, str]
    failed: dict[str, str]
    heatmaps: Path | None
    engine: str
    counts: Counts | None = None

    def __repr__(self) -> str:
        """Show the table, and how many images were read."""
        return (
            f"PredictionRun({str(self.path)!r}: {self.read} read by {self.engine}, "
            f"{self.number_refused} refused, {self.number_failed} unreadable)"
        )

    @property
    def read(self) -> int:
        """Rows with probabilities."""
        return self.rows - self.number_refused - self.number_failed

    @property
    def number_refused(self) -> int:
        """Rows that the gate refused."""
        return len(self.refused) if self.counts is None else self.counts.refused

    @property
    def number_failed(self) -> int:
        """Rows that are not readable radiographs."""
        return len(self.failed) if self.counts is None else self.counts.failed


def predict(  # noqa: PLR0913 - the options of one command
    model: Reader | str | Path,
    inputs: Given,
    out: str | Path,
    *,
    split: str | None = None,
    heatmaps: bool = False,
    force: bool = False,
    engine: str | Path = "auto",
    operating_point: str | None = None,
    require_signature: str | Path | None = None,
    cluster: str | None = None,
) -> PredictionRun:
    """Predict the findings of radiographs into a table, or into a folder of shards.

    An image that is refused or cannot be read has a row without probabilities. Images of a dataset
    are not judged by the gate. Called again with the same arguments after an interruption, even by
    kill -9, it resumes.

    Args:
        model: a reader, or the `bundle` folder of a run, or `hub:OWNER/NAME@REVISION`.
        inputs: a dataset, or its path or URL; or files and folders, which are searched with all
            their subfolders, likewise.
        out: path or URL of the table to write, .csv, .parquet or .jsonl; or of a folder, named
            without suffix.
        split: of a dataset, such as `test`.
        heatmaps: also write `heatmaps.npy` beside the table, float16 [N, K, h, w], NaN where an
            image was not read, and `heatmaps.json`, which names its table by SHA-256. A folder has
            the heatmaps of one table; the next one's replace them.
        force: read what the gate refuses; its reasons are kept.
        engine: for a bundle, see `chestxray.load`. What is resumed is finished by the engine that
            began it: `auto` takes that one where it is possible here.
        operating_point: likewise; a reader has its own.
        require_signature: likewise.
        cluster: address of a Ray cluster whose workers load the model and write the shards of a
            folder, see `chestxray.cluster.joined`; this machine alone when None. `auto` as the
            engine is then torch on GPUs, or else OpenVINO in float32.

    Raises:
        SourceError: an input is missing or not possible, or `out` is; see `check_out`.
        ArtifactError: another process writes `out`, or it was started with another engine; or the
            dataset or the bundle is damaged or does not fit.
        StorageError: a URL is refused, nothing is there, or the store does not answer; the same
            call resumes.
        WorkerError: a worker of the cluster reports an error; the same call resumes.
        MissingExtraError: a cluster is named, and Ray is not installed.
    """
    out = path_of(out)
    if cluster is not None:
        choice = _choice(model, engine, operating_point, require_signature, out)
        check_out(out, heatmaps)
        return _predict_on(cluster, choice, inputs, split, out, force)
    whole = _is_folder(out)
    if whole and is_url(out):
        check_folder(out)
    with staged_folder(out, "predict") if whole else staged_file(out, "predict", _BESIDE) as path:
        check_out(path, heatmaps)
        model = model if isinstance(model, Reader) else hub.local(model)
        facts = model.bundle if isinstance(model, Reader) else model_card.read(model)
        # Wrong inputs are reported before the network is loaded, which takes seconds.
        found = find(inputs, split, facts.card)
        with found.decoding() as ready:  # its processes start while the model is loaded
            began = None
            if engine == "auto" and not isinstance(model, Reader):
                began = _began(path, at(facts, operating_point), found, force)
            reader = opened(model, engine, operating_point, require_signature, began)
            _warn(reader.bundle, found)
            run = predict_inputs(reader, ready, path, heatmaps, force)
    return replace(run, path=out, heatmaps=out.with_name(HEATMAPS) if run.heatmaps else None)


def _began(out: Path, bundle: Facts, inputs: Inputs, force: bool) -> str | None:
    """Name the engine of the rows that will be resumed; None where there are none."""
    begun = begun_shards(out) if _is_folder(out) else begun_rows(out)
    if begun is None or begun[0] != plan_of(bundle, inputs, force):
        return None
    return begun[1]


def predict_inputs(
    reader: Reader, inputs: Inputs, out: Path, heatmaps: bool = False, force: bool = False
) -> PredictionRun:
    """Predict what `inputs.find` found; see `predict`.

    Three things happen at a time: files of the next batch are decoded, the network computes a
    batch, and the one before it becomes rows.
    """
    check_out(out, heatmaps)
    if _is_folder(out):
        folder = FolderPlan(out, plan_of(reader.bundle, inputs, force), force)
        return _folder_run(out, predict_here(reader, inputs, folder))
    names = inputs.names
    # As many as make the engine ready for batches, while the decoders start.
    blank = np.zeros((min(2, len(names)), reader.size, reader.size), dtype=np.uint8)
    shape = reader.read_batch(blank)[1].shape[1:]
    plan, heat_shape = plan_of(reader.bundle, inputs, force), (len(names), *shape)
    with (
        PredictionsWriter(
            out, reader.findings, plan, reader.engine.name, heat_shape if heatmaps else None
        ) as writer,
        progress("predict", len(names), done=writer.done) as advance,
    ):
        for batch, answer in answered(reader, inputs.batches(BATCH, writer.done)):
            of = names[writer.done : writer.done + len(batch)]
            writer.add(*rows_of(reader, of, batch, answer, shape, force))
            advance(len(batch))
        refused, failed = _unread(writer.so_far())
        writer.finish()
    maps = out.with_name(HEATMAPS) if heatmaps else None
    return PredictionRun(out, len(names), refused, failed, maps, reader.engine.name)


def _choice(
    model: Reader | str | Path,
    engine: str | Path,
    operating_point: str | None,
    require_signature: str | Path | None,
    out: Path,
) -> BundleChoice:
    """Say what the workers of a cluster load, by paths that hold in any folder.

    Raises:
        SourceError: a reader was given, or `out` is a table.
    """
    if isinstance(model, Reader):
        raise SourceError(
            "the workers of a Ray cluster load the model themselves: give the folder of the "
            "bundle instead of a reader"
        )
    if is_url(out):
        raise SourceError(
            f"the workers of a Ray cluster write predictions to a folder that all nodes share, not "
            f"to a URL: give --out a path instead of {shown(out)}"
        )
    if not _is_folder(out):
        raise SourceError(
            f"a Ray cluster writes a folder of shards, not {out.name}: give --out without a suffix"
        )
    elsewhere = str(model).startswith("hub:") or is_url(model)
    bundle = model if elsewhere else Path(model).absolute()
    runtime = engine if engine in RUNTIMES else Path(engine).absolute()
    key = None if require_signature is None else Path(require_signature).absolute()
    return BundleChoice(bundle, runtime, operating_point, key)


def _predict_on(
    cluster: str, choice: BundleChoice, inputs: Given, split: str | None, out: Path, force: bool
) -> PredictionRun:
    facts = choice.facts()
    found = find(inputs, split, facts.card)
    _warn(facts, found)
    of = FolderPlan(out.absolute(), plan_of(facts, found, force), force)
    return _folder_run(out, predict_on(cluster, choice, facts, found, of))


def _warn(bundle: Facts, found: Inputs) -> None:
    """Log what applies to all rows."""
    for warning in (*warnings_of(bundle), leakage(found, bundle.card)):
        if warning:
            _log.warning("%s", warning)


def _folder_run(out: Path, manifest: PredictionsManifest) -> PredictionRun:
    refused, failed = examples(out, manifest)
    counts = manifest.counts
    return PredictionRun(out, counts.rows, refused, failed, None, manifest.engine, counts)


def _is_folder(out: Path) -> bool:
    return not out.suffix or out.is_dir()


def check_out(out: Path, heatmaps: bool = False) -> None:
    """Refuse a path where predictions cannot be written, or would overwrite something else.

    Raises:
        SourceError: a folder with other files or for heatmaps, a file that is not a table of
            predictions, or another suffix.
    """
    if _is_folder(out) and not out.is_file():
        check_folder(out)
        if heatmaps:
            raise SourceError(
                f"heatmaps belong to one table: give --out a name that ends in .csv, .parquet or "
                f".jsonl instead of the folder {out}"
            )
        return
    if out.suffix.lower() not in SUFFIXES:
        raise SourceError(f"{out.name} must end in .csv, .parquet or .jsonl: choose such an --out")
    if out.exists() and not predictions.is_table(out):
        raise SourceError(
            f"{out} exists and is not a table of predictions, so it is not overwritten: choose "
            f"another --out, or move it away first"
        )


def _unread(table: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Give image → reason of the refused and of the failed rows of a CSV table."""
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] != predictions.OK:
                kind = refused if row["status"] == REFUSED else failed
                kind[row[predictions.IMAGE]] = row["reason"]
    return refused, failed
