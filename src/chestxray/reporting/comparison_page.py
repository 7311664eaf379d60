"""The page of a comparison of models, from the files that `chestxray compare` wrote.

It begins with which model is better, then shows all models side by side. Like every page it reads
and formats, and computes nothing. Training curves are read from the runs, where they are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd
from markupsafe import Markup

from chestxray.artifacts import write_text
from chestxray.evaluation.predictions import file_of
from chestxray.evaluation.results import ModelComparison
from chestxray.evaluation.signed_numbers import number
from chestxray.findings import label
from chestxray.reporting import figure_set, plots
from chestxray.reporting.figure_set import FigureSet
from chestxray.reporting.forest_plot import Row, forest_plot, width_of_labels
from chestxray.reporting.formatting import environment
from chestxray.reporting.print_style import print_style
from chestxray.reporting.svg import Drawing, inline, wrapped
from chestxray.version import __version__

PAGE: Final = "models.html"
FIGURES: Final = "models_figures"
SECTIONS: Final = {
    "answer": "Which model is better",
    "auroc": "AUROC of each finding",
    "differences": "Differences to the first model",
    "roc": "ROC curves",
    "calibration": "Calibration",
    "training": "Training",
    "limits": "What this page cannot say",
}
_MEAN: Final = "Mean over findings"
_LETTERS: Final = 26  # of a model's name in one line of a legend
_CURVES: Final = {"auroc": "Mean AUROC", "loss": "Loss"}

_Json = dict[str, Any]


def comparison_page(folder: str | Path, style: str = "journal") -> Path:
    """Write the page of a comparison, and its figures for print beside it.

    Args:
        folder: that `chestxray compare --out` wrote.
        style: of the figures for print: `journal`, `slide`, or the size of their text in points.

    Raises:
        ArtifactError: it is not, or a file cannot be read.
        ConfigError: there is no such style.
    """
    folder, layout = Path(folder), print_style(style)
    result = ModelComparison.read(folder).model_dump(mode="json")
    sets = {name: of for name, of in _figure_sets(result).items() if of.panels}
    drawings = {
        name: {key: _markup(inline(panel)) for key, panel in of.panels.items()}
        for name, of in sets.items()
    }
    text = environment().get_template("comparison.html.j2").render(
        result=result,
        models=result["models"],
        findings=list(result["comparisons"][0]["findings"]),
        own=own,
        sections=SECTIONS,
        drawings=drawings,
        version=__version__,
    )  # fmt: skip
    figure_set.write(sets, folder / FIGURES, layout)
    write_text(folder / PAGE, text)
    return folder / PAGE


def own(result: _Json, place: int, finding: str | None = None) -> _Json:
    """Give the AUROC of a model, of a finding or, without one, the mean."""
    versus = result["comparisons"][max(place - 1, 0)]
    entry = versus["findings"][finding] if finding else versus["mean"]
    found: _Json = entry["b" if place else "a"]
    return found


def _markup(drawn: str) -> Markup:
    # `svg` escapes what it is given
    return Markup(drawn)  # noqa: S704  # nosec B704


def _figure_sets(result: _Json) -> dict[str, FigureSet]:
    interval = "Value with 95 % interval."
    of_model = "Each model has its colour and line."
    return {
        "auroc": FigureSet("AUROC by model", 2, _aurocs(result), f"{interval} Dotted: chance."),
        "differences": FigureSet(
            "Difference in AUROC", 2, _differences(result), f"{interval} Dotted: no difference."
        ),
        "roc": FigureSet("ROC curves", 3, _rocs(result), f"{of_model} Dotted: chance."),
        "calibration": FigureSet(
            "Reliability diagrams", 3, _reliabilities(result), f"{of_model} Dotted: calibrated."
        ),
        "training": FigureSet(
            "Validation by epoch", 2, _training(result), of_model, captions=False
        ),
    }


def _aurocs(result: _Json) -> dict[str, Drawing]:
    """Draw a forest over models for the mean and for each finding."""
    names = [of["name"] for of in result["models"]]
    findings = result["comparisons"][0]["findings"]
    rows = {
        key: [
            Row(name, own(result, place, finding), total=finding is None)
            for place, name in enumerate(names)
        ]
        for key, finding in ((_MEAN, None), *((name, name) for name in findings))
    }
    shown = {key: of for key, of in rows.items() if any(_known(row) for row in of)}
    every = [row for of in shown.values() for row in of]
    if not every:
        return {}
    room, low = width_of_labels(every), figure_set.floor([row.metric for row in every], 0.5)
    return {
        key: forest_plot(f"AUROC of {label(key)}", of, 0.5, (low, 1), "AUROC", room)
        for key, of in shown.items()
    }


def _differences(result: _Json) -> dict[str, Drawing]:
    """Draw a forest over findings for each later model."""
    rows = {
        of["b"]: [
            Row("Mean", of["mean"]["difference"], total=True),
            *(
                Row(label(finding), entry["difference"], f"{entry['positives']:,}")
                for finding, entry in of["findings"].items()
            ),
        ]
        for of in result["comparisons"]
    }
    every = [row for of in rows.values() for row in of]
    ends = [
        abs(row.metric[end]) for row in every if row.metric for end in ("low", "high", "value")
        if row.metric[end] is not None
    ]  # fmt: skip
    if not ends:
        return {}
    reach = min(max(ends) * 1.05, 1.0) or 0.01
    room, first = width_of_labels(every), result["models"][0]["name"]
    axis = f"AUROC − AUROC of {first}"
    return {
        name: forest_plot(f"AUROC of {name} − {first}", of, 0, (-reach, reach), axis, room)
        for name, of in rows.items()
    }


def _rocs(result: _Json) -> dict[str, Drawing]:
    found = {}
    for finding in result["comparisons"][0]["findings"]:
        of_models = [of["findings"][finding]["roc"] for of in result["models"]]
        texts = [
            _legend(of["name"], own(result, place, finding)["value"])
            for place, of in enumerate(result["models"])
        ]
        if any(of_models):
            found[finding] = plots.rocs(of_models, texts, label(finding))
    return found


def _reliabilities(result: _Json) -> dict[str, Drawing]:
    found = {}
    for finding in result["comparisons"][0]["findings"]:
        of_models = [of["findings"][finding]["reliability"] for of in result["models"]]
        texts = [
            _legend(model["name"], of and of["ece"]["value"], "error ")
            for model, of in zip(result["models"], of_models, strict=True)
        ]
        if any(of_models):
            found[finding] = plots.reliabilities(of_models, texts, label(finding))
    return found


def _legend(name: str, value: float | None, what: str = "") -> str:
    shown = "–" if value is None else number(value)
    return "\n".join(wrapped(f"{name}, {what}{shown}", _LETTERS))


def _training(result: _Json) -> dict[str, Drawing]:
    """Draw the validation curves of those models whose run is there and has epochs."""
    tables = {}
    for place, of in enumerate(result["models"]):
        if not of["path"]:  # a table in memory
            continue
        path = Path(of["path"])
        history = (file_of(path) if path.is_dir() else path).parent / "history.csv"
        if history.is_file():
            table = pd.read_csv(history)
            if "member" not in table and {"split", "epoch", *_CURVES} <= {*table}:
                tables[place] = table
    names = {result["models"][place]["name"]: table for place, table in tables.items()}
    if not names:
        return {}
    return {title: plots.histories(names, column, [*tables]) for column, title in _CURVES.items()}


def _known(row: Row) -> bool:
    return row.metric is not None and row.metric["value"] is not None
