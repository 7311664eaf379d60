"""Agreement of the first bundle and the shadow on the same radiographs, finding by finding.

Of the findings that both have, under any spelling: how often both call the finding, only one, or
neither; the share of equal calls with its 95 % interval (Wilson 1927) and Cohen's kappa, which is 0
where the agreement is what chance gives; and the differences of the probabilities, shadow minus
first: their mean, and the limits within which 95 % of them lie (Bland and Altman 1986, as
percentiles). A finding that one of them does not assess has no calls to compare.

All radiographs count. Those of one patient are not independent, so the interval is as wide as if
they agreed or disagreed together, and the same patients came each week (`drift.effective_size`).

Who is right is not known: agreement is no accuracy.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.drift import effective_size, wilson
from chestxray.findings import Findings
from chestxray.serving.gateway import readings
from chestxray.serving.gateway.readings import KnownModel, Rows, Week
from chestxray.serving.gateway.shadow_store import ShadowRow, shadow_rows

_LEVEL: Final = 0.05
_LIMITS: Final = (2.5, 97.5)  # percent


class FindingAgreement(NamedTuple):
    """How the two agree on a finding.

    Attributes:
        radiographs: that both have read.
        both, first, shadow, neither: of these, whose call it is; none where one does not assess it.
        agreement: share of equal calls, and its interval; None where there are no calls.
        kappa: Cohen's; None where it is not defined.
        difference: mean of the shadow's probability minus the first's.
        limits: within which 95 % of the differences lie.
        largest: absolute difference.
    """

    radiographs: int
    both: int
    first: int
    shadow: int
    neither: int
    agreement: tuple[float, float, float] | None
    kappa: float | None
    difference: float
    limits: tuple[float, float]
    largest: float


class Agreement(NamedTuple):
    """How two bundles agree.

    Attributes:
        first, shadow: identities of the models.
        radiographs: that both have judged.
        refused: by both, by the first only, by the shadow only.
        seconds: median of a reading by the first, with making results, and by the shadow.
        findings: finding → agreement.
    """

    first: str
    shadow: str
    radiographs: int
    refused: tuple[int, int, int]
    seconds: tuple[float, float]
    findings: dict[str, FindingAgreement]


def agreement(db: sqlite3.Connection, state: Path, start: float, end: float) -> Agreement | None:
    """Compare the readings of the two bundles that read last in a period.

    Args:
        db: the database of the gateway.
        state: state folder.
        start: seconds since 1970.
        end: likewise.

    Raises:
        sqlite3.Error: the shadow's database cannot be read.
    """
    identity = readings.latest_model(db, end)
    model = None if identity is None else readings.known_model(db, identity)
    if model is None:
        return None
    rows = readings.rows_between(db, model, start, end)
    found, models = shadow_rows(state, rows.number)
    if not found:
        return None
    shadow = found[-1].model
    found = [row for row in found if row.model == shadow]
    places = {
        (number, uid): at
        for at, (number, uid) in enumerate(zip(rows.number, rows.image, strict=True))
    }
    pairs = [
        (places[row.number, row.image], row) for row in found if (row.number, row.image) in places
    ]
    return None if not pairs else _compared(rows, model, pairs, models[shadow])


def _compared(
    rows: Rows, model: KnownModel, pairs: list[tuple[int, ShadowRow]], theirs: Findings
) -> Agreement:
    places = np.array([at for at, _ in pairs])
    others = [row for _, row in pairs]
    ours_refused, refused = (
        rows.refused[places],
        np.array([row.refused for row in others], np.bool_),
    )
    both = np.flatnonzero(~ours_refused & ~refused)
    patients = [(rows.week[row], rows.patient[row]) for row in places[both]]
    probabilities = readings.numbers([row.probabilities for row in others], len(theirs))
    compared = {}
    for finding, (at, there) in zip(*_common(model.findings, theirs), strict=True):
        calls = [(rows.calls[places[one]][at], others[one].calls[there]) for one in both]
        differences = probabilities[both, there] - rows.probabilities[places[both], at]
        if len(differences):
            compared[finding] = _of_finding(calls, differences, patients)
    return Agreement(
        model.identity,
        others[-1].model,
        len(pairs),
        (
            int((ours_refused & refused).sum()),
            int((ours_refused & ~refused).sum()),
            int((~ours_refused & refused).sum()),
        ),
        (float(np.median(rows.seconds[places])), float(np.median([row.seconds for row in others]))),
        compared,
    )


def _common(ours: Findings, theirs: Findings) -> tuple[list[str], list[tuple[int, int]]]:
    pairs = ours.common(theirs)
    return [ours[at] for at, _ in pairs], list(pairs)


def _of_finding(
    calls: list[tuple[str, str]],
    differences: npt.NDArray[np.float64],
    patients: list[tuple[Week, bytes]],
) -> FindingAgreement:
    counts = {(a, b): sum(pair == (a, b) for pair in calls) for a in "10" for b in "10"}
    both, first, shadow, neither = (
        counts[key] for key in (("1", "1"), ("1", "0"), ("0", "1"), ("0", "0"))
    )
    low, high = np.percentile(differences, _LIMITS)
    total = both + first + shadow + neither
    share = None
    if total:
        judged = [who for pair, who in zip(calls, patients, strict=True) if "-" not in pair]
        size = effective_size(*zip(*judged, strict=True))
        share = wilson((both + neither) / total * size, size, _LEVEL)
    return FindingAgreement(
        len(differences), both, first, shadow, neither,
        None if share is None else (share.share, share.low, share.high),
        _kappa(both, first, shadow, neither),
        float(differences.mean()),
        (float(low), float(high)),
        float(np.abs(differences).max()),
    )  # fmt: skip


def _kappa(both: int, first: int, shadow: int, neither: int) -> float | None:
    """Give Cohen's kappa (1960); None where chance alone would agree always."""
    total = both + first + shadow + neither
    if not total:
        return None
    observed = (both + neither) / total
    chance = ((both + first) * (both + shadow) + (neither + first) * (neither + shadow)) / total**2
    return None if chance >= 1 else (observed - chance) / (1 - chance)
