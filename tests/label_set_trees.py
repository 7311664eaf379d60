"""Small trees of data sets that label the images of another one, made of phantoms."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from chestxray.sources.chexpert import OBSERVATIONS
from chestxray.sources.long_tailed import NEW
from chestxray.sources.nih import FINDINGS
from dicom_files import dicom
from public_trees import CHEXPERT_OF_NIH, Film, table, uid

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


def nih(root: Path, made: Sequence[Film]) -> Path:
    """NIH's own tree, without lists: as it was given in 2017."""
    nih_table(nih_images(root, made), made)
    return root


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


def _long_tailed(film: Film, titles: Sequence[str], present: Iterable[str]) -> list[int]:
    """Cells of a long-tailed table; every third phantom has a tortuous aorta."""
    named = {*present, *(["No Finding"] if not film.findings else [])}
    named |= {"Tortuous Aorta"} if film.number % 3 == 0 else set()
    return [int(title in named) for title in titles]


def nih_lt(root: Path, made: Sequence[Film]) -> Path:
    """The release of 2023: the last patient is the test, the one before val."""
    titles = (*(name.replace("_", " ") for name in FINDINGS), "No Finding", *NEW)
    rows: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for film in nih_images(root, made) and made:
        present = [name.replace("_", " ") for name in film.findings]
        rows[part_of(film, made)].append([nih_name(film), *_long_tailed(film, titles, present)])
    for part, of in rows.items():
        table(root / f"miccai2023_nih-cxr-lt_labels_{part}.csv", ("id", *titles), of)
    return root


def nih_lt_2022(root: Path, made: Sequence[Film]) -> Path:
    """The release of 2022: one label an image, balanced val, NIH's spelling, the patient last."""
    titles = (*FINDINGS, *NEW, "No Finding")
    rows: dict[str, list[list[object]]] = {"train": [], "balanced-val": [], "test": []}
    for film in nih_images(root, made) and made:
        name = {"val": "balanced-val"}.get(part_of(film, made), part_of(film, made))
        label = min(film.findings, default="No Finding")
        cells = [int(title == label) for title in titles]
        rows[name].append([nih_name(film), *cells, film.patient])
    for part, of in rows.items():
        path = root / f"LongTailCXR/nih-cxr-lt_single-label_{part}.csv"
        table(path, ("id", *titles, "subj_id"), of)
    table(root / "LongTailCXR/nih-cxr-lt_image_ids.csv", ("id",), [[nih_name(f)] for f in made])
    return root


def part_of(film: Film, made: Sequence[Film]) -> str:
    last = made[-1].patient
    return {last: "test", last - 1: "val"}.get(film.patient, "train")


def mimic_path(film: Film) -> str:
    subject, name = 10_000_000 + film.patient, f"02aa804e-bde0afdd-{film.number:08x}"
    return f"files/p10/p{subject}/s{50_000_000 + film.number}/{name}.jpg"


def mimic_lt(root: Path, made: Sequence[Film]) -> Path:
    """The release of 2023, without MIMIC's own tables."""
    titles = (*sorted(OBSERVATIONS), *NEW)
    rows: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for film in made:
        placed(root / mimic_path(film), film, ".jpg")
        present = film.fixed(CHEXPERT_OF_NIH)
        rows[part_of(film, made)].append([mimic_path(film), *_long_tailed(film, titles, present)])
    for part, of in rows.items():
        table(root / f"miccai2023_mimic-cxr-lt_labels_{part}.csv", ("path", *titles), of)
    return root


CHALLENGE = {
    2023: ("Emphysema", "Fibrosis", "Hernia", "Infiltration", "Mass", "Nodule",
           "Pleural Thickening"),
    2024: ("Emphysema", "Fibrosis", "Hernia", "Infiltration", "Mass", "Nodule",
           "Pleural Thickening", "Adenopathy", "Azygos Lobe", "Clavicle Fracture", "Fissure",
           "Granuloma", "Hydropneumothorax", "Infarction", "Kyphosis", "Lobar Atelectasis",
           "Pulmonary Embolism", "Pulmonary Hypertension", "Rib Fracture",
           "Round(ed) Atelectasis", "Tuberculosis"),
}  # fmt: skip
"""What the challenges CXR-LT label beyond MIMIC-CXR-LT."""


