"""The real data set, fetched: from NIH's Box (`download_nih`) or from Kaggle (`download_kaggle`).

Both can be interrupted at any moment and called again, and leave the tree that `sources.nih`
reads. What was fetched stands in `download.json`.
"""

from __future__ import annotations

from chestxray.sources.download.box import download_nih
from chestxray.sources.download.kaggle import download_kaggle

__all__ = ["download_kaggle", "download_nih"]
