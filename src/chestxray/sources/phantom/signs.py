"""The signs of the findings: what each adds to or takes from the lungs, and where exactly.

Signs that change the shape of the chest (a wide heart, a flat or raised diaphragm) are in
`anatomy.measures`; the others are drawn here: those of the air spaces, of the lung tissue, of the
pleura and of the mediastinum. The place of a sign belongs to the patient and stays the same over
follow-ups; its severity belongs to the examination.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from chestxray.sources.nih.tables import FINDINGS
from chestxray.sources.phantom.anatomy import LUNG_DENSITY, Anatomy
from chestxray.sources.phantom.canvas import Mask, Plane, bent, closed, ribbons


@dataclass(frozen=True)
class Sign:
    """One finding as drawn.

    Attributes:
        water: cm of water that it adds to the rays' paths (negative: takes away).
        mask: where it can be seen.
        vessels: factor on the lung's vessels and grain.
    """

    water: Plane
    mask: Mask
    vessels: Plane | float = 1.0


def _sides(rng: np.random.Generator, both: float) -> tuple[int, ...]:
    """Choose the right lung (0), the left (1) or both."""
    first = int(rng.integers(2))
    return (0, 1) if rng.random() < both else (first,)


def _place(
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


def _filled(scene: Anatomy, share: Plane) -> Plane:
    """Give the water that fills a share (0 to 1) of the lung's air."""
    return np.asarray(share * scene.lung * np.float32(1 - LUNG_DENSITY), np.float32)


def _infiltration(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Broad, faint, ill-defined haze with streaks in it."""
    unit = scene.measures.half / 14
    blobs = [
        (*_place(scene, rng, side, 0.3), rng.uniform(2.2, 3.6) * unit)
        for side in _sides(rng, 0.5)
        for _ in range(int(rng.integers(1, 3)))
    ]
    haze = _haze(scene, rng, blobs)
    streaks = np.abs(scene.canvas.noise(rng, 0.9, octaves=2)) < 0.28
    haze = haze * (0.8 + 0.45 * scene.canvas.blur(streaks.astype(np.float32), 0.08))
    water = _filled(scene, 0.30 * haze * scene.exam.severity)
    return Sign(water, water > 0.7)


def _pneumonia(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Patches that flow together within one or two zones."""
    unit = scene.measures.half / 14
    blobs = []
    for side in _sides(rng, 0.3):
        x, y = _place(scene, rng, side, 0.35)
        for _ in range(int(rng.integers(5, 10))):
            away = rng.normal(0, 2.0, 2) * unit
            blobs.append((x + away[0], y + away[1], rng.uniform(0.6, 1.3) * unit))
    patches = np.clip(_haze(scene, rng, blobs) * 1.2, 0, 1)
    water = _filled(scene, 0.46 * patches * scene.exam.severity)
    return Sign(water, water > 1.4, np.asarray(1 - 0.5 * patches, np.float32))


def _consolidation(scene: Anatomy, rng: np.random.Generator) -> Sign:
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
    water = _filled(scene, np.clip(0.62 * scene.exam.severity * fill, 0, 0.9).astype(np.float32))
    water = water * (1 - 0.35 * bronchi)
    return Sign(water, water > 2.0, np.asarray(1 - 0.8 * fill, np.float32))


def _edema(scene: Anatomy, rng: np.random.Generator) -> Sign:
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
    water = _filled(scene, 0.40 * haze * scene.exam.severity) + 4.5 * kerley * (scene.lung > 0.3)
    return Sign(water, _filled(scene, haze) > 2.6, np.asarray(1 + 0.4 * wing, np.float32))


def _haze(
    scene: Anatomy, rng: np.random.Generator, blobs: list[tuple[float, float, float]]
) -> Plane:
    """Give ragged clouds around (x, y, size): 0 to about 1."""
    noise = scene.canvas.noise(rng, 2.2, octaves=3)
    clouds = scene.canvas.empty()
    for x, y, size in blobs:
        clouds = np.maximum(clouds, scene.canvas.cloud(x, y, size, size * rng.uniform(0.7, 1.3)))
    return np.asarray(clouds * np.clip(0.75 + 0.35 * noise, 0.1, 1.5), np.float32)


def _atelectasis(scene: Anatomy, rng: np.random.Generator) -> Sign:
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


def _mass(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """A lobulated shadow wider than 3 cm."""
    count = 1 if rng.random() < 0.8 else 2
    return _rounds(scene, rng, list(rng.uniform(2.1, 3.8, count)), rough=0.18, dense=0.9)


def _nodule(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """One to four round shadows of at most 3 cm."""
    count = int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])) + 1
    calcified = 2.0 if rng.random() < 0.3 else 1.4
    return _rounds(scene, rng, list(rng.uniform(0.75, 1.42, count)), rough=0.06, dense=calcified)


