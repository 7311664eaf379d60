"""From path lengths to grey values: Beer-Lambert, scatter, quanta, the detector's logarithm.

Effective coefficients for a chest beam of about 120 kV behind the patient's own filtration:
water 0.19 / cm, aerated lung a quarter of that, dense bone twice again.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import Plane

WATER: Final = 0.19
BONE: Final = 0.40  # beyond the water that it displaces
LUNG_DENSITY: Final = 0.26
_GRID_LETS_THROUGH: Final = {"PA": 0.16, "AP": 0.24}  # portable exposures use no grid
_QUANTA: Final = 0.0040


def scattered(scene: Anatomy, primary: Plane) -> Plane:
    """Add the scattered radiation: a wide blur of what the body lets through."""
    canvas = scene.canvas
    share = np.float32(_GRID_LETS_THROUGH[scene.exam.view])
    return np.asarray(primary + share * canvas.blur(np.minimum(primary, 0.4), 4.0), np.float32)


def grey(scene: Anatomy, attenuation: Plane) -> Plane:
    """Turn line integrals of attenuation into grey values from 0 (black) to 1.

    The grey scale is anchored on the patient's own thickness and not on the picture's
    histogram: a finding changes the picture where it lies and nowhere else.
    """
    exam = scene.exam
    signal = scattered(scene, np.exp(-attenuation))
    quanta = exam.stream("quanta").standard_normal(signal.shape, np.float32)
    density = -np.log(signal) + np.float32(_QUANTA * exam.noise) / np.sqrt(signal) * quanta
    wall = 2 * (1.2 + 0.8 * exam.patient.fat)
    deep = exam.patient.depth * exam.patient.width
    lung = WATER * (wall + LUNG_DENSITY * deep)
    haze = _GRID_LETS_THROUGH[exam.view] * 1.2 * math.exp(-lung)  # most scatter is the lungs'
    clear = -math.log(math.exp(-lung) + haze)
    dense = -math.log(math.exp(-WATER * (wall + deep) - 0.5) + haze)
    place = (density - clear) / (dense - clear)
    return _film(np.asarray(place * exam.contrast + exam.brightness, np.float32))


def _film(place: Plane) -> Plane:
    """Bend the scale as a film does: a long toe in air, a shoulder in the abdomen."""
    known = np.array([-2.5, -1.0, -0.4, 0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0, 1.25, 2.0])
    value = np.array([0.0, 0.01, 0.03, 0.08, 0.16, 0.25, 0.37, 0.49, 0.60, 0.72, 0.82, 0.95])
    table = np.interp(np.linspace(-2.5, 2.0, 1024), known, value).astype(np.float32)
    index = np.clip((place + 2.5) * (1023 / 4.5), 0, 1023)
    return np.asarray(table[index.astype(np.int32)], np.float32)


def sharpened(plane: Plane, pixels: float) -> Plane:
    """Lift edges a little, as every digital system does."""
    soft = cv2.GaussianBlur(plane, (0, 0), max(pixels, 0.5))
    return np.asarray(plane + np.float32(0.35) * (plane - soft), np.float32)
