"""Predicts many radiographs into a table, and optionally their heatmaps, with constant memory.

The table is CSV, Parquet or JSON lines, by the suffix of its name, with one row per image:

| column          | holds                                                                        |
|-----------------|------------------------------------------------------------------------------|
| `Image Index`   | unique key of the image: its file name, or its path where names repeat       |
| `prob_<Finding>`| calibrated probability of each finding; empty where the image was not read   |
| `status`        | `ok`, `refused` (by the gate) or `error` (not a readable radiograph)         |
| `reason`        | why, as `code: sentence` where it is the gate's; and the gate's warnings, as |
|                 | `warning: code: sentence`, also beside probabilities; and that an imported   |
|                 | model is not calibrated                                                      |
| `called`        | findings whose probability reaches the bundle's threshold, joined by a bar   |
| `not_assessed`  | findings without a threshold, which are never called; likewise               |
| `operating_point` | name of the rule that chose the thresholds                                 |
| `model`         | identity of the weights                                                      |
| `origin`        | `hub:OWNER/NAME@COMMIT` of a model of the hub; empty for any other           |
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray import hub
from chestxray.dataset.pixels import Canonical
from chestxray.errors import ChestXrayError, ImageError, Notice, SourceError
from chestxray.evaluation import predictions
from chestxray.file_names import one_line
from chestxray.model import model_card
from chestxray.model.engines import Answer, Heat, Probabilities
from chestxray.progress import progress
from chestxray.reading.gate.notices import in_words
from chestxray.reading.inputs import Given, Inputs, find, leakage
from chestxray.reading.judged_image import JudgedImage
from chestxray.reading.predictions_writer import (
    HEATMAPS,
    SUFFIXES,
    PredictionsWriter,
    columns,
)
from chestxray.reading.reader import Reader, opened
from chestxray.storage import path_of, staged_file
from chestxray.version import __version__

_BESIDE: Final = (HEATMAPS, str(Path(HEATMAPS).with_suffix(".json")))
_REFUSED: Final = "refused"
_ERROR: Final = "error"
_IN_THE_TABLE: Final = "imported-not-calibrated"  # of what applies to every reading
_BATCH: Final = 32
_log = logging.getLogger(__name__)

_Batch = Sequence[JudgedImage | Canonical | ImageError]


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
    """

    path: Path
    rows: int
    refused: dict[str, str]
    failed: dict[str, str]
    heatmaps: Path | None
    engine: str

    def __repr__(self) -> str:
        """Show the table, and how many images were read."""
        return (
            f"PredictionRun({str(self.path)!r}: {self.read} read by {self.engine}, "
            f"{len(self.refused)} refused, {len(self.failed)} unreadable)"
        )

    @property
    def read(self) -> int:
        """Rows with probabilities."""
        return self.rows - len(self.refused) - len(self.failed)


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
) -> PredictionRun:
    """Predict the findings of radiographs into a table.

    An image that is refused or cannot be read has a row without probabilities. Images of a dataset
    are not judged by the gate. Called again with the same arguments after an interruption, even by
    kill -9, it resumes.

    Args:
        model: a reader, or the `bundle` folder of a run, or `hub:OWNER/NAME@REVISION`.
        inputs: a dataset, or its path or URL; or files and folders, which are searched with all
            their subfolders, likewise.
        out: path or URL of the table to write, .csv, .parquet or .jsonl.
        split: of a dataset, such as `test`.
        heatmaps: also write `heatmaps.npy` beside the table, float16 [N, K, h, w], NaN where an
            image was not read, and `heatmaps.json`, which names its table by SHA-256. A folder has
            the heatmaps of one table; the next one's replace them.
        force: read what the gate refuses; its reasons are kept.
        engine: for a bundle, see `chestxray.load`.
        operating_point: likewise; a reader has its own.
        require_signature: likewise.

    Raises:
        SourceError: an input is missing or not possible, or `out` is; see `check_out`.
        ArtifactError: another process writes `out`, or it was started with another engine; or the
            dataset or the bundle is damaged or does not fit.
        StorageError: a URL is refused, nothing is there, or the store does not answer; the same
            call resumes.
    """
    with staged_file(out, beside=_BESIDE) as path:
        check_out(path)
        model = model if isinstance(model, Reader) else hub.local(model)
        card = model.bundle.card if isinstance(model, Reader) else model_card.read(model).card
        # Wrong inputs are reported before the network is loaded, which takes seconds.
        found = find(inputs, split, card)
        with found.decoding() as ready:  # its processes start while the model is loaded
            reader = opened(model, engine, operating_point, require_signature)
            for warning in (*reader.warnings, leakage(found, reader.bundle.card)):
                if warning:
                    _log.warning("%s", warning)
            run = predict_inputs(reader, ready, path, heatmaps, force)
    out = path_of(out)
    return replace(run, path=out, heatmaps=out.with_name(HEATMAPS) if run.heatmaps else None)


