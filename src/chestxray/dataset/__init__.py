"""Radiographs and labels as a prepared dataset: split by patient, decoded once, packed in shards.

`prepare` makes a dataset from raw trees, `verify` checks a raw tree or a dataset, and `Dataset`
opens one.
"""

from __future__ import annotations

from chestxray.dataset.prepare import prepare
from chestxray.dataset.store import Dataset, Manifest
from chestxray.dataset.verify import verify

__all__ = ["Dataset", "Manifest", "prepare", "verify"]
