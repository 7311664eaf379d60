"""From class maps to heatmaps: one absolute scale per finding, the same for every radiograph.

The zero point of a class map is arbitrary: the rarity of a finding is partly in the bias, partly in
the map, so that the whole map of a rare finding can be negative. Two values measured on validation
fix the scale of each finding, both in the map's own unit, logits:

    reference  heat 0: what a quarter of the map exceeds in a typical radiograph without the finding
    scale      heat 1: so far above the reference that a typical true call peaks at `TYPICAL_PEAK`

The map alone is the evidence (its mean plus the bias is the logit), so the heat of a called finding
does not depend on its probability. Where the probability is below the threshold, heat fades in
proportion to it; without a threshold, heat is multiplied by the probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from chestxray.model.engines import Heat, Maps, Probabilities

TYPICAL_PEAK: Final = 0.8
"""The peak of the median true call in validation."""

QUARTILE: Final = 75.0
"""The percentile of a map's values that is compared with the reference."""

_FEW: Final = 5  # images: fewer give no median
_MOST_PROBABLE: Final = 0.05  # share of images that stand for calls where there are none

_Floats = npt.NDArray[np.float64]
_Present = npt.NDArray[np.bool_]


class MapSummary(NamedTuple):
    """What the scale needs of class maps, each float64 [N, K].

    Attributes:
        quartiles: the percentile `QUARTILE` of each map's values.
        peaks: the highest value of each map.
    """

    quartiles: _Floats
    peaks: _Floats

    @classmethod
    def of(cls, maps: Maps) -> Self:
        """Summarise class maps float32 [N, K, h, w]."""
        cells = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
        return cls(np.percentile(cells, QUARTILE, axis=2), cells.max(axis=2))


class HeatScale(NamedTuple):
    """The scale of each of K findings, float32 [K].

    Attributes:
        references: value of the class map at heat 0, logits.
        scales: logits above the reference at heat 1, above 0.
        full: probability from which heat does not fade: the threshold, 1 without one.
    """

    references: npt.NDArray[np.float32]
    scales: npt.NDArray[np.float32]
    full: npt.NDArray[np.float32]

    @classmethod
    def fitted(
        cls,
        references: Mapping[str, float],
        scales: Mapping[str, float],
        thresholds: Mapping[str, float | None],
    ) -> Self:
        """Take the scale from the values of a card, each by finding in the same order."""
        full = [1.0 if t is None else max(t, 1e-12) for t in thresholds.values()]
        columns = (list(references.values()), list(scales.values()), full)
        return cls(*(np.array(column, np.float32) for column in columns))

    def evidence(self, maps: Maps) -> Heat:
        """Turn class maps float32 [B, K, h, w] into heat that does not fade, at least 0."""
        above = np.maximum(maps - self.references[:, None, None], 0)
        return np.asarray(above / self.scales[:, None, None], np.float32)

    def heatmaps(self, maps: Maps, probabilities: Probabilities) -> Heat:
        """Turn class maps into heatmaps.

        Args:
            maps: float32 [B, K, h, w], logits.
            probabilities: [B, K] in [0, 1], calibrated.

        Returns:
            float32 [B, K, h, w], at least 0.
        """
        strength = np.minimum(1, probabilities.astype(np.float32) / self.full)
        heat: Heat = self.evidence(maps) * strength[:, :, None, None]
        return heat


def fit_heat_scales(
    summary: MapSummary,
    probabilities: _Floats,
    labels: npt.NDArray[np.float32],
    thresholds: dict[str, float | None],
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit `heat_references` and `heat_scales` of a card on validation.

    The scale comes from the true calls. Where there are fewer than five, or they do not rise above
    the reference, it comes from all calls, then from the most probable 5 % of the images; 1 logit
    where not even those rise above it.

    Args:
        summary: of the class maps of N images.
        probabilities: [N, K], calibrated.
        labels: [N, K], 1, 0 or NaN (unknown).
        thresholds: finding → threshold, K of them, in the order of the columns.
    """
    references, scales = {}, {}
    for k, (finding, threshold) in enumerate(thresholds.items()):
        absent = labels[:, k] == 0
        quartiles, p = summary.quartiles[:, k], probabilities[:, k]
        reference = float(np.median(quartiles[absent] if absent.any() else quartiles))
        above = summary.peaks[:, k] - reference
        typical = (float(np.median(above[of])) for of in _calls(p, labels[:, k] == 1, threshold))
        references[finding] = reference
        scales[finding] = next((rise for rise in typical if rise > 0), TYPICAL_PEAK) / TYPICAL_PEAK
    return references, scales


def _calls(p: _Floats, present: _Present, threshold: float | None) -> Iterator[_Present]:
    """Give the images from which a finding's scale may be taken, the best choice first."""
    candidates: Sequence[_Present] = ()
    if threshold is not None:
        candidates = ((p >= threshold) & present, p >= threshold)
    yield from (chosen for chosen in candidates if chosen.sum() >= _FEW)
    number = min(len(p), max(_FEW, round(_MOST_PROBABLE * len(p))))
    yield p >= np.sort(p)[-number]
