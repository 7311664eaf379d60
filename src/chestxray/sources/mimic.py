"""The source `mimic`: MIMIC-CXR-JPG 2.0.0 and 2.1.0 of PhysioNet.

`…-metadata.csv` lists the images, `…-chexpert.csv` and `…-negbio.csv` label studies (1, 0, -1 for
uncertain, blank), `…-split.csv` states the parts, and from 2.1.0 on `…-test-set-labeled.csv` holds
the labels that radiologists gave to the studies of the test: these replace the others there. The
labels of chexpert are read; `--source mimic --columns table=mimic-cxr-2.0.0-negbio.csv` reads the
others. MIMIC-IV's `patients.csv`, where it lies in the tree, gives sex and age.

Source: Johnson et al., MIMIC-CXR-JPG, arXiv 1901.07042.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
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
from chestxray.sources.chexpert import OBSERVATIONS
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import OLDEST, follow_ups, sexes, views
from chestxray.sources.table_files import text_table
from chestxray.sources.table_labels import TableLabels, from_columns

_IMAGES: Final = frozenset({"dicom_id", "subject_id", "study_id", "ViewPosition"})
PATHS: Final = ("path", "fpath")
"""Columns by which the tables of MIMIC-CXR-LT name an image; MIMIC's own have none of them."""

_SPLIT: Final = frozenset({"dicom_id", "split"})
_LABELS: Final = frozenset({"subject_id", "study_id", *OBSERVATIONS})
_TEST: Final = frozenset({"study_id", "Airspace Opacity", "Cardiomegaly"})
PEOPLE: Final = frozenset({"subject_id", "gender", "anchor_age", "anchor_year"})
"""Columns of MIMIC-IV's table of patients."""

_PARTS: Final = {"train": "train", "validate": "val", "test": "test"}
_EXPECTED: Final = {"train": 368_960, "val": 2_991, "test": 5_159}


