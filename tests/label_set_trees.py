"""Small trees of data sets that label the images of another one, made of phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2

from public_trees import Film, table

NIH_TITLES = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
    "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
)  # fmt: skip
OPACITIES = {"Atelectasis", "Infiltration", "Pneumonia", "Consolidation", "Edema"}


def nih_name(film: Film) -> str:
    return f"{film.patient:08d}_{film.number:03d}.png"


def nih_cells(film: Film) -> list[object]:
    """A row of NIH's own table."""
    labels, view = "|".join(sorted(film.findings)) or "No Finding", ("PA", "AP")[film.number % 2]
    return [nih_name(film), labels, film.number, film.patient, film.age, film.sex, view,
            64, 64, 0.1, 0.1]  # fmt: skip


def placed(path: Path, film: Film, suffix: str = ".png") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(suffix, film.pixels)[1].tobytes())


def nih_images(root: Path, made: Sequence[Film]) -> Path:
    for film in made:
        placed(root / "images_001/images" / nih_name(film), film)
    return root


def nih_table(root: Path, made: Sequence[Film]) -> Path:
    return table(root / "Data_Entry_2017_v2020.csv", NIH_TITLES, map(nih_cells, made))


def google(root: Path, made: Sequence[Film]) -> Path:
    """The last patient is the set `test`; NIH's own table is not there."""
    rows = []
    for film in nih_images(root, made) and made:
        named = (
            False, "Pneumothorax" in film.findings, bool(OPACITIES & film.findings),
            bool({"Nodule", "Mass"} & film.findings),
        )  # fmt: skip
        answers = [("NO", "YES")[yes] for yes in named]
        part = "test" if film.patient == made[-1].patient else "val"
        rows.append([*nih_cells(film), *answers, part])
    titles = (*NIH_TITLES, "Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass",
              "Set Id")  # fmt: skip
    table(root / "google2019_nih-chest-xray-labels.csv", titles, rows)
    return root
