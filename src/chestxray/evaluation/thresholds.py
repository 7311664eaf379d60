"""From which probability a finding is called: chosen on validation, used everywhere else.

The rule is Youden's J = sensitivity + specificity - 1 (Youden 1950, Cancer 3:32-35), which
weighs a missed finding and a false alarm by their own classes, so that rare findings are
called at all. A finding is called where p >= threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chestxray.evaluation.metrics import Floats, steps


def youden(y: Floats, p: Floats) -> float | None:
    """Give the threshold with the greatest J among the probabilities seen.

    Of several with the same J the lowest wins: it finds more of what is there. Compared in whole
    numbers, so rounding decides nothing.

    Args:
        y: labels, float [n], 1 present, 0 absent, NaN unknown (left out).
        p: probabilities, float [n].

    Returns:
        A probability out of `p`, or None without positives or without negatives.
    """
    thresholds, true, false = steps(y, p)
    if not len(true) or not true[-1] or not false[-1]:
        return None
    j = true * false[-1] - false * true[-1]
    return float(thresholds[np.flatnonzero(j == j.max())[-1]])


def fit_thresholds(
    probabilities: Floats, labels: Floats, findings: Sequence[str]
) -> dict[str, float | None]:
    """Give each finding its threshold by `youden`.

    Args:
        probabilities: float [n, k], of validation images.
        labels: float [n, k], 1, 0 or NaN.
        findings: the k names, in the order of the columns.
    """
    columns = zip(findings, labels.T, probabilities.T, strict=True)
    return {finding: youden(y, p) for finding, y, p in columns}
