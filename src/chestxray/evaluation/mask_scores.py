"""Does a map lie on a mask? Pointing game and overlap, with an ideal map and three controls.

    hit   the centre of the map's highest cell lies in the mask (pointing game, Zhang 2018,
          arXiv 1608.00507)
    IoU   intersection over union of the mask and the map's highest pixels, as many as the mask
          has, so that no threshold is chosen

A map without any value above 0 points nowhere and scores 0. A score means little alone: a large
mask is hit often, many findings have a usual place, and the cells of a map are large. So beside it
stand

    ideal        the mask itself, averaged over the cells of the map
    random       the map, against its mask at every position of the image, whose edges are joined
    shuffled     the map, against the masks of the same finding in all other patients
    other maps   the maps of all other findings, against its mask

The last control tells a map of this finding from one that shows where anything changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Maps = npt.NDArray[np.floating[Any]]
Masks = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

SCORES: Final = ("hit", "iou")


@dataclass(frozen=True)
class MaskScores:
    """The scores of n maps, hit and IoU, each float64 [n, 2].

    NaN where the mask is empty, and in a control where there is no other patient or no other map.

    Attributes:
        value: of the maps.
        ideal: of maps as the masks would have them.
        random, shuffled, other_maps: of the controls, averaged for each map.
    """

    value: Values
    ideal: Values
    random: Values
    shuffled: Values
    other_maps: Values


def mask_scores(
    maps: Maps, own: npt.NDArray[np.int64], masks: Masks, patients: npt.NDArray[np.int64]
) -> MaskScores:
    """Score maps against masks.

    Args:
        maps: [n, K, h, w], a map a finding; larger is more evidence, 0 is none.
        own: [n], the position of the finding that the mask shows.
        masks: bool [n, H, W], over the same square as the maps.
        patients: [n], whose they are.
    """
    seen = masks.any(axis=(1, 2))
    scores = np.full((len(masks), 5, 2), np.nan)
    for row in np.flatnonzero(seen):
        mask = masks[row]
        several = [_Enlarged.of(one, mask.shape) for one in maps[row]]
        mine = several.pop(own[row])
        others = masks[seen & (own == own[row]) & (patients != patients[row])]
        ideal = cv2.resize(mask.astype(np.float32), maps.shape[:1:-1], interpolation=cv2.INTER_AREA)
        scores[row] = (
            mine.score(mask),
            _Enlarged.of(ideal, mask.shape).score(mask),
            mine.score_moved(mask),
            _mean([mine.score(other) for other in others]),
            _mean([other.score(mask) for other in several]),
        )
    return MaskScores(*scores.swapaxes(0, 1))


@dataclass(frozen=True)
class _Enlarged:
    """A map enlarged to the size of a mask, H × W; empty arrays where no value is above 0.

    Attributes:
        values: float32 [H, W].
        ranked: float32 [H × W], the same, falling.
        peak: row and column of the centre of the highest cell.
    """

    values: npt.NDArray[np.float32]
    ranked: npt.NDArray[np.float32]
    peak: tuple[int, int]

    @classmethod
    def of(cls, cells: Maps, shape: tuple[int, ...]) -> _Enlarged:
        """Enlarge a map [h, w] bilinearly to `shape`, H and W."""
        if not cells.max() > 0:
            nothing = np.zeros(0, np.float32)
            return cls(nothing, nothing, (0, 0))
        size = shape[1], shape[0]
        fine = cv2.resize(cells.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        highest = np.unravel_index(int(cells.argmax()), cells.shape)
        row, column = (
            int((int(place) + 0.5) / count * pixels)
            for place, count, pixels in zip(highest, cells.shape, shape, strict=True)
        )
        values = np.asarray(fine, np.float32)
        return cls(values, np.sort(values, axis=None)[::-1], (row, column))

    def region(self, area: int) -> npt.NDArray[np.bool_]:
        """Give the `area` highest pixels, and those equal to the lowest of them."""
        return np.asarray(self.values >= self.ranked[area - 1], bool)

    def score(self, mask: npt.NDArray[np.bool_]) -> Values:
        """Give hit and IoU with a mask [H, W] that is not empty."""
        if not self.values.size:
            return np.zeros(2)
        area = int(np.count_nonzero(mask))
        region = self.region(area)
        both = np.count_nonzero(region & mask)
        return np.array([mask[self.peak], both / (np.count_nonzero(region) + area - both)])

    def score_moved(self, mask: npt.NDArray[np.bool_]) -> Values:
        """Average hit and IoU over all positions of the mask, whose edges are joined."""
        if not self.values.size:
            return np.zeros(2)
        area = int(np.count_nonzero(mask))
        region = self.region(area)
        # By the correlation theorem: the intersections at all positions at once.
        spectrum = np.fft.rfft2(region) * np.conj(np.fft.rfft2(mask))
        both = np.round(np.fft.irfft2(spectrum, s=mask.shape))
        return np.array([area / mask.size, np.mean(both / (region.sum() + area - both))])


def _mean(scores: Sequence[Values]) -> Values:
    return np.mean(scores, axis=0) if scores else np.full(2, np.nan)
