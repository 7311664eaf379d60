"""What others published on ChestX-ray14, as two tables beside this file.

`published.csv` holds mean AUROCs over the 14 findings, `published_localisation.csv` what was scored
on the 984 boxes. A figure means nothing without its split: `official` is NIH's own test list, `own`
another one, drawn by patient by the authors, which is about 0.03 easier for the same model.
*Selected on test* means that the authors' code looked at the test set while it trained and kept
the best: take it as optimistic.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Final

from chestxray.findings import FINDINGS

OFFICIAL_TEST_IMAGES: Final = 25_596
BOXES: Final = 984


@dataclass(frozen=True)
class Published:
    """A published mean AUROC.

    Attributes:
        system: what was evaluated.
        source: where it stands; empty where only the figure is known.
        split: `official` or `own`.
        input: side of the images in pixels; empty where it is not told.
        low, high: the figure, or the range of several runs.
        selected_on_test: whether the best was picked by looking at the test set.
        remark: what else to know.
        findings: the AUROC of each finding; None where it is not told.
    """

    system: str
    source: str
    split: str
    input: str
    low: float
    high: float
    selected_on_test: bool
    remark: str
    findings: dict[str, float] | None


@dataclass(frozen=True)
class Located:
    """A published localisation on the 984 boxes.

    Attributes:
        row: system and measure.
        remark: what else to know.
        low, high: over all boxes, the figure or the range of several runs; None where not told.
        findings: of each finding; None where it is not told.
    """

    row: str
    remark: str
    low: float | None
    high: float | None
    findings: dict[str, float] | None


def classification() -> list[Published]:
    """Give the published mean AUROCs, those of the official split first."""
    return [
        Published(
            system=row["system"],
            source=row["source"],
            split=row["split"],
            input=row["input"],
            low=float(row["low"]),
            high=float(row["high"]),
            selected_on_test=row["selected_on_test"] == "yes",
            remark=row["remark"],
            findings=_findings(row),
        )
        for row in _table("published.csv")
    ]


def localisation() -> list[Located]:
    """Give what was published on the 984 boxes."""
    return [
        Located(
            row=row["row"],
            remark=row["remark"],
            low=float(row["low"]) if row["low"] else None,
            high=float(row["high"]) if row["high"] else None,
            findings=_findings(row),
        )
        for row in _table("published_localisation.csv")
    ]


def _findings(row: dict[str, str]) -> dict[str, float] | None:
    return {name: float(row[name]) for name in FINDINGS if row.get(name)} or None


def _table(name: str) -> Iterator[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())