def cxr_lt(root: Path, made: Sequence[Film], year: int = 2024) -> Path:
    """A challenge's tables, of 2024 with those of task2 and all labels in one."""
    normal = "Normal" if year == 2024 else "No Finding"
    old = [normal if title == "No Finding" else title for title in (*OBSERVATIONS, *NEW)]
    titles = sorted({*old, *CHALLENGE[year]})
    fewer = sorted({*old, *CHALLENGE[2023]})
    leading = ("dicom_id", "subject_id", "study_id", "ViewPosition",
               "ViewCodeSequence_CodeMeaning", "fpath")  # fmt: skip
    rows: dict[str, list[dict[str, object]]] = {"train": [], "development": [], "test": []}
    for film in made:
        placed(root / mimic_path(film), film, ".jpg")
        _, _, subject, study, name = mimic_path(film).split("/")
        present = {*film.fixed(CHEXPERT_OF_NIH), *(film.findings & {"Mass", "Nodule", "Hernia"})}
        present |= set() if film.findings else {normal}
        cells = {title: int(title in present) for title in titles}
        about = (
            Path(name).stem,
            subject[1:],
            study[1:],
            "PA",
            "postero-anterior",
            mimic_path(film),
        )
        part = {"val": "development"}.get(part_of(film, made), part_of(film, made))
        rows[part].append(dict(zip(leading, about, strict=True)) | cells)
    folder = root / f"cxr-lt-{year}"
    for part, of in rows.items():
        task = "" if part == "train" else "_task{}"
        names = {f"{part}_labeled{task}.csv".format(1): titles} if year == 2024 else {}
        names |= {f"{part}_labeled{task}.csv".format(2): fewer} if year == 2024 and task else {}
        for file, wanted in (names or {f"{part}.csv": titles}).items():
            table(folder / file, (*leading, *wanted),
                  [[row[title] for title in (*leading, *wanted)] for row in of])  # fmt: skip
    if year == 2024:
        split = [[*row.values(), part] for part, of in rows.items() for row in of]
        table(folder / "labels.csv", (*leading, *titles, "split"), split)
    return root


CALCULATED = {
    "L_o8w": "Normal", "L_yd0": "No Lung Opacity / Not Normal", "L_v8n": "Lung Opacity",
}  # fmt: skip
RSNA_ANNOTATIONS = "pneumonia-challenge-annotations-adjudicated-kaggle_2018.json"


def rsna_annotations(film: Film) -> list[dict[str, object]]:
    """The adjudicated annotations of a phantom, and one of a team that is not the result."""
    where = {
        "StudyInstanceUID": f"1.2.276.0.{film.number}.2", "SOPInstanceUID": uid(film),
        "SeriesInstanceUID": f"1.2.276.0.{film.number}.3", "width": 1024, "height": 1024,
    }  # fmt: skip
    boxes = [b[1:] for b in film.boxes if b[0] == "Pneumonia"] or [(0.25, 0.25, 0.5, 0.5)]
    if "Pneumonia" in film.findings:
        sides = [[round(1024 * side, 1) for side in box] for box in boxes]
        found: list[dict[str, object]] = [
            {"labelId": "L_v8n", "data": {"x": x, "y": y, "width": w, "height": h}}
            for x, y, w, h in sides
        ]
    else:
        found = [{"labelId": "L_yd0" if film.findings else "L_o8w", "data": None}]
    return [{**where, **each} for each in (*found, {"labelId": "L_team", "data": None})]


def rsna_release(root: Path, made: Sequence[Film]) -> Path:
    """RSNA's own release: a tree of studies, annotations, the mapping; the last has no label."""
    annotations, mapping = [], []
    for film in made:
        header = {"PatientSex": film.sex, "PatientAge": f"{film.age:03d}Y", "ViewPosition": "AP"}
        path = root / f"images/1.2.276.0.{film.number}.2/1.2.276.0.{film.number}.3/{uid(film)}.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(dicom(film.pixels, 8, SOPInstanceUID=uid(film), **header))
        annotations += rsna_annotations(film)[: None if film is not made[-1] else -99]
        mapping.append({"img_id": nih_name(film), "subset_img_id": f"0004cfab-{film.number:04d}",
                        "SOPInstanceUID": uid(film)})  # fmt: skip
    project = {
        "id": "x9N20BZa", "name": "ChestX-ray14 subset: Pneumonia",
        "labelGroups": [
            {"id": "G_1", "name": "Team 1", "labels": [{"id": "L_team", "name": "Normal"}]},
            {"id": "G_qwj", "name": "Calculated",
             "labels": [{"id": each, "name": name} for each, name in CALCULATED.items()]},
        ],
        "datasets": [{"id": "D_e57", "annotations": annotations}],
    }  # fmt: skip
    (root / RSNA_ANNOTATIONS).write_text(json.dumps(project), encoding="utf-8")
    (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    return root


BRAX_TITLES = (
    "Index", "DicomPath", "PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber",
    "StudyDate", *OBSERVATIONS, "ViewPosition", "Rows", "Columns", "Manufacturer",
)  # fmt: skip


def brax(root: Path, made: Sequence[Film], form: str = "png") -> Path:
    """The PNG files, or the DICOM ones; ages in bins of five years."""
    rows = []
    for film in made:
        below = f"id_p-{film.patient:05d}/Study_1.{film.number}/Series_2.{film.number}"
        paths = {
            "dcm": f"Anonymized_DICOMs/{below}/image-{film.number:04d}.dcm",
            "png": f"images/{below}/image-{film.number:04d}.png",
        }
        if form == "png":
            placed(root / paths["png"], film)
        else:
            path = root / paths["dcm"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dicom(film.pixels, 8, ViewPosition="PA"))
        cells = dict.fromkeys(OBSERVATIONS, "") | dict.fromkeys(CHEXPERT_OF_NIH.values(), "0.0")
        cells |= dict.fromkeys(film.fixed(CHEXPERT_OF_NIH), "1.0")
        low = film.age // 5 * 5
        rows.append([film.number, paths["dcm"], paths["png"], f"p-{film.patient:05d}", film.sex,
                     f"{low}-{low + 4}", f"{film.number}", f"2010{film.number % 12 + 1:02d}01",
                     *cells.values(), "AP", 64, 64, "FUJI"])  # fmt: skip
    table(root / "master_spreadsheet_update.csv", BRAX_TITLES, rows)
    return root


PLUS_TITLES = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id",
    "patient_report_date_order", "report", "section_impression", "age", "sex", "race", "ethnicity",
    "split",
)  # fmt: skip


