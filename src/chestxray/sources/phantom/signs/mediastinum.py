"""Between the lungs: cardiomegaly and hernia."""

from __future__ import annotations

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.signs.sign import Sign


def cardiomegaly(scene: Anatomy, rng: np.random.Generator) -> Sign:  # noqa: ARG001 - in `measures`
    """A heart wider than half of the chest."""
    return Sign(scene.canvas.empty(), scene.heart)


def hernia(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """A round shadow behind the heart, half air and half fluid while the patient stands."""
    canvas, size = scene.canvas, scene.measures
    r = rng.uniform(0.23, 0.31) * size.half
    x = rng.uniform(0.0, 0.22) * size.half + scene.exam.rotation
    y = size.height - rng.uniform(0.3, 0.7) * r
    ball = canvas.ball(x, y, r * 1.15, r)
    level = y + rng.uniform(-0.3, 0.2) * r
    gas = canvas.ball(x, y, r * 1.02, r * 0.86) * (
        np.clip((level - canvas.y) * canvas.scale + 0.5, 0, 1) if not scene.exam.supine else 0.6
    )
    water = 1.4 * r * ball - 2.6 * r * gas + 0.8 * ((ball > 0) & (ball < 0.45))
    return Sign(canvas.blur(np.asarray(water, np.float32), 0.08), ball > 0)
