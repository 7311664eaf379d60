"""How pages write metrics, intervals and findings: their templates' environment and its filters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from chestxray.evaluation.metrics import METRICS
from chestxray.evaluation.signed_numbers import number
from chestxray.findings import label

Entry = dict[str, Any]

_SIZE: Final = re.compile(r"(?<=\d) × (?=\d)")
_FEWEST_FOR_ALL: Final = 4  # a sentence names up to three findings, and says "all 4" of more

_THRESHOLD: Final = ("Threshold", "Lowest probability at which a finding is called.")


def metric_label(name: str) -> str:
    """Give the label of a metric, such as `Sensitivity` for `recall`."""
    if name == "threshold":
        return _THRESHOLD[0]
    return METRICS[name].label if name in METRICS else name.replace("_", " ").capitalize()


def metric_description(name: str) -> str:
    """Explain a metric in one sentence; empty for one that is not registered."""
    if name == "threshold":
        return _THRESHOLD[1]
    return METRICS[name].meaning if name in METRICS else ""


def figure(metric: Entry, digits: int = 3) -> Markup:
    """Show a metric with its interval, or a dash that carries the reason.

    A value without an interval carries the reason of that, too.
    """
    if metric["value"] is None:
        return _because("–", metric["reason"])
    value = number(metric["value"], digits)
    if metric["low"] is None:
        why = metric.get("reason")
        return _because(value, why) if why else Markup("{}").format(value)
    return Markup('{} <span class="ci">({})</span>').format(value, span(metric, digits))


def span(interval: Entry, digits: int = 3) -> str:
    """Write an interval, or a dash where there is none; with `to` where a bound is negative."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return "–"
    between = " to " if low < 0 else "–"
    return f"{number(low, digits)}{between}{number(high, digits)}"


def with_interval(metric: Entry) -> str:
    """Write a value with its interval as a sentence does: `0.812, 95 % CI 0.790–0.833`."""
    return f"{number(metric['value'])}, 95\N{NO-BREAK SPACE}% CI {span(metric)}"


def threshold(entry: Entry) -> Markup:
    """Write a threshold, a small one with four decimals; a dash with the reason without one."""
    if entry["value"] is None:
        return _because("–", entry["reason"])
    return Markup("{}").format(number(entry["value"], 4 if entry["value"] < 0.1 else 3))


def share(value: float | None, digits: int = 3) -> str:
    """Write a proportion, or a dash where it was not computed."""
    return "–" if value is None else number(value, digits)


def p_value(p: float | None) -> str:
    """Write a p-value as journals do; a dash where nothing was tested."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a proportion in percent, a small one with one more decimal."""
    if value is None:
        return "–"
    if 0 < value < 0.01:
        digits += 1
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def counted(count: int, noun: str) -> str:
    """Write a number with its noun: `1 image`, `1,234 images`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(names: Iterable[str]) -> str:
    """Write findings as a sentence does: a, b and c."""
    words = [label(name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def listed_of(names: list[str], whole: int) -> str:
    """Write findings as a sentence does, or that they are all of a larger number.

    Args:
        names: the findings.
        whole: how many there are.
    """
    return f"all {whole} findings" if len(names) == whole >= _FEWEST_FOR_ALL else listed(names)


def duration(seconds: int) -> str:
    """Write a time in its two largest units."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def quoted(path: Path | str) -> str:
    """Write a path as a shell takes it."""
    return shlex.quote(str(path))


def capitalized(sentence: str) -> str:
    """Begin with a capital letter and leave the rest."""
    return sentence[:1].upper() + sentence[1:]


def points_of(findings: Mapping[str, Entry], point: str) -> dict[str, Entry]:
    """Give each finding's entry at one operating point."""
    return {finding: entry["operating_points"][point] for finding, entry in findings.items()}


def notes_of(workload: Mapping[str, Entry]) -> list[str]:
    """Say of each operating point how it was chosen, where its rule could not be applied."""
    return [
        f"Operating point {name}: {point['note']}."
        for name, point in workload.items()
        if "note" in point
    ]


def measured(contrast: Entry) -> bool:
    """Tell whether two groups of `subgroups.json` are large enough for any finding."""
    return any(gap["auroc"]["value"] is not None for gap in contrast["findings"].values())


def outranked(effects: Mapping[str, Entry]) -> list[str]:
    """Name the drawn findings that move another finding's probability more than their own."""
    return [finding for finding, effect in effects.items() if not effect["own_first"]]


def metrics_in(entry: Entry) -> tuple[str, ...]:
    """Name the metrics of an entry of `metrics.json`, in its order."""
    return tuple(
        name for name, metric in entry.items()
        if isinstance(metric, dict) and {"value", "low", "high"} <= set(metric)
    )  # fmt: skip


def undefined(entries: Mapping[str, Entry], columns: Iterable[str]) -> list[str]:
    """List the metrics, or intervals, that do not exist, and why; equal reasons together.

    Args:
        entries: finding → metric → entry.
        columns: metrics.
    """
    wanted = list(columns)
    lacking: dict[tuple[str, str], list[str]] = {}
    for finding, entry in entries.items():
        words: dict[str, list[str]] = {}
        for name in wanted:
            if "reason" in entry.get(name, ()):
                word = _in_sentence(metric_label(name))
                what = word if entry[name]["value"] is None else f"interval of {word}"
                words.setdefault(entry[name]["reason"], []).append(what)
        for reason, which in words.items():
            lacking.setdefault((reason, ", ".join(which)), []).append(label(finding))
    everything = ", ".join(_in_sentence(metric_label(name)) for name in wanted
                           if name != "threshold")  # fmt: skip
    return [
        f"{'All findings' if len(names) == len(entries) > 1 else ', '.join(names)} "
        f"({'all metrics' if which.startswith(everything) else which}): {reason}"
        for (reason, which), names in lacking.items()
    ]


def _in_sentence(word: str) -> str:
    """Begin with a small letter, but for an abbreviation."""
    return word if word[1:2].isupper() or word[1:2].isdigit() else word[:1].lower() + word[1:]


def _because(shown: str, reason: str) -> Markup:
    return Markup('<abbr title="{}">{}</abbr>').format(reason, shown)


FILTERS: Final = {
    function.__name__: function
    for function in (
        figure, number, span, threshold, share, p_value, percent, counted, label, listed, duration,
        quoted, capitalized, points_of, notes_of, measured, outranked, undefined, metric_label,
        metric_description,
    )
}  # fmt: skip


def unbroken(value: object) -> object:
    """Keep sizes such as 16 × 16 on one line: text gets spaces that do not break there."""
    if isinstance(value, str) and "×" in value:
        return type(value)(_SIZE.sub("\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}", value))
    return value


def environment() -> Environment:
    """Give the environment of the templates: strict, escaping, with the filters of this module."""
    made = Environment(
        loader=PackageLoader("chestxray.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= FILTERS
    return made
