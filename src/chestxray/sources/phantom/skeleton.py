"""The bones: ribs, clavicles, scapulae, humeri and spine, as planes of bone path in cm."""

from __future__ import annotations

import numpy as np

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import Plane, Points, bent, profile

_RIBS = 11


def skeleton(scene: Anatomy) -> Plane:
    """Draw all bones; gives the path through dense bone in cm."""
    return np.asarray(
        _ribs(scene) + _spine(scene) + _clavicles(scene) + _scapulae(scene) + _humeri(scene),
        np.float32,
    )


def ribs(scene: Anatomy) -> list[tuple[Points, Points]]:
    """Give the midlines of each rib's posterior and anterior part, [n, 2] in cm.

    From the first pair to the last, right before left. A rib runs around the chest, falling as it
    goes; the camera sees it twice. The angle goes from the spine (0) past the side wall (90°) to
    where the cartilage begins.
    """
    size = scene.measures
    unit = size.half / 14
    number = np.arange(1, _RIBS + 1)[:, None]
    first = (-1.3 + 2.42 * (number - 1)) * unit * (size.height / (1.68 * size.half)) ** 0.5
    fall = unit * np.interp(number, [1, 2, 4, 7, 11], [4.0, 6.6, 9.8, 12.0, 10.0])
    end = np.interp(number[:, 0], [1, 5, 8, 10, 11], [150, 146, 132, 112, 98])
    lift = 1.10 if scene.exam.view == "AP" else 1.0
    angle = np.radians(np.linspace(3, end, 40, axis=1))
    y = first + lift * fall * (1 - np.cos(angle)) / 2 - 0.35 * unit * np.sin(2 * angle)
    wall = size.wall(y) + 0.25 * unit
    reach = np.where(number == 1, 0.86, 1.0) * wall
    out = 1.6 * unit + (reach - 1.6 * unit) * np.sin(angle) ** 0.85
    turned = scene.exam.rotation * np.where(angle > np.pi / 2, 0.8, -0.3) * np.cos(angle) ** 2
    both = np.stack([np.stack([side * out + turned, y], 2) for side in (-1, 1)], 1)
    turn = (angle < np.pi / 2).sum(axis=1)  # the first point beyond the side wall
    return [
        (curve[: at + 2], curve[at - 1 :])
        for pair, at in zip(both, turn, strict=True)
        for curve in pair
    ]


def _ribs(scene: Anatomy) -> Plane:
    canvas, unit = scene.canvas, scene.measures.half / 14
    rng = scene.exam.patient.stream("ribs")
    density = rng.uniform(0.6, 0.95) * float(np.interp(scene.exam.age, [20, 90], [1.1, 0.8]))
    both = [[part + np.array((0, rng.normal(0, 0.1))) for part in parts] for parts in ribs(scene)]
    total = canvas.empty()
    for part, width, strength in ((0, 1.15, 1.0), (1, 1.25, 0.62)):
        curves = [pair[part] for pair in both if len(pair[part]) > 3]
        body = canvas.ribbons(curves, [width * unit] * len(curves))
        marrow = canvas.ribbons(curves, [(width - 0.34) * unit] * len(curves))
        total += np.float32(strength) * (0.75 * body - 0.28 * marrow)
    edge = np.clip(np.abs(canvas.x) / scene.measures.wall(canvas.y), 0, 1.05)
    tangent = 0.9 + 0.4 * edge**10  # at the side wall the ray runs along the rib
    size = scene.measures
    low = 1 - 0.75 * np.clip((canvas.y - size.height) / (size.sag + 3), 0, 1)  # floating ribs
    return np.asarray(canvas.blur(total, 0.06) * tangent * low * (density * unit), np.float32)


