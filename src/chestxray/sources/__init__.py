"""Where radiographs and labels come from: each data set's trees, read into common rows.

`read` recognises the data set of a tree by its content and reads it. A new data set is a `Source`
in a package of its own, found through the entry point group `chestxray.sources`.
"""

from __future__ import annotations

from chestxray.sources.collection import Collection, Problem, ReadOptions, Source, SourceCard
from chestxray.sources.registry import read, recognise, registered

__all__ = [
    "Collection",
    "Problem",
    "ReadOptions",
    "Source",
    "SourceCard",
    "read",
    "recognise",
    "registered",
]  # fmt: skip
