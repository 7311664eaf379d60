"""Mimics: normal structures and outside objects that are mistaken for findings.

Nipples and buttons for nodules, skin folds for the edge of a pneumothorax, fat pads for a wide
heart, calcified cartilage and healed fractures for nodules and fibrosis, hair and sheets for
infiltrates. They are drawn into phantoms of the variety `wide` alone, and belong to no finding and
no mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import Plane, bent


def mimics(scene: Anatomy) -> Plane:
    """Draw the mimics of an examination, in cm of water."""
    plane = scene.canvas.empty()
    if scene.exam.variety == "plain":
        return plane
    rng = scene.exam.stream("mimics")
    for chance, draw in _MIMICS:
        if rng.random() < chance:
            plane += draw(scene, rng)
    return plane


def _nipples(scene: Anatomy, rng: np.random.Generator) -> Plane:
    size, canvas = scene.measures, scene.canvas
    plane = canvas.empty()
    x, y = rng.uniform(0.5, 0.75) * size.half, rng.uniform(0.68, 0.95) * size.height
    for side in (-1, 1):
        if rng.random() < 0.7:
            r = rng.uniform(0.3, 0.55)
            plane += np.float32(rng.uniform(0.4, 1.1)) * canvas.ball(side * x, y, r)
    return canvas.blur(plane, 0.06)


def _skin_fold(scene: Anatomy, rng: np.random.Generator) -> Plane:
    """A step along a steep line, sharp on one side alone."""
    size, canvas = scene.measures, scene.canvas
    side = int(rng.choice([-1, 1]))
    lean = rng.normal(0, 0.25)
    level = canvas.y / size.height
    at = side * rng.uniform(0.45, 0.95) * size.half + lean * (canvas.y - 0.5 * size.height)
    at = at + rng.uniform(-1, 1) * np.sin(3 * level)
    inside = (at - canvas.x) * side
    fold = np.clip(inside * canvas.scale, 0, 1) * np.exp(-np.maximum(inside, 0) / 1.6)
    middle, long = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.5)
    reach = np.clip(1.5 - np.abs(level - middle) / long, 0, 1)
    return np.asarray(rng.uniform(0.3, 1.2) * fold * reach, np.float32)


def _fat_pads(scene: Anatomy, rng: np.random.Generator) -> Plane:
    size, canvas = scene.measures, scene.canvas
    plane = canvas.empty()
    for side in (-1, 1):
        x = (side * rng.uniform(0.2, 0.5) + 0.1) * size.half
        wide = rng.uniform(0.08, 0.2) * size.half
        plane += np.float32(rng.uniform(0.5, 3.0)) * canvas.cloud(x, size.height, wide, 0.7 * wide)
    return plane


def _cartilage(scene: Anatomy, rng: np.random.Generator) -> Plane:
    """Calcified flecks where ribs meet their cartilage."""
    size, canvas = scene.measures, scene.canvas
    plane = canvas.empty()
    for _ in range(int(rng.integers(3, 14))):
        side = int(rng.choice([-1, 1]))
        x, y = side * rng.uniform(0.25, 0.55) * size.half, rng.uniform(0.2, 1.0) * size.height
        r = rng.uniform(0.12, 0.4)
        plane += np.float32(rng.uniform(0.3, 1.0)) * canvas.ball(x, y, 1.6 * r, r)
    return canvas.blur(plane, 0.06)


def _callus(scene: Anatomy, rng: np.random.Generator) -> Plane:
    """A healed fracture at the side of a rib."""
    size, canvas = scene.measures, scene.canvas
    x = float(rng.choice([-1, 1])) * rng.uniform(0.6, 0.92) * size.half
    y, r = rng.uniform(0.15, 0.9) * size.height, rng.uniform(0.5, 0.9)
    return canvas.blur(np.float32(rng.uniform(0.4, 1.4)) * canvas.ball(x, y, 1.3 * r, r), 0.12)


def _buttons(scene: Anatomy, rng: np.random.Generator) -> Plane:
    size, canvas = scene.measures, scene.canvas
    plane = canvas.empty()
    r, deep = rng.uniform(0.35, 0.8), rng.uniform(0.4, 3.0)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-1, 1) * size.half, rng.uniform(-0.2, 1.2) * size.height
        plane += np.float32(deep) * (canvas.ball(x, y, r) > 0) * (canvas.ball(x, y, 0.3 * r) == 0)
    return canvas.blur(plane, 0.04)


def _sheets(scene: Anatomy, rng: np.random.Generator) -> Plane:
    """Hair, sheets and clothing: faint bands over body and lungs."""
    size, canvas = scene.measures, scene.canvas
    curves, widths = [], []
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(-1.2, 1.2) * size.half, rng.uniform(-0.3, 1.0) * size.height
        away = rng.normal(0, 6, 2)
        curves.append(bent([(x, y), (x + away[0], y + away[1]),
                            (x + 2 * away[0] + rng.normal(0, 2), y + 2 * away[1])]))  # fmt: skip
        widths.append(rng.uniform(0.2, 2.0))
    plane = canvas.ribbons(curves, widths) * np.float32(rng.uniform(0.15, 0.6))
    return canvas.blur(np.asarray(plane, np.float32), rng.uniform(0.05, 0.3))


_MIMICS: Final[tuple[tuple[float, Callable[[Anatomy, np.random.Generator], Plane]], ...]] = (
    (0.25, _nipples), (0.20, _skin_fold), (0.35, _fat_pads), (0.25, _cartilage),
    (0.12, _callus), (0.12, _buttons), (0.15, _sheets),
)  # fmt: skip
