"""The source `chexpert`: CheXpert 1.0 of Stanford, the full and the small release.

`train.csv` and `valid.csv`, and `test.csv` where it is there, hold a column per observation (1, 0,
-1 for uncertain, blank for not mentioned) beside a `Path` such as
`CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`. Its first folder is the release
and says nothing; the rest gives part, patient and study, and is the image's key, so that both
releases name their images alike. Tables of other labelers, such as `train_cheXbert.csv`, have the
same columns; `--source chexpert --columns table=train_cheXbert.csv` reads one. The files of
CheXlocalize, where they lie in the tree, give regions (`chexlocalize`).

Source: Irvin et al., CheXpert, AAAI 2019 (arXiv 1901.07031).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.assembly import (
    Stated,
    assemble,
    check_titled,
    chosen_first,
    completeness,
    tables_where,
)
from chestxray.sources.chexlocalize import with_regions
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import in_years, sexes, views
from chestxray.sources.files import cleaned_paths
from chestxray.sources.table_files import cells, table_stem, text_table
from chestxray.sources.table_files import titles as titles_of
from chestxray.sources.table_labels import from_columns

OBSERVATIONS: Final = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
"""The columns of labels of CheXpert, MIMIC-CXR-JPG and BRAX."""

_PLACE: Final = r"(?:^|/)(train|valid|val|test)/(patient\d+)/(study(\d+))/"
_PARTS: Final = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_EXPECTED: Final = {"train": 223_414, "val": 234, "test": 668}
_DESCRIPTION: Final = ("Sex", "Age", "Frontal/Lateral", "AP/PA")


class _CheXpert:
    name: Final = "chexpert"
    card: Final = SourceCard(
        title="CheXpert",
        citation="Irvin et al., CheXpert, AAAI 2019 (arXiv 1901.07031)",
        licence="Research use after registration; no redistribution.",
        access="Register at https://stanfordaimi.azurewebsites.net, accept the agreement, download "
        "CheXpert-v1.0-small (11 GB) or CheXpert-v1.0 (440 GB) and unpack it. Put the test labels "
        "of 2023 beside train.csv as test.csv, and the test images into the folder test. For "
        "regions of valid and test put the files gt_segmentations_….json and gt_annotations_….json "
        "of CheXlocalize into the tree.",
        label_origin="Mined from the reports by a program (CheXpert labeler); those of valid and "
        "test were read by three and five radiologists.",
        uncertain="ignore",
        blank="negative",
        reasons="A report that leaves a finding open is no evidence for either side, so it is left "
        "out; a finding that a report does not mention is taken for absent, as the authors did.",
        split="train.csv, valid.csv and test.csv by the folder in the path. Without test.csv, the "
        "234 images of valid.csv, which radiologists read, are the test, and val is drawn from "
        "the patients of train.",
        heeds=("table",),
        differs=(
            "views: only PA, here PA and AP",
            "patients: the first image of each, here all",
            "blank: unknown unless No Finding is 1, here absent (--blank unknown agrees)",
            "finer findings: a blank Lung Opacity beside Edema stays blank, here it is present",
            "17 images called frontal with the projection LL or RL: their own view, here lateral",
            "age 0, on 3 images: kept as 0, here unknown",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return any(_part_of(table) for table in (*_tables(tree), *_other_case(tree)))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        chosen, problems = _chosen(tree, options)
        text = pd.concat([_table(path) for path in chosen], ignore_index=True)
        text, place, parts, lost = placed(text, chosen[0])
        rows, frontal, found = described(text, place)
        collection = assemble(
            self,
            tree,
            chosen[0],
            Stated(
                rows=rows,
                labels=from_columns(text[list(OBSERVATIONS)], rows["image"]),
                parts=with_a_test(parts),
                problems=(*problems, *lost, *found),
                frontal=frontal,
                facts={
                    "label tables": ", ".join(path.name for path in chosen),
                    **completeness(parts, {part: _EXPECTED[part] for part in parts.unique()}),
                },
            ),
            options,
        )
        return with_regions(collection, tree)


CHEXPERT: Final = _CheXpert()


def _tables(tree: Path) -> list[Path]:
    return tables_where(tree, lambda titles: {"Path", *OBSERVATIONS} <= titles)


def _check_titles(tree: Path) -> None:
    """Refuse a table of CheXpert that lacks a column: its part would be missed without a word."""
    check_titled(tree, _PARTS.__contains__)
    wanted = {"Path", *OBSERVATIONS}
    names = {title.casefold() for title in wanted}
    for table in tables_where(
        tree, lambda titles: len(_casefolded(titles) & names) > len(names) / 2
    ):
        lacking = wanted.difference(titles_of(table))
        if lacking and table_stem(table) in _PARTS:
            raise SourceError(
                f"{table} lacks the columns {', '.join(sorted(lacking))}, so it cannot be read as "
                f"a label table of CheXpert (capital letters count): correct its header, or "
                f"download it again"
            )


def _casefolded(titles: frozenset[str]) -> set[str]:
    return {title.casefold() for title in titles}


def _other_case(tree: Path) -> list[Path]:
    """Find tables with CheXpert's titles in capital or small letters that are not its own."""
    wanted = _casefolded(frozenset({"Path", *OBSERVATIONS}))
    return tables_where(tree, lambda titles: wanted <= _casefolded(titles))


