"""The measures of one examination: what the findings do to the chest's shape is in them.

Nothing is drawn here. The wall and the diaphragm are curves that all drawing keeps to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chestxray.sources.phantom.canvas import Plane, profile
from chestxray.sources.phantom.population import Exam

# Half-width of the cavity over its greatest, by height below the apices over the lungs' height.
_WALL_HEIGHT = np.array([-0.06, 0.0, 0.04, 0.1, 0.2, 0.33, 0.5, 0.7, 0.9, 1.05, 1.2, 1.6])
_WALL_WIDTH = np.array([0.30, 0.40, 0.48, 0.57, 0.69, 0.80, 0.89, 0.96, 0.995, 1.0, 0.98, 0.95])


@dataclass(frozen=True)
class Measures:
    """The measures of one examination, findings' changes of shape included. Lengths in cm.

    Attributes:
        half: half of the cavity's greatest width.
        height: from the apices to the right dome.
        depth: of the cavity.
        ratio: cardiothoracic ratio.
        sag: how far the costophrenic angles lie under the domes.
        raised: how far the right and left dome are pushed up by loss of volume.
        pulled: shift of the mediastinum by loss of volume.
    """

    half: float
    height: float
    depth: float
    ratio: float
    sag: float
    raised: tuple[float, float]
    pulled: float

    def wall(self, y: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> Plane:
        """Give the half-width of the cavity at heights y."""
        return np.float32(self.half) * profile(y / self.height, _WALL_HEIGHT, _WALL_WIDTH)

    def dome(self, x: Plane) -> Plane:
        """Give the height of the diaphragm's silhouette at each x."""
        domes = []
        for side, raised, lower in ((-1, self.raised[0], 0.0), (1, self.raised[1], 1.2)):
            away = (x * side - 0.50 * self.half) / (0.50 * self.half)
            fall = np.where(
                away > 0, self.sag * np.abs(away) ** 2.1, 0.3 * self.sag * np.abs(away) ** 1.8
            )
            domes.append(self.height - raised + lower + fall)
        left = np.clip(0.5 + x / (0.3 * self.half), 0, 1)
        return np.asarray(domes[0] * (1 - left) + domes[1] * left, np.float32)


def measures(exam: Exam) -> Measures:
    """Work out the measures of an examination."""
    person, found = exam.patient, exam.findings
    half = person.width / 2
    lean = 1.0 if exam.view == "PA" else 0.96  # lying, the diaphragm stands higher
    height = half * person.slender * exam.inspiration * lean
    sag = 0.27 * half
    side = person.stream("Atelectasis").integers(2)
    raised, pulled = [0.0, 0.0], 0.0
    if "Emphysema" in found:
        height, sag = height * 1.06 + 1.0, 0.10 * half
    if "Atelectasis" in found:
        raised[side] = 2.2 * exam.severity
        pulled = (0.8 if side else -0.8) * exam.severity
    ratio = person.enlarged if "Cardiomegaly" in found else person.heart
    if exam.view == "AP":
        ratio = ratio * 1.05 if "Cardiomegaly" in found else min(ratio * 1.06, 0.485)
    if "Emphysema" in found:
        ratio = max(ratio * 0.93, 0.53) if "Cardiomegaly" in found else ratio * 0.9
    depth = person.depth * person.width * (1.08 if "Emphysema" in found else 1.0)
    return Measures(half, height, depth, ratio, sag, (raised[0], raised[1]), pulled)
