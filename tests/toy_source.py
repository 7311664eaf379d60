"""A source of toy trees for tests: a folder of radiographs with `toy.json` beside them.

The tree's folder gives the source its name, so that two folders called alike are one source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chestxray.findings import Findings
from chestxray.sources.collection import Collection, ReadOptions, SourceCard, no_boxes

TABLE = "toy.json"


@dataclass(frozen=True)
class Toy:
    """One radiograph: its key, patient and labels; equal `pixels` make equal radiographs."""

    image: str
    patient: str
    pixels: int
    labels: Mapping[str, float | None] = field(default_factory=dict)


def write_toys(
    tree: Path,
    toys: Sequence[Toy],
    findings: Sequence[str] = ("Mass",),
    lists: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a tree; labels that a toy does not give are 0, None is unknown."""
    tree.mkdir(parents=True)
    for toy in toys:
        pixels = np.random.default_rng(toy.pixels).integers(0, 256, (24, 32), np.uint8)
        # Another compression in each tree: equal pixels, different files.
        Image.fromarray(pixels).save(tree / toy.image, compress_level=len(tree.name) % 10)
    table = {
        "findings": list(findings),
        "lists": {part: list(names) for part, names in (lists or {}).items()},
        "rows": [[toy.image, toy.patient, dict(toy.labels)] for toy in toys],
    }
    (tree / TABLE).write_text(json.dumps(table))
    return tree


def toy_collection(tree: Path) -> Collection:
    """Read a toy tree."""
    table: dict[str, Any] = json.loads((tree / TABLE).read_text())
    findings = Findings(table["findings"])
    rows = pd.DataFrame(
        {
            "image": image, "path": str(tree / image), "patient": patient, "study": "",
            "follow_up": 0, "age": np.nan, "sex": "", "view": "PA",
            **{finding: labels.get(finding, 0.0) for finding in findings},
        }
        for image, patient, labels in table["rows"]
    ).astype(dict.fromkeys(findings, float))  # fmt: skip
    return Collection(
        name=tree.name,
        card=_Toys.card,
        findings=findings,
        rows=rows.sort_values("image", ignore_index=True),
        boxes=no_boxes(),
        official={part: frozenset(names) for part, names in table["lists"].items()},
        problems=(),
    )


class _Toys:
    name = "toys"
    card = SourceCard(title="toys", synthetic=True)

    def recognises(self, tree: Path) -> bool:
        return (tree / TABLE).is_file()

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        del options
        return toy_collection(tree)


TOYS = _Toys()


def install(patch: pytest.MonkeyPatch) -> None:
    """Make the toys known as the source of an installed package."""
    point = EntryPoint("toys", "toy_source:TOYS", "chestxray.sources")
    patch.setattr("chestxray.sources.registry.entry_points", lambda group: [point])  # noqa: ARG005
