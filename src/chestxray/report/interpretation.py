"""What the figures of a run support: sentences that follow from its intervals.

A claim is made only where an interval makes it. What the figures don't support is in `limits`.

What the figures of a run don't support: what was not tested, what none can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chestxray.report.formatting import listed, number, spaced, span
from chestxray.report.run_files import FEW, Files, Json

GUESSING: Final = 0.5
ALPHA: Final = 0.05


def supported(files: Files) -> list[str]:
    """Give what the intervals carry; empty where nothing was evaluated."""
    if files.metrics is None:
        return []
    said = [*_mean(files.metrics["mean"]["auroc"], len(files.findings)), *_findings(files)]
    return [*said, *_calibration(files), *_pointing(files), *_beside(files), *_gaps(files)]


def _mean(mean: Json, findings: int) -> list[str]:
    if mean["low"] is None:
        return []
    said = f"{number(mean['value'])} ({span(mean)})"
    over = f"over {mean['findings']} of {findings} findings"
    if mean["low"] > GUESSING:
        return [f"On average, {over}, the model ranks better than guessing: mean AUROC {said}."]
    return [f"Ranking on average, {over}, can't be told from guessing: mean AUROC {said}."]


def _findings(files: Files) -> list[str]:
    """Place each finding's interval against guessing; few positives make no claim."""
    entries = files.metrics["findings"] if files.metrics else {}
    measured = {
        finding: entries[finding]["auroc"]
        for finding in entries
        if finding not in (*files.few, *files.unmeasured)
    }
    better = [f for f, entry in measured.items() if entry["low"] > GUESSING]
    unclear = [f for f, entry in measured.items() if entry["low"] <= GUESSING <= entry["high"]]
    worse = [f for f, entry in measured.items() if entry["high"] < GUESSING]
    said = []
    if better:
        said.append(
            f"Better than guessing, each by its own interval, uncorrected: {listed(better)}."
        )
    if unclear:
        said.append(f"Not told apart from guessing: {listed(unclear)}.")
    if worse:
        said.append(f"Ranked the wrong way round: {listed(worse)}.")
    return said


def _calibration(files: Files) -> list[str]:
    if files.reliability is None:
        return []
    off = []
    for finding in (f for f in files.findings if f not in files.few):
        entry = files.reliability[finding]
        used = entry["recalibrated"] or entry["as_given"]
        if used is not None and used["slope"]["low"] is not None:
            low, high = used["slope"]["low"], used["slope"]["high"]
            off += [] if low <= 1 <= high else [finding]
    if off:
        return [f"Probabilities spread too much or too little (slope apart from 1): {listed(off)}."]
    return ["No finding's probabilities are shown to spread too much or too little (slope 1)."]


def _pointing(files: Files) -> list[str]:
    better = [f for f in files.marked if _beats_baselines(files.localisation, f)]
    if not files.marked:
        return []
    if not better:
        return ["No finding's heatmap is shown to beat a fixed point or box."]
    words = "a random point, the centre and the mean box"
    return [f"The heatmap's peak beats {words} for {listed(better)}."]


def _beats_baselines(localisation: Json | None, finding: str) -> bool:
    entry = (localisation or {})["findings"][finding]
    low = entry["hit"]["low"]
    baselines = [entry[name] for name in ("random", "centre", "mean_box")]
    return low is not None and all(low > share for share in baselines if share is not None)


def _beside(files: Files) -> list[str]:
    rows = [row for row in files.standing["rows"] if row["comparable"]] if files.standing else []
    said = []
    for verdict, words in (
        ("above", "Above these published figures of the same split"),
        ("matches", "Not told apart from these published figures of the same split"),
        ("below", "Below these published figures of the same split"),
    ):
        systems = [f"{row['system']} ({row['auroc']:.3f})" for row in rows
                   if row["verdict"] == verdict]  # fmt: skip
        if systems:
            said.append(f"{words}: {'; '.join(systems)}.")
    return said


def _gaps(files: Files) -> list[str]:
    return [*_gap(files, "auroc", "AUROC"), *_gap(files, "missed", "The share missed of the sick")]


def _gap(files: Files, metric: str, word: str) -> list[str]:
    """Name the gaps that stay below `ALPHA` after correction, with their size."""
    shown = [
        f"{spaced(finding)} {' against '.join(contrast['between'])} ({number(gap['value'])})"
        for entry in (files.subgroups["axes"].values() if files.subgroups else ())
        for contrast in entry["gaps"]
        for finding in contrast["findings"]
        if (gap := contrast["findings"][finding][metric])["p_holm"] is not None
        and gap["p_holm"] < ALPHA
    ]
    differs = f"{word} differs between groups, after correction: {'; '.join(shown)}."
    return [differs] if shown else []


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
        "An image without any of the findings can show something else, such as a catheter.",
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
    lows = {finding: shortcut[finding]["difference"]["low"] for finding in shortcut}
    return [finding for finding, low in lows.items() if low is not None and low <= 0]


def _split(files: Files) -> Limit:
    split = files.run["split"]["name"]
    return Limit(
        "Comparison across splits",
        f"These figures belong to split {split}. On NIH the same model scores about 0.03 higher on "
        f"a random patient split than on the official one.",
    )
