"""Trees in the layouts of smaller public data sets, made of phantoms whose findings are known.

A film counts as one with tuberculosis, or with a nodule, where it shows any finding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from public_trees import Film


def placed(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def lung(pixels: np.ndarray, side: int) -> np.ndarray:
    """A mask of the left or right half, without the borders."""
    mask = np.zeros_like(pixels)
    middle = mask.shape[1] // 2
    columns = slice(8, middle - 4) if side == 0 else slice(middle + 4, -8)
    mask[8:-8, columns] = 255
    return mask


def shenzhen(root: Path, made: Sequence[Film]) -> Path:
    """RGB copies of grey images; the readings are in Shenzhen's spellings."""
    words = {"M": ("male {}yrs", "male , {}yrs \t"), "F": ("female {}yrs", "femal {}yrs")}
    for film in made:
        name = f"CHNCXR_{film.number + 1:04d}_{int(bool(film.findings))}"
        grey = film.pixels
        placed(root / f"CXR_png/{name}.png", png(cv2.merge([grey, grey, grey])))
        line = words[film.sex][film.number % 2].format(film.age)
        text = f"{line}\r\n{'PTB in the right upper field' if film.findings else 'normal'}"
        placed(root / f"ClinicalReadings/{name}.txt", text.encode())
    return root


def montgomery(root: Path, made: Sequence[Film]) -> Path:
    """Masks of both lungs; the readings name the first image of a patient who has several."""
    first: dict[int, str] = {}
    for film in made:
        stem = f"MCUCXR_{film.number + 1:04d}"
        name = f"{stem}_{int(bool(film.findings))}"
        placed(root / f"CXR_png/{name}.png", png(film.pixels))
        for side, folder in enumerate(("leftMask", "rightMask")):
            placed(root / f"ManualMask/{folder}/{name}.png", png(lung(film.pixels, side)))
        text = f"Patient's Sex: {film.sex} \nPatient's Age: {film.age:03d}Y\n"
        again = first.setdefault(film.patient, name)
        text += f"NO REPORT (same pt as {again})\n" if again != name else "normal\n"
        placed(root / f"ClinicalReadings/{name}.txt", text.encode())
    return root


CHESTXDET_OF_NIH = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation",
    "Effusion": "Effusion", "Emphysema": "Emphysema", "Fibrosis": "Fibrosis", "Mass": "Mass",
    "Nodule": "Diffuse Nodule", "Pleural_Thickening": "Pleural Thickening",
    "Pneumothorax": "Pneumothorax",
}  # fmt: skip
"""A phantom's nodule stands for diffuse ones."""


def chestxdet(root: Path, made: Sequence[Film], *, ten: bool = False) -> Path:
    """Polygons are octagons in the boxes of the films, of 1024 pixels; the last quarter is test."""
    left_out = {"Cardiomegaly", "Pleural Thickening"} if ten else set()
    words = {nih: word for nih, word in CHESTXDET_OF_NIH.items() if word not in left_out}
    if ten:
        words["Nodule"] = "Nodule"
    entries: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for film in made:
        part = "train" if film.number < 3 * len(made) // 4 else "test"
        name = f"{36000 + film.number}.png"
        placed(root / part / name, png(film.pixels))
        drawn = {finding: frame for finding, *frame in film.boxes}
        present = [nih for nih in words if nih in film.findings]
        boxes = [corners(drawn.get(nih, [0.25, 0.25, 0.5, 0.5])) for nih in present]
        entry = {"file_name": name, "syms": [words[nih] for nih in present], "boxes": boxes}
        entries[part].append(entry if ten else entry | {"polygons": [*map(octagon, boxes)]})
    for part, listed in entries.items():
        name = f"{part}.json" if ten else f"ChestX_Det_{part}.json"
        placed(root / name, json.dumps(listed).encode())
    return root


def corners(frame: Sequence[float]) -> list[int]:
    """Left, top, right and bottom in pixels, of x, y, w, h as fractions."""
    x, y, w, h = (1024 * side for side in frame)
    return [int(x), int(y), int(np.ceil(x + w)), int(np.ceil(y + h))]


def octagon(box: Sequence[int]) -> list[list[int]]:
    left, top, right, bottom = box
    dx, dy = (right - left) // 4, (bottom - top) // 4
    return [
        [left + dx, top], [right - dx, top], [right, top + dy], [right, bottom - dy],
        [right - dx, bottom], [left + dx, bottom], [left, bottom - dy], [left, top + dy],
    ]  # fmt: skip


def chestxdet10(root: Path, made: Sequence[Film]) -> Path:
    return chestxdet(root, made, ten=True)
