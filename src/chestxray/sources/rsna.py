"""The source `rsna`: the RSNA Pneumonia Detection Challenge of 2018, of Kaggle or of RSNA itself.

Kaggle: `stage_2_train_labels.csv` has a row per box, and one for an image without boxes;
`patientId` is the name of the image. `stage_2_detailed_class_info.csv`, where it is there, tells
the images of healthy people from those with other abnormalities, whose opacities of other kinds
were not boxed. RSNA: the adjudicated annotations in JSON (`rsna_annotations`) beside a tree of
studies; an image is named by its SOP Instance UID. Kaggle's tables come first where both are there.

All images are NIH's. Their patients are known only through RSNA's mapping file
(`pneumonia-challenge-dataset-mappings_2018.json`); without it each image counts as its own patient.

Source: Shih et al., Radiology: Artificial Intelligence 1(1), 2019.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.sources.assembly import Stated, assemble, completeness, tables_where
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import in_years, sexes, views
from chestxray.sources.files import scan
from chestxray.sources.json_files import json_value
from chestxray.sources.regions import fractions
from chestxray.sources.rsna_annotations import IMAGES, annotation_files, read_annotations
from chestxray.sources.table_files import text_table
from chestxray.sources.table_labels import TableLabels

FINDINGS: Final = Findings(("Pneumonia", "Lung Opacity"))
_IMAGES: Final = 26_684
_LABELS: Final = frozenset({"patientId", "x", "y", "width", "height", "Target"})
_CLASSES: Final = frozenset({"patientId", "class"})
_HEADERS: Final = frozenset({"PatientID", "PatientAge", "PatientSex", "ViewPosition"})
_NORMAL, _OTHER, _OPACITY = "normal", "no lung opacity / not normal", "lung opacity"
_MAPPED: Final = "NIH's"
_SIDE: Final = 1024.0  # pixels, of the frame of all boxes


class _RSNA:
    name: Final = "rsna"
    card: Final = SourceCard(
        title="RSNA Pneumonia",
        citation="Shih et al., Radiology: Artificial Intelligence 1(1), 2019",
        licence="The terms of the Kaggle competition, or those of RSNA; research use.",
        access="Accept the rules of https://www.kaggle.com/c/rsna-pneumonia-detection-challenge, "
        "then: kaggle competitions download -c rsna-pneumonia-detection-challenge, and unpack it. "
        "Put RSNA's pneumonia-challenge-dataset-mappings_2018.json beside the tables. RSNA's own "
        "release has the labels of Kaggle's test too: get images, annotations and mappings at "
        "RSNA's page of the challenge, and keep them in one folder.",
        label_origin="Boxed by radiologists, three on the stage 2 images.",
        uncertain="ignore",
        blank="negative",
        reasons="Nothing is uncertain or blank: every image was read for pneumonia. An image that "
        "is not normal may show opacities of other kinds, so its Lung Opacity is unknown.",
        split="None: the labels of Kaggle's test were not given there, and RSNA's own release "
        "states no part. Patients are drawn; with NIH in the same dataset, a patient of both "
        "follows NIH's lists.",
        differs=(
            "Lung Opacity: absent in all images without boxes, here only in normal ones",
            "views: only PA, here PA and AP",
            "patients: each image its own, here NIH's patients where the mapping file is present",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_tables(tree, _LABELS) or annotation_files(tree))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        tables, files = _tables(tree, _LABELS), annotation_files(tree)
        if tables:
            images, boxes, found = _of_kaggle(tree, tables[0])
            count = _IMAGES
        elif files:
            images, boxes, found = _of_rsna(files[0])
            count = IMAGES
        else:
            raise SourceError(
                f"{tree} holds no label table of RSNA Pneumonia (columns "
                f"{', '.join(sorted(_LABELS))}): put Kaggle's stage_2_train_labels.csv into it, or "
                f"RSNA's pneumonia-challenge-annotations-adjudicated-kaggle_2018.json"
            )
        table = (tables or files)[0]
        rows, facts = _described(images, tree, table)
        stated = Stated(
            rows=rows,
            labels=_labels(images),
            parts=pd.Series("", rows.index, dtype="str"),
            problems=tuple(found),
            facts={**completeness(rows["image"], {"": count}), **facts},
            headers=True,
            of_larger_set=not tables,  # RSNA's release has images without an adjudicated label
        )
        collection = assemble(self, tree, table, stated, options)
        boxes, found = _boxes(boxes[boxes["image"].isin(collection.rows["image"])])
        mapped = facts["patients"].startswith(_MAPPED)
        return replace(
            collection,
            boxes=boxes,
            problems=(*collection.problems, *found),
            patients_of="nih" if mapped else "",
        )


RSNA: Final = _RSNA()


def _tables(tree: Path, wanted: frozenset[str]) -> list[Path]:
    return tables_where(tree, lambda titles: wanted <= titles)


def _of_kaggle(tree: Path, table: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Problem]]:
    """Read Kaggle's tables: a row per image as `_labels` takes it, and the boxes; no problems."""
    text = text_table(table)
    sides = {"x": "x", "y": "y", "w": "width", "h": "height"}
    numbers = {ours: pd.to_numeric(text[title], errors="coerce") for ours, title in sides.items()}
    boxes = pd.DataFrame({"image": text["patientId"], **numbers}).assign(width=_SIDE, height=_SIDE)
    return _images(text, _beside(tree, table, _CLASSES)), boxes[text["Target"] == "1"], []


