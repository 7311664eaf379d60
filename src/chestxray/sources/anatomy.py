"""Masks of lungs and heart that belong to radiographs of other sources.

They show where organs are, not findings: no label and no training depends on them. CheXmask has
them for NIH, CheXpert, MIMIC, PadChest, VinDr-CXR and CANDID-PTX, one table each; Montgomery has
files for its own images.

A CheXmask table has an image's name, lungs and heart as runs of pixels along the rows (absolute
starts from 1, then lengths), the image's size, and two estimates of the masks' quality. Known by
the authors' code alone, not checked on the tables.

Source: Gaggion et al., CheXmask, Scientific Data 11, 2024 (arXiv 2307.03293).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final, TextIO, cast

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.files import scan
from chestxray.sources.regions import MOST_PIXELS, Runs, runs_of_mask, text_of_runs
from chestxray.sources.table_files import bounded_lines
from chestxray.sources.tuberculosis import MONTGOMERY, is_mask

CHEXMASK: Final = frozenset({"nih", "chexpert", "mimic", "padchest", "vindr"})
"""The sources for whose images `read_chexmask` reads masks."""
STRUCTURES: Final = ("Left Lung", "Right Lung", "Heart")
LUNG: Final = "Lung"
"""One of both lungs of Montgomery's images; descriptions differ on whose left the left one is."""

COLUMNS: Final = ("image", "structure", "path", "runs")
_IDS: Final = ("Image Index", "dicom_id", "ImageID", "image_id", "Path")
_QUALITY: Final = "Dice RCA (Mean)"


def read_chexmask(
    table: str | Path, images: Container[str], least_quality: float = 0.7
) -> pd.DataFrame:
    """Read the masks of some images from a table of CheXmask, line by line.

    Args:
        table: such as `OriginalResolution/Padchest.csv`, plain or gzipped.
        images: names as the table writes them, such as those of `Collection.rows["image"]`.
        least_quality: of `Dice RCA (Mean)`, 0 to 1; the authors advise to drop masks below 0.7.

    Returns:
        `image`, `structure` (one of `STRUCTURES`), `path` (empty) and `runs`, as
        `regions.mask_of_runs` reads them; a row per mask that is not empty.

    Raises:
        SourceError: the table cannot be read, lacks a column, or holds runs outside an image.
    """
    table = Path(table)
    try:
        with _opened(table) as file:
            found = list(_wanted(table, file, images, least_quality))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table} cannot be read ({error}): download it again") from error
    return pd.DataFrame(found, columns=list(COLUMNS), dtype=object)


def read_lung_masks(tree: str | Path) -> pd.DataFrame:
    """Give the files of Montgomery's masks, `ManualMask/leftMask` and `rightMask`.

    Args:
        tree: of Montgomery.

    Returns:
        `image`, `structure` (`LUNG`), `path` (of a PNG file over the whole image, 0 outside the
        lung) and `runs` (empty); a row per file, by image.
    """
    prefix = f"{MONTGOMERY.prefix}_"
    found = [
        (name, LUNG, path, "")
        for name, paths in sorted(scan(Path(tree)).images.items())
        for path in paths
        if name.startswith(prefix) and is_mask(path)
    ]
    return pd.DataFrame(found, columns=list(COLUMNS), dtype=object)


def _opened(table: Path) -> TextIO:
    if table.suffix.casefold() == ".gz":
        return cast("TextIO", gzip.open(table, "rt", encoding="utf-8-sig", newline=""))
    return table.open(encoding="utf-8-sig", newline="")


def _wanted(
    table: Path, file: TextIO, images: Container[str], least: float
) -> Iterator[tuple[str, str, str, str]]:
    rows = csv.DictReader(bounded_lines(table, file))
    titles = rows.fieldnames or ()
    name = next((title for title in _IDS if title in titles), None)
    missing = [title for title in (*STRUCTURES, _QUALITY, "Height", "Width") if title not in titles]
    if name is None or missing:
        raise SourceError(
            f"{table} is no table of CheXmask: it lacks {', '.join(missing or _IDS)}; give a table "
            f"of OriginalResolution"
        )
    for row in rows:
        image = (row[name] or "").strip()
        if image in images and _number(row[_QUALITY]) >= least:
            height, width = (_side(row[side]) for side in ("Height", "Width"))
            for structure in STRUCTURES:
                runs = _turned(row[structure] or "", height, width)
                if runs is None:
                    raise SourceError(
                        f"{table} has runs outside the image {image} ({height} × {width}): "
                        f"download it again"
                    )
                if len(runs):
                    yield image, structure, "", text_of_runs(runs, height, width)


def _number(cell: str | None) -> float:
    try:
        return float(cell or "")
    except ValueError:
        return -1.0


def _side(cell: str | None) -> int:
    """Read a side of an image; 0, which no image has, where it is none."""
    side = _number(cell)
    return int(side) if 0 < side <= MOST_PIXELS else 0


def _turned(text: str, height: int, width: int) -> Runs | None:
    """Turn runs along the rows, from 1, into runs down the columns; None where they do not fit."""
    words = text.split()
    if len(words) % 2 or not all(word.isascii() and word.isdigit() for word in words):
        return None
    if not 0 < height * width <= MOST_PIXELS or max(map(len, words), default=0) > 9:
        return None
    numbers = np.array(words, dtype=np.int64).reshape(-1, 2)
    first, last = numbers[:, 0] - 1, numbers.sum(axis=1) - 1
    if (first < 0).any() or (last > height * width).any():
        return None
    change = np.zeros(height * width + 1, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, last, -1)
    return runs_of_mask((np.cumsum(change[:-1]) > 0).reshape(height, width))
