"""Many films in, `predictions.csv` and `heatmaps.npy` out; memory does not grow with the films.

A row's `status` is `ok`, `refused` (by the gate) or `error` (no radiograph could be read), and
`reason` says why, each reason as "code: sentence" where it is the gate's. Warnings of the gate
stand in `reason` too, as "warning: code: sentence", also beside probabilities. `called` names the
findings whose probability reaches the bundle's threshold, joined by |, and `model` the weights.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import ImageError, Notice, SourceError
from chestxray.evaluation import predictions
from chestxray.model.engines import Heat, Probabilities
from chestxray.progress import progress
from chestxray.reading.gate.notices import in_words
from chestxray.reading.inputs import Films, Image, one_line
from chestxray.reading.judged_image import JudgedImage
from chestxray.reading.predictions_writer import CALLED, MODEL, Rows, columns
from chestxray.reading.reader import Reader
from chestxray.version import __version__

REFUSED: Final = "refused"
ERROR: Final = "error"
_BATCH: Final = 32


@dataclass(frozen=True)
class Unread:
    """What has no probabilities: name → reason.

    Attributes:
        refused: by the gate.
        failed: no radiograph could be read.
    """

    refused: dict[str, str]
    failed: dict[str, str]

    def __len__(self) -> int:
        return len(self.refused) + len(self.failed)


def predict(
    reader: Reader, films: Films, out: Path, with_heatmaps: bool = False, force: bool = False
) -> Unread:
    """Read films and write a row for each, in their order.

    A film that is refused or cannot be read gets a row without probabilities. Called again after a
    stop, also by kill -9, with the same films, model and engine, it goes on where it was.

    Args:
        reader: the model.
        films: what to read.
        out: the CSV file; `heatmaps.npy` goes beside it, float16 [N, K, h, w], NaN where a film
            was not read, and `heatmaps.json`, which says which predictions it belongs to. One table
            a folder has heatmaps: the next one's take their place.
        with_heatmaps: whether to write heatmaps.
        force: whether to read what the gate refuses.

    Raises:
        SourceError: as `check_out` says.
        ArtifactError: another predict is writing `out`, or was stopped that read with another
            engine.
    """
    check_out(out)
    names = films.names
    blank = np.zeros((1, reader.size, reader.size), dtype=np.uint8)
    shape = reader.read_batch(blank)[1].shape[1:]
    plan, heat_shape = _plan(reader, films, force), (len(names), *shape)
    with (
        Rows(
            out, reader.findings, plan, reader.engine.name, heat_shape if with_heatmaps else None
        ) as rows,
        progress("predict", len(names), done=rows.done) as advance,
    ):
        for batch in films.batches(_BATCH, rows.done):
            of = names[rows.done : rows.done + len(batch)]
            rows.add(*_read(reader, of, batch, shape, force))
            advance(len(batch))
        rows.finish()
    return _unread(out)


def check_out(out: Path) -> None:
    """Refuse a place where predictions cannot be written, or would overwrite something else.

    Raises:
        SourceError: a folder, a file of another kind, or a name that does not end in .csv.
    """
    if out.is_dir():
        raise SourceError(f"{out} is a folder: --out names the CSV file to write")
    if out.suffix.lower() != ".csv":
        raise SourceError(f"--out must end in .csv, {out.name} does not: name a CSV file")
    if out.exists() and not predictions.is_table(out):
        raise SourceError(
            f"{out} is there and is no table of predictions, which alone is overwritten: give "
            f"another --out, or move it away first"
        )


def _read(
    reader: Reader,
    names: Sequence[str],
    batch: Sequence[JudgedImage | Image | ImageError],
    shape: tuple[int, ...],
    force: bool,
) -> tuple[pd.DataFrame, npt.NDArray[np.float16]]:
    """Give the rows of a batch: the table and heatmaps [B, K, h, w]."""
    probabilities = np.full((len(batch), len(reader.findings)), np.nan)
    heat = np.full((len(batch), *shape), np.nan, dtype=np.float16)
    said = [(ERROR, film.reason) if isinstance(film, ImageError) else ("", "") for film in batch]
    good = [place for place, film in enumerate(batch) if not isinstance(film, ImageError)]
    if good:
        found = _answers(reader, [batch[place] for place in good])
        for place, p, maps, notices in zip(good, *found, strict=True):
            refused = not force and any(notice.refuses for notice in notices)
            said[place] = (REFUSED if refused else predictions.OK, in_words(notices))
            if not refused:
                probabilities[place], heat[place] = p, maps
    table = predictions.table(names, probabilities, reader.findings).rows
    table["status"] = [status for status, _ in said]
    table["reason"] = [one_line(reason) for _, reason in said]
    table[CALLED] = [_called(reader, row) for row in probabilities.tolist()]
    table[MODEL] = reader.bundle.identity
    return table, heat


def _called(reader: Reader, probabilities: Sequence[float]) -> str:
    """Name the findings that are called; none of a film that was not read, whose row is NaN."""
    pairs = zip(reader.findings, probabilities, strict=True)
    return "|".join(finding for finding, p in pairs if reader.call(finding, p))


def _answers(
    reader: Reader, batch: Sequence[JudgedImage | Image | ImageError]
) -> tuple[Probabilities, Heat, list[tuple[Notice, ...]]]:
    """Read films through the gate, and a dataset's bare images without."""
    films = [film for film in batch if isinstance(film, JudgedImage)]
    if films:
        return reader.read_films(films)
    images = np.stack([image for image in batch if isinstance(image, np.ndarray)])
    return *reader.read_batch(images), [()] * len(images)


def _plan(reader: Reader, films: Films, force: bool) -> str:
    """Tell what the rows will be of, so that rows of anything else are not gone on with."""
    parts = (
        __version__,
        ",".join(columns(reader.findings)),
        reader.bundle.card.model_dump_json(),
        str(_BATCH),
        films.fingerprint,
        str(force),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _unread(out: Path) -> Unread:
    unread = Unread({}, {})
    with out.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] != predictions.OK:
                kind = unread.refused if row["status"] == REFUSED else unread.failed
                kind[row[predictions.IMAGE]] = row["reason"]
    return unread
