"""Many films in, `predictions.csv` and `heatmaps.npy` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.artifacts import sha256, write_json, written
from chestxray.errors import ImageError, SourceError
from chestxray.evaluation import predictions
from chestxray.progress import progress
from chestxray.reading.films import Films, Image
from chestxray.reading.reader import Reader

_BATCH: Final = 32


def predict(reader: Reader, films: Films, out: Path, with_heatmaps: bool = False) -> dict[str, str]:
    """Read films and write a row for each, in their order.

    A film that cannot be read gets a row without probabilities, with `status` and `reason`.

    Args:
        reader: the model.
        films: what to read.
        out: the CSV file; `heatmaps.npy` goes beside it, float16 [N, K, h, w], NaN where a film
            could not be read, and `heatmaps.json`, which says which predictions it belongs to.
        with_heatmaps: whether to write heatmaps.

    Returns:
        Name → reason of the films that could not be read.
    """
    if out.is_dir():
        raise SourceError(f"{out} is a folder: --out names the CSV file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    names = list(films.names)
    probabilities = np.full((len(names), len(reader.findings)), np.nan)
    failed: dict[str, str] = {}
    heat = _Heatmaps(out.parent / "heatmaps.npy", len(names)) if with_heatmaps else None
    done = 0
    with progress("predict", len(names)) as advance:
        for batch in films.batches(_BATCH):
            good, bad = _parted(batch)
            if good:
                rows = [done + i for i in good]
                probabilities[rows], maps = reader.read_batch(np.stack(list(good.values())))
                if heat:
                    heat.put(rows, maps)
            failed |= {names[done + i]: error.reason for i, error in bad.items()}
            done += len(batch)
            advance(len(batch))
    table = predictions.table(names, probabilities)
    unread = table["Image Index"].isin(failed.keys())
    table.loc[unread, "status"] = "error"
    table.loc[unread, "reason"] = table.loc[unread, "Image Index"].map(failed)
    predictions.write(out, table)
    if heat:
        heat.write(out)
    return failed


def _parted(batch: Sequence[Image | ImageError]) -> tuple[dict[int, Image], dict[int, ImageError]]:
    """Tell images from errors, each under its place in the batch."""
    good, bad = {}, {}
    for i, film in enumerate(batch):
        if isinstance(film, ImageError):
            bad[i] = film
        else:
            good[i] = film
    return good, bad


class _Heatmaps:
    """The heatmaps file: gathered in memory, 1.4 kB an image of 224 px, written at the end."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.count = count
        self.maps: npt.NDArray[np.float16] | None = None

    def put(self, rows: list[int], maps: npt.NDArray[np.float32]) -> None:
        if self.maps is None:
            self.maps = np.full((self.count, *maps.shape[1:]), np.nan, dtype=np.float16)
        self.maps[rows] = maps

    def write(self, predictions_file: Path) -> None:
        """Write the maps, and beside them which predictions they belong to."""
        if self.maps is not None:
            with written(self.path) as temporary:
                np.save(temporary, self.maps)
            note = {"predictions_sha256": sha256(predictions_file)}
            write_json(self.path.with_suffix(".json"), note)