class _MIMIC:
    name: Final = "mimic"
    card: Final = SourceCard(
        title="MIMIC-CXR-JPG",
        citation="Johnson et al., MIMIC-CXR-JPG (arXiv 1901.07042)",
        licence="PhysioNet credentialed (CITI training and data use agreement); no redistribution.",
        access="Sign the agreement of https://physionet.org/content/mimic-cxr-jpg, then: wget -r "
        "-N -c -np --user NAME --ask-password https://physionet.org/files/mimic-cxr-jpg/2.1.0 "
        "(570 GB). For sex and age put patients.csv.gz of MIMIC-IV beside the tables.",
        label_origin="Mined from the reports by two programs (CheXpert labeler and NegBio); from "
        "2.1.0 on, those of the test's studies by radiologists.",
        uncertain="ignore",
        blank="negative",
        reasons="As for CheXpert: a finding that a report leaves open is left out, one that it "
        "does not mention is taken for absent.",
        split="The split table: train, validate and test by patient.",
        heeds=("table",),
        differs=(
            "views: only PA, here PA and AP",
            "patients: the first image of each, here all",
            "blank: unknown unless No Finding is 1, here absent (--blank unknown agrees)",
            "finer findings: a blank Lung Opacity beside Edema stays blank, here it is present",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        folder = _folder(tree)
        listed, labels = image_lists(folder), _labels_of(folder)
        return bool(listed and labels) and (tree == folder or tree in {*listed, *labels})

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        folder = _folder(tree)
        listed = image_lists(folder)
        tables = chosen_first(_labels_of(folder), folder, options)
        if not listed or not tables:
            raise SourceError(
                f"{tree} holds no label table of MIMIC-CXR-JPG with its list of images: put "
                f"mimic-cxr-2.0.0-metadata.csv and mimic-cxr-2.0.0-chexpert.csv into it"
            )
        images = text_table(listed[0]).drop_duplicates(ignore_index=True)
        images = images[(images["dicom_id"] != "") & (images["subject_id"] != "")]
        images = images.reset_index(drop=True)
        parts = _parts(folder, images)
        labels, facts = _labels(images, parts, tables[0], _tables(folder, _TEST))
        problems = problem(
            "unused-label-table",
            (path.name for path in tables[1:]),
            f"{tables[0].name} is read; other label tables are not: choose one with --source mimic "
            f"--columns table=…",
            loses=False,
        )
        rows, found = described(images, _tables(folder, PEOPLE))
        stated = Stated(
            rows=rows,
            labels=labels,
            parts=parts,
            problems=(*problems, *found),
            frontal=pd.Series(False, rows.index),
            facts={
                "labels of studies": tables[0].name,
                **facts,
                **completeness(parts, _EXPECTED if (parts != "").any() else {"": 377_110}),
            },
        )
        return assemble(self, tree, listed[0], stated, options)


MIMIC: Final = _MIMIC()


def _folder(tree: Path) -> Path:
    """Give the tree, or the folder of a table that is read alone: its tables lie beside it."""
    return tree.parent if tree.is_file() else tree


def _tables(tree: Path, wanted: frozenset[str]) -> list[Path]:
    return tables_where(tree, lambda titles: wanted <= titles)


def image_lists(tree: Path) -> list[Path]:
    """Find MIMIC's lists of images."""
    return tables_where(tree, lambda titles: titles >= _IMAGES and titles.isdisjoint(PATHS))


def _labels_of(tree: Path) -> list[Path]:
    """Find the tables of labels of studies, that of CheXpert's labeler first."""
    found = tables_where(
        tree,
        lambda titles: (
            titles >= _LABELS and not titles >= _SPLIT and titles.isdisjoint(PATHS)  # of studies
        ),
    )
    return sorted(found, key=lambda path: (len(path.parts), "chexpert" not in path.name, path))


def _parts(folder: Path, images: pd.DataFrame) -> pd.Series[str]:
    """Read the split table; empty where there is none or an image is not in it."""
    tables = _tables(folder, _SPLIT)
    if not tables:
        return pd.Series("", images.index, dtype="str")
    text = text_table(tables[0]).drop_duplicates("dicom_id").set_index("dicom_id")["split"]
    odd = sorted(set(text) - set(_PARTS))
    if odd:
        raise SourceError(
            f"{tables[0].name} names the split {odd[0]!r}: allowed are {', '.join(_PARTS)}"
        )
    return images["dicom_id"].map(text.map(_PARTS)).fillna("").astype("str")


def _labels(
    images: pd.DataFrame, parts: pd.Series[str], table: Path, of_test: list[Path]
) -> tuple[TableLabels, dict[str, str]]:
    """Give each image the labels of its study, those of radiologists in the test."""
    text = text_table(table).drop_duplicates(ignore_index=True)
    text = text.set_index("s" + text["study_id"])[list(OBSERVATIONS)]
    text, conflicting = _one_per_study(text)
    key = "s" + images["study_id"]
    facts = {}
    if of_test:
        radiologists = _of_radiologists(of_test[0])
        replaced = (parts == "test") & ("r" + images["study_id"]).isin(radiologists.index)
        key = key.mask(replaced, "r" + images["study_id"])
        text = pd.concat([text, radiologists])
        facts["labels of the test"] = f"{of_test[0].name}, of {int(replaced.sum())} images"
    if text.empty:
        raise SourceError(
            f"{table.name} has no study whose rows agree: download the table again, or choose "
            f"another with --source mimic --columns table=…"
        )
    place = text.index.get_indexer(pd.Index(key))
    read = from_columns(text.reset_index(drop=True), pd.Series(text.index, dtype="str"))
    empty = place < 0
    labels = TableLabels(
        findings=read.findings,
        values=np.where(empty[:, None], np.nan, _rows_of(read, place)),
        unknown=read.unknown[place] & ~empty[:, None],
        empty=empty,
        blank=read.blank,
        reason=read.reason,
        problems=[
            *read.problems,
            *problem(
                "no-label",
                images["dicom_id"][empty],
                "the study has no labels: all findings are unknown",
                loses=True,
            ),
            *problem(
                "conflicting-rows",
                conflicting,
                "two rows of a study contradict each other: neither is used",
                loses=True,
            ),
        ],
        facts=read.facts,
    )
    return labels, facts


def _rows_of(labels: TableLabels, place: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = labels.values[place]  # noqa: PD011 - not of pandas
    return values


def _one_per_study(text: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    conflicting = text.index.duplicated(keep=False)
    return text[~conflicting], sorted(set(text.index[conflicting].str.removeprefix("s")))


def _of_radiologists(table: Path) -> pd.DataFrame:
    """Read the labels of 2.1.0's test; it writes Airspace Opacity for Lung Opacity."""
    text = text_table(table).drop_duplicates("study_id")
    text = text.rename(columns={"Airspace Opacity": canonical("Airspace Opacity")})
    lacking = {title: "" for title in OBSERVATIONS if title not in text}
    return text.assign(**lacking).set_index("r" + text["study_id"])[list(OBSERVATIONS)]


def described(images: pd.DataFrame, people: list[Path]) -> tuple[pd.DataFrame, list[Problem]]:
    """Give what is known of images besides their labels.

    Args:
        images: text columns `dicom_id`, `subject_id`, `study_id`, `ViewPosition`, and `StudyDate`
            where it is known.
        people: tables with the columns `PEOPLE`; the first is used.

    Returns:
        Rows as `assembly.Stated` has them, and dates that could not be used.
    """
    date = images["StudyDate"] if "StudyDate" in images else pd.Series("", images.index)
    order, odd = follow_ups(date, images["subject_id"])
    rows = pd.DataFrame(
        {
            "image": images["dicom_id"],
            "file": images["dicom_id"],
            "patient": images["subject_id"],
            "study": images["study_id"],
            "follow_up": order,
            "age": np.nan,
            "sex": "",
            "view": views(images["ViewPosition"]),
        }
    )
    if people:
        known = text_table(people[0]).drop_duplicates("subject_id").set_index("subject_id")
        known = known.reindex(images["subject_id"]).reset_index(drop=True)
        year = pd.to_numeric(date.str.slice(0, 4), errors="coerce")
        then, age = (
            pd.to_numeric(known[title], errors="coerce") for title in ("anchor_year", "anchor_age")
        )
        years = (age + year - then).astype("float64")
        rows["age"] = years.where(years.between(0, OLDEST))
        rows["sex"] = sexes(known["gender"].fillna(""))[0]
    return rows, problem(
        "unknown-follow-up",
        images["dicom_id"][odd],
        "StudyDate is not a date: 0 is used",
        loses=False,
    )
