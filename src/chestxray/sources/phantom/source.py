"""Phantoms as a source: the tree that `chestxray synth` writes, in NIH's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from chestxray.errors import SourceError
from chestxray.sources.collection import Collection, ReadOptions, SourceCard
from chestxray.sources.nih import marked_as_drawn
from chestxray.sources.nih.tree import label_tables, read
from chestxray.sources.phantom.tree import UNFINISHED


class _Phantoms:
    name: Final = "phantoms"
    card: Final = SourceCard(
        title="phantoms",
        licence="drawn by chestxray; no terms",
        label_origin="drawn, so known exactly",
        synthetic=True,
    )

    def recognises(self, tree: Path) -> bool:
        return (
            any(marked_as_drawn(table.parent) for table in label_tables(tree)[:1])
            or (tree / UNFINISHED).exists()
        )

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        for folder in (tree, *(table.parent for table in label_tables(tree)[:1])):
            if (folder / UNFINISHED).exists():
                raise SourceError(
                    f"{folder} holds unfinished phantoms: run `chestxray synth` again"
                )
        # They are written in the manner of 2017, which a small table's content need not show.
        return replace(read(tree, options, self.name, self.card), release="2017")


PHANTOMS: Final = _Phantoms()
