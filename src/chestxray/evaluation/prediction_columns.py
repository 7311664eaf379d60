"""Tables of predictions as columns: Parquet, of up to hundreds of millions of probabilities.

A CSV is read row by row, as Python's own numbers and texts. Parquet comes as Arrow columns, a few
thousand rows at a time, and stays columns: probabilities go into one array, texts stay Arrow's.
Above `_IN_MEMORY` bytes an array lies in a temporary file, from which the system keeps in memory
what is used (`column_store`). TMPDIR says where.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_IN_MEMORY: Final = 512 * 2**20

Cells = Callable[[str, list[Any], list[str]], npt.NDArray[np.float64]]
"""Reads the cells of a column that are not numbers: its title, the cells, the images' names."""


def column_store(rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Give an array for columns one after the other, float64 [rows, columns] of zeros.

    It lies in memory, or, where it is large, in a temporary file that ends with the array.
    """
    size = rows * columns * np.dtype(np.float64).itemsize
    if size <= _IN_MEMORY:
        return np.zeros((rows, columns))
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        stored: npt.NDArray[np.float64] = np.memmap(
            file, dtype=np.float64, mode="r+", shape=(columns, rows)
        )
    return np.asarray(stored).T


def numbers_of(
    tables: Iterable[pa.Table],
    numbers: dict[str, int],
    texts: dict[str, int],
    rows: int,
    read: Cells,
) -> tuple[npt.NDArray[np.float64], dict[str, pd.Series[str]]]:
    """Read columns of numbers and of text from consecutive parts of a table.

    Args:
        tables: the parts, in row order.
        numbers: title → place of a column of numbers.
        texts: title → place of a column of text; the first names the images.
        rows: of all parts.
        read: for a column of another type than numbers.

    Returns:
        The numbers, float64 [rows, k], NaN where a cell is empty, and the texts without outer
        white space, empty where a cell is.
    """
    values = column_store(rows, len(numbers))
    parts: dict[str, list[pa.Array]] = {name: [] for name in texts}
    start = 0
    for table in tables:
        for name, place in texts.items():
            parts[name].append(_text(table.column(place)))
        end = start + table.num_rows
        for k, (name, place) in enumerate(numbers.items()):
            values[start:end, k] = _numbers(name, table.column(place), parts, read)
        start = end
    found = {name: _series(of) for name, of in parts.items()}
    return values, found


def _numbers(
    name: str, column: pa.ChunkedArray, parts: dict[str, list[pa.Array]], read: Cells
) -> npt.NDArray[np.float64]:
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        found: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
        return found
    names = next(iter(parts.values()))[-1].to_pylist()
    return read(name, column.to_pylist(), names)


def _text(column: pa.ChunkedArray) -> pa.Array:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        cells = ["" if cell is None else str(cell) for cell in column.to_pylist()]
        column = pa.chunked_array([pa.array(cells, pa.large_string())])
    plain = pc.fill_null(column.cast(pa.large_string()), "")
    return pc.utf8_trim_whitespace(plain.combine_chunks())


def _series(parts: Sequence[pa.Array]) -> pd.Series[str]:
    whole = pa.chunked_array(parts, pa.large_string())
    series: pd.Series[str] = pa.table({"text": whole}).to_pandas()["text"]
    return series
