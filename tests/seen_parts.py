"""Bundles with another origin, and datasets that say they are of another source."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from chestxray.dataset.store import Dataset
from chestxray.sources import overlaps


def changed(bundle: Path, out: Path, **trained) -> Path:
    """Copy a bundle with another origin."""
    folder = Path(shutil.copytree(bundle, out))
    card = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    card["trained_on"] |= {"synthetic": False, **trained}
    (folder / "bundle.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def named(dataset: Dataset, source: str) -> Dataset:
    """Give a dataset that says its radiographs are of another source."""
    record = dataset.manifest.sources[0].model_copy(
        update={"name": source, "title": overlaps.title(source), "synthetic": False}
    )
    manifest = dataset.manifest.model_copy(update={"sources": (record,)})
    return replace(dataset, manifest=manifest, index=dataset.index.assign(source=source))
