"""From path lengths to grey values: Beer-Lambert, scatter, quanta, the detector's logarithm.

Effective coefficients for a chest beam of about 120 kV behind the patient's own filtration:
water 0.19 / cm, aerated lung a quarter of that, dense bone twice again.
"""

from __future__ import annotations

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
    clear = _reading(exam.view, WATER * (wall + LUNG_DENSITY * deep))
    dense = _reading(exam.view, WATER * (wall + deep) + 0.5)
    place = (density - clear) / (dense - clear)
    return _film(np.asarray(place * exam.contrast + exam.brightness, np.float32))


def _reading(view: str, attenuation: float) -> float:
    return float(-np.log(np.exp(-attenuation) + _GRID_LETS_THROUGH[view] * 0.14))


def _film(place: Plane) -> Plane:
    """Bend the scale as a film does: a long toe in air, a shoulder in the abdomen."""
    known = np.array([-2.5, -1.2, -0.5, -0.2, 0.0, 0.3, 0.6, 0.9, 1.1, 1.4, 2.0])
    value = np.array([0.0, 0.02, 0.07, 0.14, 0.22, 0.39, 0.57, 0.72, 0.79, 0.86, 0.95])
    table = np.interp(np.linspace(-2.5, 2.0, 1024), known, value).astype(np.float32)
    index = np.clip((place + 2.5) * (1023 / 4.5), 0, 1023)
    return np.asarray(table[index.astype(np.int32)], np.float32)


def sharpened(plane: Plane, pixels: float) -> Plane:
    """Lift edges a little, as every digital system does."""
    soft = cv2.GaussianBlur(plane, (0, 0), max(pixels, 0.5))
    return np.asarray(plane + np.float32(0.35) * (plane - soft), np.float32)
