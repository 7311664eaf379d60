"""The page of an external validation: one bundle on several data sets, from the files in OUT.

It begins with what to do on each data set, then says why (`validation_summary`); the figures
follow. Like every page it reads and formats, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from chestxray.artifacts import read_json, write_text
from chestxray.evaluation.validation_results import ExternalValidation
from chestxray.findings import label
from chestxray.reporting import figure_set, validation_summary
from chestxray.reporting.figure_set import FigureSet
from chestxray.reporting.forest_plot import Row, forest_plot, width_of_labels
from chestxray.reporting.formatting import counted, environment
from chestxray.reporting.svg import Drawing, inline
from chestxray.version import __version__

PAGE: Final = "validation.html"
SECTIONS: Final = {
    "verdict": "What to do, and why",
    "sets": "Data sets",
    "ranking": "Ranking",
    "calls": "Calls at the bundle’s thresholds",
    "calibration": "Calibration",
    "groups": "Groups of patients",
    "limits": "What this page cannot say",
}
RELATIONS: Final = {
    "independent": "no data set of that name in common (chestxray overlap finds copies)",
    "held out": "held out of training (internal)",
    "listed": "may share images with training; those that a list of the user names were left out",
    "unknown": "may contain images that the model has seen",
}
_MARKS: Final = {"no objection": "clear", "do not use": "against"}
_MADE_BY: Final = "chestxray validate"
_AXES: Final = ("source", "sex", "age", "view")
_OWN: Final = "own validation"

_Json = dict[str, Any]


def validation_page(folder: str | Path) -> Path:
    """Write the page of a validation, and its figures for print beside it.

    Args:
        folder: that `chestxray validate` wrote.

    Raises:
        ArtifactError: it is not, or a file cannot be read.
    """
    folder = Path(folder)
    results = ExternalValidation.read(folder).model_dump(mode="json")
    groups = {of["name"]: _groups(folder, of["name"]) for of in results["sets"]}
    sets = _figure_sets(results, groups)
    page = folder / PAGE
    text = environment().get_template("validation.html.j2").render(
        results=results,
        titles=validation_summary.titles(results["sets"]),
        summary=validation_summary,
        findings=list(dict.fromkeys(name for of in results["sets"] for name in of["findings"])),
        sections=SECTIONS,
        relations=RELATIONS,
        marks=_MARKS,
        drawings={name: _inline(each) for name, each in sets.items()},
        version=__version__,
    )  # fmt: skip
    figure_set.write(sets, folder / "validation_figures")
    write_text(page, text)
    return page


def _inline(figures: FigureSet) -> dict[str, Markup]:
    """Give the panels of a figure set for the page; `svg` escapes what it is given."""
    return {key: _markup(inline(panel)) for key, panel in figures.panels.items()}


def _markup(drawn: str) -> Markup:
    # `svg` escapes what it is given
    return Markup(drawn)  # noqa: S704  # nosec B704


def _groups(folder: Path, name: str) -> _Json:
    """Give the axes of a data set's subgroups that say anything of patients."""
    axes = read_json(folder / "sets" / name / "evaluation" / "subgroups.json", _MADE_BY)["axes"]
    return {
        axis: axes[axis]
        for axis in _AXES
        if axis in axes and any(of["value"] is not None for of in axes[axis]["mean"].values())
    }


def _figure_sets(results: _Json, groups: dict[str, _Json]) -> dict[str, FigureSet]:
    shown = validation_summary.titles(results["sets"])
    note = "AUROC with 95 % interval. Dotted: chance. Tick: value in the bundle's own validation."
    panels = dict(_forests(results))
    drawn = {
        shown[of["name"]]: figure_set.group_means(
            groups[of["name"]], len(of["findings"]), f", {shown[of['name']]}"
        )[0]
        for of in results["sets"]
        if groups[of["name"]]
    }
    found = {"forest": FigureSet("AUROC by data set", 2, panels, note)}
    if drawn:
        mean = "Mean AUROC of groups of patients"
        found["groups"] = FigureSet(mean, 2, drawn, "Value with 95 % interval.")
    return found


def _forests(results: _Json) -> Iterator[tuple[str, Drawing]]:
    """Draw a forest over data sets for each finding that has an AUROC, and for the mean.

    There is none of means over different findings: they are not comparable.
    """
    sets, shown = results["sets"], validation_summary.titles(results["sets"])
    means = [Row(shown[of["name"]], of["mean"], _counted(of["mean"]), total=True) for of in sets]
    if not validation_summary.same_findings(sets):
        means = []
    by_finding = {
        finding: _rows(finding, sets, shown)
        for finding in dict.fromkeys(name for of in sets for name in of["findings"])
    }
    drawn = {f: rows for f, rows in by_finding.items() if any(_value(row) for row in rows)}
    room = width_of_labels([row for rows in (means, *drawn.values()) for row in rows])
    low = figure_set.floor([row.metric for rows in (means, *drawn.values()) for row in rows], 0.5)
    if means:
        yield "Mean over findings", forest_plot("Mean AUROC", means, 0.5, (low, 1), "AUROC", room)
    for finding, rows in drawn.items():
        title = f"AUROC of {label(finding)}"
        yield finding, forest_plot(title, rows, 0.5, (low, 1), "AUROC", room)


def _rows(finding: str, sets: list[_Json], shown: dict[str, str]) -> list[Row]:
    """Give a finding's row in each data set that labels it, below that of its own validation."""
    there = {of["name"]: of["findings"][finding] for of in sets if finding in of["findings"]}
    own = next((entry["own"] for entry in there.values()), None)
    ticks = () if own is None else (own["auroc"],)
    rows = [
        Row(shown[name], entry["auroc"], f"{entry['positives']:,}", ticks)
        for name, entry in there.items()
    ]
    if own is None:
        return rows
    return [Row(_OWN, {"value": own["auroc"], "low": own["low"], "high": own["high"]}, total=True),
            *rows]  # fmt: skip


def _value(row: Row) -> bool:
    return row.metric is not None and row.label != _OWN and row.metric["value"] is not None


def _counted(mean: _Json) -> str:
    """Say over how many findings a mean is."""
    return counted(mean["findings"], "finding")
