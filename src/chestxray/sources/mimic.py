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
from chestxray.findings import NO_FINDING, canonical
from chestxray.sources.assembly import (
    Stated,
    assemble,
    check_titled,
    chosen_first,
    completeness,
    tables_where,
)
from chestxray.sources.chexpert import OBSERVATIONS
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import OLDEST, follow_ups, sexes, views
from chestxray.sources.table_files import text_table
from chestxray.sources.table_files import titles as titles_of
from chestxray.sources.table_labels import TableLabels, from_columns

_IMAGES: Final = frozenset({"dicom_id", "subject_id", "study_id", "ViewPosition"})
PATHS: Final = ("path", "fpath")
"""Columns by which the tables of MIMIC-CXR-LT name an image; MIMIC's own have none of them."""

_SPLIT: Final = frozenset({"dicom_id", "split"})
_LABELS: Final = frozenset({"subject_id", "study_id", *OBSERVATIONS})
_LABELERS: Final = ("chexpert", "negbio")
_TABLES: Final = ("metadata", "split", "test-set-labeled", *_LABELERS)  # ends of their names
_NAMES: Final = frozenset(canonical(title) for title in OBSERVATIONS)
_ALIASES: Final = ("Airspace Opacity",)
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
            "No Finding: an uncertain finding beside it is absent, here unknown",
            "No Finding: Support Devices beside it are absent, here as the table says",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        folder = _folder(tree)
        listed, labels = image_lists(folder), _labels_of(folder)
        tables = {*listed, *labels, *_incomplete(folder)}
        return bool(listed and tables.difference(listed)) and (tree == folder or tree in tables)

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        folder = _folder(tree)
        check_titled(folder, _expected)
        listed = image_lists(folder)
        _check_titles(folder)
        tables = chosen_first(_labels_of(folder), folder, options)
        if not listed or not tables:
            raise SourceError(
                f"{tree} holds no label table of MIMIC-CXR-JPG with its list of images: put "
                f"mimic-cxr-2.0.0-metadata.csv and mimic-cxr-2.0.0-chexpert.csv into it"
            )
        images = text_table(listed[0]).drop_duplicates(ignore_index=True)
        images = images[(images["dicom_id"] != "") & (images["subject_id"] != "")]
        images = images.reset_index(drop=True)
        parts, problems = _parts(folder, images)
        labels, facts = _labels(images, parts, tables[0], _tables_of_test(folder))
        problems += problem(
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


def _expected(name: str) -> bool:
    """Tell by a table's name whether it is one of MIMIC-CXR-JPG."""
    name = name.casefold()
    return name.startswith("mimic-cxr-") and name.endswith(_TABLES)


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


def _incomplete(tree: Path) -> list[Path]:
    """Find tables that are named as one of the two labelers' and lack a column."""
    near = tables_where(tree, lambda titles: _observed(titles) and titles.isdisjoint(PATHS))
    return [
        path
        for path in near
        if any(name in path.name.casefold() for name in _LABELERS)
        and _LABELS.difference(titles_of(path))
    ]


def _check_titles(tree: Path) -> None:
    """Refuse a labeler's table that lacks a column: the other labeler's would be read instead."""
    for table in _incomplete(tree):
        names = ", ".join(sorted(_LABELS.difference(titles_of(table))))
        raise SourceError(
            f"{table} lacks the columns {names}, so it cannot be read as a label table of "
            f"MIMIC-CXR-JPG: correct its header, download it again, or remove it"
        )


def _observed(titles: frozenset[str]) -> bool:
    """Tell whether titles are mostly those of labels, under any of their names."""
    names = {canonical(title) for title in titles}
    return len(names & _NAMES) > len(_NAMES) / 2


def _tables_of_test(tree: Path) -> list[Path]:
    """Find the radiologists' tables: they name studies, but neither subjects nor images."""
    others = {"subject_id", "dicom_id", *PATHS}
    return tables_where(
        tree,
        lambda titles: "study_id" in titles and titles.isdisjoint(others) and _observed(titles),
    )


def _parts(folder: Path, images: pd.DataFrame) -> tuple[pd.Series[str], list[Problem]]:
    """Read the split table; empty where there is none, an image is not in it, or it is in two."""
    tables = _tables(folder, _SPLIT)
    if not tables:
        return pd.Series("", images.index, dtype="str"), []
    text = text_table(tables[0]).set_index("dicom_id")["split"]
    odd = sorted(set(text) - set(_PARTS))
    if odd:
        raise SourceError(
            f"{tables[0].name} names the split {odd[0]!r}: allowed are {', '.join(_PARTS)}"
        )
    placed, conflicting = _agreeing(text.to_frame())
    parts = images["dicom_id"].map(placed["split"].map(_PARTS)).fillna("").astype("str")
    return parts, problem(
        "conflicting-parts",
        conflicting,
        f"{tables[0].name} puts the image into several splits: it is in none",
        loses=True,
    )


def _labels(
    images: pd.DataFrame, parts: pd.Series[str], table: Path, of_test: list[Path]
) -> tuple[TableLabels, dict[str, str]]:
    """Give each image the labels of its study, those of radiologists in the test."""
    text = text_table(table)
    text = text.set_index("s" + text["study_id"])[list(OBSERVATIONS)]
    text, conflicting = _agreeing(text)
    key = "s" + images["study_id"]
    facts = {}
    problems: list[Problem] = []
    if of_test:
        radiologists, problems = _of_radiologists(of_test[0])
        radiologists, odd = _agreeing(radiologists)
        conflicting += odd
        judged = [*radiologists.index, *odd]
        replaced = (parts == "test") & ("r" + images["study_id"]).isin(judged)
        key = key.mask(replaced, "r" + images["study_id"])
        text = pd.concat([text, radiologists])
        facts["labels of the test"] = f"{of_test[0].name}, of {int(replaced.sum())} images"
        problems += _unused_of_test(of_test, read_any=bool(replaced.any()))
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
            *problems,
            *read.problems,
            *problem(
                "no-label",
                images["dicom_id"][empty],
                "the study has no labels: all findings are unknown",
                loses=True,
            ),
            *problem(
                "conflicting-rows",
                [study[1:] for study in conflicting],
                "two rows of a study contradict each other: neither is used",
                loses=True,
            ),
        ],
        facts=read.facts,
        rules=read.rules,
    )
    return labels, facts


