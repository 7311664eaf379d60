"""Air spaces filled with something else: infiltration, pneumonia, consolidation, edema."""

from __future__ import annotations

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import Plane, bent
from chestxray.sources.phantom.signs.sign import Sign, filled, place, sides


def infiltration(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Broad, faint, ill-defined haze with streaks in it."""
    unit = scene.measures.half / 14
    blobs = [
        (*place(scene, rng, side, 0.3), rng.uniform(2.2, 3.6) * unit)
        for side in sides(rng, 0.5)
        for _ in range(int(rng.integers(1, 3)))
    ]
    haze = _haze(scene, rng, blobs)
    streaks = np.abs(scene.canvas.noise(rng, 0.9, octaves=2)) < 0.28
    haze = haze * (0.8 + 0.45 * scene.canvas.blur(streaks.astype(np.float32), 0.08))
    water = filled(scene, 0.30 * haze * scene.exam.severity)
    return Sign(water, water > 0.7)


def pneumonia(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Patches that flow together within one or two zones."""
    unit = scene.measures.half / 14
    blobs = []
    for side in sides(rng, 0.3):
        x, y = place(scene, rng, side, 0.35)
        for _ in range(int(rng.integers(5, 10))):
            away = rng.normal(0, 2.0, 2) * unit
            blobs.append((x + away[0], y + away[1], rng.uniform(0.6, 1.3) * unit))
    patches = np.clip(_haze(scene, rng, blobs) * 1.2, 0, 1)
    water = filled(scene, 0.46 * patches * scene.exam.severity)
    return Sign(water, water > 1.4, np.asarray(1 - 0.5 * patches, np.float32))


def consolidation(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """A lobe filled up to its fissure, with the bronchi left dark in it."""
    canvas, size = scene.canvas, scene.measures
    side, lobe = int(rng.integers(2)), int(rng.integers(3))
    out = 1 if side else -1
    across = canvas.x * out / size.half
    bow = 0.10 * across**2 - 0.10 * across
    level = canvas.y / size.height + bow
    fissure = (0.46, 0.46, 0.60)[lobe] + rng.uniform(-0.06, 0.04)
    soft = (0.35, 0.35, 3.0)[lobe]  # cm; only the minor fissure is seen from its edge
    sharp = np.clip((level - fissure) * size.height / soft + 0.5, 0, 1)
    if lobe == 0:  # upper: above the fissure
        fill = (1 - sharp) * np.clip((level - 0.08) * 5, 0, 1)
    else:  # middle or lingula, lower
        fill = sharp * np.clip(((0.88, 1.4)[lobe - 1] - level) * 5, 0, 1)
    ragged = np.clip(0.85 + 0.16 * canvas.noise(rng, 2.5, octaves=3), 0.45, 1)
    away = np.clip((canvas.x * out / size.half - rng.uniform(0.05, 0.18)) * 6, 0, 1)
    fill = fill * ragged * away
    x, y = scene.hila[side]
    target = {0: -5.0, 1: 3.5, 2: 7.5}[lobe]
    tubes = [
        bent(
            [
                (x, y),
                (x + out * 2.2, y + 0.5 * target * f),
                (x + out * (3.5 + 2 * f), y + target * f),
            ]
        )
        for f in (0.55, 0.85, 1.15)
    ]
    bronchi = canvas.blur(canvas.ribbons(tubes, [0.42, 0.36, 0.40]), 0.06)
    water = filled(scene, np.clip(0.62 * scene.exam.severity * fill, 0, 0.9).astype(np.float32))
    water = water * (1 - 0.35 * bronchi)
    return Sign(water, water > 2.0, np.asarray(1 - 0.8 * fill, np.float32))


def edema(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Haze around both hila, vessels without edges, short lines at the side walls."""
    canvas, size = scene.canvas, scene.measures
    wing = canvas.empty()
    for side, (x, y) in zip((-1, 1), scene.hila, strict=True):
        wide = rng.uniform(0.27, 0.34) * size.half
        wing = np.maximum(
            wing, canvas.cloud(x + side * 0.12 * size.half, y + 1.2, wide, 1.5 * wide)
        )
    ragged = np.clip(0.85 + 0.28 * canvas.noise(rng, 1.8, octaves=3), 0.2, 1.5)
    haze = wing * ragged
    lines = []
    for side in (-1, 1):
        for y in np.arange(0.62, 0.98, 0.045) * size.height + rng.normal(0, 0.15, 8):
            wall = float(size.wall(np.array([y]))[0]) - 0.15
            lines.append(
                np.array([(side * wall, y), (side * (wall - rng.uniform(1.2, 2.2)), y + 0.1)])
            )
    kerley = canvas.blur(canvas.strokes(lines, [0.13] * len(lines)), 0.05)
    water = filled(scene, 0.40 * haze * scene.exam.severity) + 4.5 * kerley * (scene.lung > 0.3)
    return Sign(water, filled(scene, haze) > 2.6, np.asarray(1 + 0.4 * wing, np.float32))


def _haze(
    scene: Anatomy, rng: np.random.Generator, blobs: list[tuple[float, float, float]]
) -> Plane:
    """Give ragged clouds around (x, y, size): 0 to about 1."""
    noise = scene.canvas.noise(rng, 2.2, octaves=3)
    clouds = scene.canvas.empty()
    for x, y, size in blobs:
        clouds = np.maximum(clouds, scene.canvas.cloud(x, y, size, size * rng.uniform(0.7, 1.3)))
    return np.asarray(clouds * np.clip(0.75 + 0.35 * noise, 0.1, 1.5), np.float32)
