"""What the figures of a run support: sentences that follow from its intervals.

A claim is made only where an interval makes it. What the figures don't support is in `limits`.
"""

from __future__ import annotations

from typing import Final

from chestxray.findings import FINDINGS
from chestxray.report.files import Files, Json
from chestxray.report.wording import listed, number, spaced, span

GUESSING: Final = 0.5
ALPHA: Final = 0.05


def supported(files: Files) -> list[str]:
    """Give what the intervals carry; empty where nothing was evaluated."""
    if files.metrics is None:
        return []
    said = [*_mean(files.metrics["mean"]["auroc"]), *_findings(files)]
    return [*said, *_calibration(files), *_pointing(files), *_beside(files), *_gaps(files)]


def _mean(mean: Json) -> list[str]:
    if mean["low"] is None:
        return []
    said = f"{number(mean['value'])} ({span(mean)})"
    over = f"over {mean['findings']} of {len(FINDINGS)} findings"
    if mean["low"] > GUESSING:
        return [f"On average, {over}, the model ranks better than guessing: mean AUROC {said}."]
    return [f"Ranking on average, {over}, can't be told from guessing: mean AUROC {said}."]


def _findings(files: Files) -> list[str]:
    """Place each finding's interval against guessing; few positives make no claim."""
    entries = files.metrics["findings"] if files.metrics else {}
    measured = {
        finding: entries[finding]["auroc"]
        for finding in FINDINGS
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
    for finding in (f for f in FINDINGS if f not in files.few):
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
        for finding in FINDINGS
        if (gap := contrast["findings"][finding][metric])["p_holm"] is not None
        and gap["p_holm"] < ALPHA
    ]
    differs = f"{word} differs between groups, after correction: {'; '.join(shown)}."
    return [differs] if shown else []
