"""The source `brax`: BRAX 1.1.0 of PhysioNet, radiographs of a Brazilian hospital.

`master_spreadsheet_update.csv` (`master_spreadsheet.csv` before) has a row per image: `DicomPath`
and `PngPath`, the patient, and CheXpert's columns of labels (1, 0, -1 for uncertain, blank for not
mentioned), which CheXpert's labeler gave to the Portuguese reports. The images come as DICOM and as
PNG; DICOM files are read where the tree has any. An image is named by its path below the folder of
its form, without suffix, so that both forms name it alike.

Source: Reis et al., Scientific Data 9, 2022. The layout is that of the documentation and of public
readers; the tables themselves were not at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.assembly import (
    Stated,
    assemble,
    chosen_first,
    completeness,
    tables_where,
)
from chestxray.sources.chexpert import OBSERVATIONS
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import follow_ups, in_years, sexes, views
from chestxray.sources.files import cleaned_paths, has_dicom, scan
from chestxray.sources.table_files import table_stem, text_table
from chestxray.sources.table_labels import from_columns

_IMAGES: Final = 40_967
_COLUMNS: Final = frozenset({"DicomPath", "PngPath", "PatientID", *OBSERVATIONS})
_BIN: Final = r"^[\[(]?\s*(\d{1,3})(?:\.0)?\s*(?:$|[-,+]|to\b|or more)"
_FORM: Final = r"^(?:.*/)?(?:images|Anonymized_DICOMs)/"


class _BRAX:
    name: Final = "brax"
    card: Final = SourceCard(
        title="BRAX",
        citation="Reis et al., BRAX, Scientific Data 9, 2022 (doi:10.1038/s41597-022-01608-8)",
        licence="PhysioNet credentialed (CITI training and data use agreement); no redistribution.",
        access="Sign the agreement of https://physionet.org/content/brax/1.1.0, then: wget -r -N "
        "-c -np --user NAME --ask-password https://physionet.org/files/brax/1.1.0 (170 GB). Keep "
        "master_spreadsheet_update.csv beside the folders images and Anonymized_DICOMs; one of "
        "them is enough.",
        label_origin="Mined from the Portuguese reports by a program (CheXpert labeler, adapted).",
        reasons="As for CheXpert: a finding that a report leaves open is left out, one that it "
        "does not mention is taken for absent.",
        split="None. Patients are drawn.",
        heeds=("table",),
        differs=("not read by torchxrayvision",),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_tables(tree))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        tables = chosen_first(_tables(tree), tree, options)
        if not tables:
            raise SourceError(
                f"{tree} holds no label table of BRAX (columns {', '.join(sorted(_COLUMNS))}): put "
                f"master_spreadsheet_update.csv into it"
            )
        text = text_table(tables[0])
        text = text[(text["DicomPath"] != "") | (text["PngPath"] != "")]
        text, problems = _with_patients(text.drop_duplicates(ignore_index=True))
        form = _form(tree)
        rows, found = _described(text, form)
        stated = Stated(
            rows=rows,
            labels=from_columns(text[list(OBSERVATIONS)], rows["image"]),
            parts=pd.Series("", rows.index, dtype="str"),
            problems=(*problems, *found, *_unused(tables)),
            facts={
                **completeness(rows["image"], {"": _IMAGES}),
                "files": form.removesuffix("Path").upper(),
                "age": "the lower bound of the table's bin of five years",
            },
            headers=True,
            frontal=pd.Series(False, rows.index),
            of_larger_set=_has_both(tree),
        )
        return assemble(self, tree, tables[0], stated, options)


BRAX: Final = _BRAX()


def _tables(tree: Path) -> list[Path]:
    """Find the tables, `…_update` before the older one in the same folder."""
    found = tables_where(tree, lambda titles: titles >= _COLUMNS)
    return sorted(
        found, key=lambda path: (len(path.parts), not table_stem(path).endswith("update"), path)
    )


def _unused(tables: list[Path]) -> list[Problem]:
    return problem(
        "unused-label-table",
        (path.name for path in tables[1:]),
        f"{tables[0].name} is read; other label tables are not: choose one with --source brax "
        f"--columns table=…",
        loses=False,
    )


def _has_both(tree: Path) -> bool:
    """Tell whether each image has two files, of which only one is read."""
    return has_dicom(tree) and bool(scan(tree).images)


def _form(tree: Path) -> str:
    """Give the column of paths to read: DICOM where the tree has any."""
    return "DicomPath" if has_dicom(tree) else "PngPath"


def _with_patients(text: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave out rows without a patient, since the split depends on it."""
    lost = text["PatientID"] == ""
    if lost.all():
        raise SourceError("no row of BRAX's table names a patient (PatientID): download it again")
    return text[~lost].reset_index(drop=True), problem(
        "no-patient",
        text["PngPath"][lost],
        "the row names no patient (PatientID): left out",
        loses=True,
    )


def _described(text: pd.DataFrame, form: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Read all that is not a label."""
    column = text[form].where(text[form] != "", text["PngPath"])
    file = cleaned_paths(column)
    image = file.str.replace(_FORM, "", regex=True).str.replace(r"\.\w{3,5}$", "", regex=True)
    blank = pd.Series("", text.index, dtype="str")
    cells = {name: text.get(name, blank) for name in ("PatientAge", "StudyDate", "AccessionNumber")}
    lower = cells["PatientAge"].str.extract(_BIN, expand=False).fillna("")
    age = pd.Series(in_years(lower), text.index)
    order, odd = follow_ups(cells["StudyDate"], text["PatientID"])
    rows = pd.DataFrame(
        {
            "image": image,
            "file": file,
            "patient": text["PatientID"],
            "study": cells["AccessionNumber"],
            "follow_up": order,
            "age": age,
            "sex": sexes(text.get("PatientSex", blank))[0],
            "view": views(text.get("ViewPosition", blank)),
        }
    )
    unread = age.isna() & (cells["PatientAge"] != "")
    return rows, [
        *problem(
            "impossible-age",
            image[unread] + " (" + cells["PatientAge"][unread] + ")",
            "the age is neither a number of years nor a bin of them: taken as unknown",
            loses=False,
        ),
        *problem(
            "unknown-follow-up", image[odd], "StudyDate is not a date: 0 is used", loses=False
        ),
    ]
