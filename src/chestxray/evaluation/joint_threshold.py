"""Thresholds of all findings together, so that few finding-free radiographs have any call.

A rule that chooses each threshold alone does not bound the false alarms of a radiograph: 14
findings at 80 % specificity each call at least one finding on most normal radiographs. Here one
level serves all findings. A finding is called where its odds, relative to the odds of its
prevalence in validation, reach the level:

    p / (1 - p)  >=  level × prevalence / (1 - prevalence)

For a calibrated probability the quotient is the likelihood ratio of the image. To find the most,
averaged over findings, for a given sum of false alarms, every finding must be called from the same
likelihood ratio (Neyman and Pearson 1933, doi:10.1098/rsta.1933.0009). Where probabilities are not
calibrated, the share of radiographs with a call is controlled all the same.

The level is the highest value that m of the n finding-free radiographs reach with any finding,
where m = ⌊share × (n + 1)⌋. A new finding-free radiograph reaches the m-th highest of n values with
probability m / (n + 1), so that on average over validation sets the share is not exceeded (the
argument of conformal prediction, Vovk 2005). A single validation set can miss it: the 95 % range is
that of the distribution Beta(m, n + 1 - m), 0.13 to 0.39 for a share of 0.25 and n = 43. One level
is fitted instead of one threshold per finding, since K quantiles of the same few radiographs are
biased towards too many calls.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from chestxray.evaluation.bootstrap import Floats, Values

SHARE: Final = 0.25
"""Largest share of finding-free radiographs with any call."""

FEWEST_PATIENTS: Final = 5
"""Patients with a finding-free radiograph, below which no level is fitted.

With 5 finding-free radiographs the level is the highest of their values, so that on average 0.17 of
others have a call, in 95 % of validation sets 0.01 to 0.52.
"""

_Mask = npt.NDArray[np.bool_]


def finding_free(labels: Floats, assessed: _Mask) -> _Mask:
    """Tell which images have no positive label, and a known label of every assessed finding.

    Args:
        labels: float [n, k], 1, 0 or NaN.
        assessed: bool [k].

    Returns:
        bool [n].
    """
    known = ~np.isnan(labels[:, assessed])
    return np.asarray(~(labels == 1).any(axis=1) & known.all(axis=1) & bool(assessed.any()))


def joint_thresholds(
    probabilities: Floats,
    labels: Floats,
    patients: npt.NDArray[Any],
    assessed: _Mask,
    share: float = SHARE,
) -> tuple[Values | None, str]:
    """Give a threshold to each assessed finding, by one level for all.

    Args:
        probabilities: float [n, k], of validation images.
        labels: float [n, k], 1, 0 or NaN.
        patients: of each image, [n].
        assessed: bool [k], the findings that may be called; they have positives and negatives.
        share: largest share of finding-free radiographs with any call.

    Returns:
        Thresholds float64 [k], NaN for the others; and an empty text. Or None, and why there is no
        level.
    """
    free = finding_free(labels, assessed)
    of = len(np.unique(patients[free]))
    if of < FEWEST_PATIENTS:
        return None, (
            f"validation has finding-free radiographs of {of} patient{'' if of == 1 else 's'}, at "
            f"least {FEWEST_PATIENTS} are needed"
        )
    seen = np.asarray(probabilities, dtype=np.float64)[:, assessed]
    prevalence = np.nanmean(labels[:, assessed], axis=0, dtype=np.float64)
    base: Values = np.asarray(logit(prevalence))
    ratios: Values = np.asarray(logit(seen)) - base
    level = _level(ratios[free].max(axis=1), share)
    if level is None:
        return None, f"more than {share:g} of the finding-free radiographs share the highest level"
    thresholds = np.full(len(assessed), np.nan)
    thresholds[assessed] = [
        _threshold(p, ratio, level, odds)
        for p, ratio, odds in zip(seen.T, ratios.T, base.tolist(), strict=True)
    ]
    return thresholds, ""


def _level(highest: Values, share: float) -> float | None:
    """Give the lowest value that at most m of n reach; None where even the highest is reached more.

    Args:
        highest: float [n], of each finding-free image the highest ratio of any finding.
        share: of the images.
    """
    most = int(share * (len(highest) + 1))
    values, counts = np.unique(highest, return_counts=True)
    reached = np.cumsum(counts[::-1])[::-1]
    serving = np.flatnonzero(reached <= most)
    return float(values[serving[0]]) if len(serving) else None


def _threshold(p: Values, ratio: Values, level: float, base: float) -> float:
    """Turn the level into a probability that exactly the images at the level reach.

    The way back from log-odds rounds, so the lowest probability seen at the level counts, too.
    """
    reaching = p[ratio >= level]
    threshold = float(expit(level + base))
    return min(threshold, float(reaching.min())) if len(reaching) else threshold
