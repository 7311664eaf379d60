"""NIH's ages → years: `57`, and the older `060Y`, `011M`, `005D`, which the 2017 table has.

Tells the 2017 label table from the corrected one of 2020 by its content.

In 2017 `Follow-up #` was the `_NNN` of the file name; in 2020 NIH put each patient's visits in
order of time and left the file names as they were, so that it differs in 24,106 of 112,120 rows,
which belong to 3,154 of the 13,302 patients who have more than one image. The name of the table
proves nothing: copies called `Data_Entry_2017.csv` with rows of 2020 are common.

One NIH label table, of either generation and in any of its spellings → common rows.

Rules where a row says two things or nothing: a label word that names no finding makes the
findings that the row does not name unknown, since it may mean any of them; `No Finding` beside a
finding makes that finding unknown; an empty cell makes all 14 unknown. A patient number is never
guessed, since the split rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import NO_FINDING, Findings, canonical
from chestxray.sources.collection import LEADING_COLUMNS, Problem, problem
from chestxray.sources.tables import cells, header, key

OLDEST: Final = 120.0  # years; the 2017 table has 155 and 414, the corrected one ends at 95
_UNITS_A_YEAR: Final = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}


def in_years(ages: pd.Series) -> npt.NDArray[np.float64]:
    """Turn ages as written into years.

    Args:
        ages: strings.

    Returns:
        Years [n], NaN where the string is no age or the age is over `OLDEST`.
    """
    codes, different = pd.factorize(ages)  # each different age is read once
    parts = pd.Series(different, dtype=ages.dtype).str.extract(r"^(\d+(?:\.\d*)?)\s*([YMWDymwd]?)$")
    numbers = pd.to_numeric(parts[0], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    units = parts[1].str.upper().map(_UNITS_A_YEAR).to_numpy(dtype=np.float64, na_value=np.nan)
    years: npt.NDArray[np.float64] = numbers / units
    years[years > OLDEST] = np.nan
    return years[codes]


def are_of_2017(ages: pd.Series) -> bool:
    """Tell whether ages are written as only the 2017 table has them: with a unit, or over 120."""
    units = ages.str.match(r"^\d+\s*[YMWDymwd]$")
    years = pd.to_numeric(ages, errors="coerce")
    return bool(units.any() or (years > OLDEST).any())


_LEAST_DIFFERENCES: Final = 3  # fewer may be somebody's edits
_LEAST_SHARE: Final = 0.01
# A patient with several images differs with probability 0.24 in 2020; that 30 such patients all
# agree happens in one table of 3,000.
_LEAST_PATIENTS: Final = 30


def generation(rows: pd.DataFrame, ages_of_2017: bool) -> Generation:
    """Tell the generation of a label table.

    Args:
        rows: with `image`, `patient`, `follow_up`.
        ages_of_2017: some age is written as only the 2017 table has it.

    Returns:
        `unknown` where the rows are too few, or contradict both generations.
    """
    suffix = pd.to_numeric(rows["image"].str.extract(r"_(\d{3})(?:\.\w+)?$")[0], errors="coerce")
    named = suffix.notna()
    suffix, follow_up = suffix[named], rows["follow_up"][named]
    differ = int((suffix != follow_up).sum())
    if differ >= max(_LEAST_DIFFERENCES, _LEAST_SHARE * len(suffix)):
        return "v2020"
    if differ:
        return "unknown"
    several = rows["patient"][named][suffix > 0].nunique()
    return "2017" if several and (ages_of_2017 or several >= _LEAST_PATIENTS) else "unknown"


# The order is CheXNet's (arXiv 1711.05225), which most published prediction files use.
FINDINGS: Final = Findings(
    (
        "Atelectasis",
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
        "Edema",
        "Emphysema",
        "Fibrosis",
        "Pleural_Thickening",
        "Hernia",
    )
)
ROW_COLUMNS: Final = (*LEADING_COLUMNS, *FINDINGS)

Generation = Literal["2017", "v2020", "unknown"]

_TITLES: Final[dict[str, str]] = {
    "imageindex": "image",
    "findinglabels": "labels",
    "patientid": "patient",
    "followup": "follow_up",
    "patientage": "age",
    "patientgender": "sex",
    "patientsex": "sex",
    "viewposition": "view",
}
_REQUIRED: Final = {"image": "Image Index", "labels": "Finding Labels", "patient": "Patient ID"}
_OPTIONAL: Final = {
    "follow_up": "Follow-up #", "age": "Patient Age", "sex": "Patient Sex", "view": "View Position",
}  # fmt: skip
_KNOWN: Final = {
    "sex": {"M": "M", "F": "F", "MALE": "M", "FEMALE": "F"},
    "view": {"PA": "PA", "AP": "AP"},
}


@dataclass(frozen=True)
class LabelTable:
    """A label table, understood.

    Attributes:
        rows: as `Collection.rows` without `path`, sorted by `image`, one row an image.
        generation: `2017`, `v2020`, or `unknown` where the content can't tell.
        problems: everything in it that did not fit.
    """

    rows: pd.DataFrame
    generation: Generation
    problems: tuple[Problem, ...]


def is_label_table(path: Path) -> bool:
    """Tell whether a CSV's header has the columns that a label table can't do without."""
    return set(_REQUIRED) <= {_TITLES.get(key(title)) for title in header(path)}


def read_labels(table: Path) -> LabelTable:
    """Read a label table: `.csv` or `.csv.gz`, 2017 or v2020, `sample_labels.csv` too.

    Raises:
        SourceError: not a table, no rows, or a column is missing that nothing can replace.
    """
    raw, problems = _columns(table)
    raw, found = _numbered(raw)
    problems += found
    rows, found = _demographics(raw)
    problems += found
    rows[list(FINDINGS)], found = _findings(raw["image"], raw["labels"])
    problems += found
    rows, found = _one_row_an_image(rows)
    problems += found
    rows = rows[[name for name in ROW_COLUMNS if name != "path"]]
    rows = rows.sort_values("image", ignore_index=True)
    return LabelTable(rows, generation(rows, are_of_2017(raw["age"])), tuple(problems))


def _columns(table: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Pick the columns that count by their titles, whatever the spelling."""
    titles = [_TITLES.get(key(title)) for title in header(table)]
    lacking = [title for name, title in _REQUIRED.items() if name not in titles]
    if lacking:
        raise SourceError(
            f"{table} is no NIH label table: it lacks the column {' and '.join(lacking)}; "
            "give a table such as Data_Entry_2017_v2020.csv"
        )
    text = cells(table)
    if text.empty:
        raise SourceError(f"{table} has a header but no rows: fetch it again")
    names = [*_REQUIRED, *_OPTIONAL]
    blank = pd.Series("", index=text.index, dtype=text[0].dtype)
    raw = pd.DataFrame(
        {name: text[titles.index(name)] if name in titles else blank for name in names}
    )
    return raw, problem(
        "missing-column",
        [title for name, title in _OPTIONAL.items() if name not in titles],
        f"{table.name} lacks a column: its values are unknown",
        loses=False,
    )


