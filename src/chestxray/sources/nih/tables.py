"""NIH's label table and box table → common rows, and boxes as fractions of the image's sides.

The label table is read in either generation and any of its spellings. NIH published it in 2017 and
a corrected one in 2020. The file name does not prove which one a copy is: files called
`Data_Entry_2017.csv` with the rows of 2020 are common. The content tells. In 2017 `Follow-up #` was
the `_NNN` of the file name. In 2020 NIH put each patient's examinations in order of time and kept
the file names, so that the two differ in 24,106 of 112,120 rows, which belong to 3,154 of the
13,302 patients who have more than one image.

Where a row contradicts itself or is empty: a label that is not a finding makes the findings that
the row does not name unknown, since it may mean any of them; `No Finding` beside a finding makes
that finding unknown; an empty cell makes all 14 unknown. A patient number is never guessed, since
the split depends on it.

The rows of the box table (984 boxes on 880 images) are read by position, because the header `Bbox
[x,y,w,h]` is itself cut at its commas. The boxes are in the 1024-pixel frame of the published
images, with the origin at the top left. As fractions they are valid for resized copies too.
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
from chestxray.sources.collection import (
    BOX_COLUMNS,
    LEADING_COLUMNS,
    Problem,
    one_row_per_image,
    problem,
)
from chestxray.sources.demographics import OLDEST, in_years
from chestxray.sources.table_files import cells, header, key

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
ADJUDICATED: Final = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
"""The labels of Google's table, which repeats NIH's columns beside them."""

_Generation = Literal["2017", "v2020", "unknown"]

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
_SAMPLE: Final = 100  # rows that show how the images are called
_NAME: Final = r"^(?:.*/)?\d{8}_\d{3}(?:\.\w+)?$"
_LEAST_NAMED: Final = 0.5  # share of the sample; the rest may be renamed by hand
_LEAST_DIFFERENCES: Final = 3  # fewer may be edits by hand
_LEAST_SHARE: Final = 0.01
# A patient with several images differs with probability 0.24 in 2020; that 30 such patients all
# agree happens in one table of 3,000.
_LEAST_PATIENTS: Final = 30
_FRAME: Final = 1024.0  # pixels, of the box table
_SLACK: Final = 0.5  # pixels by which rounding may push a box out of the frame; cut off


@dataclass(frozen=True)
class LabelTable:
    """The content of a label table.

    Attributes:
        rows: as `Collection.rows` without `path`, sorted by `image`, one row per image.
        generation: `2017`, `v2020`, or `unknown` where the content does not tell.
        problems: everything in it that could not be used as it is.
    """

    rows: pd.DataFrame
    generation: _Generation
    problems: tuple[Problem, ...]


def is_label_table(path: Path) -> bool:
    """Tell whether a CSV's header has the columns of a label table, and is not that of Google."""
    titles = header(path)
    has_all = set(_REQUIRED) <= {_TITLES.get(key(title)) for title in titles}
    return has_all and not {key(title) for title in ADJUDICATED} <= {key(title) for title in titles}


def has_names_of_nih(path: Path) -> bool:
    """Tell whether the first images of a label table are called as NIH calls them.

    NIH's names are eight digits of the patient and three of the image, `00000013_005.png`; another
    hospital may use NIH's titles for its own radiographs.
    """
    titles = [_TITLES.get(key(title)) for title in header(path)]
    names = cells(path, rows=_SAMPLE)[titles.index("image")]
    return len(names) == 0 or bool(names.str.contains(_NAME).mean() > _LEAST_NAMED)


def read_labels(table: Path) -> LabelTable:
    """Read a label table: `.csv` or `.csv.gz`, 2017 or v2020, `sample_labels.csv` too.

    Raises:
        SourceError: not a table, no rows, or a column is missing that nothing can replace.
    """
    raw, problems = _columns(table)
    numbers = raw["patient"]
    raw, found = _numbered(raw)
    if raw.empty:
        raise SourceError(
            f"{table} names no patient by number, as NIH does (its Patient ID begins with "
            f"{numbers.iloc[0]!r}): read a table of your own with --source table"
        )
    problems += found
    rows, found = _demographics(raw)
    problems += found
    rows[list(FINDINGS)], found = _findings(raw["image"], raw["labels"])
    problems += found
    rows, found = one_row_per_image(rows)
    problems += found
    rows = rows[[name for name in ROW_COLUMNS if name != "path"]]
    rows = rows.sort_values("image", ignore_index=True)
    return LabelTable(rows, _generation(rows, _are_of_2017(raw["age"])), tuple(problems))


