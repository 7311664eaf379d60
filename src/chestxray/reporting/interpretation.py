"""Which statements the results of a run support, and which they do not.

`supported` gives sentences that follow from the intervals: a statement is made only where an
interval excludes the alternative. `unsupported` names what was not tested, and what the available
data cannot show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chestxray.findings import label
from chestxray.reporting.formatting import capitalized, counted, listed, listed_of, with_interval
from chestxray.reporting.run_files import FEW, Json, RunFiles

_CHANCE: Final = 0.5
_ALPHA: Final = 0.05
_MOST_WITH_VALUES: Final = 3  # findings of a sentence
_VERDICTS: Final = {
    "above": "Mean AUROC above published results on the same split",
    "matches": "Mean AUROC not distinguishable from published results on the same split",
    "below": "Mean AUROC below published results on the same split",
}


def supported(files: RunFiles) -> list[str]:
    """Give the statements that the intervals support; empty where nothing was evaluated."""
    if files.metrics is None:
        return []
    return [
        *_mean(files.metrics["mean"]["auroc"], len(files.findings)),
        *_findings(files),
        *_baselines(files),
        *_calibration(files),
        *_pointing(files),
        *_published(files),
        *_gap(files, "auroc", "AUROC"),
        *_gap(files, "missed", "Proportion of positives missed"),
    ]


def _mean(mean: Json, findings: int) -> list[str]:
    if mean["low"] is None or findings < 2:
        return []
    over = f"The mean AUROC over {mean['findings']} of {findings} findings"
    verdict = _against_chance(mean)
    return [f"{over} is {verdict} (0.5): {with_interval(mean)}."]


def _against_chance(auroc: Json) -> str:
    if auroc["low"] > _CHANCE:
        return "above chance"
    return "below chance" if auroc["high"] < _CHANCE else "not distinguishable from chance"


def _findings(files: RunFiles) -> list[str]:
    """Compare each finding's AUROC with chance; a finding with few positives is left out."""
    entries = files.metrics["findings"] if files.metrics else {}
    left_out = (*files.few, *files.unmeasured)
    measured = {f: entry["auroc"] for f, entry in entries.items() if f not in left_out}
    sentences = []
    for verdict in ("above chance", "not distinguishable from chance", "below chance"):
        values = {f: auroc for f, auroc in measured.items() if _against_chance(auroc) == verdict}
        if values:
            sentences.append(f"AUROC {verdict}: {_with_values(values, len(entries))}.")
    if len(measured) > 1:
        sentences[-1] += (
            " The intervals of the findings are not corrected for multiple comparisons."
        )
    return sentences


def _baselines(files: RunFiles) -> list[str]:
    """Say of each baseline with figures whether the model ranks better, and for which findings."""
    entries = files.baselines["of"] if files.baselines else {}
    return [
        f"{entry['sentence']} {_by_finding(entry)}".strip()
        for entry in entries.values()
        if entry["mean"]
    ]


def _by_finding(baseline: Json) -> str:
    """Count the findings for which the interval of the difference excludes 0, and name the worse.

    Empty where there is one finding, which the mean says already.
    """
    gaps = {
        finding: figure["auroc"]["difference"] for finding, figure in baseline["findings"].items()
    }
    known = {name: gap for name, gap in gaps.items() if gap["low"] is not None}
    if len(known) < 2:
        return ""
    better = [name for name, gap in known.items() if gap["low"] > 0]
    worse = {name: gap for name, gap in known.items() if gap["high"] < 0}
    sentence = f"By finding it is better for {len(better)} of {len(known)}."
    return f"{sentence} It is worse for {_with_values(worse, len(gaps))}." if worse else sentence


def _with_values(values: dict[str, Json], whole: int) -> str:
    """Name findings, up to three of them with their values.

    Args:
        values: finding → value with its interval.
        whole: how many findings there are.
    """
    if len(values) > _MOST_WITH_VALUES:
        return listed_of(list(values), whole)
    return "; ".join(f"{label(name)} ({with_interval(value)})" for name, value in values.items())


def _calibration(files: RunFiles) -> list[str]:
    """Say for which findings the probabilities are off, and in which direction."""
    if files.reliability is None:
        return []
    figures = {
        finding: entry["recalibrated"] or entry["as_given"]
        for finding, entry in files.reliability.items()
        if finding in files.findings and finding not in files.few
    }
    slopes = _known(figures, "slope")
    if not slopes:
        return []
    sides = {
        "too extreme (slope below 1)": [f for f, of in slopes.items() if of["high"] < 1],
        "not extreme enough (slope above 1)": [f for f, of in slopes.items() if of["low"] > 1],
    }
    intercepts = _known(figures, "intercept")
    sides |= {
        "too high on average": [f for f, of in intercepts.items() if of["high"] < 0],
        "too low on average": [f for f, of in intercepts.items() if of["low"] > 0],
    }
    whole = len(files.findings)
    found = [f"{side}: {listed_of(which, whole)}" for side, which in sides.items() if which]
    if found:
        return [f"Probabilities on these images are {'; '.join(found)}."]
    alike = "Calibration slope and intercept are not distinguishable from 1 and 0"
    return [f"{alike} for {counted(len(slopes), 'finding')}."]


