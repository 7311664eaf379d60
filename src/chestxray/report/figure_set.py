"""Which figures a run has: for the page one by one, as files in plates of panels.

A plate is what a journal would print as one figure. It reads finished numbers and leaves drawing to
`figures`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chestxray.report.figures import panels as confusion
from chestxray.report.figures import panels as curves
from chestxray.report.figures import panels as localisation
from chestxray.report.figures import panels as reliability
from chestxray.report.figures import style, training
from chestxray.report.figures.forest import Row, forest
from chestxray.report.figures.style import Drawing
from chestxray.report.formatting import measured, spaced
from chestxray.report.run_files import Files, Json

SPLITS: Final = ("train", "val", "test")
AXES: Final = {
    "sex": "Sex",
    "age": "Age",
    "view": "View position",
    "visit": "Visit",
    "company": "Other findings",
}
HISTORY: Final = {
    "loss": "Loss",
    "accuracy": "Accuracy at probability 0.5",
    "auroc": "Mean AUROC",
}

NOTES: Final = {
    "distribution": "Share of the images of each part; numbers are images.",
    "training": "Dashed: training. Full: validation. Upright: the epoch that was kept.",
    "roc": "Sensitivity (upright) against 1 − specificity. Band: 95 %, point by point. "
    "Dot: at the threshold.",
    "pr": "Precision (upright) against sensitivity. Band: 95 %, point by point. "
    "Dotted: prevalence. Dot: at the threshold.",
    "confusion": "Images. Blue: right. Orange: wrong. Darker: a larger share of its row.",
    "forest": "Value and 95 % interval; beside a name its positives. Ticks: published on the same "
    "split (AUROC), prevalence (AUPRC).",
    "reliability": "Observed share (upright) against mean probability. Hollow: as given. Full: "
    "recalibrated, 95 % intervals.",
    "subgroups": "Value and 95 % interval.",
    "gaps": "Value and 95 % interval; dotted: no gap.",
    "overlap": "Boxes found (upright) against the IoU asked for. Band: 95 %. Dashed: mean box. "
    "Diamonds: Wang 2017.",
}  # fmt: skip


@dataclass(frozen=True)
class Plate:
    """One figure of a journal.

    Attributes:
        title: what it shows.
        columns: how many panels stand side by side in print.
        panels: key (a finding, a part, an axis) → drawing.
        note: what the marks mean, for the file; the page says it in its own words.
        captions: whether panels carry their keys.
    """

    title: str
    columns: int
    panels: dict[str, Drawing]
    note: str
    captions: bool = True


def plates(files: Files) -> dict[str, Plate]:
    """Give the plates of a run by name; those that it has no numbers for are not there."""
    found = {"distribution": _distribution(files), "training": _training(files)}
    if files.metrics is not None and files.curves is not None:
        found |= _results(files.metrics, files.curves, files.standing)
    if files.reliability is not None:
        found["reliability"] = _reliability(files.reliability)
    if files.subgroups is not None:
        found |= _subgroups(files.subgroups)
    if files.localisation is not None:
        found["overlap"] = _overlap(files.localisation, files.standing)
    return {name: plate for name, plate in found.items() if plate is not None and plate.panels}


def write(drawn: dict[str, Plate], folder: Path) -> None:
    """Write each plate into a folder, as SVG."""
    for name, plate in drawn.items():
        panels = [
            (spaced(key) if plate.captions else "", drawing)
            for key, drawing in plate.panels.items()
        ]
        style.save(folder / f"{name}.svg", panels, plate.columns, plate.title, plate.note)


def _distribution(files: Files) -> Plate:
    parts = {split: files.run["counts"][split] for split in SPLITS}
    parts = {split: counts for split, counts in parts.items() if counts["images"]}
    widest = max(
        count / counts["images"]
        for counts in parts.values()
        for name, count in counts.items()
        if name not in {"images", "patients"}
    )
    panels = {name: training.distribution(name, counts, widest) for name, counts in parts.items()}
    return Plate("Findings in each part of the data", 2, panels, NOTES["distribution"])


def _training(files: Files) -> Plate | None:
    if files.history is None:
        return None
    best = files.run["best_epoch"]
    panels = {
        title: training.history(files.history, column, best) for column, title in HISTORY.items()
    }
    return Plate("Training by epoch", 2, panels, NOTES["training"])


def _results(metrics: Json, drawn: Json, standing: Json | None) -> dict[str, Plate]:
    entries = metrics["findings"]
    measured = {finding: drawn[finding] for finding in entries if drawn[finding] is not None}
    roc, pr = {}, {}
    for finding, curve in measured.items():
        entry, name = entries[finding], spaced(finding)
        recall, precision, specificity = (
            entry[metric]["value"] for metric in ("recall", "precision", "specificity")
        )
        on_roc = None if specificity is None else (1 - specificity, recall)
        on_pr = None if precision is None else (recall, precision)
        roc[finding] = curves.roc(curve["roc"], on_roc, name)
        pr[finding] = curves.precision_recall(curve["pr"], on_pr, entry["prevalence"], name)
    called = {
        finding: confusion.confusion(entries[finding]["confusion"], spaced(finding))
        for finding in entries
        if entries[finding]["confusion"] is not None
    }
    return {
        "forest": _forest(metrics, standing),
        "roc": Plate("ROC curves", 5, roc, NOTES["roc"]),
        "precision-recall": Plate("Precision-recall curves", 5, pr, NOTES["pr"]),
        "confusion": Plate("Calls at the threshold", 5, called, NOTES["confusion"]),
    }


def _forest(metrics: Json, standing: Json | None) -> Plate:
    """Draw AUROC and AUPRC by finding, the best first, the mean at the end."""
    entries = metrics["findings"]
    rows = standing["rows"] if standing else []
    beside = [row["findings"] for row in rows if row["comparable"] and row["findings"]]

    def ranked(metric: str) -> list[str]:
        return sorted(entries, key=lambda f: _rank(entries[f][metric]["value"]))

    auroc = [
        Row(
            spaced(finding),
            entries[finding]["auroc"],
            str(entries[finding]["positives"]),
            tuple(row[finding] for row in beside if row.get(finding) is not None),
        )
        for finding in ranked("auroc")
    ]
    auprc = [
        Row(
            spaced(finding),
            entries[finding]["auprc"],
            str(entries[finding]["positives"]),
            tuple(p for p in [entries[finding]["prevalence"]] if p is not None),
        )
        for finding in ranked("auprc")
    ]
    for metric, table in (("auroc", auroc), ("auprc", auprc)):
        table.append(Row("Mean", metrics["mean"][metric], total=True))
    low = _floor([row.metric for row in auroc], 0.4)
    drawings = {
        "AUROC": forest("AUROC by finding", auroc, 0.5, (low, 1), "AUROC"),
        "AUPRC": forest("AUPRC by finding", auprc, None, (0, 1), "AUPRC"),
    }
    return Plate("AUROC and AUPRC by finding", 2, drawings, NOTES["forest"])


def _reliability(entries: Json) -> Plate:
    panels = {
        finding: reliability.reliability(entries[finding], spaced(finding))
        for finding in entries
        if entries[finding]["as_given"]["bins"]
    }
    return Plate("Reliability before and after recalibration", 5, panels, NOTES["reliability"])


def _subgroups(subgroups: Json) -> dict[str, Plate]:
    """Draw the mean AUROC of every group in one forest, and the gaps of each axis by finding."""
    rows = []
    for axis, entry in subgroups["axes"].items():
        rows.append(Row(f"{AXES[axis]}, {_over(entry['mean'])}", None))
        rows += [Row(f"  {group}", entry["mean"][group]) for group in entry["groups"]]
    low = _floor([row.metric for row in rows if row.metric], 0.5)
    means = forest("Mean AUROC by subgroup", rows, None, (low, 1), "mean AUROC")
    gaps = {
        f"{AXES[axis]}: {' less '.join(contrast['between'])}": _gap(contrast)
        for axis, entry in subgroups["axes"].items()
        for contrast in entry["gaps"]
        if measured(contrast)
    }
    return {
        "subgroups": Plate(
            "Mean AUROC by subgroup", 1, {"all": means}, NOTES["subgroups"], captions=False
        ),
        "gaps": Plate("AUROC gaps between groups, by finding", 2, gaps, NOTES["gaps"]),
    }


def _over(means: Json) -> str:
    """Say how many findings the means of an axis are over; all its groups share them."""
    findings = max(mean["findings"] for mean in means.values())
    return f"mean over {findings} finding{'s' * (findings != 1)}"


def _gap(contrast: Json) -> Drawing:
    """Draw the AUROC gap between two groups, of the findings that are large enough in both."""
    title = f"AUROC gap, {' less '.join(contrast['between'])}"
    gaps = contrast["findings"]
    rows = [
        Row(spaced(finding), gaps[finding]["auroc"])
        for finding in gaps
        if gaps[finding]["auroc"]["value"] is not None
    ]
    return forest(title, rows, 0, (-0.5, 0.5), "AUROC gap")


def _overlap(entries: Json, standing: Json | None) -> Plate:
    panels = {
        finding: localisation.overlap(
            entries["findings"][finding]["iou"],
            published(standing, finding, "IoU"),
            spaced(finding),
        )
        for finding in entries["findings"]
        if entries["findings"][finding]["cases"]
    }
    return Plate("Boxes found, by overlap asked for", 5, panels, NOTES["overlap"])


def published(standing: Json | None, finding: str, kind: str) -> dict[float, float]:
    """Give published shares of boxes found: threshold → share.

    Args:
        standing: `standing.json`, None where it was not made.
        finding: its name.
        kind: `IoU` or `IoBB`.
    """
    rows = standing["localisation"] if standing else []
    named = ((re.search(rf"T\({kind}\) ([\d.]+)", row["row"]), row) for row in rows)
    return {float(found[1]): row[finding] for found, row in named if found and finding in row}


def _floor(metrics: list[dict[str, Any] | None], most: float) -> float:
    """Give a limit of an axis below all values and intervals, in tenths."""
    values = [m[part] for m in metrics if m for part in ("value", "low") if m[part] is not None]
    return float(max(0, math.floor(10 * min([most, *values])) / 10))


def _rank(value: float | None) -> float:
    """Sort the best first and what is undefined last."""
    return math.inf if value is None else -value
