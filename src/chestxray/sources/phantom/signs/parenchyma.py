"""The lung's own tissue: collapsed (atelectasis), grown (mass, nodule), emphysema, fibrosis."""

from __future__ import annotations

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import bent, closed, ribbons
from chestxray.sources.phantom.exposure import LUNG_DENSITY
from chestxray.sources.phantom.signs.sign import Sign, place


def atelectasis(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Plates of collapsed lung above a raised diaphragm."""
    canvas, unit = scene.canvas, scene.measures.half / 14
    side = int(rng.integers(2))  # as the measures chose it
    out = 1 if side else -1
    curves, widths = [], []
    floor = scene.measures.height - scene.measures.raised[side] + 1.2 * side
    for number in range(int(rng.integers(1, 4))):
        x = rng.uniform(0.22, 0.42) * 14 * unit
        y = floor - (1.6 + 1.7 * number + rng.uniform(0, 1.0)) * unit
        long, slope = rng.uniform(5.0, 8.0) * unit, rng.uniform(-0.35, 0.25)
        knots = [(x + t * long, y + slope * t * long - 0.5 * np.sin(3 * t)) for t in (0, 0.5, 1)]
        curves.append(bent([(out * a, b) for a, b in knots]))
        widths.append(rng.uniform(0.7, 1.4) * unit)
    taper = np.sin(np.linspace(0.06, 0.94, len(curves[0])) * np.pi) ** 0.6
    bands = canvas.polygons(ribbons(curves, np.outer(widths, taper)))
    base = canvas.cloud(out * 0.45 * 14 * unit, floor, 4.0 * unit, 1.4 * unit)
    soft = canvas.blur(bands, 0.18)
    inside = scene.lung > 0.3
    water = (3.8 * soft + 2.8 * base) * np.minimum(scene.lung / 4, 1) * scene.exam.severity
    return Sign(np.asarray(water, np.float32), ((soft > 0.35) | (base > 0.6)) & inside)


def mass(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """A lobulated shadow wider than 3 cm."""
    count = 1 if rng.random() < 0.8 else 2
    return _rounds(scene, rng, list(rng.uniform(2.1, 3.8, count)), rough=0.18, dense=0.9)


def nodule(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """One to four round shadows of at most 3 cm."""
    count = int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])) + 1
    calcified = 2.0 if rng.random() < 0.3 else 1.4
    return _rounds(scene, rng, list(rng.uniform(0.75, 1.42, count)), rough=0.06, dense=calcified)


def _rounds(
    scene: Anatomy, rng: np.random.Generator, radii: list[float], rough: float, dense: float
) -> Sign:
    water, mask = scene.canvas.empty(), np.zeros_like(scene.heart)
    for radius in radii:
        x, y = place(scene, rng, int(rng.integers(2)))
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        edge = radius * (1 - rough * rng.uniform(0, 1, 14))
        outline = [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(edge, angle, strict=True)]
        coverage = scene.canvas.polygons([closed(outline)])
        body = scene.canvas.domed(coverage, radius) * np.float32(2 * radius * dense)
        water = np.maximum(water, scene.canvas.blur(body, 0.05 + 0.04 * radius))
        mask |= coverage > 0.5
    return Sign(water, mask)


def emphysema(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Lucent lungs with few vessels and some bullae; the flat domes are in the measures."""
    canvas = scene.canvas
    thin = canvas.empty() + np.float32(0.42)
    for side in (0, 1, 0, 1):
        x, y = place(scene, rng, side, 0.05, 0.6)
        thin = np.maximum(thin, 0.75 * (canvas.ball(x, y, rng.uniform(1.2, 2.6)) > 0))
    thin = canvas.blur(thin, 0.2)
    water = -LUNG_DENSITY * thin * scene.lung * np.float32(min(scene.exam.severity, 1.1))
    return Sign(water, scene.fields[0] | scene.fields[1], np.asarray(1 - 1.05 * thin, np.float32))


def fibrosis(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """A net of lines, densest at the bases and the walls."""
    canvas, size = scene.canvas, scene.measures
    level = canvas.y / size.height
    lateral = np.abs(canvas.x) / size.wall(canvas.y)
    base = np.clip((level - 0.22) * 1.9, 0, 1) * np.clip(0.35 + 0.8 * lateral, 0, 1)
    net = canvas.empty()
    for cells in (1.9, 1.1):
        ridge = np.exp(-((canvas.noise(rng, cells) / 0.16) ** 2))
        net += canvas.blur(ridge.astype(np.float32), 0.04)
    patchy = np.clip(0.8 + 0.3 * canvas.noise(rng, 4.0), 0.3, 1.3)
    water = (1.5 * net + 0.7) * base * patchy * np.minimum(scene.lung / 3, 1)
    seen = (base * patchy > 0.42) & (scene.fields[0] | scene.fields[1])
    return Sign(np.asarray(water * scene.exam.severity, np.float32), seen)