def _known(figures: dict[str, Json], name: str) -> dict[str, Json]:
    """Give a figure of each finding that has an interval."""
    return {
        finding: of[name]
        for finding, of in figures.items()
        if of is not None and of[name]["low"] is not None
    }


def _pointing(files: RunFiles) -> list[str]:
    """Name the findings whose heatmap peaks hit more often than every baseline, case by case."""
    entries = (files.localization or {}).get("findings", {})
    compared = [finding for finding in files.marked if entries[finding].get("above")]
    if not compared:
        return []
    better = [finding for finding in compared if _beats_baselines(entries[finding]["above"])]
    baselines = "a random point, the image centre and the mean box"
    more = "inside the marked region more often than"
    if not better:
        return [f"For no finding is the heatmap peak shown to be {more} {baselines}."]
    which = "; ".join(f"{label(f)} ({with_interval(entries[f]['hit'])})" for f in better)
    by = "each by the interval of the difference on the same images"
    return [f"The heatmap peak is {more} {baselines}, {by}: {which}."]


def _misses(files: RunFiles) -> list[Limit]:
    """Name the findings whose heatmap peaks are not shown to hit, and those below a baseline."""
    entries = (files.localization or {}).get("findings", {})
    compared = {f: entries[f]["above"] for f in files.marked if entries[f].get("above")}
    others = [f for f, above in compared.items() if not _beats_baselines(above)]
    if not others:
        return []
    whole = len(files.findings)
    below = [
        f
        for f in others
        if any(of["high"] is not None and of["high"] < 0 for of in compared[f].values())
    ]
    sentence = (
        f"The heatmap peak is not shown to hit the marked region more often than a random point, "
        f"the image centre and the mean box: {listed_of(others, whole)}."
    )
    if below:
        sentence += f" It hits less often than one of them: {listed_of(below, whole)}."
    return [Limit("Place of the evidence", sentence)]


def _chance_calls(files: RunFiles) -> list[Limit]:
    """Name the findings whose calls are not shown to agree with the labels beyond chance."""
    entries = files.metrics["findings"] if files.metrics else {}
    measured = {
        f: of["mcc"] for f, of in entries.items() if of.get("mcc", {}).get("low") is not None
    }
    alike = [finding for finding, mcc in measured.items() if mcc["low"] <= 0]
    if not alike:
        return []
    sentence = (
        "At the default operating point calls and labels do not agree beyond chance (95 % interval "
        "of the Matthews correlation)."
    )
    return [Limit(f"Calls of {listed_of(alike, len(files.findings))}", sentence)]


def _beats_baselines(above: Json) -> bool:
    """Tell whether the difference from every baseline that is defined lies above 0."""
    defined = [entry for entry in above.values() if entry["value"] is not None]
    return all(entry["low"] is not None and entry["low"] > 0 for entry in defined)


def _published(files: RunFiles) -> list[str]:
    if files.benchmarks is None or not files.nih:
        return []
    rows = [row for row in files.benchmarks["rows"] if row["comparable"]]
    sentences = []
    for verdict, words in _VERDICTS.items():
        systems = [
            f"{row['system']} ({row['auroc']:.3f})" for row in rows if row["verdict"] == verdict
        ]
        if systems:
            sentences.append(f"{words}: {'; '.join(systems)}.")
    return sentences


def _gap(files: RunFiles, metric: str, word: str) -> list[str]:
    """Name the differences between groups that stay below `_ALPHA` after correction."""
    shown = [
        f"{label(finding)}, {' minus '.join(contrast['between'])} ({with_interval(gap)})"
        for entry in files.axes.values()
        for contrast in entry["gaps"]
        for finding in contrast["findings"]
        if (gap := contrast["findings"][finding][metric])["p_holm"] is not None
        and gap["p_holm"] < _ALPHA
    ]
    return [f"{word} differs between groups (Holm p < {_ALPHA}): {'; '.join(shown)}."] * bool(shown)


@dataclass(frozen=True)
class Limit:
    """A statement that the results do not support, in a few words, with the reason."""

    title: str
    sentence: str