def _unused_of_test(tables: list[Path], *, read_any: bool) -> list[Problem]:
    """Count tables of radiologists that say nothing of the images: the first too, or others."""
    first, *others = tables
    return [
        *problem(
            "no-study-of-the-test",
            [] if read_any else [first.name],
            "none of the table's studies is one of the test, so that the labels of the test are "
            "those of the program: compare study_id with the list of images and the split",
            loses=False,
        ),
        *problem(
            "unused-label-table",
            (table.name for table in others),
            f"{first.name} is read; other tables of the test's labels are not: remove all but one",
            loses=False,
        ),
    ]


def _rows_of(labels: TableLabels, place: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = labels.values[place]  # noqa: PD011 - not of pandas
    return values


def _agreeing(text: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep one of several equal rows of a name, and none of those that contradict each other."""
    text = text[~(text.assign(name=text.index).duplicated())]
    conflicting = text.index.duplicated(keep=False)
    return text[~conflicting], sorted(set(text.index[conflicting]))


def _of_radiologists(table: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the labels of 2.1.0's test; it writes Airspace Opacity for Lung Opacity."""
    text = text_table(table)
    studies = "r" + text["study_id"]
    for title in _ALIASES:
        if {title, canonical(title)} <= {*text}:
            raise SourceError(
                f"{table} has the columns {title} and {canonical(title)}, which name one finding: "
                f"remove one of them"
            )
    text = text.rename(columns={title: canonical(title) for title in _ALIASES if title in text})
    lacking = [title for title in OBSERVATIONS if title not in text]
    unknown = {title: "" if title == NO_FINDING else "unknown" for title in lacking}
    return text.assign(**unknown).set_index(studies)[list(OBSERVATIONS)], problem(
        "missing-column",
        lacking,
        f"{table.name} lacks the column: the finding is unknown in the radiologists' studies of "
        f"the test; correct its header, or download it again",
        loses=True,
    )


def described(images: pd.DataFrame, people: list[Path]) -> tuple[pd.DataFrame, list[Problem]]:
    """Give what is known of images besides their labels.

    Args:
        images: text columns `dicom_id`, `subject_id`, `study_id`, `ViewPosition`, and `StudyDate`
            where it is known.
        people: tables with the columns `PEOPLE`; the first is used.

    Returns:
        Rows as `assembly.Stated` has them; and dates and patients that could not be used.
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
    problems: list[Problem] = []
    if people:
        columns = sorted(PEOPLE - {"subject_id"})
        known, conflicting = _agreeing(text_table(people[0]).set_index("subject_id")[columns])
        problems += problem(
            "conflicting-rows",
            conflicting,
            f"two rows of {people[0].name} contradict each other: sex and age of the patient are "
            f"unknown",
            loses=False,
        )
        known = known.reindex(images["subject_id"]).reset_index(drop=True)
        year = pd.to_numeric(date.str.slice(0, 4), errors="coerce")
        then, age = (
            pd.to_numeric(known[title], errors="coerce") for title in ("anchor_year", "anchor_age")
        )
        years = (age + year - then).astype("float64")
        rows["age"] = years.where(years.between(0, OLDEST))
        rows["sex"] = sexes(known["gender"].fillna(""))[0]
    return rows, problems + problem(
        "unknown-follow-up",
        images["dicom_id"][odd],
        "StudyDate is not a date: 0 is used",
        loses=False,
    )
