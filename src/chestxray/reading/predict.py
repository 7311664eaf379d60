"""Many films in, `predictions.csv` and `heatmaps.npy` out; memory does not grow with the films."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import ImageError, SourceError
from chestxray.evaluation import predictions
from chestxray.progress import progress
from chestxray.reading.decoding import Image
from chestxray.reading.films import Films
from chestxray.reading.reader import Reader
from chestxray.reading.rows import Rows

_BATCH: Final = 32


def predict(reader: Reader, films: Films, out: Path, with_heatmaps: bool = False) -> dict[str, str]:
    """Read films and write a row for each, in their order.

    A film that cannot be read gets a row without probabilities, with `status` and `reason`. Called
    again after a stop, also by kill -9, with the same films and model, it goes on where it was.

    Args:
        reader: the model.
        films: what to read.
        out: the CSV file; `heatmaps.npy` goes beside it, float16 [N, K, h, w], NaN where a film
            could not be read, and `heatmaps.json`, which says which predictions it belongs to.
        with_heatmaps: whether to write heatmaps.

    Returns:
        Name → reason of the films that could not be read.

    Raises:
        SourceError: `out` is a folder.
        ArtifactError: another predict is writing `out`.
    """
    if out.is_dir():
        raise SourceError(f"{out} is a folder: --out names the CSV file to write")
    names = films.names
    blank = np.zeros((1, reader.size, reader.size), dtype=np.uint8)
    shape = reader.read_batch(blank)[1].shape[1:]
    with (
        Rows(out, _plan(reader, films), (len(names), *shape) if with_heatmaps else None) as rows,
        progress("predict", len(names), done=rows.done) as advance,
    ):
        for batch in films.batches(_BATCH, rows.done):
            of = names[rows.done : rows.done + len(batch)]
            rows.add(*_read(reader, of, batch, shape))
            advance(len(batch))
        rows.finish()
    return _failed(out)


def _read(
    reader: Reader,
    names: Sequence[str],
    batch: Sequence[Image | ImageError],
    shape: tuple[int, ...],
) -> tuple[pd.DataFrame, npt.NDArray[np.float16]]:
    """Give the rows of a batch: the table and heatmaps [B, K, h, w]."""
    probabilities = np.full((len(batch), len(reader.findings)), np.nan)
    heat = np.full((len(batch), *shape), np.nan, dtype=np.float16)
    good = {i: film for i, film in enumerate(batch) if not isinstance(film, ImageError)}
    if good:
        places = list(good)
        probabilities[places], heat[places] = reader.read_batch(np.stack(list(good.values())))
    table = predictions.table(names, probabilities)
    for i, film in enumerate(batch):
        if isinstance(film, ImageError):
            table.loc[i, ["status", "reason"]] = "error", film.reason
    return table, heat


def _plan(reader: Reader, films: Films) -> str:
    """Tell what the rows will be of, so that rows of anything else are not gone on with."""
    parts = (
        reader.bundle.card.model_dump_json(),
        reader.engine.name,
        str(_BATCH),
        films.fingerprint,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _failed(out: Path) -> dict[str, str]:
    with out.open(encoding="utf-8", newline="") as file:
        return {
            row[predictions.IMAGE]: row["reason"]
            for row in csv.DictReader(file)
            if row["status"] != predictions.OK
        }
