"""Tables of strangers as text or Arrow, up to a size: packed tables grow without end.

A gzip file can hold a thousand times its size, and Parquet repeats a cell for nothing. Both are
read up to a limit of unpacked bytes, and so is a plain file; a device or a pipe, which may never
end, is refused. A Parquet table may be longer where its file is: those of millions of radiographs
unpack to ten or fifty times their size, not to thousands.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST: Final = 256 * 2**20
"""Bytes of a table, unpacked; the labels of NIH's 112,120 radiographs have 8 MB."""

_MOST_CELLS: Final = 1_000_000_000  # of a Parquet table: 10 million rows of 40 findings have 0.4
_MOST_UNPACKED: Final = 200  # times the size of a Parquet file
_ROWS: Final = 1024  # of a Parquet table, read at a time


def _too_long(longest: int) -> str:
    return f"it has more than {longest // 2**20} MB unpacked, the most that is read"


class _Limited(io.RawIOBase):
    """The bytes of a file, up to a number of them."""

    def __init__(self, file: io.BufferedIOBase, longest: int) -> None:
        self._file, self._left, self._longest = file, longest, longest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise OSError(_too_long(self._longest))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_text(path: Path, errors: str = "strict", longest: int | None = None) -> Iterator[TextIO]:
    """Open a text of UTF-8, unpacked where its name ends in `.gz`; line ends stay as they are.

    Args:
        path: of the file.
        errors: what to do with bytes that are not UTF-8, as of `bytes.decode`.
        longest: bytes to read, unpacked; `LONGEST` when None.

    Raises:
        OSError: it cannot be opened or unpacked, is no regular file, or, while it is read, it is
            longer than `longest`.
        EOFError, zlib.error: while it is read, it cannot be unpacked.
        UnicodeDecodeError: while it is read, it is not UTF-8.
    """
    _check(path)
    packed = path.suffix.casefold() == ".gz"
    with (
        gzip.open(path) if packed else path.open("rb") as file,
        io.BufferedReader(_Limited(file, longest or LONGEST), 2**20) as limited,
    ):
        yield io.TextIOWrapper(limited, encoding="utf-8-sig", errors=errors, newline="")


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet table, a few rows at a time; categories become what they stand for.

    Raises:
        OSError: it cannot be opened, is no regular file, or is beyond a limit.
        ArrowException: it is not a Parquet table.
    """
    import pyarrow as pa  # noqa: PLC0415 - loads in 50 ms, for this one call

    tables = list(parquet_tables(path))
    return pa.concat_tables(tables)


def parquet_rows(path: Path) -> int:
    """Count the rows of a Parquet table.

    Raises:
        OSError, ArrowException: as from `read_parquet`.
    """
    from pyarrow import parquet  # noqa: PLC0415 - as above

    _check(path)
    rows: int = parquet.read_metadata(path).num_rows
    return rows


def parquet_tables(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Give the rows of a Parquet table, a few at a time, and an empty table first.

    Args:
        path: of the table.
        columns: titles to read, in the order of the table; all when None.

    Raises:
        OSError, ArrowException: as from `read_parquet`.
    """
    import pyarrow as pa  # noqa: PLC0415 - as above
    from pyarrow import parquet  # noqa: PLC0415

    _check(path)
    longest = max(LONGEST, _MOST_UNPACKED * path.stat().st_size)
    with parquet.ParquetFile(path) as file:
        if file.metadata.num_rows * file.metadata.num_columns > _MOST_CELLS:
            raise OSError(f"it has more than {_MOST_CELLS:,} cells, the most that is read")
        schema = _without_categories(file.schema_arrow)
        if columns is not None:
            schema = pa.schema([field for field in schema if field.name in columns])
        yield schema.empty_table()
        size = 0
        for packed in file.iter_batches(_ROWS, columns=columns):
            batch = packed.cast(schema)
            size += batch.nbytes
            if size > longest:
                raise OSError(_too_long(longest))
            yield pa.Table.from_batches([batch])


def parquet_titles(path: Path) -> list[str]:
    """Read the column titles of a Parquet table.

    Raises:
        OSError, ArrowException: as from `read_parquet`.
    """
    from pyarrow import parquet  # noqa: PLC0415 - as above

    _check(path)
    return list(parquet.read_schema(path).names)


def _without_categories(schema: pa.Schema) -> pa.Schema:
    """Give the schema of plain columns: a category is kept once, whatever its number of cells."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    for place, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(place, field.with_type(field.type.value_type))
        elif "dictionary<" in str(field.type):
            raise OSError(f"its column {field.name!r} has categories inside {field.type}")
    return schema


def _check(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