def _numbered(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Turn patient and follow-up into integers; leave out rows that belong to no patient."""
    patient = pd.to_numeric(raw["patient"], errors="coerce")
    usable = (patient >= 0) & (patient % 1 == 0) & (raw["image"] != "")
    lost = raw[~usable]
    problems = problem(
        "unusable-row",
        lost["image"] + " (patient " + lost["patient"] + ")",
        "the row names no image, or its Patient ID is no whole number: left out",
        loses=True,
    )
    # NIH's file names write patients with eight digits; so does the text that identifies them here.
    number = patient[usable].astype("int64")
    raw = raw[usable].assign(number=number, patient=number.map("{:08d}".format), study="")
    in_name = raw["image"].str.extract(r"^(\d{8})_(\d{3})(?!\d)").apply(pd.to_numeric)
    problems += problem(
        "patient-differs-from-name",
        raw["image"][in_name[0].notna() & (in_name[0] != raw["number"])],
        "the file name begins with another number than the row's Patient ID: the row is believed",
        loses=False,
    )
    follow_up = pd.to_numeric(raw["follow_up"], errors="coerce")
    usable = (follow_up >= 0) & (follow_up % 1 == 0)
    problems += problem(
        "unknown-follow-up",
        raw["image"][~usable & (raw["follow_up"] != "")],
        "Follow-up # is no whole number: the number in the file name is taken, or 0",
        loses=False,
    )
    follow_up = follow_up.where(usable, in_name[1]).fillna(0)
    return raw.assign(follow_up=follow_up.astype("int64")), problems


def _demographics(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Read age, sex and view; what is not understood becomes unknown."""
    rows = raw[["image", "patient", "study", "follow_up"]].assign(age=in_years(raw["age"]))
    impossible = rows["age"].isna() & (raw["age"] != "")
    problems = problem(
        "impossible-age",
        raw["image"][impossible] + " (" + raw["age"][impossible] + ")",
        f"the age is no number from 0 to {OLDEST:.0f} years: taken as unknown",
        loses=False,
    )
    for name, known in _KNOWN.items():
        rows[name] = raw[name].str.upper().map(known).fillna("")
        unknown = (rows[name] == "") & (raw[name] != "")
        problems += problem(
            f"unknown-{name}",
            raw["image"][unknown] + " (" + raw[name][unknown] + ")",
            f"the {name} is none of {', '.join(dict.fromkeys(known.values()))}: taken as unknown",
            loses=False,
        )
    return rows, problems


def _findings(image: pd.Series, labels: pd.Series) -> tuple[npt.NDArray[np.float64], list[Problem]]:
    """Turn label cells into [n, 14] of 1, 0 and NaN; each different cell is read once."""
    codes, different = pd.factorize(labels)
    read = [_cell(str(cell)) for cell in different]
    values = np.stack([values for values, _ in read])[codes]
    problems: list[Problem] = []
    for code, sentence in (
        ("unknown-label", "a label names none of the 14 findings: findings not named are unknown"),
        ("contradiction", "No Finding stands beside a finding, which is taken as unknown"),
        ("no-label", "the row has no label at all: all 14 findings are unknown"),
    ):
        wrong = np.array([code in reasons for _, reasons in read])[codes]
        names = image[wrong] + " (" + labels[wrong] + ")"
        problems += problem(code, names, sentence, loses=True)
    return values, problems


def _cell(cell: str) -> tuple[npt.NDArray[np.float64], set[str]]:
    """Read one label cell: its 14 values, and the codes of what is wrong with it."""
    words = [word for word in cell.split("|") if word.strip()]
    named = {canonical(word) for word in words}
    findings = [finding in named for finding in FINDINGS]
    values = np.array(findings, dtype=np.float64)
    reasons = set()
    if not words:
        reasons.add("no-label")
    if named - {*FINDINGS, NO_FINDING}:
        reasons.add("unknown-label")
    if NO_FINDING in named and any(findings):
        reasons.add("contradiction")
        values[findings] = np.nan
    elif reasons:
        values[~np.array(findings)] = np.nan
    return values, reasons


def _one_row_an_image(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Keep one of several equal rows, and none of those that contradict each other."""
    repeated = rows.duplicated()
    problems = problem(
        "repeated-row", rows["image"][repeated], "the same row stands twice: read once", loses=False
    )
    rows = rows[~repeated]
    conflicting = rows.duplicated("image", keep=False)
    problems += problem(
        "conflicting-rows",
        rows["image"][conflicting].unique(),
        "several rows of one image contradict each other: the image is left out; keep one row",
        loses=True,
    )
    return rows[~conflicting], problems
