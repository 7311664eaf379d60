"""The source `chexpert-plus`: CheXpert Plus, the images of CheXpert with reports and newer labels.

`df_chexpert_plus_240401.csv` has a row per image: `path_to_image`, age, sex, view, and the report.
`chexbert_labels/report_fixed.json`, `findings_fixed.json` and `impression_fixed.json` hold the
labels that CheXbert gave to the report or to a section of it, an object a line, joined by
`path_to_image`: 1, 0, -1 for uncertain, null for not mentioned. Those of the whole report are read;
`--source chexpert-plus --columns table=impression_fixed.json` reads others. The images are DICOM or
PNG files under the paths of CheXpert's JPEG files, which stay the images' names.

Source: Chambon et al., CheXpert Plus, 2024 (arXiv 2405.19538). The layout is that of the
documentation and of public readers; the tables themselves were not at hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.assembly import Stated, assemble, completeness, tables_where
from chestxray.sources.chexlocalize import with_regions
from chestxray.sources.chexpert import OBSERVATIONS, described, placed, with_a_test
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.files import cleaned_paths, has_dicom, scan
from chestxray.sources.json_files import json_lines
from chestxray.sources.table_columns import TABLE
from chestxray.sources.table_files import text_table
from chestxray.sources.table_labels import TableLabels, from_columns

_IMAGES: Final = 223_462  # by the paper
_TITLES: Final = {
    "path_to_image": "Path", "sex": "Sex", "age": "Age", "frontal_lateral": "Frontal/Lateral",
    "ap_pa": "AP/PA",
}  # fmt: skip
_LABELS: Final = ("report_fixed.json", "findings_fixed.json", "impression_fixed.json")
_WHAT: Final = "CheXbert's labels, an object a line"


class _CheXpertPlus:
    name: Final = "chexpert-plus"
    card: Final = SourceCard(
        title="CheXpert Plus",
        citation="Chambon et al., CheXpert Plus, 2024 (arXiv 2405.19538)",
        licence="Research use after registration; no redistribution.",
        access="Register at https://stanfordaimi.azurewebsites.net, accept the agreement, and "
        "download df_chexpert_plus_240401.csv, chexbert_labels.zip, and the images as DICOM or as "
        "PNG (png_chexpert_plus_chunk_….zip). Unpack all into one folder; of two forms of the "
        "images, DICOM is read.",
        label_origin="Mined from the reports by a program (CheXbert), those of valid too.",
        reasons="As for CheXpert: a finding that a report leaves open is left out, one that it "
        "does not mention is taken for absent.",
        split="train and valid by the folder in the path; valid is the test, as for CheXpert "
        "without its test, and val is drawn from the patients of train. Radiologists did not give "
        "these labels of valid: read CheXpert's valid.csv for theirs.",
        overlaps=("CheXpert", "CheXlocalize"),
        heeds=("table",),
        differs=("not read by torchxrayvision",),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_tables(tree))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        tables = _tables(tree)
        if not tables:
            raise SourceError(
                f"{tree} holds no label table of CheXpert Plus (columns {', '.join(_TITLES)}): put "
                f"df_chexpert_plus_240401.csv into it"
            )
        text = text_table(tables[0], columns=_TITLES).drop_duplicates(ignore_index=True)
        text = text[text["path_to_image"] != ""].rename(columns=_TITLES)
        text, place, parts, problems = placed(text, tables[0])
        rows, frontal, found = described(text, place)
        file = _label_file(tree, options)
        labels = _labels(file, rows["image"])
        stated = Stated(
            rows=rows.assign(file=_files(rows["image"], tree)),
            labels=labels,
            parts=with_a_test(parts),
            problems=(*problems, *found),
            facts={
                "labels of reports": file.name,
                **completeness(rows["image"], {"": _IMAGES}),
            },
            headers=True,
            frontal=frontal,
            of_larger_set=has_dicom(tree) and bool(scan(tree).images),
        )
        collection = assemble(self, tree, tables[0], stated, options)
        return replace(with_regions(collection, tree), patients_of="chexpert")


CHEXPERT_PLUS: Final = _CheXpertPlus()


def _tables(tree: Path) -> list[Path]:
    return tables_where(tree, lambda titles: {*_TITLES, "deid_patient_id"} <= titles)


def _files(image: pd.Series, tree: Path) -> pd.Series:
    """Give the paths to find: with the suffix of DICOM where the tree has such files."""
    if not has_dicom(tree):
        return image
    return image.str.replace(r"\.\w+$", "", regex=True) + ".dcm"


def _label_file(tree: Path, options: ReadOptions) -> Path:
    """Choose the file of labels: the one that is asked for, or that of the whole report."""
    folder = tree.parent if tree.is_file() else tree
    files = {path.name: path for path in reversed(scan(folder).json) if path.name in _LABELS}
    wanted = options.columns.get(TABLE, "")
    names = [Path(wanted).name] if wanted else list(_LABELS)
    found = [files[name] for name in names if name in files]
    if not found:
        raise SourceError(
            f"{folder} has no {wanted or 'labels of CheXbert'}: it has "
            f"{', '.join(sorted(files)) or 'none'}; put chexbert_labels with one of "
            f"{', '.join(_LABELS)} into it"
        )
    return found[0]


def _labels(path: Path, image: pd.Series) -> TableLabels:
    """Give each image the labels of its report.

    Raises:
        SourceError: an object lacks the path or a finding, or no image has labels.
    """
    text, conflicting = _objects(path)
    place = text.index.get_indexer(pd.Index(image))
    empty = place < 0
    if empty.all():
        raise SourceError(
            f"{path} has labels of none of the images: it begins with {text.index[0]!r}, and the "
            f"table with {image.iloc[0]!r}; keep files of one release together"
        )
    read = from_columns(text.reset_index(drop=True), pd.Series(text.index, dtype="str"))
    given = np.array([read.values[at] for at in place])  # noqa: PD011 - not of pandas
    return replace(
        read,
        values=np.where(empty[:, None], np.nan, given),
        unknown=read.unknown[place] & ~empty[:, None],
        empty=empty,
        problems=[*read.problems, *_label_problems(image[empty], conflicting)],
    )


def _label_problems(empty: pd.Series, conflicting: list[str]) -> list[Problem]:
    return [
        *problem(
            "no-label", empty, "the report has no labels: all findings are unknown", loses=True
        ),
        *problem(
            "conflicting-rows",
            conflicting,
            "two sets of labels of an image contradict each other: neither is used",
            loses=True,
        ),
    ]


def _objects(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read the labels as text, indexed by image; and the images whose labels contradict."""
    wanted = ("path_to_image", *OBSERVATIONS)
    rows = []
    for each in json_lines(path, _WHAT):
        lacking = [name for name in wanted if name not in each]
        if lacking:
            raise SourceError(
                f"{path} is not {_WHAT}: an object lacks {', '.join(lacking)}; download it again"
            )
        rows.append(["" if each[name] is None else str(each[name]) for name in wanted])
    if not rows:
        raise SourceError(f"{path} is not {_WHAT}: it is empty; download it again")
    text = pd.DataFrame(rows, columns=list(wanted)).drop_duplicates()
    text = text.set_index(cleaned_paths(text.pop("path_to_image")))
    twice = text.index.duplicated(keep=False)
    return text[~twice], sorted(set(text.index[twice]))