def plus_path(film: Film, made: Sequence[Film]) -> str:
    part = "valid" if film.patient == made[-1].patient else "train"
    return f"{part}/patient{film.patient:05d}/study{film.number + 1}/view1_frontal.jpg"


def chexpert_plus(root: Path, made: Sequence[Film], form: str = "png") -> Path:
    """Reports of two lines, PNG chunks or DICOM; the labels of the impression name a fracture."""
    rows, labels = [], []
    for film in made:
        name = plus_path(film, made)
        stem, sex = name.removesuffix(".jpg"), {"M": "Male", "F": "Female"}[film.sex]
        if form == "png":
            placed(root / f"PNG/png_chexpert_plus_chunk_{film.number % 2}/{stem}.png", film)
        else:
            path = root / f"DICOM/{stem}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dicom(film.pixels, 8))
        rows.append([name, f"{stem}.dcm", "Frontal", "AP", f"patient{film.patient:05d}", 1,
                     'NARRATIVE:\n1. "No" change, as before.', "1. None.", float(film.age), sex,
                     "Unknown", "Unknown", name.split("/")[0]])  # fmt: skip
        cells: dict[str, object] = dict.fromkeys(OBSERVATIONS)
        cells |= dict.fromkeys(CHEXPERT_OF_NIH.values(), 0.0)
        cells |= dict.fromkeys(film.fixed(CHEXPERT_OF_NIH), 1.0)
        labels.append({"path_to_image": name, **cells})
    table(root / "df_chexpert_plus_240401.csv", PLUS_TITLES, rows)
    for section in ("report", "findings", "impression"):
        json_lines(
            root / f"chexbert_labels/{section}_fixed.json",
            [{**each, "Fracture": 1.0 if section == "impression" else None} for each in labels],
        )
    return root


def json_lines(path: Path, objects: Iterable[object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(each)}\n" for each in objects), encoding="utf-8")


SIDE = 160  # pixels, of the radiographs that CheXlocalize's regions were drawn on


def region_name(film: Film) -> str:
    return f"patient{film.patient:05d}_study{film.number + 1}_view1_frontal"


def drawn_boxes(film: Film) -> dict[str, list[tuple[int, int, int, int]]]:
    """The boxes of a phantom in pixels, by CheXpert's names; apart, as contours are."""
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for finding, *sides in film.boxes:
        if name := CHEXPERT_OF_NIH.get(finding):
            x, y, w, h = (round(SIDE * side) for side in sides)
            found.setdefault(name, []).append((x, y, max(w, 1), max(h, 1)))
    return found


def coco(mask: np.ndarray) -> str:
    """Compress a mask as the COCO API does (`rleEncode`, `rleToString`)."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    lengths = np.diff(np.concatenate([[0], edges])).tolist()
    text = ""
    for place, length in enumerate(lengths):
        value = length - (lengths[place - 2] if place > 2 else 0)
        while True:
            low, value = value & 31, value >> 5
            more = value != (-1 if low & 16 else 0)
            text += chr(low + 32 * more + 48)
            if not more:
                break
    return text


def mask_of(boxes: Iterable[tuple[int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = True
    return mask


def chexlocalize(
    root: Path, made: Sequence[Film], kinds: Sequence[str] = ("segmentations", "annotations")
) -> Path:
    """Files of CheXlocalize for phantoms in CheXpert's layout; absent findings have empty masks."""
    segmentations, annotations = {}, {}
    for film in made:
        boxes = drawn_boxes(film)
        segmentations[region_name(film)] = {
            name: {"size": [SIDE, SIDE], "counts": coco(mask_of(boxes.get(name, [])))}
            for name in (*CHEXPERT_OF_NIH.values(), "Airspace Opacity")
        }
        annotations[region_name(film)] = {
            "img_size": [SIDE, SIDE],
            **{
                name: [[[x, y], [x + w - 1, y], [x + w - 1, y + h - 1], [x, y + h - 1]]
                       for x, y, w, h in of]
                for name, of in boxes.items()
            },
        }  # fmt: skip
    for kind, value in (("segmentations", segmentations), ("annotations", annotations)):
        if kind in kinds:
            (root / f"gt_{kind}_val.json").write_text(json.dumps(value), encoding="utf-8")
    return root