def _columns(table: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Pick the columns by their titles in any spelling."""
    titles = [_TITLES.get(key(title)) for title in header(table)]
    lacking = [title for name, title in _REQUIRED.items() if name not in titles]
    if lacking:
        raise SourceError(
            f"{table} is not an NIH label table: it lacks the column {' and '.join(lacking)}; "
            "give a table such as Data_Entry_2017_v2020.csv"
        )
    text = cells(table)
    if text.empty:
        raise SourceError(f"{table} has a header but no rows: download it again")
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
        "the row names no image, or its Patient ID is not a whole number: left out",
        loses=True,
    )
    # NIH's file names write patients with eight digits; so does the text that identifies them here.
    number = patient[usable].astype("int64")
    raw = raw[usable].assign(number=number, patient=number.map("{:08d}".format), study="")
    in_name = raw["image"].str.extract(r"^(\d{8})_(\d{3})(?!\d)").apply(pd.to_numeric)
    problems += problem(
        "patient-differs-from-name",
        raw["image"][in_name[0].notna() & (in_name[0] != raw["number"])],
        "the file name begins with another number than the Patient ID, which is used",
        loses=False,
    )
    follow_up = pd.to_numeric(raw["follow_up"], errors="coerce")
    usable = (follow_up >= 0) & (follow_up % 1 == 0)
    problems += problem(
        "unknown-follow-up",
        raw["image"][~usable & (raw["follow_up"] != "")],
        "Follow-up # is not a whole number: the number in the file name is used, or else 0",
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
        f"the age is not a number from 0 to {OLDEST:.0f} years: taken as unknown",
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
    """Turn label cells into [n, 14] of 1, 0 and NaN; each distinct cell is read once."""
    codes, different = pd.factorize(labels)
    read = [_cell(str(cell)) for cell in different]
    values = np.stack([values for values, _ in read])[codes]
    problems: list[Problem] = []
    for code, sentence in (
        (
            "unknown-label",
            "a label is none of the 14 findings: findings that the row does not name are unknown",
        ),
        ("contradiction", "No Finding is listed beside a finding, which is taken as unknown"),
        ("no-label", "the row has no label: all 14 findings are unknown"),
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


def _generation(rows: pd.DataFrame, ages_of_2017: bool) -> _Generation:
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


def _are_of_2017(ages: pd.Series) -> bool:
    """Tell whether ages are written as only the 2017 table has them: with a unit, or over 120."""
    units = ages.str.match(r"^\d+\s*[YMWDymwd]$")
    years = pd.to_numeric(ages, errors="coerce")
    return bool(units.any() or (years > OLDEST).any())


@dataclass(frozen=True)
class BoxTable:
    """The content of a box table.

    Attributes:
        rows: as `Collection.boxes`, sorted by image and finding.
        problems: everything in it that could not be used as it is.
    """

    rows: pd.DataFrame
    problems: tuple[Problem, ...]


def is_box_table(path: Path) -> bool:
    """Tell whether a CSV's header is that of a box table."""
    titles = [key(title) for title in header(path)]
    return titles[:2] == ["imageindex", "findinglabel"] and any("bbox" in name for name in titles)


def read_boxes(table: Path) -> BoxTable:
    """Read a box table, `.csv` or `.csv.gz`, with or without the spare commas.

    Raises:
        SourceError: not a box table.
    """
    if not is_box_table(table):
        raise SourceError(
            f"{table} is not an NIH box table: its header must begin with "
            "Image Index,Finding Label,Bbox [x,y,w,h]"
        )
    text = cells(table)
    if text.shape[1] < len(BOX_COLUMNS):
        raise SourceError(f"{table}: a box needs six columns, this table has {text.shape[1]}")
    text = text[list(range(len(BOX_COLUMNS)))].set_axis(list(BOX_COLUMNS), axis=1)
    finding = text["finding"].map(canonical)
    known = finding.isin(FINDINGS)
    problems = problem(
        "unknown-box-finding",
        (text["image"] + " (" + text["finding"] + ")")[~known],
        "a box names none of the 14 findings: left out",
        loses=True,
    )
    text = text.assign(finding=finding)[known]
    sides = text[["x", "y", "w", "h"]].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    inside = _inside(sides)
    problems += problem(
        "box-out-of-frame",
        text["image"][~inside],
        "a box is not inside the 1024 × 1024 frame, or is empty: left out",
        loses=True,
    )
    rows = pd.concat([text[["image", "finding"]], _fractions(sides)], axis=1)[inside]
    repeated = rows.duplicated()
    problems += problem(
        "repeated-box",
        rows["image"][repeated],
        "the same box is listed twice: read once",
        loses=False,
    )
    rows = rows[~repeated].sort_values(list(BOX_COLUMNS), ignore_index=True)
    return BoxTable(rows, tuple(problems))


def _inside(sides: pd.DataFrame) -> pd.Series:
    low = (sides["x"] >= -_SLACK) & (sides["y"] >= -_SLACK)
    high = (sides["x"] + sides["w"] <= _FRAME + _SLACK) & (
        sides["y"] + sides["h"] <= _FRAME + _SLACK
    )
    return low & high & (sides["w"] > 0) & (sides["h"] > 0)


def _fractions(sides: pd.DataFrame) -> pd.DataFrame:
    left, top = sides["x"].clip(lower=0.0), sides["y"].clip(lower=0.0)
    right = (sides["x"] + sides["w"]).clip(upper=_FRAME)
    bottom = (sides["y"] + sides["h"]).clip(upper=_FRAME)
    corners = {"x": left, "y": top, "w": right - left, "h": bottom - top}
    return pd.DataFrame(corners) / _FRAME