def _of_rsna(path: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Problem]]:
    """Read RSNA's annotations: the same, and what could not be used."""
    annotations, problems = read_annotations(path)
    kind = annotations["kind"].str.casefold()
    opacity = kind == _OPACITY
    odd = ~kind.isin([_NORMAL, _OTHER, _OPACITY])
    rows = annotations.assign(any=opacity, all=opacity, odd=odd, kind=kind, kinds=kind)
    how = {"any": "max", "all": "min", "odd": "any", "kind": "first", "kinds": "nunique"}
    images = rows.groupby("image", sort=True).agg(how).reset_index()
    images["kind"] = images["kind"].mask(images["odd"], "")
    return images, annotations[opacity].drop(columns="kind"), problems


def _beside(tree: Path, table: Path, wanted: frozenset[str]) -> pd.DataFrame | None:
    """Read another table of the tree, or of the folder of a table that is read alone."""
    found = _tables(table.parent if tree.is_file() else tree, wanted)
    found = [path for path in found if path != table]
    return text_table(found[0]) if found else None


def _images(text: pd.DataFrame, classes: pd.DataFrame | None) -> pd.DataFrame:
    """Give a row per image: whether any and whether all rows have a target, and the class."""
    odd = ~text["Target"].isin(["0", "1"])
    target = (text["Target"] == "1").where(~odd)
    images = pd.DataFrame({"image": text["patientId"], "any": target, "all": target, "odd": odd})
    images = (
        images[images["image"] != ""]
        .groupby("image", sort=True)
        .agg({"any": "max", "all": "min", "odd": "any"})
    )
    if classes is None:
        return images.assign(kind="", kinds=0).reset_index()
    kind = classes["class"].str.casefold().groupby(classes["patientId"])
    return images.assign(
        kind=kind.first().reindex(images.index).fillna(""),
        kinds=kind.nunique().reindex(images.index).fillna(0),
    ).reset_index()


def _labels(images: pd.DataFrame) -> TableLabels:
    """Give Pneumonia by the target, and Lung Opacity by target and class."""
    kind = images["kind"]
    target = images["any"].astype("float64").to_numpy()
    strange = ~kind.isin(["", _NORMAL, _OTHER, _OPACITY])
    contrary = (
        (images["any"] != images["all"]) | (images["kinds"] > 1)
        | ((kind == _OPACITY) & (target == 0)) | (kind.isin([_NORMAL, _OTHER]) & (target == 1))
    ) & ~images["odd"]  # fmt: skip
    opacity = np.where(target == 1, 1.0, np.where(kind == _NORMAL, 0.0, np.nan))
    values = np.column_stack([target, opacity])
    unknown = np.column_stack(
        [contrary | images["odd"], contrary | images["odd"] | np.isnan(opacity)]
    )
    values[unknown] = np.nan
    kinds = kind[kind != ""].value_counts()
    return TableLabels(
        findings=FINDINGS,
        values=values,
        unknown=unknown,
        empty=np.zeros(len(images), dtype=bool),
        blank="negative",
        reason="since every image was read",
        problems=_label_problems(images, contrary, strange),
        rules={"Lung Opacity": "unknown where no box is drawn and the class is not Normal"},
        facts={"classes": ", ".join(f"{name} {n}" for name, n in kinds.items()) or "not there"},
    )


