"""Opens tables (CSV, TSV, Parquet) and name lists, plain or gzipped, as text and nothing else.

What the columns mean is for each source to say.
"""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

import numpy as np
import pandas as pd

from chestxray import table_limits
from chestxray.errors import SourceError
from chestxray.table_limits import open_text, parquet_titles, read_parquet

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".img")  # .img: raw images of JSRT
DICOM_SUFFIXES: Final = (".dcm", ".dicom", ".dic", ".ima")
_TABLE_SUFFIXES: Final = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_SEPARATORS: Final = ("\t", ";", ",")
_LONGEST: Final = 4 * 2**30  # bytes of a table of which a few columns are kept: reports are long
_LONGEST_LINE: Final = 4 * 2**20  # characters; a line of CheXmask has some 30,000
_CELL: Final = 64  # bytes that a kept cell, and a kept row, takes beside its characters
_SPARE_COLUMNS: Final = 4  # NIH's rows end with up to three more commas than the header has


def stem(name: str) -> str:
    """Give an image's name without its suffix, which differs between copies (PNG, JPEG)."""
    return _without(name, IMAGE_SUFFIXES)


def radiograph_stem(name: str) -> str:
    """Give a radiograph's name without its suffix, DICOM included; keeps the dots of a UID."""
    return _without(name, (*IMAGE_SUFFIXES, *DICOM_SUFFIXES))