def _rounds(
    scene: Anatomy, rng: np.random.Generator, radii: list[float], rough: float, dense: float
) -> Sign:
    water, mask = scene.canvas.empty(), np.zeros_like(scene.heart)
    for radius in radii:
        x, y = _place(scene, rng, int(rng.integers(2)))
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        edge = radius * (1 - rough * rng.uniform(0, 1, 14))
        outline = [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(edge, angle, strict=True)]
        coverage = scene.canvas.polygons([closed(outline)])
        body = scene.canvas.domed(coverage, radius) * np.float32(2 * radius * dense)
        water = np.maximum(water, scene.canvas.blur(body, 0.05 + 0.04 * radius))
        mask |= coverage > 0.5
    return Sign(water, mask)


def _emphysema(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Lucent lungs with few vessels and some bullae; the flat domes are in the measures."""
    canvas = scene.canvas
    thin = canvas.empty() + np.float32(0.42)
    for side in (0, 1, 0, 1):
        x, y = _place(scene, rng, side, 0.05, 0.6)
        thin = np.maximum(thin, 0.75 * (canvas.ball(x, y, rng.uniform(1.2, 2.6)) > 0))
    thin = canvas.blur(thin, 0.2)
    water = -LUNG_DENSITY * thin * scene.lung * np.float32(min(scene.exam.severity, 1.1))
    return Sign(water, scene.fields[0] | scene.fields[1], np.asarray(1 - 1.05 * thin, np.float32))


def _fibrosis(scene: Anatomy, rng: np.random.Generator) -> Sign:
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


def _effusion(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """Fluid that blunts the angle and climbs the wall; lying, it also veils the lung."""
    canvas, size = scene.canvas, scene.measures
    water = canvas.empty()
    for side in _sides(rng, 0.35):
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
        water += _filled(scene, fill.astype(np.float32))
    return Sign(water, water > 1.0)


def _pneumothorax(scene: Anatomy, rng: np.random.Generator) -> Sign:
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


def _pleural_thickening(scene: Anatomy, rng: np.random.Generator) -> Sign:
    """A band along the side wall or a cap over the apex."""
    canvas, size = scene.canvas, scene.measures
    water, mask = canvas.empty(), np.zeros_like(scene.heart)
    for side in _sides(rng, 0.35):
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


def _cardiomegaly(scene: Anatomy, rng: np.random.Generator) -> Sign:  # noqa: ARG001 - in `measures`
    """A heart wider than half of the chest."""
    return Sign(scene.canvas.empty(), scene.heart)


def _hernia(scene: Anatomy, rng: np.random.Generator) -> Sign:
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


_Draw = Callable[[Anatomy, np.random.Generator], Sign]

_DRAWN: Final[tuple[_Draw, ...]] = (  # in the findings' order
    _atelectasis, _cardiomegaly, _effusion, _infiltration, _mass, _nodule, _pneumonia,
    _pneumothorax, _consolidation, _edema, _emphysema, _fibrosis, _pleural_thickening, _hernia,
)  # fmt: skip
_SIGNS: Final = dict(zip(FINDINGS, _DRAWN, strict=True))


def sign(scene: Anatomy, finding: str) -> Sign:
    """Draw one finding."""
    return _SIGNS[finding](scene, scene.exam.patient.stream(finding))
