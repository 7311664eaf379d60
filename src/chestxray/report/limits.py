"""What the figures of a run don't support: what was not tested, what none can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chestxray.findings import FINDINGS
from chestxray.report.files import FEW, Files, Json
from chestxray.report.wording import listed


@dataclass(frozen=True)
class Limit:
    """One thing that the figures don't support, in a few words and in a sentence."""

    title: str
    sentence: str


PHANTOMS: Final = Limit(
    "Anything about patients",
    "These radiographs were drawn by a program. How well a model finds what was drawn says that "
    "the pipeline works.",
)
MINED: Final = Limit(
    "Agreement with radiologists",
    "The labels were mined from reports by software. Some are wrong, present and absent alike, and "
    "every figure here is agreement with such labels.",
)
MINED_MOSTLY: Final = Limit(
    "Agreement with radiologists, but for the reference labels",
    "All other figures are agreement with labels mined from reports by software, some of them "
    "wrong.",
)
ONE_SOURCE: Final = Limit(
    "Other hospitals, scanners, years",
    "The evaluated radiographs come from the same source as those of training.",
)
GAPS: Final = Limit(
    "Equal performance in all groups",
    "A gap that is not shown is not shown to be absent: many groups are small.",
)
VIEW: Final = "That the lungs decide, not the view"
ALWAYS: Final = (
    Limit("Gain for patients", "Nothing was tested prospectively, nor with readers."),
    Limit(
        "Precision elsewhere",
        "Precision, negative predictive value and probabilities hold where findings are about as "
        "frequent as here.",
    ),
    Limit(
        "Health",
        f"An image without any of the {len(FINDINGS)} findings can show something else, such as a "
        f"fracture or a catheter.",
    ),
    Limit("Outlines", "A heatmap shows on a coarse grid where evidence was found."),
)


def unsupported(files: Files) -> list[Limit]:
    """Give what the figures of this run can't say, the most particular first."""
    return [*_untested(files), *_data(files), _split(files), *ALWAYS]


def _untested(files: Files) -> list[Limit]:
    said = []
    if files.unmeasured:
        said.append(Limit(listed(files.unmeasured), "No AUROC can be computed."))
    if files.few:
        few = (
            f"Fewer than {FEW} positives, or an AUROC without an interval. A figure there "
            f"moves much with each of them, and so does the mean."
        )
        said.append(Limit(listed(files.few), few))
    if files.standing and not any(row["comparable"] for row in files.standing["rows"]):
        why = files.standing["note"] or "none reports on the same test images"
        said.append(Limit("A rank among published systems", f"{why[0].upper()}{why[1:]}."))
    return said


def _data(files: Files) -> list[Limit]:
    said = []
    if files.phantoms:
        said.append(PHANTOMS)
    else:
        said.append(MINED_MOSTLY if files.adjudicated else MINED)
    if not files.external:
        said.append(ONE_SOURCE)
    if files.subgroups is not None:
        said.append(GAPS)
        if alike := _no_better_than_the_view(files.subgroups["shortcut"]):
            said.append(Limit(VIEW, f"The view position alone may rank as well: {listed(alike)}."))
    return said


def _no_better_than_the_view(shortcut: Json) -> list[str]:
    """Name the findings whose ranking is not shown to be better than that of the view."""
    lows = {finding: shortcut[finding]["difference"]["low"] for finding in FINDINGS}
    return [finding for finding, low in lows.items() if low is not None and low <= 0]


def _split(files: Files) -> Limit:
    split = files.run["split"]["name"]
    return Limit(
        "Comparison across splits",
        f"These figures belong to split {split}. On NIH the same model scores about 0.03 higher on "
        f"a random patient split than on the official one.",
    )
