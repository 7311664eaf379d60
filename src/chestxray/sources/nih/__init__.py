"""NIH ChestX-ray14 as it really lies on disks: trees, label tables, boxes and official lists.

No image is decoded here; `chestxray verify` does that.

Source: Wang et al., ChestX-ray8, CVPR 2017 (arXiv 1705.02315), and NIH's corrected table of 2020.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from chestxray.sources.collection import Collection, ReadOptions, SourceCard
from chestxray.sources.nih.boxes import BoxTable, read_boxes
from chestxray.sources.nih.labels import FINDINGS, LabelTable, read_labels
from chestxray.sources.nih.tree import label_tables, read

__all__ = [
    "FINDINGS",
    "MARKS_OF_PHANTOMS",
    "NIH",
    "BoxTable",
    "LabelTable",
    "read_boxes",
    "read_labels",
]


# Phantoms lie in NIH's layout (sources.phantom), and nothing may call them real.
MARKS_OF_PHANTOMS: Final = ("phantom.json", "phantom-unfinished.json")


def marked_as_drawn(folder: Path) -> bool:
    """Tell whether the label table in a folder is one of phantoms."""
    return any((folder / name).exists() for name in MARKS_OF_PHANTOMS)


class _NIH:
    name: Final = "nih"
    card: Final = SourceCard(
        title="NIH ChestX-ray14",
        citation="Wang et al., ChestX-ray8, CVPR 2017 (arXiv 1705.02315)",
        licence="open; cite the paper and acknowledge the NIH Clinical Center",
        label_origin="mined from the reports by a program; NIH expects over 90 % to be right",
        overlaps=(
            "RSNA Pneumonia",
            "SIIM-ACR Pneumothorax",
            "ChestX-Det",
            "NIH-CXR-LT",
            "Google's adjudicated NIH labels",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return any(not marked_as_drawn(table.parent) for table in label_tables(tree)[:1])

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        return read(tree, options, self.name, self.card)


NIH: Final = _NIH()
