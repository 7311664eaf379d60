"""JSON files of data sets, whole or a value per line, up to a size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chestxray.errors import SourceError
from chestxray.table_limits import open_text


def json_value(path: Path, what: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read the value of a file.

    Args:
        path: of the file, plain or gzipped.
        what: it should be, for people.

    Raises:
        SourceError: the file cannot be read, is too long, or is not JSON.
    """
    try:
        with open_text(path) as file:
            return json.loads(file.read())
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not {what} ({error}): download it again") from error


def json_lines(path: Path, what: str) -> Iterator[dict[str, Any]]:
    """Read the objects of a file that has one a line.

    Args:
        path: of the file, plain or gzipped.
        what: it should be, for people.

    Raises:
        SourceError: the file cannot be read, is too long, or a line is not an object.
    """
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(line, number)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not {what} ({error}): download it again") from error


def _object(line: str, number: int) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"line {number} is not an object")  # noqa: TRY004 - of the file's content
    return value
