"""Small trees in the layouts of public data sets, made of phantoms whose findings are known."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from chestxray import sources
from chestxray.sources.chexpert import OBSERVATIONS
from chestxray.sources.vindr import ALL
from dicom_files import dicom, jpeg_2000

CHEXPERT_OF_NIH = {
    "Cardiomegaly": "Cardiomegaly", "Edema": "Edema", "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia", "Atelectasis": "Atelectasis", "Pneumothorax": "Pneumothorax",
    "Effusion": "Pleural Effusion",
}  # fmt: skip
PADCHEST_OF_NIH = {
    "Atelectasis": "atelectasis", "Cardiomegaly": "cardiomegaly", "Effusion": "pleural effusion",
    "Infiltration": "infiltrates", "Mass": "pulmonary mass", "Nodule": "nodule",
    "Pneumonia": "pneumonia", "Pneumothorax": "pneumothorax", "Consolidation": "consolidation",
    "Edema": "pulmonary edema", "Emphysema": "emphysema", "Fibrosis": "pulmonary fibrosis",
    "Pleural_Thickening": "pleural thickening", "Hernia": "hiatal hernia",
}  # fmt: skip
VINDR_OF_NIH = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Effusion": "Pleural effusion",
    "Infiltration": "Infiltration", "Pneumothorax": "Pneumothorax",
    "Fibrosis": "Pulmonary fibrosis", "Consolidation": "Consolidation",
    "Pleural_Thickening": "Pleural thickening",
}  # fmt: skip


@dataclass(frozen=True)
class Film:
    """One phantom.

    Attributes:
        path: of its PNG file, 8 bits.
        findings: in NIH's names.
        boxes: finding and x, y, w, h as fractions.
        patient: from 1.
        number: of the image, from 0.
    """

    path: Path
    findings: frozenset[str]
    boxes: tuple[tuple[str, float, float, float, float], ...]
    patient: int
    number: int
    sex: str
    age: int

    @property
    def pixels(self) -> np.ndarray:
        return cv2.imread(str(self.path), cv2.IMREAD_GRAYSCALE)

    def fixed(self, words: dict[str, str]) -> list[str]:
        """The findings in another set's words."""
        return [word for name, word in words.items() if name in self.findings]


def films(phantoms: Path, count: int = 24) -> list[Film]:
    """The first phantoms of a tree."""
    read = sources.read(phantoms)
    found = []
    for number, row in enumerate(read.rows.dropna(subset="age").head(count).to_dict("records")):
        boxes = read.boxes[read.boxes["image"] == row["image"]]
        found.append(
            Film(
                Path(row["path"]),
                frozenset(name for name in read.findings if row[name] == 1),
                tuple(boxes[["finding", *"xywh"]].itertuples(index=False, name=None)),
                int(row["patient"]),
                number,
                row["sex"],
                int(row["age"]),
            )
        )
    return found


def codes(collection: sources.Collection) -> dict[str, int]:
    """Count what a reader could not use, by code."""
    return {problem.code: problem.count for problem in collection.problems}


