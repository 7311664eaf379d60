"""What others published on ChestX-ray14, as two tables beside this file.

`published.csv` holds mean AUROCs over the 14 findings, `published_localisation.csv` what was scored
on the 984 boxes. A figure means nothing without its split: `official` is NIH's own test list, `own`
another one, drawn by patient by the authors, which is about 0.03 easier for the same model.
*Selected on test* means that the authors' code looked at the test set while it trained and kept
the best: take it as optimistic.

Where a run stands among published figures: beside all of them, compared with few.

Two mean AUROCs may be compared when they are of the same test images, so a run is compared only
after all of the official test set, and only with figures of that. It *matches* a figure where its
own interval by patient holds it; else it is *above* or *below*. The published figures have an
uncertainty too, which is mostly not told: a small difference is no proof of anything.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from chestxray.sources.nih import FINDINGS

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


def published_classification() -> list[Published]:
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


def published_localization() -> list[Located]:
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


NOT_COMPARABLE: Final = "not comparable"
OWN_SPLIT: Final = "its authors' own split by patient: other test images, easier by about 0.03"
STRICTER: Final = (
    "Wang counts a finding as located when any of several boxes overlaps enough; here a heatmap "
    "gives one box, which is stricter"
)


def standing(metrics: dict[str, Any], localisation: dict[str, Any] | None) -> dict[str, Any]:
    """Put a run beside the published figures; gives what `standing.json` holds.

    Args:
        metrics: what `metrics.json` holds.
        localisation: what `localisation.json` holds; None without heatmaps.

    Returns:
        `split`, `split_name`, the run's `mean` AUROC, and `note`: why nothing may be compared,
        None where something may. `rows`: each published figure with the `verdict` on the run. Of a
        range, `auroc` is the middle, and its ends are `auroc_low` and `auroc_high`.
        `localisation` with `localisation_note`: figures on the 984 boxes; empty without heatmaps.
    """
    mean = metrics["mean"]["auroc"]
    note = _obstacle(metrics)
    return {
        "split": metrics["split"],
        "split_name": metrics["split_name"],
        "mean": {key: mean[key] for key in ("value", "low", "high", "reason") if key in mean},
        "note": note,
        "rows": [_row(row, mean, note) for row in published_classification()],
        "localisation": [_located(row) for row in published_localization()] if localisation else [],
        "localisation_note": _about_boxes(localisation) if localisation else None,
    }


def _obstacle(metrics: dict[str, Any]) -> str | None:
    """Tell why a run may be compared with no published figure, None where it may."""
    mean, images, name = metrics["mean"]["auroc"], metrics["images"], metrics["split_name"]
    obstacles = {
        "phantoms are drawn: what is measured on them says nothing of patients": (
            metrics["synthetic"]
        ),
        f"the split is {name or 'unknown'!r}: other test images than those of NIH's list": (
            name != "official"
        ),
        f"the part is {metrics['split']!r}: the published figures are of the test part": (
            metrics["split"] != "test"
        ),
        f"{images:,} images were evaluated, the official test list has {OFFICIAL_TEST_IMAGES:,}": (
            images != OFFICIAL_TEST_IMAGES
        ),
        f"the mean is over {mean['findings']} findings, the published ones over {len(FINDINGS)}": (
            mean["findings"] != len(FINDINGS)
        ),
        "the mean AUROC has no interval, so nothing can be said of a difference": (
            mean["low"] is None
        ),
    }
    return next((why for why, holds in obstacles.items() if holds), None)


def _row(row: Published, mean: dict[str, Any], note: str | None) -> dict[str, Any]:
    why = note or (OWN_SPLIT if row.split != "official" else None)
    return {
        "system": row.system,
        "input": row.input,
        "source": row.source,
        "split": row.split,
        "auroc": round((row.low + row.high) / 2, 4),
        "auroc_low": row.low,
        "auroc_high": row.high,
        "selected_on_test": row.selected_on_test,
        "remark": row.remark,
        "comparable": why is None,
        "verdict": NOT_COMPARABLE if why else _verdict(row, mean["low"], mean["high"]),
        "why": why,
        "findings": row.findings,
    }


def _verdict(row: Published, low: float, high: float) -> str:
    """Place the run's interval against a figure, or a range, which matches where they meet."""
    if low > row.high:
        return "above"
    if high < row.low:
        return "below"
    return "matches"


def _located(row: Located) -> dict[str, Any]:
    return {
        "row": row.row,
        "remark": row.remark,
        "low": row.low,
        "high": row.high,
        **(row.findings or {}),
    }


def _about_boxes(localisation: dict[str, Any]) -> str:
    """Tell how far the localisation may be held against the published one."""
    cases = localisation["all"]["cases"]
    if cases == BOXES:
        return f"{STRICTER}."
    return f"{cases} cases were located, the published figures are of {BOXES} boxes. {STRICTER}."
