"""Opens the CSV tables and name lists of a tree, plain or gzipped, as text and nothing else.

What the columns mean is for `labels` and `boxes` to say.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

import pandas as pd

from chestxray.errors import SourceError

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_SPARE_COLUMNS: Final = 4  # NIH's rows end with up to three more commas than the header has


def stem(name: str) -> str:
    """Give an image's name without its suffix, which differs between copies (PNG, JPEG)."""
    head, dot, tail = name.rpartition(".")
    return head if dot and f".{tail.casefold()}" in IMAGE_SUFFIXES else name


def key(title: str) -> str:
    """Reduce a column title to letters: `Image_Index`, `ImageIndex`, `Image Index` are one."""
    return re.sub(r"[^a-z]", "", title.casefold())


@contextmanager
def _opened(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline="") as file:
                yield file
        else:
            with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
                yield file
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SourceError(
            f"{path} cannot be read as UTF-8 text ({error}): save or fetch it again"
        ) from error


def header(path: Path) -> list[str]:
    """Read the titles in the first line of a CSV table; empty where the table is empty.

    Raises:
        SourceError: the file is not readable as text.
    """
    with _opened(path, errors="replace") as file:  # a stranger's table may be in any encoding
        try:
            return next(csv.reader(file), [])
        except csv.Error as error:
            raise SourceError(f"{path} is not a CSV table ({error}): fetch it again") from error


def cells(path: Path) -> pd.DataFrame:
    """Read everything below the header of a CSV table, by position.

    Returns:
        Strings without outer white space, columns 0, 1, … one for each title; empty where a row
        is shorter than the header.

    Raises:
        SourceError: not readable, or a row holds more values than there are titles.
    """
    width = len(header(path))
    with _opened(path) as file:
        try:
            found = pd.read_csv(
                file, header=None, skiprows=1, names=list(range(width + _SPARE_COLUMNS)),
                dtype=str, keep_default_na=False, na_filter=False,
            )  # fmt: skip
        except pd.errors.EmptyDataError:
            return pd.DataFrame(columns=list(range(width)), dtype=str)
        except pd.errors.ParserError as error:
            raise SourceError(
                f"{path} is not a complete CSV table ({error}): fetch it again"
            ) from error
    if not isinstance(found.index, pd.RangeIndex):  # pandas takes what is too much as the index
        raise _too_long(path, "a line", width)
    found = found.fillna("").apply(lambda column: column.str.strip())
    too_long = (found[list(range(width, width + _SPARE_COLUMNS))] != "").any(axis=1)
    if too_long.any():
        raise _too_long(path, f"line {too_long.idxmax() + 2}", width)
    table: pd.DataFrame = found[list(range(width))]
    return table


def _too_long(path: Path, where: str, width: int) -> SourceError:
    return SourceError(
        f"{path}: {where} holds more values than the header has titles ({width}), so that values "
        "cannot be assigned to columns: quote the separators inside values"
    )


def lines(path: Path) -> list[str]:
    """Read the lines of a list that are not empty, without outer white space.

    Raises:
        SourceError: the file is not readable as text.
    """
    with _opened(path) as file:
        return [line.strip() for line in file if line.strip()]