def _label_problems(images: pd.DataFrame, contrary: pd.Series, strange: pd.Series) -> list[Problem]:
    return [
        *problem(
            "unknown-value",
            images["image"][images["odd"]],
            "Target is not 0 or 1, or an annotation names none of the three classes: the labels of "
            "the image are unknown",
            loses=True,
        ),
        *problem(
            "contradiction",
            images["image"][contrary],
            "the rows or the class of an image contradict its Target: its labels are unknown",
            loses=True,
        ),
        *problem(
            "unknown-label",
            images["image"][strange] + " (" + images["kind"][strange] + ")",
            "the class is not one of RSNA's: it is not used",
            loses=True,
        ),
    ]


def _described(
    images: pd.DataFrame, tree: Path, table: Path
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Give what is known of each image besides its labels."""
    image = images["image"]
    patient, facts = _patients(image, tree, table)
    rows = pd.DataFrame({"image": image, "file": image, "patient": patient}).assign(
        study="", follow_up=0, age=np.nan, sex="", view=""
    )
    headers = _beside(tree, table, _HEADERS)
    if headers is not None:
        known = headers.drop_duplicates("PatientID").set_index("PatientID").reindex(image)
        known = known.fillna("").reset_index(drop=True)
        rows["age"] = in_years(known["PatientAge"])
        rows["sex"] = sexes(known["PatientSex"])[0]
        rows["view"] = views(known["ViewPosition"])
    return rows, facts


def _patients(image: pd.Series, tree: Path, table: Path) -> tuple[pd.Series, dict[str, str]]:
    """Give NIH's patient numbers through RSNA's mapping file, else each image its own."""
    files = scan(table.parent if tree.is_file() else tree).json
    for path in files:
        if "mappings" in path.name.casefold():
            nih = image.map(_mapped(path)).fillna("").astype("str")
            number = nih.str.extract(r"^(\d{8})_\d{3}")[0]
            found = int(number.notna().sum())
            if not found:
                raise SourceError(
                    f"{path} names NIH's image of none of the {len(image)} images of {table.name}: "
                    f"download it again, or remove it"
                )
            return number.fillna(image), {
                "patients": f"{_MAPPED}, of {found} of {len(image)} images, by {path.name}"
            }
    return image, {
        "patients": "not published: each image counts as its own patient, so images of one "
        "patient may be in train and test; put RSNA's mapping file into the tree"
    }


def _mapped(path: Path) -> dict[str, str]:
    """Read NIH's image name of each image, by Kaggle's name and by its SOP Instance UID."""
    what = "RSNA's list of img_id and subset_img_id"
    listed = json_value(path, what)
    if not isinstance(listed, list) or not listed:
        raise SourceError(
            f"{path} is not {what} (it is {'an empty list' if listed == [] else 'no list'}): "
            f"download it again, or remove it"
        )
    try:
        names = {str(each["subset_img_id"]): str(each["img_id"]) for each in listed}
        uids = {str(each["SOPInstanceUID"]): str(each["img_id"]) for each in listed
                if "SOPInstanceUID" in each}  # fmt: skip
    except (TypeError, KeyError) as error:
        raise SourceError(
            f"{path} is not {what} ({error}): download it again, or remove it"
        ) from error
    return names | uids


def _boxes(boxes: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Give each box to both findings, for it surrounds an opacity that is called pneumonia."""
    found, problems = fractions(boxes.assign(finding=FINDINGS[0]))
    both = [found.assign(finding=name) for name in FINDINGS]
    return pd.concat(both, ignore_index=True), problems