def table_stem(path: Path) -> str:
    """Give a table's name without its suffixes: `labels` of `labels.csv.gz`."""
    return re.sub(r"(\.csv|\.tsv|\.parquet)?(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def is_table(name: str) -> bool:
    """Tell by the name whether a file is a table."""
    return name.casefold().endswith(_TABLE_SUFFIXES)


def key(title: str) -> str:
    """Reduce a column title to letters: `Image_Index`, `ImageIndex`, `Image Index` are one."""
    return re.sub(r"[^a-z]", "", title.casefold())


def titles(path: Path) -> list[str]:
    """Read the column titles of a table of any kind, stripped.

    Raises:
        SourceError: the file is not readable as a table.
    """
    if path.suffix.casefold() == ".parquet":
        with _parquet_errors(path):
            return [title.strip() for title in parquet_titles(path)]
    return [title.strip() for title in header(path, separator(path))]


def text_table(path: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read a table of any kind as text.

    Args:
        path: of the table.
        columns: titles to keep, all when None. A CSV of reports may be longer then.

    Returns:
        A column per title, of text without outer white space; empty where a value is missing. Whole
        numbers that Parquet holds as floats lose their `.0`; lists become JSON.

    Raises:
        SourceError: not readable, no rows, or a title that is used twice.
    """
    if path.suffix.casefold() == ".parquet":
        with _parquet_errors(path):
            found: pd.DataFrame = read_parquet(path).to_pandas().reset_index(drop=True)
        table = pd.DataFrame({str(name).strip(): _as_text(found[name]) for name in found.columns})
        names: Sequence[str] = [str(name).strip() for name in found.columns]
    else:
        mark = separator(path)
        names = [title.strip() for title in header(path, mark)]
        places = [place for place, name in enumerate(names) if columns is None or name in columns]
        table = cells(path, mark) if columns is None else _chosen_cells(path, mark, places)
        names = [names[place] for place in places]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise SourceError(f"{path} has several columns called {', '.join(twice)}: rename them")
    if table.empty:
        raise SourceError(f"{path} has no rows")
    table = table.set_axis(list(names), axis=1)
    return table if columns is None else table[[name for name in names if name in columns]]


def separator(path: Path) -> str:
    """Tell what separates the columns of a text table: a tab, a semicolon or a comma."""
    with _opened(path, errors="replace") as file:
        first = re.sub(r'"[^"]*"', "", next(bounded_lines(path, file), ""))
    return max(_SEPARATORS, key=first.count) if any(map(first.count, _SEPARATORS)) else ","


def header(path: Path, separator: str = ",") -> list[str]:
    """Read the titles in the first line of a text table; empty where the table is empty.

    Raises:
        SourceError: the file is not readable as text.
    """
    with _opened(path, errors="replace") as file:  # a stranger's table may be in any encoding
        try:
            return next(csv.reader(bounded_lines(path, file), delimiter=separator), [])
        except csv.Error as error:
            raise SourceError(f"{path} is not a CSV table ({error}): download it again") from error


def cells(path: Path, separator: str = ",", rows: int | None = None) -> pd.DataFrame:
    """Read everything below the header of a text table, by position.

    Args:
        path: of the table.
        separator: between its cells.
        rows: how many to read, all when None.

    Returns:
        Strings without outer white space, columns 0, 1, … one for each title; empty where a row
        is shorter than the header.

    Raises:
        SourceError: not readable, or a row holds more values than there are titles.
    """
    width = len(header(path, separator))
    with _opened(path) as file:
        try:
            found = pd.read_csv(
                file, sep=separator, header=None, skiprows=1,
                names=list(range(width + _SPARE_COLUMNS)), dtype=str, keep_default_na=False,
                na_filter=False, nrows=rows,
            )  # fmt: skip
        except pd.errors.EmptyDataError:
            return pd.DataFrame(columns=list(range(width)), dtype=str)
        except pd.errors.ParserError as error:
            raise SourceError(
                f"{path} is not a complete CSV table ({error}): download it again"
            ) from error
    if not isinstance(found.index, pd.RangeIndex):  # pandas takes what is too much as the index
        raise _too_long(path, "a line", width)
    found = found.fillna("").apply(lambda column: column.str.strip())
    too_long = (found[list(range(width, width + _SPARE_COLUMNS))] != "").any(axis=1)
    if too_long.any():
        raise _too_long(path, f"line {too_long.idxmax() + 2}", width)
    table: pd.DataFrame = found[list(range(width))]
    return table


def _chosen_cells(path: Path, separator: str, places: Sequence[int]) -> pd.DataFrame:
    """Read a few columns of a text table, by position, as `cells` reads them.

    The other columns are dropped row by row, so that long texts in them take no memory.
    """
    width = len(header(path, separator))
    kept: list[list[str]] = []
    size = 0
    with _opened(path, longest=_LONGEST) as file:
        try:
            reader = csv.reader(bounded_lines(path, file), delimiter=separator)
            next(reader, None)
            for row in filter(None, reader):
                if any(cell.strip() for cell in row[width:]):
                    raise _too_long(path, f"line {reader.line_num}", width)
                kept.append([row[at].strip() if at < len(row) else "" for at in places])
                size += sum(map(len, kept[-1])) + _CELL * (len(places) + 1)
                if size > table_limits.LONGEST:
                    raise SourceError(
                        f"{path} has more than {table_limits.LONGEST // 2**20} MB in the columns "
                        f"that are read, the most that is kept: split it"
                    )
        except csv.Error as error:
            raise SourceError(
                f"{path} is not a complete CSV table ({error}): download it again"
            ) from error
    return pd.DataFrame(kept, columns=list(places), dtype="str")


def bounded_lines(path: Path, file: TextIO) -> Iterator[str]:
    """Give the lines of a text with their ends.

    Raises:
        SourceError: one is so long that it is none of a table.
    """
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise SourceError(f"{path} has a line of more than {_LONGEST_LINE} characters")
        yield line


def lines(path: Path) -> list[str]:
    """Read the lines of a list that are not empty, without outer white space.

    Raises:
        SourceError: the file is not readable as text.
    """
    with _opened(path) as file:
        return [line.strip() for line in bounded_lines(path, file) if line.strip()]


@contextmanager
def _opened(path: Path, errors: str = "strict", longest: int | None = None) -> Iterator[TextIO]:
    try:
        with open_text(path, errors, longest) as file:
            yield file
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SourceError(
            f"{path} cannot be read as UTF-8 text ({error}): save or download it again"
        ) from error


def _too_long(path: Path, where: str, width: int) -> SourceError:
    return SourceError(
        f"{path}: {where} holds more values than the header has titles ({width}), so that values "
        "cannot be assigned to columns: quote the separators inside values"
    )


def _without(name: str, suffixes: tuple[str, ...]) -> str:
    head, dot, tail = name.rpartition(".")
    return head if dot and f".{tail.casefold()}" in suffixes else name


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:  # those of pyarrow
        raise SourceError(
            f"{path} is not a readable Parquet table ({error}): save it again"
        ) from error


def _as_text(column: pd.Series) -> pd.Series:
    """Write the values of a Parquet column as a CSV would hold them."""
    if pd.api.types.is_float_dtype(column.dtype):
        whole = column.dropna()
        if (whole % 1 == 0).all():
            column = column.astype("Int64")
    elif column.dtype == object:
        column = column.map(_list_as_json)
    text: pd.Series = column.astype("str").where(column.notna(), "").str.strip()
    return text


def _list_as_json(value: object) -> object:
    if isinstance(value, np.ndarray | list | tuple):
        return json.dumps([str(item) for item in value], ensure_ascii=False)
    return value