def _part_of(table: Path) -> str:
    """Give the part of a table's first image; empty where its paths are not CheXpert's."""
    titles = [title.casefold() for title in titles_of(table)]
    first = cells(table, rows=1)[titles.index("path")]
    part = cleaned_paths(first).str.extract(_PLACE)[0]
    return "" if part.empty or part.isna().iloc[0] else _PARTS[str(part.iloc[0])]


def _chosen(tree: Path, options: ReadOptions) -> tuple[list[Path], list[Problem]]:
    """Choose one table for each part: the one that is asked for, the shallowest, the plain name."""
    _check_titles(tree)
    tables = [table for table in _tables(tree) if _part_of(table)]
    if not tables:
        raise SourceError(
            f"{tree} holds no label table of CheXpert: put train.csv and valid.csv into it, with "
            f"the columns Path and {', '.join(OBSERVATIONS)}"
        )
    tables.sort(key=lambda path: (len(path.parts), table_stem(path) not in _PARTS, path))
    chosen: dict[str, Path] = {}
    for table in chosen_first(tables, tree, options):
        chosen.setdefault(_part_of(table), table)
    used = sorted(chosen.values(), key=lambda path: list(_EXPECTED).index(_part_of(path)))
    return used, problem(
        "unused-label-table",
        (path.name for path in tables if path not in used),
        f"{', '.join(path.name for path in used)} are read; other label tables of the same images "
        f"are not: choose one with --source chexpert --columns table=…",
        loses=False,
    )


def _table(path: Path) -> pd.DataFrame:
    """Read a table; that of the test has no description of the patients."""
    table = text_table(path)
    lacking = [title for title in _DESCRIPTION if title not in table]
    return table.assign(**dict.fromkeys(lacking, ""))[["Path", *_DESCRIPTION, *OBSERVATIONS]]


def placed(
    text: pd.DataFrame, table: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series[str], list[Problem]]:
    """Leave out the rows whose path does not tell their patient.

    Args:
        text: with `Path`.
        table: that they are from.

    Returns:
        The rows; part, patient, study and its number of each as in the path; its part in our words;
        and what was left out.

    Raises:
        SourceError: no row is left.
    """
    place = text["Path"].str.extract(_PLACE)
    lost = place[0].isna()
    problems = problem(
        "no-patient",
        text["Path"][lost],
        "the path names no part, patient and study, as in train/patient00001/study1/: left out",
        loses=True,
    )
    text, place = (frame[~lost].reset_index(drop=True) for frame in (text, place))
    if text.empty:
        raise SourceError(
            f"no row of {table.name} names a patient in its path, as in "
            f"train/patient00001/study1/view1_frontal.jpg: download the table again"
        )
    return text, place, place[0].map(_PARTS), problems


def described(
    text: pd.DataFrame, place: pd.DataFrame
) -> tuple[pd.DataFrame, pd.Series[bool], list[Problem]]:
    """Read all that is not a label.

    Args:
        text: `Path`, `Sex`, `Age`, `Frontal/Lateral` and `AP/PA`.
        place: as `placed` gives it.

    Returns:
        Rows as `assembly.Stated` has them; which are known to be frontal; and contradictions.
    """
    file = cleaned_paths(text["Path"]).str.replace(
        r"^.*?(?=(?:train|valid|val|test)/patient)", "", regex=True
    )
    age = pd.Series(in_years(text["Age"]), text.index).replace(0.0, np.nan)
    view, frontal, contradicting = _views(text)
    rows = pd.DataFrame(
        {
            "image": file,
            "file": file,
            "patient": place[1],
            "study": place[1] + "/" + place[2],
            "follow_up": place[3].astype("int64"),
            "age": age,
            "sex": sexes(text["Sex"])[0],
            "view": view,
        }
    )
    return (
        rows,
        frontal,
        problem(
            "contradictory-view",
            file[contradicting] + " (" + text["AP/PA"][contradicting] + ")",
            "the table calls the image frontal and its projection lateral: taken for lateral",
            loses=False,
        ),
    )


def _views(text: pd.DataFrame) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Give the views, which rows are frontal, and which are so by one column and not the other."""
    stated = views(text["AP/PA"])
    side = text["Frontal/Lateral"].str.casefold()
    by_name = text["Path"].str.contains("lateral", regex=False) & (side == "")
    lateral = (side == "lateral") | by_name | (stated == "LATERAL")
    frontal = (side == "frontal") | text["Path"].str.contains("frontal", regex=False)
    contradicting = (side == "frontal") & (stated == "LATERAL")
    return stated.mask(lateral, "LATERAL"), frontal, contradicting


def with_a_test(parts: pd.Series) -> pd.Series:
    """Let valid be the test where there is none: radiologists read it."""
    if (parts == "test").any():
        return parts
    return parts.replace("val", "test")