def _spine(scene: Anatomy) -> Plane:
    canvas, unit = scene.canvas, scene.measures.half / 14
    rng = scene.exam.patient.stream("spine")
    curve = rng.normal(0, 0.35) * np.sin(canvas.y / 11 + rng.uniform(0, 6))
    aside = 6 * unit + abs(0.4 * scene.exam.rotation) + float(np.abs(curve).max())
    rows, columns = canvas.part(-aside, aside)
    x = (canvas.x[:, columns] - curve + 0.4 * scene.exam.rotation) / unit
    phase = (canvas.y / unit + 1.3) / 2.42 % 1.0
    disc = np.clip((np.abs(phase - 0.5) - 0.36) * 9, 0, 1)
    half = profile(canvas.y / unit, [-8, 0, 25], [1.35, 1.65, 2.1]) + 0.18 * disc
    body = np.sqrt(np.maximum(1 - (np.abs(x) / half) ** 4, 0)) * (1.7 - 0.75 * disc)
    pedicle = np.exp(-(((np.abs(x) - 0.72 * half) / 0.35) ** 2) - ((phase - 0.38) / 0.17) ** 2)
    process = np.exp(-((x / 0.28) ** 2) - ((phase - 0.8) / 0.22) ** 2)
    across = np.exp(-(((phase - 0.42) / 0.16) ** 2)) * (np.abs(x) < 3.2 - 0.03 * canvas.y / unit)
    bone = canvas.empty()
    bone[rows, columns] = (0.4 * body + 0.5 * pedicle + 0.6 * process + 0.25 * across) * unit
    return canvas.blur(bone, 0.1)


def _clavicles(scene: Anatomy) -> Plane:
    canvas, unit = scene.canvas, scene.measures.half / 14
    ap = scene.exam.view == "AP"
    curves = []
    for side in (-1, 1):
        inner, outer = (2.0, -3.2) if ap else (3.4, -1.4)
        points = [(1.8, inner), (5.5, inner - 1.0), (10.5, outer + 0.6), (15.5, outer + 0.2)]
        curves.append(bent([(side * x * unit + scene.exam.rotation, y * unit) for x, y in points]))
    outer_bone = canvas.ribbons(curves, [1.25 * unit] * 2)
    marrow = canvas.ribbons(curves, [0.8 * unit] * 2)
    return canvas.blur(outer_bone * 1.0 - 0.4 * marrow, 0.06) * np.float32(unit)


def _scapulae(scene: Anatomy) -> Plane:
    """Draw the shoulder blades: beside the lungs in PA, over them in AP."""
    canvas, unit = scene.canvas, scene.measures.half / 14
    inward = 3.4 if scene.exam.view == "AP" else 0.6
    blades, borders = [], []
    for side in (-1, 1):
        outline = [(16.2, 0.8), (15.2, 4.5), (13.4, 9.5), (12.3, 13.2), (11.5, 12.0),
                   (10.6, 6.0), (11.0, 1.2), (13.5, -0.6)]  # fmt: skip
        moved = [(side * (x - inward) * unit, (y + 0.5) * unit) for x, y in outline]
        blades.append(bent([*moved, moved[0]], 60))
        borders += [
            bent([moved[0], moved[1], moved[2], moved[3]]),
            bent([(side * (10.9 - inward) * unit, 4.0 * unit), moved[7], moved[0]]),
            bent(
                [
                    (side * (x - 0.3) * unit, y * unit)
                    for x, y in ((12.5, 1.6), (15, -0.8), (18, -1.4))
                ]
            ),
        ]
    plate = canvas.polygons(blades)
    rims = canvas.ribbons(borders, [0.55 * unit, 0.45 * unit, 1.0 * unit] * 2)
    bone = canvas.blur(np.asarray(0.22 * plate + 0.5 * rims, np.float32), 0.1)
    return bone * np.float32(unit)


def _humeri(scene: Anatomy) -> Plane:
    canvas, unit = scene.canvas, scene.measures.half / 14
    rng = scene.exam.patient.stream("arms")
    ap = scene.exam.view == "AP"
    spread = rng.uniform(0.08, 0.3) if ap else rng.uniform(0.35, 0.8)
    shafts, plane = [], canvas.empty()
    for side in (-1, 1):
        x, y = side * 17.3 * unit, 2.2 * unit
        plane += 0.8 * canvas.ball(x, y, 2.3 * unit)
        tip = (x + side * 26 * np.sin(spread), y + 26 * np.cos(spread))
        shafts.append(np.array([(x, y), tip]))
    tube = canvas.ribbons(shafts, [2.3 * unit] * 2) - 0.55 * canvas.ribbons(
        shafts, [1.2 * unit] * 2
    )
    return canvas.blur(np.asarray(plane + 0.8 * tube, np.float32), 0.1) * np.float32(unit)
