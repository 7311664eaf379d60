"""How far probabilities are from the frequencies they promise: bins, slope and intercept.

The expected calibration error (Naeini, Cooper and Hauskrecht 2015) is taken over `BINS` bins of
equal mass. Slope and intercept are those of Cox (1958, doi:10.1093/biomet/45.3-4.562), as Van
Calster and others report them (2019, doi:10.1186/s12916-019-1466-7):

    slope      b of the logistic regression  y ~ a + b · logit p, 1 when calibrated
    intercept  a of the logistic regression  y ~ a + logit p, the slope held at 1:
               calibration-in-the-large, 0 when calibrated

Neither exists without positives or without negatives; a slope not either where one probability
parts positives from negatives, since it would be infinite. Probabilities are kept a float64 epsilon
away from 0 and 1, as in `metrics.cross_entropy`, so log-odds lie within ±36.04.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.cox import Line
from chestxray.evaluation.metrics import Floats, known

BINS: Final = 10

Values = npt.NDArray[np.float64]


def equal_mass_bins(p: Values, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Cut probabilities into bins of as equal a number as ties allow.

    Ordered by probability, image number i of n (from 0) covers the mass from i / n to (i + 1) / n.
    Images of one probability are kept together: they go to the bin that the middle of their mass
    lies in, to the upper one where it lies on a border. So a bin can be empty.

    Returns:
        int64 [n], from 0 for the lowest probabilities to `bins` - 1.
    """
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    upto = np.cumsum(count)
    twice_middle = 2 * upto - count
    return np.asarray(bins * twice_middle // (2 * max(len(p), 1)))[place]


def calibration_error(y: Floats, p: Floats) -> float:
    """Mean over images of |share of positives - mean probability| of the image's bin.

    Even a calibrated model scores above 0, by chance. NaN without known labels.
    """
    present, score = known(y, p)
    if not len(score):
        return math.nan
    gaps = np.bincount(equal_mass_bins(score), weights=score - present)
    return float(np.abs(gaps).sum()) / len(score)


def calibration_slope(y: Floats, p: Floats) -> float:
    """Cox's calibration slope: below 1, probabilities are too extreme; NaN where undefined."""
    return Line(*known(y, p)).slope


def calibration_intercept(y: Floats, p: Floats) -> float:
    """Calibration-in-the-large: below 0, probabilities are too high; NaN where undefined."""
    return Line(*known(y, p)).intercept
