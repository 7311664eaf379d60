"""One self-contained page about a run or an evaluation, from the files in its folder.

The page reads and formats; every number on it was computed by the command that wrote the file. A
section of a run whose file does not exist shows the command that makes it. The figures are also
written one by one as SVG files.

`chestxray explain` writes its overlays as PNG, without loss. The page carries them as WebP of the
same size, about a fifth of the bytes; text in them stays sharp at this quality.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from chestxray.artifacts import require, write_text
from chestxray.errors import ArtifactError
from chestxray.findings import NO_FINDING, term
from chestxray.reporting import figure_set, interpretation, reporting_checklist
from chestxray.reporting.figure_set import FigureSet
from chestxray.reporting.formatting import environment, metrics_in
from chestxray.reporting.print_style import PrintStyle, print_style
from chestxray.reporting.run_files import FEW, RunFiles
from chestxray.reporting.svg import inline
from chestxray.storage import fetched, is_url, path_of, upload_alone
from chestxray.version import __version__

_FIGURES: Final = "figures"
"""The folder beside the page that holds its figures as files."""

_QUALITY: Final = 80
_PREFIX: Final = "data:image/webp;base64,"

# Sections in their order: anchor → title.
SECTIONS: Final = {
    "interpretation": "Interpretation",
    "model": "Model and training data",
    "data": "Data partitions",
    "training": "Training",
    "results": "Results by finding",
    "baselines": "Comparison with simple baselines",
    "curves": "ROC and precision-recall curves",
    "calibration": "Calibration",
    "operating_points": "Operating points",
    "subgroups": "Subgroups",
    "localization": "Localization",
    "causal": "Do the heatmaps follow the cause?",
    "examples": "Example radiographs",
    "benchmarks": "Published results",
    "reference": "Reference labels",
    "comparison": "Comparison of models",
    "card": "Model card",
    "checklist": "Reporting checklist",
    "execution": "What ran where",
    "recipe": "Training recipe",
}

# Metrics of the three tables; all others of `metrics.json` go into a table of further metrics.
MAIN: Final = ("auroc", "auprc", "recall", "specificity", "precision", "f1")
PROBABILITIES: Final = (
    "partial_auroc", "brier", "bce", "ece", "calibration_slope", "calibration_intercept",
)  # fmt: skip
CALLS: Final = ("recall", "specificity", "precision", "npv", "f1", "mcc", "accuracy", "alert_rate")
_POINTS: Final = {
    "joint": "At most this share of finding-free validation radiographs with any call",
    "youden": "Maximum of Youden’s J",
    "f1": "Maximum of F1",
    "sensitivity": "Sensitivity aimed at in validation",
    "precision": "Precision aimed at in validation",
    "alert_rate": "Alert rate in validation at most",
}
KINDS: Final = {
    "true call": "True positive",
    "false call": "False positive",
    "missed": "False negative",
}
_IOU: Final = ("0.1", "0.3", "0.5", "0.7")
_IOBB: Final = ("0.1", "0.25", "0.5", "0.75", "0.9")


def figures_folder(page: Path) -> Path:
    """Name the folder of a page's figures: `figures` beside `report.html`, else one per page."""
    return page.parent / (_FIGURES if page.stem == "report" else f"{page.stem}_{_FIGURES}")


def report(folder: str | Path, out: str | Path | None = None, style: str = "journal") -> Path:
    """Write the page of a run or of an evaluation, and its figures into `figures/` beside it.

    Args:
        folder: path or URL of a run, or of an evaluation. Of a run, `history.csv`, `recipe.yaml`,
            `bundle/`, `evaluation/` and `explanations/` are shown as far as they exist.
        out: path or URL of the page; `report.html` in `folder` where None.
        style: of the figures for print: `journal`, `slide`, or the size of their text in points.

    Returns:
        The page.

    Raises:
        ConfigError: there is no such style.
        ArtifactError: neither a run nor an evaluation, or a file that cannot be read.
        StorageError: a URL is refused, nothing is there, or the store does not answer.
    """
    layout = print_style(style)
    page = path_of(folder) / "report.html" if out is None else path_of(out)
    files = RunFiles.read(fetched(folder, without=["checkpoints"]))
    sets = _figure_sets(files)
    text = _page(files, sets)
    if not is_url(page):
        _write(page, text, sets, layout)
        return page
    with tempfile.TemporaryDirectory() as here:
        _write(Path(here) / page.name, text, sets, layout)
        written = (path for path in Path(here).rglob("*") if path.is_file())
        names = {path.relative_to(here).as_posix() for path in written}
        upload_alone(Path(here), page.parent, [*sorted(names - {page.name}), page.name])
    return page


def _write(page: Path, text: str, sets: Mapping[str, FigureSet], layout: PrintStyle) -> None:
    figure_set.write(sets, figures_folder(page), layout)
    write_text(page, text)


def _figure_sets(files: RunFiles) -> dict[str, FigureSet]:
    try:
        return figure_set.figure_sets(files)
    except (KeyError, TypeError, ValueError) as error:
        raise _not_understood(files, error) from error


