"""Batches of images become rows of the table that `prediction` describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.dataset.pixels import Canonical
from chestxray.errors import ChestXrayError, ImageError, Notice
from chestxray.evaluation import predictions
from chestxray.file_names import one_line
from chestxray.model.engines import Answer, Heat, Probabilities
from chestxray.model.model_card import Facts
from chestxray.reading.gate.notices import in_words
from chestxray.reading.inputs import Inputs
from chestxray.reading.judged_image import JudgedImage
from chestxray.reading.predictions_writer import columns
from chestxray.reading.reader import Reader
from chestxray.version import __version__

BATCH: Final = 32  # images that the network reads at a time
REFUSED: Final = "refused"
ERROR: Final = "error"
_IN_EACH_ROW: Final = ("gate-not-fitted", "imported-not-calibrated")
"""Codes of what applies to every reading and must not be lost where a row is read alone."""

Batch = Sequence[JudgedImage | Canonical | ImageError]


def answered(reader: Reader, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Answer | None]]:
    """Give each batch with what the engine says of its images; the next one is computed meanwhile.

    None where no image of a batch can be read.
    """
    with ThreadPoolExecutor(1, "network") as network:
        waiting: tuple[Batch, Future[Answer | None]] | None = None
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


def rows_of(
    reader: Reader,
    names: Sequence[str],
    batch: Batch,
    answer: Answer | None,
    shape: tuple[int, ...],
    force: bool,
) -> tuple[pd.DataFrame, npt.NDArray[np.float16]]:
    """Give the rows of a batch: the table and heatmaps [B, K, h, w]."""
    probabilities = np.full((len(batch), len(reader.findings)), np.nan)
    heat = np.full((len(batch), *shape), np.nan, dtype=np.float16)
    outcome = [(ERROR, one.reason) if isinstance(one, ImageError) else ("", "") for one in batch]
    good = [place for place, one in enumerate(batch) if not isinstance(one, ImageError)]
    files = any(isinstance(one, JudgedImage) for one in batch)
    codes = _IN_EACH_ROW if files else _IN_EACH_ROW[1:]  # a dataset's images pass no gate
    always = tuple(of for of in reader.warnings if of.code in codes)
    if answer is not None:
        found = _judged(reader, [batch[place] for place in good], answer)
        for place, p, maps, notices in zip(good, *found, strict=True):
            refused = not force and any(notice.refuses for notice in notices)
            outcome[place] = (
                REFUSED if refused else predictions.OK,
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


def plan_of(bundle: Facts, inputs: Inputs, force: bool) -> str:
    """Hash all that decides the rows, so that only the same rows are resumed."""
    parts = (
        __version__,
        ",".join(columns(bundle.card.findings)),
        bundle.card.model_dump_json(),
        str(BATCH),
        inputs.fingerprint,
        str(force),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