def predict_inputs(
    reader: Reader, inputs: Inputs, out: Path, heatmaps: bool = False, force: bool = False
) -> PredictionRun:
    """Predict what `inputs.find` found; see `predict`.

    Three things happen at a time: files of the next batch are decoded, the network computes a
    batch, and the one before it becomes rows.
    """
    check_out(out)
    names = inputs.names
    # As many as make the engine ready for batches, while the decoders start.
    blank = np.zeros((min(2, len(names)), reader.size, reader.size), dtype=np.uint8)
    shape = reader.read_batch(blank)[1].shape[1:]
    plan, heat_shape = plan_of(reader, inputs, force), (len(names), *shape)
    with (
        PredictionsWriter(
            out, reader.findings, plan, reader.engine.name, heat_shape if heatmaps else None
        ) as writer,
        progress("predict", len(names), done=writer.done) as advance,
    ):
        for batch, answer in _answered(reader, inputs.batches(_BATCH, writer.done)):
            of = names[writer.done : writer.done + len(batch)]
            writer.add(*_rows(reader, of, batch, answer, shape, force))
            advance(len(batch))
        refused, failed = _unread(writer.so_far())
        writer.finish()
    maps = out.with_name(HEATMAPS) if heatmaps else None
    return PredictionRun(out, len(names), refused, failed, maps, reader.engine.name)


def check_out(out: Path) -> None:
    """Refuse a path where predictions cannot be written, or would overwrite something else.

    Raises:
        SourceError: a folder, a file that is not a table of predictions, or another suffix.
    """
    if out.is_dir():
        raise SourceError(f"{out} is a folder: --out must name the table to write")
    if out.suffix.lower() not in SUFFIXES:
        raise SourceError(f"{out.name} must end in .csv, .parquet or .jsonl: choose such an --out")
    if out.exists() and not predictions.is_table(out):
        raise SourceError(
            f"{out} exists and is not a table of predictions, so it is not overwritten: choose "
            f"another --out, or move it away first"
        )


def _answered(reader: Reader, batches: Iterator[_Batch]) -> Iterator[tuple[_Batch, Answer | None]]:
    """Give each batch with what the engine says of its images; the next one is computed meanwhile.

    None where no image of a batch can be read.
    """
    with ThreadPoolExecutor(1, "network") as network:
        waiting: tuple[_Batch, Future[Answer | None]] | None = None
        while True:
            failure, started = None, None
            try:
                batch = next(batches, None)
            except ChestXrayError as error:  # raised when what is computed has been given
                failure, batch = error, None
            if batch is not None:
                images = [_pixels(one) for one in batch if not isinstance(one, ImageError)]
                started = batch, network.submit(_run, reader, images)
            if waiting:
                yield waiting[0], waiting[1].result()
            if failure:
                raise failure
            if started is None:
                return
            waiting = started


def _run(reader: Reader, images: list[Canonical]) -> Answer | None:
    return reader.engine.run(np.stack(images)) if images else None


def _pixels(one: JudgedImage | Canonical) -> Canonical:
    return one.image if isinstance(one, JudgedImage) else one


def _rows(
    reader: Reader,
    names: Sequence[str],
    batch: _Batch,
    answer: Answer | None,
    shape: tuple[int, ...],
    force: bool,
) -> tuple[pd.DataFrame, npt.NDArray[np.float16]]:
    """Give the rows of a batch: the table and heatmaps [B, K, h, w]."""
    probabilities = np.full((len(batch), len(reader.findings)), np.nan)
    heat = np.full((len(batch), *shape), np.nan, dtype=np.float16)
    outcome = [(_ERROR, one.reason) if isinstance(one, ImageError) else ("", "") for one in batch]
    good = [place for place, one in enumerate(batch) if not isinstance(one, ImageError)]
    always = tuple(of for of in reader.warnings if of.code == _IN_THE_TABLE)
    if answer is not None:
        found = _judged(reader, [batch[place] for place in good], answer)
        for place, p, maps, notices in zip(good, *found, strict=True):
            refused = not force and any(notice.refuses for notice in notices)
            outcome[place] = (
                _REFUSED if refused else predictions.OK,
                in_words((*notices, *always)),
            )
            if not refused:
                probabilities[place], heat[place] = p, maps
    table = predictions.table(names, probabilities, reader.findings).rows
    table["status"] = [status for status, _ in outcome]
    table["reason"] = [one_line(reason) for _, reason in outcome]
    card = reader.bundle.card
    none = "|".join(card.unavailable)
    table[predictions.CALLED] = [_called(reader, row) for row in probabilities.tolist()]
    table[predictions.NOT_ASSESSED] = ["" if np.isnan(row).any() else none for row in probabilities]
    table[predictions.OPERATING_POINT] = card.operating_point
    table[predictions.MODEL] = reader.bundle.identity
    table[predictions.ORIGIN] = reader.bundle.origin or ""
    return table, heat


def _called(reader: Reader, probabilities: Sequence[float]) -> str:
    """Name the findings that are called; none for an image that was not read, whose row is NaN."""
    pairs = zip(reader.findings, probabilities, strict=True)
    return "|".join(finding for finding, p in pairs if reader.call(finding, p))


def _judged(
    reader: Reader, batch: Sequence[JudgedImage | Canonical | ImageError], answer: Answer
) -> tuple[Probabilities, Heat, list[tuple[Notice, ...]]]:
    """Read files through the gate, and a dataset's images without."""
    judged = [one for one in batch if isinstance(one, JudgedImage)]
    if judged:
        return reader.judge(judged, answer)
    return *reader.readable(answer), [()] * len(batch)


def plan_of(reader: Reader, inputs: Inputs, force: bool) -> str:
    """Hash all that decides the rows, so that only the same rows are resumed."""
    parts = (
        __version__,
        ",".join(columns(reader.findings)),
        reader.bundle.card.model_dump_json(),
        str(_BATCH),
        inputs.fingerprint,
        str(force),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _unread(table: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Give image → reason of the refused and of the failed rows of a CSV table."""
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] != predictions.OK:
                kind = refused if row["status"] == _REFUSED else failed
                kind[row[predictions.IMAGE]] = row["reason"]
    return refused, failed
