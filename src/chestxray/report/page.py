"""One self-contained page about a run, from the files in its folder.

It reads and formats; every figure on it was computed by the command that wrote the file. A part
whose file is not there yet is shown with the command that makes it.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from chestxray import __version__
from chestxray.artifacts import read_json, require, write_text
from chestxray.errors import ArtifactError
from chestxray.findings import DESCRIPTIONS, FINDINGS, NO_FINDING
from chestxray.report import figures

SPLITS: Final = ("train", "val", "test")
COLUMNS: Final = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "accuracy": "accuracy",
    "bce": "cross-entropy",
    "threshold": "threshold",
}
KINDS: Final = ("true call", "false call", "missed")


def write(run: Path, out: Path) -> None:
    """Write the page of a run, whole or not at all.

    Raises:
        ArtifactError: no finished run, or a file of it that is not what it should be.
    """
    write_text(out, build(run))


def build(run: Path) -> str:
    """Give the page of a run as HTML.

    Args:
        run: the folder of a finished run. `run.json` must be there; `history.csv`, `recipe.yaml`,
            `bundle/`, `evaluation/` and `explanations/` are shown as far as they are.

    Raises:
        ArtifactError: no `run.json`, or a file that is not what it should be.
    """
    about = read_json(run / "run.json", "chestxray train")
    environment = Environment(
        loader=PackageLoader("chestxray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure, "spaced": spaced, "percent": percent, "duration": duration,
    }  # fmt: skip
    try:
        return environment.get_template("report.html.j2").render(
            run=about,
            model=_model(run, about),
            folder=str(run),
            version=__version__,
            findings=FINDINGS,
            descriptions=DESCRIPTIONS,
            splits=SPLITS,
            columns=COLUMNS,
            kinds=KINDS,
            no_finding=NO_FINDING,
            distribution=_distribution(about),
            training=_training(run, about),
            **_evaluation(run),
            explanations=_explanations(run),
            recipe=_text(run / "recipe.yaml"),
        )
    except (KeyError, TypeError, UndefinedError) as error:
        raise ArtifactError(
            f"{run} holds a file that this version does not understand ({error}): make its "
            f"evaluation and explanations anew, or use the chestxray that made it"
        ) from error


def figure(metric: dict[str, Any], digits: int = 3) -> Markup:
    """Show a metric with its interval, or a dash that carries the reason."""
    if metric["value"] is None:
        return Markup('<abbr title="{}">–</abbr>').format(metric["reason"])
    shown = f"{metric['value']:.{digits}f}"
    if metric.get("low") is not None:
        shown += f" ({metric['low']:.{digits}f}–{metric['high']:.{digits}f})"
    return Markup("{}").format(shown)


def spaced(finding: str) -> str:
    """Write a finding's name as people do."""
    return finding.replace("_", " ")


def percent(share: float | None, digits: int = 1) -> str:
    """Show a share in percent, more finely where it is small."""
    if share is None:
        return "–"
    if 0 < share < 0.01:
        digits += 1
    return f"{100 * share:.{digits}f} %"


def duration(seconds: int) -> str:
    """Write a time in its two largest units."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _model(run: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Give the model's name as its bundle has it; the backbone alone where there is no bundle."""
    path = run / "bundle" / "bundle.json"
    if not path.exists():
        return {"identity": about["backbone"], "bundled": False}
    card = read_json(path, "chestxray train")
    return {"identity": f"{card['backbone']}-{card['weights_sha256'][:12]}", "bundled": True}


def _distribution(about: dict[str, Any]) -> dict[str, Markup]:
    parts = {split: about["counts"][split] for split in SPLITS}
    widest = max(
        count / counts["images"]
        for counts in parts.values()
        if counts["images"]
        for name, count in counts.items()
        if name not in {"images", "patients"}
    )
    return {
        split: _drawn(figures.distribution(split, counts, widest))
        for split, counts in parts.items()
        if counts["images"]
    }


def _training(run: Path, about: dict[str, Any]) -> dict[str, Markup] | None:
    path = run / "history.csv"
    if not path.exists():
        return None
    try:
        history = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ArtifactError(f"{path} is no table ({error}): train again") from error
    columns = {"loss": "Loss", "accuracy": "Accuracy at probability 0.5", "auroc": "Mean AUROC"}
    return {
        title: _drawn(figures.training(history, column, about["best_epoch"]))
        for column, title in columns.items()
    }


def _evaluation(run: Path) -> dict[str, Any]:
    """Give metrics, curves and localisation; None for what was not made."""
    folder = run / "evaluation"
    made_by = "chestxray evaluate"
    if not (folder / "metrics.json").exists():
        return dict.fromkeys(("metrics", "undefined", "curves", "localisation", "marked"))
    metrics = read_json(folder / "metrics.json", made_by)
    curves = read_json(folder / "curves.json", made_by)
    path = folder / "localisation.json"
    localisation = read_json(path, made_by) if path.exists() else None
    return {
        "metrics": metrics,
        "undefined": _undefined(metrics["findings"]),
        "curves": {
            finding: _curves(finding, curves[finding], metrics["findings"][finding])
            for finding in FINDINGS
        },
        "localisation": localisation,
        "marked": [
            finding
            for finding in FINDINGS
            if localisation and localisation["findings"][finding]["cases"]
        ],
    }


def _undefined(findings: dict[str, dict[str, Any]]) -> list[str]:
    """Tell which figures do not exist, and why, the same things together."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for finding, entry in findings.items():
        words: dict[str, list[str]] = {}
        for name, word in COLUMNS.items():
            if "reason" in entry[name]:
                words.setdefault(entry[name]["reason"], []).append(word)
        for reason, which in words.items():
            lacking.setdefault((reason, ", ".join(which)), []).append(spaced(finding))
    everything = ", ".join([word for name, word in COLUMNS.items() if name != "threshold"])
    return [
        f"{'All findings' if len(names) == len(FINDINGS) else ', '.join(names)} "
        f"({'all figures' if which.startswith(everything) else which}): {reason}"
        for (reason, which), names in lacking.items()
    ]


def _curves(
    finding: str, curve: dict[str, Any] | None, entry: dict[str, Any]
) -> dict[str, Markup] | None:
    if curve is None:
        return None
    recall, precision, specificity = (
        entry[name]["value"] for name in ("recall", "precision", "specificity")
    )
    on_roc = None if specificity is None else (1 - specificity, recall)
    on_pr = None if precision is None else (recall, precision)
    name = spaced(finding)
    return {
        "roc": _drawn(figures.roc(curve["roc"], on_roc, name)),
        "pr": _drawn(figures.precision_recall(curve["pr"], on_pr, entry["prevalence"], name)),
    }


def _explanations(run: Path) -> dict[str, Any] | None:
    """Give the shown examples by finding and kind, pictures inlined."""
    folder = run / "explanations"
    if not (folder / "explanations.json").exists():
        return None
    listed = read_json(folder / "explanations.json", "chestxray explain")
    shown: dict[str, dict[str, Any]] = {}
    for example in listed["shown"]:
        picture = example | {"source": _inlined(folder / example["file"])}
        shown.setdefault(example["finding"], {})[example["kind"]] = picture
    return {"model": listed["model"], "shown": shown}


def _inlined(path: Path) -> str:
    require(path, "chestxray explain")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _drawn(svg: str) -> Markup:
    """Mark a figure of `figures`, which escapes what it is given, as HTML."""
    return Markup(svg)  # noqa: S704
