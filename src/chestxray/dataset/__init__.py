"""Radiographs and labels as a prepared dataset: split by patient, decoded once, packed in shards.

`Dataset.open` opens one. The functions `prepare`, which makes one, and `verify`, which checks one
or a raw tree, are in the modules of the same name and offered as `chestxray.prepare` and
`chestxray.verify`. Nothing is imported before it is used: the processes that only decode files
start without pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chestxray.dataset.store import Dataset, Manifest

__all__ = ["Dataset", "Manifest"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from chestxray.dataset import store  # noqa: PLC0415 - imports pandas

    return getattr(store, name)
