"""Overlays as they stand in the page: the same pictures, in a fifth of the bytes.

`chestxray explain` writes PNG, whole to the bit. The page holds WebP at the same size, since
dozens of pictures are carried inside it; at this quality the text in them stays sharp.

One self-contained page about a run, from the files in its folder.

It reads and formats; every figure on it was computed by the command that wrote the file. A part
whose file is not there yet is shown with the command that makes it.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from chestxray.artifacts import require, write_text
from chestxray.errors import ArtifactError
from chestxray.findings import NO_FINDING, term
from chestxray.report import figure_set as plates
from chestxray.report import interpretation as limits
from chestxray.report import interpretation as support
from chestxray.report import reporting_checklist as checklist
from chestxray.report.figure_set import Plate
from chestxray.report.figures.style import inline
from chestxray.report.formatting import FILTERS
from chestxray.report.run_files import FEW, Files
from chestxray.version import __version__

QUALITY: Final = 80
PREFIX: Final = "data:image/webp;base64,"


def shown(files: Files) -> dict[str, dict[str, dict[str, Any]]]:
    """Give the examples by finding and kind, each with its picture inside as `source`.

    Raises:
        ArtifactError: a picture that is gone or is no picture.
    """
    examples: dict[str, dict[str, dict[str, Any]]] = {}
    for example in files.explanations["shown"] if files.explanations else ():
        picture = example | {"source": inlined(files.folder / "explanations" / example["file"])}
        examples.setdefault(example["finding"], {})[example["kind"]] = picture
    return examples


def inlined(path: Path) -> str:
    """Give a picture as a data address."""
    require(path, "chestxray explain")
    file = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").save(file, "WEBP", quality=QUALITY)
    except UnidentifiedImageError as error:
        raise ArtifactError(f"{path} is no picture: run `chestxray explain` again") from error
    return PREFIX + base64.b64encode(file.getvalue()).decode("ascii")


FIGURES: Final = "figures"

# Sections in their order: anchor → title. The last few stand only where their file does.
SECTIONS: Final = {
    "support": "What the figures support",
    "trained": "What was trained on what",
    "data": "Data",
    "training": "Training",
    "results": "Results by finding",
    "curves": "Curves",
    "calibration": "Calibration",
    "calls": "Calls",
    "subgroups": "Subgroups",
    "localisation": "Where the model looks",
    "examples": "Right and wrong calls",
    "standing": "Beside published figures",
    "reference": "Reference labels",
    "comparison": "Comparison",
    "card": "Model card",
    "checklist": "Checklist",
    "recipe": "Recipe",
}
OPTIONAL: Final = ("reference", "comparison")

MAIN: Final = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "threshold": "threshold",
}
PROBABILITIES: Final = {
    "partial_auroc": "partial AUROC",
    "brier": "Brier score",
    "bce": "log loss",
    "ece": "calibration error",
    "calibration_slope": "slope",
    "calibration_intercept": "intercept",
}
CALLS: Final = {
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
    "accuracy": "accuracy",
    "alert_rate": "alert rate",
}
POINTS: Final = {
    "youden": "Youden’s J",
    "f1": "best F1",
    "sensitivity": "a wanted sensitivity",
    "precision": "a wanted precision",
    "alert_rate": "a wanted alert rate",
}
KINDS: Final = ("true call", "false call", "missed")
IOU: Final = ("0.1", "0.3", "0.5", "0.7")
IOBB: Final = ("0.1", "0.25", "0.5", "0.75", "0.9")


def write(run: Path, out: Path) -> None:
    """Write the page of a run, and its figures as files into `figures/` beside it.

    Raises:
        ArtifactError: no finished run, or a file of it that is not what it should be.
    """
    files = Files.read(run)
    drawn = _plates(files)
    text = _page(files, drawn)
    plates.write(drawn, out.parent / FIGURES)
    write_text(out, text)


def build(run: Path) -> str:
    """Give the page of a run as HTML.

    Args:
        run: the folder of a finished run. `run.json` must be there; `history.csv`, `recipe.yaml`,
            `bundle/`, `evaluation/` and `explanations/` are shown as far as they are.

    Raises:
        ArtifactError: no `run.json`, or a file that is not what it should be.
    """
    files = Files.read(run)
    return _page(files, _plates(files))


def _plates(files: Files) -> dict[str, Plate]:
    try:
        return plates.plates(files)
    except (KeyError, TypeError, ValueError) as error:
        raise _not_understood(files, error) from error


def _page(files: Files, drawn: dict[str, Plate]) -> str:
    def drawing(plate: str, key: str) -> Markup | None:
        """Give a figure for the page; None where there are no numbers for it."""
        panels = drawn[plate].panels if plate in drawn else {}
        # `style` escapes what it is given
        return Markup(inline(panels[key])) if key in panels else None  # noqa: S704

    present = [name for name in SECTIONS if name not in OPTIONAL or vars(files)[name] is not None]
    try:
        return _environment().get_template("report.html.j2").render(
            vars(files),
            files=files,
            plates=drawn,
            drawing=drawing,
            sections={name: SECTIONS[name] for name in present},
            supported=support.supported(files),
            unsupported=limits.unsupported(files),
            guidelines=checklist.statuses(files),
            examples=shown(files),
            published=plates.published,
            version=__version__,
            findings=files.findings,
            descriptions={
                name: known.description if (known := term(name)) else "" for name in files.findings
            },
            **_WORDS,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, UndefinedError) as error:
        raise _not_understood(files, error) from error


_WORDS: Final = {
    "no_finding": NO_FINDING,
    "splits": plates.SPLITS,
    "axes": plates.AXES,
    "main": MAIN,
    "averaged": {name: word for name, word in MAIN.items() if name != "threshold"},
    "probabilities": PROBABILITIES,
    "calls": CALLS,
    "points": POINTS,
    "kinds": KINDS,
    "iou": IOU,
    "iobb": IOBB,
    "few": FEW,
}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("chestxray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment


def _not_understood(files: Files, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{files.folder} holds a file that this version does not understand ({error!r}): make its "
        f"evaluation and explanations anew, or use the chestxray that made it"
    )
