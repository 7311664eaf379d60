"""NIH ChestX-ray14 as it really lies on disks: trees, label tables, boxes and official lists.

`read` understands a whole tree, `read_labels` one label table, `read_boxes` one box table. No
image is decoded here; `chestxray verify` does that.

Source: Wang et al., ChestX-ray8, CVPR 2017 (arXiv 1705.02315), and NIH's corrected table of 2020.
"""

from __future__ import annotations

from chestxray.sources.nih.boxes import BoxTable, read_boxes
from chestxray.sources.nih.labels import LabelTable, read_labels
from chestxray.sources.nih.tree import read

__all__ = ["BoxTable", "LabelTable", "read", "read_boxes", "read_labels"]
