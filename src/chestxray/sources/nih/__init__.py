"""NIH ChestX-ray14 as it lies on users' disks: trees, label tables, boxes and official lists.

No image is decoded here; `chestxray verify` does that.

Source: Wang et al., ChestX-ray8, CVPR 2017 (arXiv 1705.02315), and NIH's corrected table of 2020.
"""

from __future__ import annotations

from chestxray.sources.nih.source import NIH, PHANTOM_MARKS, are_phantoms
from chestxray.sources.nih.tables import FINDINGS, BoxTable, LabelTable, read_boxes, read_labels

__all__ = [
    "FINDINGS",
    "NIH",
    "PHANTOM_MARKS",
    "BoxTable",
    "LabelTable",
    "are_phantoms",
    "read_boxes",
    "read_labels",
]
