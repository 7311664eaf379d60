"""What `prepare` has done so far: a line a chunk, appended and synced, a torn last line cut off."""

from __future__ import annotations

import json
import os
from pathlib import Path

Packed = tuple[int, int] | str
"""What became of a file: its width and height in pixels, or why it could not be read."""

Chunks = dict[int, list[Packed]]
"""Chunks by their first row."""


def read(path: Path) -> Chunks:
    """Read the journal, and cut off what a kill left half-written; empty where there is none."""
    chunks: Chunks = {}
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        chunks[entry["row"]] = [
            file if isinstance(file, str) else (file[0], file[1]) for file in entry["files"]
        ]
        whole += len(line)
    if path.exists():
        os.truncate(path, whole)
    return chunks


def append(path: Path, chunks: Chunks) -> None:
    """Note chunks durably; what they say must be on the disk already."""
    with path.open("a", encoding="utf-8") as file:
        for row, files in chunks.items():
            file.write(json.dumps({"row": row, "files": files}) + "\n")
        file.flush()
        os.fsync(file.fileno())
