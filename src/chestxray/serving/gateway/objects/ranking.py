"""Which findings come first: the called, and each by its probability relative to its threshold."""

from __future__ import annotations

from collections.abc import Mapping

from chestxray.reading.reader import Reading

Thresholds = Mapping[str, float | None]


def ranked(reading: Reading, thresholds: Thresholds) -> list[str]:
    """Give all findings, the most relevant first; those without a threshold come last."""

    def relevance(finding: str) -> tuple[bool, float]:
        threshold, probability = thresholds[finding], reading.probabilities[finding]
        return threshold is not None, probability / max(threshold or 1.0, 1e-12)

    return sorted(reading.probabilities, key=relevance, reverse=True)


def relevant(reading: Reading, thresholds: Thresholds, most: int) -> list[str]:
    """Give the findings to show heat of: at most `most` called ones, or the one nearest to it."""
    order = ranked(reading, thresholds)
    called = [finding for finding in order if reading.calls[finding]]
    return called[:most] or order[:1]
