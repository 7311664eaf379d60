"""Which figures a report has: drawn one by one for the page, as sets of panels for files.

A figure set is what a journal prints as one figure, such as the ROC curves of all findings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chestxray.findings import label
from chestxray.reporting import plots
from chestxray.reporting.forest_plot import Row, forest_plot, width_of_labels
from chestxray.reporting.formatting import counted, measured
from chestxray.reporting.print_style import JOURNAL, PrintStyle
from chestxray.reporting.run_files import Json, RunFiles
from chestxray.reporting.svg import Drawing, save

SPLITS: Final = ("train", "val", "test")
_AXES: Final = {
    "source": "Source",
    "sex": "Sex",
    "age": "Age",
    "view": "View position",
    "visit": "Visit",
    "co_occurrence": "Co-occurring findings",
}
_HISTORY: Final = {
    "loss": "Loss",
    "accuracy": "Accuracy at probability 0.5",
    "auroc": "Mean AUROC",
}


@dataclass(frozen=True)
class FigureSet:
    """One figure of a journal.

    Attributes:
        title: what it shows.
        columns: panels side by side in print.
        panels: key (a finding, a part, an axis) → drawing.
        note: what the marks mean; only files carry it, the page has keys of its own.
        captions: whether panels carry their keys.
    """

    title: str
    columns: int
    panels: dict[str, Drawing]
    note: str
    captions: bool = True


def figure_sets(files: RunFiles) -> dict[str, FigureSet]:
    """Give the figure sets by name; one without numbers is left out."""
    found = {"distribution": _distribution(files), "training": _training(files)}
    if files.metrics is not None and files.curves is not None:
        benchmarks = files.benchmarks if files.nih else None
        found |= _results(files.metrics, files.curves, benchmarks)
    if files.reliability is not None:
        found["reliability"] = _reliability(files.reliability)
    if files.axes:
        found |= _subgroups(files.axes, len(files.findings))
    if files.localization is not None:
        found["overlap"] = _overlap(files.localization, files.benchmarks if files.nih else None)
    return {name: each for name, each in found.items() if each is not None and each.panels}


def write(sets: Mapping[str, FigureSet], folder: Path, style: PrintStyle = JOURNAL) -> None:
    """Write each figure set into a folder, as SVG, PDF and PNG at the size of print."""
    for name, figures in sets.items():
        panels = [
            (label(key) if figures.captions else "", drawing)
            for key, drawing in figures.panels.items()
        ]
        save(folder / f"{name}.svg", panels, figures.columns, figures.title, figures.note, style)


def axis_title(axis: str) -> str:
    """Name an axis of subgroups for people."""
    return _AXES.get(axis, label(axis.capitalize()))


def _distribution(files: RunFiles) -> FigureSet | None:
    if files.run is None:
        return None
    parts = {split: files.run["counts"][split] for split in SPLITS}
    parts = {split: counts for split, counts in parts.items() if counts["images"]}
    widest = max(
        count / counts["images"]
        for counts in parts.values()
        for name, count in counts.items()
        if name not in {"images", "patients"}
    )
    panels = {name: plots.distribution(name, counts, widest) for name, counts in parts.items()}
    note = "Proportion of the images of each split, with the number of images."
    return FigureSet("Findings in each split", 2, panels, note)


def _training(files: RunFiles) -> FigureSet | None:
    if files.history is None or files.run is None:
        return None
    best = files.best_epochs
    panels = {
        title: plots.history(files.history, column, best) for column, title in _HISTORY.items()
    }
    several = files.history["epoch"].nunique() > 1
    styles = (", dashed", ", solid") if several else ("", "")
    note = (
        f"Blue{styles[0]}: training. Orange{styles[1]}: validation. Vertical line: selected epoch."
    )
    if len(best) > 1:
        note += f" A line of each of the {len(best)} networks."
    return FigureSet("Training by epoch", 2, panels, note)


def _results(metrics: Json, drawn: Json, benchmarks: Json | None) -> dict[str, FigureSet]:
    entries = metrics["findings"]
    curves = {finding: drawn[finding] for finding in entries if drawn[finding] is not None}
    roc, pr, dots = {}, {}, {"roc": False, "pr": False}
    for finding, curve in curves.items():
        entry, name = entries[finding], label(finding)
        recall, precision, specificity = (
            entry[metric]["value"] for metric in ("recall", "precision", "specificity")
        )
        on_roc = None if specificity is None else (1 - specificity, recall)
        on_pr = None if precision is None else (recall, precision)
        dots = {"roc": dots["roc"] or on_roc is not None, "pr": dots["pr"] or on_pr is not None}
        roc[finding] = plots.roc(curve["roc"], on_roc, name)
        pr[finding] = plots.precision_recall(curve["pr"], on_pr, entry["prevalence"], name)
    called = {
        finding: plots.confusion(entries[finding]["confusion"], label(finding))
        for finding in entries
        if entries[finding]["confusion"] is not None
    }
    return {
        "forest": _forest(metrics, benchmarks),
        "roc": FigureSet("ROC curves", 5, roc,
            "Sensitivity (y axis) against 1 − specificity (x axis). Dotted: chance."
            + _marks_of(curves, "roc", dots["roc"])),
        "precision-recall": FigureSet("Precision-recall curves", 5, pr,
            "Precision (y axis) against sensitivity (x axis). Dotted: prevalence."
            + _marks_of(curves, "pr", dots["pr"])),
        "confusion": FigureSet("Confusion matrices at the threshold", 5, called,
            "Numbers of images. Blue: correct. Orange: wrong. Shade: proportion of the row."),
    }  # fmt: skip


def _marks_of(curves: dict[str, Json], kind: str, dots: bool) -> str:
    """Say what bands and dots mean, as far as a panel has them."""
    bands = any(curve[kind]["band"] is not None for curve in curves.values())
    band = " Band: pointwise 95 % interval." if bands else ""
    return band + (" Dot: threshold." if dots else "")


def _forest(metrics: Json, benchmarks: Json | None) -> FigureSet:
    """Draw AUROC and AUPRC by finding, the best first, the mean of several at the end."""
    entries = metrics["findings"]
    rows = benchmarks["rows"] if benchmarks else []
    published = [row["findings"] for row in rows if row["comparable"] and row["findings"]]

    def table(metric: str) -> list[Row]:
        ranked = sorted(entries, key=lambda finding: _rank(entries[finding][metric]["value"]))
        found = [
            Row(
                label(finding),
                entries[finding][metric],
                str(entries[finding]["positives"]),
                _marks(finding, metric),
            )
            for finding in ranked
        ]
        mean = Row("Mean", metrics["mean"][metric], total=True)
        return [*found, mean] if len(found) > 1 else found

    def _marks(finding: str, metric: str) -> tuple[float, ...]:
        if metric == "auroc":
            return tuple(row[finding] for row in published if row.get(finding) is not None)
        prevalence = entries[finding]["prevalence"]
        return () if prevalence is None else (prevalence,)

    auroc, auprc = table("auroc"), table("auprc")
    low = floor([row.metric for row in auroc], 0.4)
    room = width_of_labels([*auroc, *auprc])
    drawings = {
        "AUROC": forest_plot("AUROC by finding", auroc, 0.5, (low, 1), "AUROC", room),
        "AUPRC": forest_plot("AUPRC by finding", auprc, None, (0, 1), "AUPRC", room),
    }
    kinds = {"published results on the same split (AUROC)": auroc, "prevalence (AUPRC)": auprc}
    ticks = ", ".join(kind for kind, rows in kinds.items() if any(row.marks for row in rows))
    note = (
        f"Value with 95 % interval; hollow: no interval. The number after a name counts its "
        f"positives. Dotted: chance (AUROC).{f' Ticks: {ticks}.' if ticks else ''}"
    )
    return FigureSet("AUROC and AUPRC by finding", 2, drawings, note)


def _reliability(entries: Json) -> FigureSet:
    panels = {
        finding: plots.reliability(entries[finding], label(finding))
        for finding in entries
        if entries[finding]["as_given"]["bins"]
    }
    axes = "Observed proportion (y axis) against mean probability (x axis). Dotted: equal."
    refitted = any(entries[finding]["recalibrated"] for finding in panels)
    note = (
        f"{axes} Open: as predicted. Filled: recalibrated, with 95 % intervals."
        if refitted
        else f"{axes} Open: as predicted, with 95 % intervals."
    )
    return FigureSet("Reliability before and after recalibration", 5, panels, note)


def _subgroups(axes: dict[str, Json], findings: int) -> dict[str, FigureSet]:
    """Draw the mean AUROC of every group in one forest, and the gaps of each axis by finding."""
    means, name = group_means(axes, findings)
    contrasts = {
        f"{axis_title(axis)}: {' minus '.join(contrast['between'])}": contrast
        for axis, entry in axes.items()
        for contrast in entry["gaps"]
        if measured(contrast)
    }
    room = width_of_labels([row for contrast in contrasts.values() for row in _rows_of(contrast)])
    gaps = {title: _gap(contrast, room) for title, contrast in contrasts.items()}
    return {
        "subgroups": FigureSet(name, 1, {"all": means},
            "Value with 95 % interval.", captions=False),
        "gaps": FigureSet("AUROC difference between groups, by finding", 2, gaps,
            "Difference with 95 % interval. Dotted: no difference."),
    }  # fmt: skip


def group_means(axes: dict[str, Json], findings: int, where: str = "") -> tuple[Drawing, str]:
    """Draw the AUROC of every group, averaged over findings, in one forest; with its title.

    Args:
        axes: of `subgroups.json`.
        findings: how many were evaluated.
        where: what the images are, for the title.
    """
    rows = []
    name = "Mean AUROC" if findings > 1 else "AUROC"
    for axis, entry in axes.items():
        over = f", {_over(entry['mean'])}" if findings > 1 else ""
        rows.append(Row(f"{axis_title(axis)}{over}", None))
        rows += [Row(f"  {group}", entry["mean"][group]) for group in entry["groups"]]
    low = floor([row.metric for row in rows if row.metric], 0.5)
    title = f"{name} by subgroup{where}"
    return forest_plot(title, rows, None, (low, 1), name), title


def _over(means: Json) -> str:
    """Say over how many findings the means of an axis are; all its groups share them."""
    return f"mean over {counted(max(mean['findings'] for mean in means.values()), 'finding')}"


def _gap(contrast: Json, labels: float) -> Drawing:
    """Draw the AUROC difference of the findings that are frequent enough in both groups."""
    title = f"AUROC difference, {' minus '.join(contrast['between'])}"
    rows = _rows_of(contrast)
    return forest_plot(title, rows, 0, (-0.5, 0.5), "AUROC difference", labels)


def _rows_of(contrast: Json) -> list[Row]:
    gaps = contrast["findings"]
    return [
        Row(label(finding), gaps[finding]["auroc"])
        for finding in gaps
        if gaps[finding]["auroc"]["value"] is not None
    ]


def _overlap(entries: Json, benchmarks: Json | None) -> FigureSet:
    panels = {
        finding: plots.overlap(
            entries["findings"][finding]["iou"],
            published(benchmarks, finding, "IoU"),
            label(finding),
        )
        for finding in entries["findings"]
        if entries["findings"][finding]["cases"]
    }
    rows = [row for key in panels for row in entries["findings"][key]["iou"].values()]
    marks = {
        "Band: 95 % interval": any(row["hit"]["low"] is not None for row in rows),
        "Dashed: mean box": any(row["mean_box"] is not None for row in rows),
        "Diamonds: Wang 2017": any(published(benchmarks, finding, "IoU") for finding in panels),
    }
    drawn = "".join(f" {mark}." for mark, there in marks.items() if there)
    note = f"Boxes found (y axis) against the IoU required (x axis).{drawn}"
    return FigureSet("Boxes found, by overlap required", 5, panels, note)


def published(benchmarks: Json | None, finding: str, kind: str) -> dict[float, float]:
    """Give published proportions of boxes found: threshold → proportion.

    Args:
        benchmarks: `benchmarks.json`, None where there is nothing to compare with.
        finding: its name.
        kind: `IoU` or `IoBB`.
    """
    rows = benchmarks["localization"] if benchmarks else []
    named = ((re.search(rf"T\({kind}\) ([\d.]+)", row["row"]), row) for row in rows)
    return {float(found[1]): row[finding] for found, row in named if found and finding in row}


def floor(metrics: list[dict[str, Any] | None], most: float) -> float:
    """Give a lower limit of an axis below all values and intervals, in tenths."""
    values = [m[part] for m in metrics if m for part in ("value", "low") if m[part] is not None]
    return float(max(0, math.floor(10 * min([most, *values])) / 10))


def _rank(value: float | None) -> float:
    """Sort the best first and what is undefined last."""
    return math.inf if value is None else -value
