"""Does a probability mean what it says? Reliability diagrams as given and recalibrated.

Images are put into bins of equal mass by their probability; of the images in a bin, the share that
has the finding is to be its mean probability. The bins are those of the expected calibration error
and stay where the data cut them, while patients are drawn for the intervals.

Recalibration is fitted on validation predictions and applied to the evaluated ones: it shows what
calibration could mend, in predictions that come without logits too.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Draws, Values, all_alike
from chestxray.evaluation.calibration import Calibration, fit_calibration, log_odds
from chestxray.evaluation.calibration_error import Floats, equal_mass_bins
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import SCORING
from chestxray.evaluation.metrics import Column as Weighted
from chestxray.evaluation.scores import summed_up
from chestxray.evaluation.thresholds import one_sided

NO_VALIDATION: Final = "no validation predictions: --fit-on"

Mask = npt.NDArray[np.bool_]

_FIGURES: Final = tuple(name.removeprefix("calibration_") for name in SCORING)


def reliability(pairs: Pairs, validation: Pairs | None, draws: Draws) -> dict[str, Any]:
    """Give what `reliability.json` holds.

    Args:
        pairs: the evaluated predictions.
        validation: predictions of other patients by the same model, None to leave out
            recalibration.
        draws: of the patients of `pairs`.

    Returns:
        finding → `as_given` and `recalibrated` (None where it could not be fitted), each with
        `bins`, `ece`, `slope`, `intercept`, `brier` and `bce`; `method`, the family that
        recalibrates; `reason`, why it is that one or why there is none.
    """
    calibration, mended = recalibrated(pairs, validation) if validation else (None, None)
    result = {}
    for k, finding in enumerate(pairs.findings):
        y = pairs.labels[:, k]
        after, method, reason = None, None, NO_VALIDATION
        if validation and calibration and mended is not None:
            reason = calibration.reasons.get(finding) or calibration.unfitted[finding]
            if not one_sided(validation.labels[:, k]):
                after = diagram(y, mended[:, k], draws)
                method = calibration.calibrators[finding].family
        as_given = diagram(y, pairs.probabilities[:, k], draws)
        result[finding] = {
            "as_given": as_given, "recalibrated": after, "method": method, "reason": reason,
        }  # fmt: skip
    return result


def recalibrated(pairs: Pairs, validation: Pairs) -> tuple[Calibration, Values]:
    """Fit a calibration on validation predictions and give it with the probabilities it mends.

    Returns:
        The calibration of `log_odds` of the probabilities, and float64 [n, 14] for `pairs`.
    """
    known = log_odds(validation.probabilities)
    calibration = fit_calibration(known, validation.labels, validation.patients, pairs.findings)
    return calibration, calibration.apply(log_odds(pairs.probabilities))


def diagram(y: Floats, p: Floats, draws: Draws) -> dict[str, Any]:
    """Give the reliability diagram of one finding with its figures.

    Args:
        y: labels, float [n], 1, 0 or NaN (left out).
        p: probabilities, float [n].
        draws: of the n images' patients.
    """
    column = Weighted(y, p)
    of = equal_mass_bins(column.p)
    inside = (of[:, None] == np.unique(of)).astype(np.float64)
    sums = np.concatenate([inside, inside * column.present[:, None]], axis=1)

    def statistic(w: Values) -> Values:
        images, hits = np.split(w @ sums, 2, axis=1)
        shares = np.divide(hits, images, out=np.full_like(hits, np.nan), where=images > 0)
        return np.concatenate([column.scoring(w), shares], axis=1)

    drawn = draws.apply(statistic, rows=column.rows)
    why = one_sided(y) or "not defined for these labels"
    figures = {
        name: summed_up(name, values, draws, why).entry()
        for name, values in zip(_FIGURES, drawn.T, strict=False)
    }
    shares = drawn.T[len(SCORING) :]
    bins = [
        _bin(column, inside[:, place] > 0, values, draws) for place, values in enumerate(shares)
    ]
    return {"bins": bins, **figures}


def _bin(column: Weighted, inside: Mask, values: Values, draws: Draws) -> dict[str, Any]:
    """Show one bin, given what is in it, bool [m], and its share of positives in every draw."""
    patients = len(np.unique(draws.patient[column.rows[inside]]))
    same = values[0] in {0, 1} and draws.resamples
    share = (all_alike(values[0], patients) if same else draws.interval(values)).entry()
    return {
        "mean_probability": float(column.p[inside].mean()),
        "observed": share["value"],
        "low": share["low"],
        "high": share["high"],
        "images": int(inside.sum()),
    }
