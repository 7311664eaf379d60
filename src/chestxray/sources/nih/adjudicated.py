"""The source `nih-google`: images of NIH ChestX-ray14 with the labels that Google adjudicated.

One table, `google2019_nih-chest-xray-labels.csv`, has NIH's columns of 4,376 images and four labels
(YES or NO) beside them; `Set Id` is `val` for 2,414 images of NIH's train_val list and `test` for
1,962 of its test list. The images are NIH's and keep NIH's names. A tree with NIH's own label table
is read by the source `nih`; there `--source nih-google` reads this table instead.

Airspace opacity is the vocabulary's Lung Opacity, in which a nodule is an opacity as well. Google's
readers kept the two apart: an image with a nodule and without airspace opacity says nothing of the
broader finding, which is unknown there.

Source: Majkowska et al., Radiology 294, 2020 (doi:10.1148/radiol.2019191293).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import canonical
from chestxray.sources.assembly import (
    Stated,
    assemble,
    chosen_first,
    completeness,
    tables_where,
)
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import in_years, sexes, views
from chestxray.sources.nih.source import label_tables
from chestxray.sources.nih.tables import ADJUDICATED
from chestxray.sources.table_files import key, text_table
from chestxray.sources.table_labels import TableLabels, from_columns

_OPACITY, _NODULE = "Airspace opacity", "Nodule or mass"
_PARTS: Final = {"val": "train", "validation": "train", "test": "test"}
_EXPECTED: Final = {"val": 2_414, "test": 1_962}
_DESCRIPTION: Final = {
    "patientid": "patient", "followup": "follow_up", "patientage": "age", "patientgender": "sex",
    "patientsex": "sex", "viewposition": "view",
}  # fmt: skip


class _Google:
    name: Final = "nih-google"
    card: Final = SourceCard(
        title="Google's adjudicated NIH labels",
        citation="Majkowska et al., Radiology 294, 2020 (doi:10.1148/radiol.2019191293)",
        licence="The labels are Google's, the images NIH's: cite both papers.",
        access="Get the images with `chestxray download raw --from nih`, and put "
        "google2019_nih-chest-xray-labels.csv (Google Health publishes it; the wheel of "
        "torchxrayvision holds a copy) beside them. Where NIH's Data_Entry table is there too, "
        "name this source: --source nih-google.",
        label_origin="Adjudicated by radiologists, who read the images and not the reports.",
        reasons="Nothing is uncertain or blank: each image has YES or NO for all four. An image "
        "with a nodule and without airspace opacity has an opacity that was not asked for, so its "
        "Lung Opacity is unknown.",
        split="The set val, which lies in NIH's train_val list, is train_val; the set test, which "
        "lies in NIH's test list, is test. val is small for training: use the source to evaluate.",
        heeds=("table",),
        differs=(
            "views: only PA, here PA and AP",
            "patients: the first image of each, here all",
            "Lung Opacity: absent in 207 images with a nodule alone, here unknown",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_tables(tree)) and not label_tables(tree)

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        tables = chosen_first(_tables(tree), tree, options)
        if not tables:
            raise SourceError(
                f"{tree} holds no label table of Google's adjudicated NIH labels (columns Image "
                f"Index, {', '.join(ADJUDICATED)}): put google2019_nih-chest-xray-labels.csv into "
                f"it"
            )
        text = text_table(tables[0])
        text = text[text["Image Index"] != ""].drop_duplicates(ignore_index=True)
        rows, problems = _described(text)
        parts, sets = _parts(text, tables[0])
        stated = Stated(
            rows=rows,
            labels=_labels(text),
            parts=parts,
            problems=tuple(problems),
            facts=completeness(sets, _EXPECTED),
            of_larger_set=True,
        )
        return replace(assemble(self, tree, tables[0], stated, options), patients_of="nih")


GOOGLE: Final = _Google()


def _tables(tree: Path) -> list[Path]:
    return tables_where(tree, lambda titles: {"Image Index", *ADJUDICATED} <= titles)


def _parts(text: pd.DataFrame, table: Path) -> tuple[pd.Series[str], pd.Series[str]]:
    """Read the sets: the part of each image, and the set as Google calls it."""
    if "Set Id" not in text:
        none = pd.Series("", text.index, dtype="str")
        return none, none
    sets = text["Set Id"].str.casefold().replace("validation", "val")
    odd = sorted(set(sets) - set(_PARTS))
    if odd:
        raise SourceError(f"{table.name} names the set {odd[0]!r}: allowed are val and test")
    return sets.map(_PARTS), sets


def _labels(text: pd.DataFrame) -> TableLabels:
    """Read the four labels; an opacity beside a nodule that was not called airspace is open."""
    labels = from_columns(text[list(ADJUDICATED)], text["Image Index"])
    unknown = labels.unknown | (text[list(ADJUDICATED)] == "").to_numpy()
    answers = text[[_OPACITY, _NODULE]].apply(lambda column: column.str.upper())
    open_ = ((answers[_OPACITY] == "NO") & (answers[_NODULE] == "YES")).to_numpy()
    unknown[:, labels.findings.index(canonical(_OPACITY))] |= open_
    told = {f"{canonical(_OPACITY)} unknown beside a nodule": str(int(open_.sum()))}
    rules = {canonical(_OPACITY): f"unknown where {_OPACITY} is NO beside {_NODULE} YES"}
    return replace(labels, unknown=unknown, facts={**labels.facts, **told}, rules=rules)


def _described(text: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Read all that is not a label, from the columns that NIH's table has too."""
    known = {_DESCRIPTION.get(key(title)): title for title in text.columns}
    blank = pd.Series("", text.index, dtype="str")
    cells = {ours: text[known[ours]] if ours in known else blank for ours in _DESCRIPTION.values()}
    image = text["Image Index"]
    patient, unnamed = nih_patients(image, cells["patient"])
    follow_up = pd.to_numeric(cells["follow_up"], errors="coerce").fillna(0)
    rows = pd.DataFrame(
        {
            "image": image,
            "file": image,
            "patient": patient,
            "study": "",
            "follow_up": follow_up.astype("int64"),
            "age": in_years(cells["age"]),
            "sex": sexes(cells["sex"])[0],
            "view": views(cells["view"]),
        }
    )
    return rows, unnamed


def nih_patients(image: pd.Series, stated: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Give NIH's patients as text of eight digits, as the source `nih` writes them.

    Args:
        image: names, such as `00000013_005.png`.
        stated: patient numbers; empty where the table has none.

    Returns:
        The stated number, else that in the name; else the image's own name, which is counted.
    """
    number = pd.to_numeric(stated, errors="coerce")
    number = number.where((number >= 0) & (number % 1 == 0))
    in_name = image.str.extract(r"^(?:.*/)?(\d{8})_\d{3}(?!\d)")[0]
    number = number.fillna(pd.to_numeric(in_name))
    unknown = number.isna()
    patient = number.fillna(0).astype("int64").map("{:08d}".format).mask(unknown, image)
    return patient.astype("str"), problem(
        "no-patient",
        image[unknown],
        "neither the table nor the name, which should be as 00000013_005.png, tells the patient: "
        "the image counts as its own patient",
        loses=False,
    )
