"""The branching vessels of the lungs and the fine grain between them."""

from __future__ import annotations

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import Plane, Points

_ORDERS = 5
_STEPS = 4  # straight pieces that a branch is drawn with
_FINEST = 0.09  # cm
_CONTRAST = 2.0  # a tree stands for the many vessels behind one another


def vessels(scene: Anatomy) -> Plane:
    """Draw the vessels from the hila outwards; gives the path through blood in cm."""
    rng = scene.exam.patient.stream("vessels")
    canvas, unit = scene.canvas, scene.measures.half / 14
    total = canvas.empty()
    for side, hilum in zip((-1, 1), scene.hila, strict=True):
        for _ in range(2):  # arteries and veins cross, so they add up
            curves, widths = _tree(rng, hilum, side, unit)
            total += np.float32(_CONTRAST) * canvas.strokes(curves[::-1], widths[::-1])
        total += _hilum(scene, hilum, side) * np.float32(unit)
    return canvas.blur(total, 0.05)


def _tree(
    rng: np.random.Generator, hilum: tuple[float, float], side: int, unit: float
) -> tuple[Points, Points]:
    """Give the branches, [n, steps + 1, 2] in cm, and their widths [n], order by order."""
    count = 8
    start = np.tile(np.asarray(hilum), (count, 1)) + rng.normal(0, 0.5, (count, 2)) * unit
    heading = np.linspace(-1.35, 1.45, count) + rng.normal(0, 0.15, count)
    width = rng.uniform(0.42, 0.75, count) * unit
    length = rng.uniform(2.6, 4.6, count) * unit
    curves, widths = [], []
    for _ in range(_ORDERS):
        bends = rng.normal(0, 0.14, (_STEPS, len(heading)))
        turned = np.cumsum([heading, *bends], axis=0)[1:]
        steps = np.stack([side * np.cos(turned), np.sin(turned)], 2) * length[:, None] / _STEPS
        places = np.cumsum([start, *steps], axis=0)
        wide = width > _FINEST  # the grain stands for the rest
        curves.append(places.swapaxes(0, 1)[wide])
        widths.append(width[wide])
        fork = rng.uniform(0.25, 0.65, len(heading))
        start = np.concatenate([places[-1], places[-1]])
        heading = np.concatenate([turned[-1] + fork, turned[-1] - rng.uniform(0.1, 0.5, len(fork))])
        width = np.concatenate([width * 0.62, width * 0.74])
        length = np.concatenate([length, length]) * rng.uniform(0.6, 0.95, 2 * len(length))
    return np.concatenate(curves), np.concatenate(widths)


def _hilum(scene: Anatomy, hilum: tuple[float, float], side: int) -> Plane:
    canvas, unit = scene.canvas, scene.measures.half / 14
    x, y = hilum
    upper = canvas.ball(x - side * 0.2 * unit, y - 0.8 * unit, 1.1 * unit, 1.5 * unit)
    lower = canvas.ball(x + side * 0.3 * unit, y + 1.9 * unit, 0.8 * unit, 2.4 * unit)
    return canvas.blur(np.maximum(upper, lower), 0.4 * unit) * np.float32(2.2)


def grain(scene: Anatomy) -> Plane:
    """Give the lung's fine structure: soft noise of small vessels and septa, in cm of tissue."""
    rng = scene.exam.patient.stream("grain")
    old = np.interp(scene.exam.age, [20, 90], [0.8, 1.25])
    return scene.canvas.noise(rng, 1.6, octaves=4) * np.float32(0.11 * old)