def _page(files: RunFiles, sets: Mapping[str, FigureSet]) -> str:
    def drawing(name: str, key: str) -> Markup | None:
        """Give a figure for the page; None where there are no numbers for it."""
        panels = sets[name].panels if name in sets else {}
        if key not in panels:
            return None
        drawn = inline(panels[key])
        # `svg` escapes what it is given
        return Markup(drawn)  # noqa: S704  # nosec B704

    try:
        return environment().get_template("report.html.j2").render(
            vars(files),
            files=files,
            figure_sets=sets,
            drawing=drawing,
            sections=_sections(files),
            main_point=(files.metrics or {}).get("operating_point", "youden"),
            not_assessed=files.not_assessed,
            workload=(files.metrics or {}).get("workload"),
            supported=interpretation.supported(files),
            unsupported=interpretation.unsupported(files),
            guidelines=reporting_checklist.statuses(files),
            examples=_examples(files),
            pairs_picture=_pairs_picture(files),
            published=figure_set.published,
            axis_title=figure_set.axis_title,
            version=__version__,
            findings=files.findings,
            corrected=_corrected(files),
            descriptions={
                name: known.description if (known := term(name)) else "" for name in files.findings
            },
            **_metric_columns(files),
            **_CONSTANTS,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, UndefinedError) as error:
        raise _not_understood(files, error) from error


def _sections(files: RunFiles) -> dict[str, str]:
    """Give the sections that this page has, with their titles."""
    absent = {
        name
        for name in ("reference", "comparison", "causal", "execution")
        if vars(files)[name] is None
    }
    if files.baselines is None:
        absent.add("baselines")
    if not files.nih:
        absent.add("benchmarks")
    if files.run is None:
        absent |= {"model", "data", "training", "recipe"}
        absent |= {
            name
            for name, file in {
                "calibration": files.reliability,
                "subgroups": files.subgroups,
                "localization": files.localization,
                "examples": files.explanations,
                "benchmarks": files.benchmarks,
            }.items()
            if file is None
        }
    return {name: title for name, title in SECTIONS.items() if name not in absent}


def _corrected(files: RunFiles) -> list[str]:
    """Give the findings whose calibration was corrected for another prevalence."""
    entries = files.reliability or {}
    return [name for name in files.findings if name in entries and entries[name]["prior_corrected"]]


def _metric_columns(files: RunFiles) -> dict[str, tuple[str, ...]]:
    """Give the metrics of each table, as far as the evaluation has them."""
    entries = list(files.metrics["findings"].values()) if files.metrics else []
    present = metrics_in(entries[0]) if entries else ()
    points = (
        [metrics_in(point) for point in entries[0]["operating_points"].values()] if entries else []
    )
    with_threshold = points[0] if points else ()
    shown = {
        "main": tuple(name for name in MAIN if name in present),
        "probabilities": tuple(name for name in PROBABILITIES if name in present),
        "calls": (
            *(name for name in CALLS if name in present),
            *(name for name in with_threshold if name not in CALLS),
        ),
    }
    known = {name for names in shown.values() for name in names}
    return {**shown, "further": tuple(name for name in present if name not in known)}


def _examples(files: RunFiles) -> dict[str, dict[str, dict[str, Any]]]:
    """Give the examples by finding and kind, each with its image as the data URL `source`."""
    examples: dict[str, dict[str, dict[str, Any]]] = {}
    for example in files.explanations["shown"] if files.explanations else ():
        image = example | {"source": _data_url(files.folder / "explanations", example["file"])}
        examples.setdefault(example["finding"], {})[example["kind"]] = image
    return examples


def _pairs_picture(files: RunFiles) -> str | None:
    """Give the figure of the pairs of phantoms as a data URL; None where there are none."""
    return _data_url(files.folder, files.causal["picture"]) if files.causal else None


def _data_url(folder: Path, name: str) -> str:
    """Give an image file of a run as a data URL; what leads out of the folder is refused."""
    path = folder / name
    if Path(name).name != name or path.is_symlink():
        raise ArtifactError(
            f"{folder} lists the image {name!r}, which is not a file in that folder: run "
            f"`chestxray explain` again"
        )
    require(path, "chestxray explain")
    file = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.convert("RGB").save(file, "WEBP", quality=_QUALITY)
    except (OSError, Image.DecompressionBombError) as error:  # no image, or cut short
        raise ArtifactError(f"{path} is not an image: run `chestxray explain` again") from error
    return _PREFIX + base64.b64encode(file.getvalue()).decode("ascii")


_CONSTANTS: Final = {
    "no_finding": NO_FINDING,
    "splits": figure_set.SPLITS,
    "points": _POINTS,
    "kinds": KINDS,
    "iou": _IOU,
    "iobb": _IOBB,
    "few": FEW,
}


def _not_understood(files: RunFiles, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{files.folder} has a file that this version cannot read ({error!r}): run `chestxray "
        f"evaluate` and `chestxray explain` again, or use the version of chestxray that wrote it"
    )