_SYNTHETIC: Final = Limit(
    "Performance on patients",
    "The radiographs are synthetic. The results show that the software works, not how well a model "
    "finds disease.",
)
_ONE_SOURCE: Final = Limit(
    "Performance on other data",
    "The evaluated radiographs come from the same source as the training data. Other hospitals, "
    "scanners and years were not tested.",
)
_GAPS: Final = Limit(
    "Equal performance in all subgroups",
    "A difference that is not significant is not evidence of equality: many subgroups are small.",
)
_VIEW: Final = "Independence of the view position"
_ALWAYS: Final = (
    Limit("Benefit for patients", "No prospective study and no reader study was done."),
    Limit(
        "Predictive values at another prevalence",
        "Precision, negative predictive value and probabilities apply only where the findings are "
        "about as frequent as here.",
    ),
    Limit(
        "Absence of disease",
        "A radiograph without any of these findings can be abnormal in another way.",
    ),
    Limit(
        "Borders of a finding",
        "A heatmap shows on a coarse grid where the evidence is, not the extent of the finding.",
    ),
)


def unsupported(files: RunFiles) -> list[Limit]:
    """Give what the results do not support, the most specific first."""
    return [
        *_untested(files),
        *_shortcut(files),
        *_chance_calls(files),
        *_misses(files),
        *_data(files),
        _split(files),
        *_ALWAYS,
    ]


def _untested(files: RunFiles) -> list[Limit]:
    limits = []
    if files.unmeasured:
        limits.append(Limit(listed(files.unmeasured), "The AUROC cannot be computed."))
    if files.few:
        few = (
            f"There are fewer than {FEW} positives, or the AUROC has no interval. A single "
            f"image then changes the value, and the mean, considerably."
        )
        limits.append(Limit(listed(files.few), few))
    if files.not_assessed:
        reason = (
            "Not assessed, and never called: validation gives no evidence that the model ranks "
            "these findings better than chance, or has too few patients with them. See Results by "
            "finding."
        )
        which = listed_of(list(files.not_assessed), len(files.findings))
        limits.append(Limit(f"Calls of {which}", reason))
    if files.left_out:
        left_out = "Only the predictions or only the labels have them; see Results by finding."
        limits.append(Limit(listed(files.left_out), left_out))
    if (
        files.nih
        and files.benchmarks
        and not any(row["comparable"] for row in files.benchmarks["rows"])
    ):
        why = files.benchmarks["note"] or "no published result is on the same test images"
        limits.append(Limit("Comparison with published results", f"{capitalized(why)}."))
    return limits


def _shortcut(files: RunFiles) -> list[Limit]:
    """Warn where the model may use the source of a radiograph in place of its content."""
    probe = files.source_probe
    if probe is None or not probe["warning"]:
        return []
    return [Limit("Figures over all sources together", probe["sentence"])]


def _data(files: RunFiles) -> list[Limit]:
    seen = (files.metrics or {}).get("seen_images", ())
    limits = [Limit("Generalization to unseen radiographs", of["sentence"]) for of in seen]
    limits.append(_SYNTHETIC if files.synthetic else _labels(files))
    if files.run is not None and not files.external:
        limits.append(_ONE_SOURCE)
    if files.subgroups is not None:
        limits.append(_GAPS)
        alike = _no_better_than_the_view(files.subgroups["shortcut"])
        if alike:
            which = listed_of(alike, len(files.findings))
            sentence = (
                f"AUROC not distinguishable from that of the view alone, or below it: {which}."
            )
            limits.append(Limit(_VIEW, sentence))
    return limits


def _labels(files: RunFiles) -> Limit:
    origins = files.label_origins.items()
    known = " ".join(f"Labels of {title}: {origin.rstrip('.')}." for title, origin in origins)
    known = known or "The origin of the labels is not recorded."
    if files.adjudicated:
        return Limit(
            "Accuracy against a clinical reference, except for the reference labels",
            f"{known} All other metrics measure agreement with these labels.",
        )
    return Limit(
        "Accuracy against a clinical reference",
        f"{known} All metrics measure agreement with these labels.",
    )


def _no_better_than_the_view(shortcut: Json) -> list[str]:
    """Name the findings whose AUROC is not shown to be above that of the view alone."""
    lows = {finding: shortcut[finding]["difference"]["low"] for finding in shortcut}
    return [finding for finding, low in lows.items() if low is not None and low <= 0]


def _split(files: RunFiles) -> Limit:
    recorded = files.run["split"]["name"] if files.run and not files.external else None
    split = recorded or (files.metrics or {}).get("split_name")
    sentence = f"These results apply to the split {split}." if split else "The split is not known."
    if files.nih:
        sentence += (
            " On ChestX-ray14 the mean AUROC of the same model is about 0.03 higher on a random "
            "split by patient than on the official one."
        )
    return Limit("Comparison across splits", sentence)
