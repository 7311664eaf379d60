"""How the page writes figures and names: the filters of its templates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from markupsafe import Markup

MINUS: Final = "−"


def figure(metric: dict[str, Any], digits: int = 3) -> Markup:
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


def number(value: float, digits: int = 3) -> str:
    """Write a number with a true minus sign; one that rounds to nothing has no sign."""
    shown = f"{value:.{digits}f}"
    return shown.replace("-", MINUS) if float(shown) else f"{0:.{digits}f}"


def span(interval: dict[str, Any], digits: int = 3) -> str:
    """Write an interval, or a dash where there is none; beside a minus sign in words."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return "–"
    between = " to " if low < 0 else "–"
    return f"{number(low, digits)}{between}{number(high, digits)}"


def threshold(entry: dict[str, Any]) -> Markup:
    """Write a threshold finely, since rare findings have small ones; a dash with the reason."""
    if entry["value"] is None:
        return _because("–", entry["reason"])
    return Markup("{}").format(number(entry["value"], 4 if entry["value"] < 0.1 else 3))


def share(value: float | None, digits: int = 3) -> str:
    """Write a baseline's share, or a dash where it was not computed."""
    return "–" if value is None else number(value, digits)


def p_value(p: float | None) -> str:
    """Write a p-value as journals do; a dash where nothing was tested."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Show a share in percent, more finely where it is small."""
    if value is None:
        return "–"
    if 0 < value < 0.01:
        digits += 1
    return f"{100 * value:.{digits}f} %"


def spaced(finding: str) -> str:
    """Write a finding's name as people do."""
    return finding.replace("_", " ")


def listed(names: Iterable[str]) -> str:
    """Write names as a sentence does: a, b and c."""
    words = [spaced(name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def duration(seconds: int) -> str:
    """Write a time in its two largest units."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def points_of(findings: dict[str, dict[str, Any]], point: str) -> dict[str, dict[str, Any]]:
    """Give each finding's entry at one operating point."""
    return {finding: entry["operating_points"][point] for finding, entry in findings.items()}


def measured(contrast: dict[str, Any]) -> bool:
    """Tell whether two groups of `subgroups.json` are large enough for any finding."""
    return any(gap["auroc"]["value"] is not None for gap in contrast["findings"].values())


def undefined(findings: dict[str, dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """Tell which figures, or intervals, do not exist, and why; the same things together.

    Args:
        findings: finding → metric → entry.
        columns: metric → its word.
    """
    lacking: dict[tuple[str, str], list[str]] = {}
    for finding, entry in findings.items():
        words: dict[str, list[str]] = {}
        for name, word in columns.items():
            if "reason" in entry[name]:
                what = word if entry[name]["value"] is None else f"interval of {word}"
                words.setdefault(entry[name]["reason"], []).append(what)
        for reason, which in words.items():
            lacking.setdefault((reason, ", ".join(which)), []).append(spaced(finding))
    everything = ", ".join([word for name, word in columns.items() if name != "threshold"])
    return [
        f"{'All findings' if len(names) == len(findings) else ', '.join(names)} "
        f"({'all figures' if which.startswith(everything) else which}): {reason}"
        for (reason, which), names in lacking.items()
    ]


def _because(shown: str, reason: str) -> Markup:
    return Markup('<abbr title="{}">{}</abbr>').format(reason, shown)


FILTERS: Final = {
    function.__name__: function
    for function in (
        figure, number, span, threshold, share, p_value, percent, spaced, listed, duration,
        points_of, measured, undefined,
    )
}  # fmt: skip
