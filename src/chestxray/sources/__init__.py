"""Where radiographs and labels come from: the trees of each data set, read into common rows.

`read` recognises the data set of a tree by its content and reads it. A new data set is a `Source`
in a package of its own, found through the entry point group `chestxray.sources`. A user's own
table is read by the source `table`; `find_columns` and `write_columns` confirm what its columns
hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.sources.anatomy import read_chexmask, read_lung_masks
    from chestxray.sources.collection import Collection, Problem, ReadOptions, Source, SourceCard
    from chestxray.sources.phantom.tree import synth
    from chestxray.sources.registry import cards, options_of_each, read, recognise, registered
    from chestxray.sources.table import find_columns, write_columns

__all__ = [
    "Collection",
    "Problem",
    "ReadOptions",
    "Source",
    "SourceCard",
    "cards",
    "find_columns",
    "options_of_each",
    "read",
    "read_chexmask",
    "read_lung_masks",
    "recognise",
    "registered",
    "synth",
    "write_columns",
]  # fmt: skip

__getattr__ = exports(
    __name__,
    {
        "anatomy": (
            "read_chexmask",
            "read_lung_masks",
        ),
        "collection": (
            "Collection",
            "Problem",
            "ReadOptions",
            "Source",
            "SourceCard",
        ),
        "phantom.tree": ("synth",),
        "registry": (
            "cards",
            "options_of_each",
            "read",
            "recognise",
            "registered",
        ),
        "table": (
            "find_columns",
            "write_columns",
        ),
    },
)
