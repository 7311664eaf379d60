"""The real data set, fetched: from NIH's Box (`download_nih`) or from Kaggle (`download_kaggle`).

Both can be interrupted at any moment and called again, and leave the tree that `sources.nih`
reads. What was fetched stands in `download.json`.
"""

from __future__ import annotations

from chestxray.sources.download.kaggle import download_kaggle
from chestxray.sources.download.nih_box import download_nih

__all__ = ["download_kaggle", "download_nih"]
