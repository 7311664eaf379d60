"""Evidence in validation that a model ranks a finding at all.

A model that ranks a finding no better than chance may not call it, whatever threshold a rule would
choose. There is evidence where the lower end of the two-sided 95 % interval of the validation
AUROC, by patient, lies above 0.5.

The interval is DeLong's on the logit scale with the variance by patient (see `delong`), and with
the quantile of Student's t distribution for k - 1 degrees of freedom, where k is the number of
patients on the smaller side (Cameron and Miller 2015, doi:10.3368/jhr.50.2.317, section VI).
Chance was taken for evidence in 2.0 to 2.7 % of 4,000 simulated studies, where 2.5 % are right,
with 5 to 30 patients with the finding of 90 and 400; with the normal quantile in up to 5.6 %, by
the BCa bootstrap in up to 3.7 %.

With fewer than `FEWEST_PATIENTS` on a side no interval holds, so there is no evidence.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtrit

from chestxray.evaluation.bootstrap import TAILS, Floats
from chestxray.evaluation.delong import delong
from chestxray.evaluation.result_details import ValidationAuroc

FEWEST_PATIENTS: Final = 5
"""Patients with the finding, and patients without it, below which there is no evidence."""

_CHANCE: Final = 0.5
_SIDES: Final = (("positives", 1), ("negatives", 0))


def validation_auroc(y: Floats, p: Floats, patients: npt.NDArray[Any]) -> ValidationAuroc | None:
    """Measure a finding on validation; None where no interval holds.

    Args:
        y: labels, float [n], 1 present, 0 absent, NaN unknown (left out).
        p: probabilities or logits, float [n].
        patients: of each image, [n].
    """
    smaller = min(len(np.unique(patients[y == value])) for _, value in _SIDES)
    if smaller < FEWEST_PATIENTS:
        return None
    auroc, low, high = _interval(y, p, patients, smaller)
    return ValidationAuroc(auroc=auroc, low=low, high=high, patients=smaller)


def no_evidence(y: Floats, p: Floats, patients: npt.NDArray[Any]) -> str:
    """Say why validation gives no evidence that the model ranks a finding; empty where it does.

    Args:
        y: labels, float [n], 1 present, 0 absent, NaN unknown (left out).
        p: probabilities or logits, float [n].
        patients: of each image, [n].
    """
    missing = one_sided(y)
    if missing:
        return f"{missing} in validation"
    counts = {word: len(np.unique(patients[y == value])) for word, value in _SIDES}
    fewest = min(counts, key=lambda word: counts[word])
    if counts[fewest] < FEWEST_PATIENTS:
        of = f"{counts[fewest]} patient{'' if counts[fewest] == 1 else 's'}"
        return f"the {fewest} in validation are of {of}, at least {FEWEST_PATIENTS} are needed"
    auroc, low, high = _interval(y, p, patients, counts[fewest])
    if low > _CHANCE:
        return ""
    return (
        f"no evidence in validation that the model ranks this finding better than chance: AUROC "
        f"{auroc:.2f}, 95 % interval {low:.2f}–{high:.2f}"
    )


def one_sided(y: Floats) -> str:
    """Name what is missing from labels [n], such as "no positives"; empty where nothing is."""
    missing = [word for word, value in _SIDES if not (y == value).any()]
    return f"no {' and no '.join(missing)}" if missing else ""


def _interval(
    y: Floats, p: Floats, patients: npt.NDArray[Any], smaller: int
) -> tuple[float, float, float]:
    """Give the AUROC and its interval; where it never varies, both ends are the value itself.

    That is so where the classes are separated, which chance does in 1 of 252 studies with 5
    patients on each side, and where all probabilities are equal.
    """
    found = delong(y, p, patients)
    auroc = found.auroc
    if not found.variance > 0 or not 0 < auroc < 1:
        return auroc, auroc, auroc
    error = math.sqrt(found.variance) / (auroc * (1 - auroc))
    middle, width = float(logit(auroc)), float(stdtrit(smaller - 1, TAILS[1])) * error
    return auroc, float(expit(middle - width)), float(expit(middle + width))
