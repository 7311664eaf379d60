"""Trees in the layouts of smaller public data sets, made of phantoms whose findings are known.

A film counts as one with tuberculosis, or with a nodule, where it shows any finding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dicom_files import dicom
from public_trees import Film, table


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


OPENI_OF_NIH = {
    "Cardiomegaly": "Cardiomegaly/mild", "Effusion": "Pleural Effusion/bilateral/small",
    "Atelectasis": "Pulmonary Atelectasis/base", "Pneumothorax": "Pneumothorax/right/apex",
    "Nodule": "Nodule/lung/upper lobe/left", "Consolidation": "Consolidation/lung/base/right",
    "Hernia": "Hernia, Hiatal/large",
}  # fmt: skip


def openi_terms(film: Film) -> list[str]:
    return film.fixed(OPENI_OF_NIH) or ["normal"]


def openi_report(study: int, terms: Sequence[str], images: Sequence[str]) -> str:
    """A report as Open-i writes it, less its text."""
    majors = "".join(f"      <major>{term}</major>\n" for term in terms)
    shown = "".join(
        f'   <parentImage id="{image}">\n      <caption>Xray Chest PA and Lateral</caption>\n'
        "   </parentImage>\n"
        for image in images
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n   <meta type="rr"/>\n'
        f'   <uId id="CXR{study}"/>\n   <MedlineCitation Owner="Indiana University">\n'
        "      <Article><Abstract>\n"
        '         <AbstractText Label="FINDINGS">The heart is XXXX.</AbstractText>\n'
        "      </Abstract></Article>\n   </MedlineCitation>\n   <MeSH>\n"
        f"{majors}      <automatic>opacity</automatic>\n   </MeSH>\n{shown}</eCitation>\n"
    )


def openi_images(film: Film) -> tuple[str, str]:
    """The frontal and the lateral image of a film's study."""
    stem = f"CXR{film.number + 1}_IM-{film.number:04d}"
    return f"{stem}-1001", f"{stem}-2001"


def openi(root: Path, made: Sequence[Film], *, as_dicom: bool = False) -> Path:
    """A study per film, frontal and lateral; PNG of three channels with a table of headers."""
    rows = []
    for film in made:
        images = openi_images(film)
        report = openi_report(film.number + 1, openi_terms(film), images)
        placed(root / f"ecgen-radiology/{film.number + 1}.xml", report.encode())
        for image, view in zip(images, ("PA", "LL"), strict=True):
            rows.append([image, view, f"MONOCHROME{1 + film.number % 2}"])
            grey = film.pixels
            if as_dicom:
                data = dicom(grey.astype(np.uint16) * 16, 12, ViewPosition=view)
                placed(root / f"NLMCXR_dcm/{film.number + 1}/{image.removeprefix('CXR')}.dcm", data)
            else:
                placed(root / f"NLMCXR_png/{image}.png", png(cv2.merge([grey, grey, grey])))
    if not as_dicom:
        titles = ("imageid", "View Position", "Photometric Interpretation")
        table(root / "nlmcxr_dicom_metadata.csv", titles, rows)
    return root


def openi_kaggle(root: Path, made: Sequence[Film]) -> Path:
    reports, projections = [], []
    for film in made:
        study = film.number + 1
        terms = ";".join(openi_terms(film))
        reports.append([study, terms, terms, "Xray Chest PA and Lateral", "", "None.", "", ""])
        for image, view in zip(openi_images(film), ("Frontal", "Lateral"), strict=True):
            name = f"{image.removeprefix('CXR')}.dcm.png"
            projections.append([study, name, view])
            placed(root / f"images/images_normalized/{name}", png(film.pixels))
    titles = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings",
              "impression")  # fmt: skip
    table(root / "indiana_reports.csv", titles, reports)
    table(root / "indiana_projections.csv", ("uid", "filename", "projection"), projections)
    return root


def jsrt(root: Path, made: Sequence[Film]) -> Path:
    """Raw images of 2048 pixels, each of a film's pixels 32 times; lines as JSRT writes them."""
    nodules, others = [], []
    for film in made:
        letter = "L" if film.findings else "N"
        name = f"JPC{letter}N{film.number + 1:03d}.IMG"
        folder = "Nodule154images" if film.findings else "NonNodule93images"
        placed(root / folder / name, jsrt_raw(film.pixels))
        sex = {"M": "Male", "F": "Female"}[film.sex]
        if film.findings:
            words = [name, 3, jsrt_size(film), film.age, sex, 500 + film.number, 1000,
                     "malignant", "l.upper lobe", "lung cancer(adenocarcinoma)"]  # fmt: skip
            nodules.append("\t".join(map(str, words)))
        else:
            others.append(f"{name}   {film.age}  {sex}   non-nodule")
    placed(root / "Clinical_Information/CLNDAT_EN.txt", "\r".join(nodules).encode())
    placed(root / "Clinical_Information/CNNDAT_EN.TXT", ("\n".join(others) + "\n").encode())
    return root


def jsrt_size(film: Film) -> int:
    """In mm; above 30 it is a mass."""
    return 10 + film.number * 6


def jsrt_raw(pixels: np.ndarray) -> bytes:
    """12 bits, the higher byte first, high values dark."""
    stored = 4095 - np.rint(pixels.astype(np.float64) * 4095 / 255)
    return np.repeat(np.repeat(stored, 32, 0), 32, 1).astype(">u2").tobytes()
