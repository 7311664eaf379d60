"""Where a run stands among published figures: beside all of them, compared with few.

Two mean AUROCs may be compared when they are of the same test images, so a run is compared only
after all of the official test set, and only with figures of that. It *matches* a figure where its
own interval by patient holds it; else it is *above* or *below*. The published figures have an
uncertainty too, which is mostly not told: a small difference is no proof of anything.
"""

from __future__ import annotations

from typing import Any, Final

from chestxray.evaluation import published
from chestxray.evaluation.published import BOXES, OFFICIAL_TEST_IMAGES, Located, Published
from chestxray.findings import FINDINGS
from chestxray.sources.collection import SYNTHETIC

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
        "rows": [_row(row, mean, note) for row in published.classification()],
        "localisation": [_located(row) for row in published.localisation()] if localisation else [],
        "localisation_note": _about_boxes(localisation) if localisation else None,
    }


def _obstacle(metrics: dict[str, Any]) -> str | None:
    """Tell why a run may be compared with no published figure, None where it may."""
    mean, images, name = metrics["mean"]["auroc"], metrics["images"], metrics["split_name"]
    obstacles = {
        "phantoms are drawn: what is measured on them says nothing of patients": (
            metrics["source"] == SYNTHETIC
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
