"""Between lung and chest wall: effusion, pneumothorax, pleural thickening."""

from __future__ import annotations

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.exposure import LUNG_DENSITY
from chestxray.sources.phantom.signs.sign import Sign, filled, sides


def effusion(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Fluid that blunts the angle and climbs the wall; lying, it also veils the lung."""
    canvas, size = scene.canvas, scene.measures
    water = canvas.empty()
    for side in sides(rng, 0.35):
        out = 1 if side else -1
        deep = rng.gamma(3, 1.1) + 1.0
        level = size.height + 0.45 * size.sag - deep * scene.exam.severity
        from_wall = np.maximum(size.wall(canvas.y) - canvas.x * out, 0)
        climb = (2.5 + 0.35 * deep) * np.exp(-from_wall / (1.2 + 0.25 * deep))
        near = np.clip(canvas.x * out / 3, 0, 1)
        fill = np.sqrt(np.clip((canvas.y - (level - climb)) / 3.5, 0, 1)) * near
        if scene.exam.supine:
            veil = 0.22 * np.clip((canvas.y / size.height - 0.25) / 0.75, 0, 1)
            fill = np.maximum(fill, veil * near)
        water += filled(scene, fill.astype(np.float32))
    return Sign(water, water > 1.0)


def pneumothorax(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Air outside the lung: its edge is a fine line, and beyond it there are no vessels."""
    canvas, size = scene.canvas, scene.measures
    side = int(rng.integers(2))
    out = 1 if side else -1
    gap = (0.12 + rng.gamma(2.2, 0.065)) * size.half * scene.exam.severity
    level = np.clip(canvas.y / size.height, 0, 1.3)
    edge = size.wall(canvas.y) - gap * (1.15 - 0.6 * level)
    top = 0.75 * gap + 0.03 * (canvas.x * out - 0.34 * size.half) ** 2
    inner = np.minimum(edge - canvas.x * out, (canvas.y - top) * 0.9)
    half = (canvas.x * out > 0) & (scene.lung > 0.2)
    outside = np.clip(0.5 - inner * canvas.scale, 0, 1) * half
    line = np.exp(-0.5 * (inner / max(0.07, 0.5 / canvas.scale)) ** 2) * half
    collapse = np.clip(gap / size.half, 0, 0.5) * half * (1 - outside)
    air = -LUNG_DENSITY * 1.1 * scene.lung * outside
    water = air + 0.9 * line + 0.25 * collapse * scene.lung
    return Sign(
        np.asarray(water, np.float32),
        (outside > 0.5) | (line > 0.5),
        np.asarray(1 - outside, np.float32),
    )


def pleural_thickening(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """A band along the side wall or a cap over the apex."""
    canvas, size = scene.canvas, scene.measures
    water, mask = canvas.empty(), np.zeros_like(scene.heart)
    for side in sides(rng, 0.35):
        out = 1 if side else -1
        inward = size.wall(canvas.y) - canvas.x * out
        thick = rng.uniform(1.1, 1.9) * (1 + 0.25 * canvas.noise(rng, 2.5))
        if rng.random() < 0.4:
            apex = 0.088 * (canvas.x * out - 0.34 * size.half) ** 2
            depth = np.minimum(canvas.y - apex, inward)
            reach = np.clip((0.20 - canvas.y / size.height) * 14, 0, 1)
            thick = 1.4 * thick
        else:
            middle, long = rng.uniform(0.4, 0.75), rng.uniform(0.16, 0.34)
            depth = inward
            reach = np.clip(1.6 - (np.abs(canvas.y / size.height - middle) / long) ** 2, 0, 1)
        here = (canvas.x * out > 0) & (scene.lung > 0.05)
        band = np.clip((thick * reach - depth) * 2.5 + 0.5, 0, 1) * here * (reach > 0.05)
        water += (4.5 * band).astype(np.float32)
        mask |= band > 0.5
    return Sign(canvas.blur(water, 0.06) * np.float32(scene.exam.severity), mask)