def table(path: Path, titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(titles)
        writer.writerows(rows)
    return path


def change(path: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Edit a table as text."""
    edit(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def _placed(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _jpeg(film: Film) -> bytes:
    return cv2.imencode(".jpg", film.pixels)[1].tobytes()


def chexpert(root: Path, made: Sequence[Film], release: str = "CheXpert-v1.0-small") -> Path:
    """`train.csv` and `valid.csv` (the last patient); a lateral of each fourth."""
    last = made[-1].patient
    rows: dict[str, list[list[object]]] = {"train": [], "valid": []}
    for film in made:
        part = "valid" if film.patient == last else "train"
        for side in ("frontal", "lateral")[: 1 + (film.number % 4 == 0)]:
            name = f"{part}/patient{film.patient:05d}/study{film.number + 1}/view1_{side}.jpg"
            _placed(root / name, _jpeg(film))
            present = film.fixed(CHEXPERT_OF_NIH)
            cells = dict.fromkeys(OBSERVATIONS, "")
            cells |= dict.fromkeys(CHEXPERT_OF_NIH.values(), "0.0")
            cells |= dict.fromkeys(present, "1.0")
            if not film.findings:
                cells["No Finding"] = "1.0"
            rows[part].append(
                [f"{release}/{name}", {"M": "Male", "F": "Female"}[film.sex], film.age,
                 side.title(), "AP" * (side == "frontal"), *cells.values()]
            )  # fmt: skip
    titles = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS)
    for part, of in rows.items():
        table(root / f"{part}.csv", titles, of)
    return root


PADCHEST_TITLES = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
    "PatientSex_DICOM", "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric",
    "Report", "MethodLabel", "Labels", "Localizations",
)  # fmt: skip


def padchest(root: Path, made: Sequence[Film]) -> Path:
    """16-bit PNG in numbered folders."""
    rows = []
    for film in made:
        name, folder = (
            f"2168401113669640{film.number:05d}_00-{film.number:03d}.png",
            film.number % 3,
        )
        deep = film.pixels.astype(np.uint16) * 257
        _placed(root / str(folder) / name, cv2.imencode(".png", deep)[1].tobytes())
        words = film.fixed(PADCHEST_OF_NIH) or ["normal"]
        rows.append(
            [film.number, name, folder, f"2015{1 + film.number % 12:02d}01", f"s{film.number}",
             f"8398604886942703316379882356814609{film.patient:02d}", f"{2015 - film.age}.0",
             film.sex, "POSTEROANTERIOR", "PA" if film.number % 2 else "AP_horizontal",
             "Manual review of DICOM fields", "No", "sin hallazgos , .", "Physician",
             repr([f" {word}" if place else word for place, word in enumerate(words)]), "[]"]
        )  # fmt: skip
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    plain = table(root / "plain.csv", PADCHEST_TITLES, rows)
    (root / name).write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return root


def rsna(root: Path, made: Sequence[Film]) -> Path:
    """Boxed films are those with pneumonia; the others are normal where they show nothing."""
    boxes, classes, mapping = [], [], []
    for film in made:
        name = f"0004cfab-14fd-4e49-80ba-63a80b6b{film.number:04d}"
        header = {"PatientSex": film.sex, "PatientAge": f"{film.age:03d}Y", "ViewPosition": "AP"}
        _placed(root / f"stage_2_train_images/{name}.dcm", dicom(film.pixels, 8, **header))
        mine = [b[1:] for b in film.boxes if b[0] == "Pneumonia"] or [(0.25, 0.25, 0.5, 0.5)]
        if "Pneumonia" in film.findings:
            boxes += [[name, *(round(1024 * side, 1) for side in box), 1] for box in mine]
            classes += [[name, "Lung Opacity"] for _ in mine]
        else:
            boxes.append([name, "", "", "", "", 0])
            classes.append([name, "No Lung Opacity / Not Normal" if film.findings else "Normal"])
        nih = f"{film.patient:08d}_{film.number:03d}.png"
        mapping.append({"img_id": nih, "subset_img_id": name})
    table(
        root / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"),
        boxes,
    )  # fmt: skip
    table(root / "stage_2_detailed_class_info.csv", ("patientId", "class"), classes)
    path = root / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text(json.dumps(mapping), encoding="utf-8")
    return root


def siim(root: Path, made: Sequence[Film]) -> Path:
    """Masks are the boxes of a pneumothorax, each a row; the title has a space before it."""
    rows: list[list[object]] = []
    for film in made:
        name = uid(film)
        header = {"PatientSex": film.sex, "PatientAge": f"{film.age:03d}Y", "ViewPosition": "PA"}
        _placed(root / f"dicom-images-train/1.2.{film.number}/1.3.{film.number}/{name}.dcm",
                dicom(film.pixels, 8, SOPInstanceUID=name, **header))  # fmt: skip
        boxes = [frame(*box) for finding, *box in film.boxes if finding == "Pneumothorax"]
        boxes = boxes or [(100, 200, 50, 60)]
        if "Pneumothorax" in film.findings:
            rows += [[name, offsets(*box)] for box in boxes]
        else:
            rows.append([name, " -1" if film.number % 2 else "-1"])
    table(root / "train-rle.csv", ("ImageId", " EncodedPixels"), rows)
    return root


def uid(film: Film) -> str:
    return f"1.2.276.0.7230010.3.1.4.8323329.{1000 + film.number}.1517875201.8508{film.number:02d}"


def frame(x: float, y: float, w: float, h: float) -> tuple[int, int, int, int]:
    """A box in the frame of 1024 pixels."""
    left, top = round(1024 * x), round(1024 * y)
    return left, top, max(round(1024 * w), 1), max(round(1024 * h), 1)


def offsets(x: int, y: int, w: int, h: int) -> str:
    """A box as SIIM encodes masks: column by column, each start from the end of the last run."""
    words, end = [], 0
    for column in range(x, x + w):
        words += [column * 1024 + y - end, h]
        end = column * 1024 + y + h
    return " ".join(map(str, words))


def mimic(root: Path, made: Sequence[Film]) -> Path:
    """2.1.0: metadata, split, two labelers and the labels of the test."""
    last = made[-1].patient
    images, parts, labels, test = [], [], [], []
    order = sorted(OBSERVATIONS)
    for film in made:
        subject, study = 10_000_000 + film.patient, 50_000_000 + film.number
        name = f"02aa804e-bde0afdd-112c0b34-7bc16630-{film.number:08x}"
        _placed(root / f"files/p10/p{subject}/s{study}/{name}.jpg", _jpeg(film))
        part = "test" if film.patient == last else ("train", "validate")[film.patient % 5 == 0]
        images.append([name, subject, study, "CHEST (PA AND LAT)", "PA", 64, 64,
                       21800101 + film.number, "1200"])  # fmt: skip
        parts.append([name, study, subject, part])
        present = film.fixed(CHEXPERT_OF_NIH)
        cells = dict.fromkeys(OBSERVATIONS, "") | dict.fromkeys(CHEXPERT_OF_NIH.values(), "0.0")
        cells |= dict.fromkeys(present, "1.0")
        labels.append([subject, study, *(cells[title] for title in order)])
        if part == "test":
            cells["Fracture"] = "1.0"
            test.append([study, *(cells[title] for title in order)])
    table(
        root / "mimic-cxr-2.0.0-metadata.csv",
        ("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition",
         "Rows", "Columns", "StudyDate", "StudyTime"), images,
    )  # fmt: skip
    table(
        root / "mimic-cxr-2.0.0-split.csv", ("dicom_id", "study_id", "subject_id", "split"), parts
    )
    for labeler in ("chexpert", "negbio"):
        table(root / f"mimic-cxr-2.0.0-{labeler}.csv", ("subject_id", "study_id", *order), labels)
    titles = ["Airspace Opacity" if title == "Lung Opacity" else title for title in order]
    table(root / "mimic-cxr-2.1.0-test-set-labeled.csv", ("study_id", *titles), test)
    people = {film.patient: film for film in reversed(made)}
    table(
        root / "patients.csv", ("subject_id", "gender", "anchor_age", "anchor_year"),
        [[10_000_000 + n, film.sex, film.age, 2180] for n, film in people.items()],
    )  # fmt: skip
    return root


def vindr(root: Path, made: Sequence[Film]) -> Path:
    """PhysioNet's layout: three readers a film of train, a consensus on the last quarter."""
    cut = 3 * len(made) // 4
    rows: dict[str, list[list[object]]] = {"train": [], "test": []}
    boxes: dict[str, list[list[object]]] = {"train": [], "test": []}
    for film in made:
        part, name = "train" if film.number < cut else "test", f"{film.number:032x}"
        inverted = film.number % 2 == 1
        stored = (255 - film.pixels if inverted else film.pixels).astype(np.uint16) * 16
        plain = dicom(stored, 12, "MONOCHROME1" if inverted else "MONOCHROME2", PatientAge="000Y")
        _placed(root / part / f"{name}.dicom", jpeg_2000(plain))
        present = film.fixed(VINDR_OF_NIH)
        for reader in ("R1", "R2", "R3") if part == "train" else ("",):
            named = present if reader != "R3" else present[1:]  # the third reader misses one
            ticks = [int(title in named) for title in ALL]
            rows[part].append([name, *([reader] if reader else []), *ticks, int(not named)])
            boxes[part] += [
                [name, *([reader] if reader else []), VINDR_OF_NIH[finding],
                 *(round(side * 64, 2) for side in (x, y, x + w, y + h))]
                for finding, x, y, w, h in film.boxes if VINDR_OF_NIH.get(finding) in named
            ]  # fmt: skip
    for part, reader in (("train", ["rad_id"]), ("test", [])):
        other = "Other diseases" if reader else "Other disease"
        titles = ["image_id", *reader, *ALL[:-1], other, "No finding"]
        table(root / f"annotations/image_labels_{part}.csv", titles, rows[part])
        titles = ["image_id", *reader, "class_name", "x_min", "y_min", "x_max", "y_max"]
        table(root / f"annotations/annotations_{part}.csv", titles, boxes[part])
    return root


def vindr_kaggle(root: Path, made: Sequence[Film]) -> Path:
    """Kaggle's layout: the training part, a row per box and reader, DICOM files."""
    rows: list[list[object]] = []
    for film in made:
        name, present = f"{film.number:032x}", film.fixed(VINDR_OF_NIH)
        _placed(root / f"train/{name}.dicom", dicom(film.pixels, 8))
        boxes = {VINDR_OF_NIH[f]: sides for f, *sides in film.boxes if f in VINDR_OF_NIH}
        for reader in ("R1", "R2", "R3"):
            named = present if reader != "R3" else present[1:]  # the third reader misses one
            for title in named:
                x, y, w, h = boxes.get(title, (0.25, 0.25, 0.5, 0.5))
                corners = (round(side * 64, 2) for side in (x, y, x + w, y + h))
                rows.append([name, title, ALL.index(title), reader, *corners])
            if not named:
                rows.append([name, "No finding", 14, reader, "", "", "", ""])
    titles = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")
    table(root / "train.csv", titles, rows)
    return root


def own_table(root: Path, made: Sequence[Film]) -> Path:
    """A table of one's own: a column per finding, with blanks, beside PNG files."""
    findings = ("Cardiomegaly", "Effusion", "Pneumothorax")
    rows = []
    for film in made:
        name = f"P{film.patient:04d}/IM{film.number:04d}.png"
        _placed(root / name, film.path.read_bytes())
        cells = [int(finding in film.findings) for finding in findings]
        rows.append([name, f"P{film.patient:04d}", "PA", film.sex, film.age, *cells])
    table(root / "labels.csv", ("file", "pid", "projection", "sex", "age", *findings), rows)
    return root
