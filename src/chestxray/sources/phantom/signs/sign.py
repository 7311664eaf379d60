"""What a sign is, and where in the lungs one may lie: what all findings' drawings share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import Mask, Plane
from chestxray.sources.phantom.exposure import LUNG_DENSITY


@dataclass(frozen=True)
class Sign:
    """One finding as drawn.

    Attributes:
        water: cm of water that it adds to the rays' paths (negative: takes away).
        mask: where it is to be seen.
        vessels: factor on the lung's vessels and grain.
    """

    water: Plane
    mask: Mask
    vessels: Plane | float = 1.0


def sides(rng: np.random.Generator, both: float) -> tuple[int, ...]:
    """Choose the right lung (0), the left (1) or both."""
    first = int(rng.integers(2))
    return (0, 1) if rng.random() < both else (first,)


def place(
    scene: Anatomy, rng: np.random.Generator, side: int, low: float = 0.12, high: float = 0.92
) -> tuple[float, float]:
    """Choose a point (x, y) in a lung field, by height from apex (0) to dome (1)."""
    height = (scene.canvas.y / scene.measures.height > low) & (
        scene.canvas.y / scene.measures.height < high
    )
    away = np.abs(scene.canvas.x) < 0.9 * scene.measures.wall(scene.canvas.y)
    rows, columns = np.nonzero(scene.fields[side] & height & away)
    if not len(rows):  # a lung field that a huge heart hides
        return scene.hila[side]
    chosen = int(rng.random() * len(rows))
    return float(scene.canvas.x[0, columns[chosen]]), float(scene.canvas.y[rows[chosen], 0])


def filled(scene: Anatomy, share: Plane) -> Plane:
    """Give the water that fills a share (0 to 1) of the lung's air."""
    return np.asarray(share * scene.lung * np.float32(1 - LUNG_DENSITY), np.float32)
