"""The sources `nih-lt` and `mimic-lt`: NIH-CXR-LT and MIMIC-CXR-LT, the long-tailed label sets.

Each is a few tables, one for a part, which their names state (`train`, `val`, `test`,
`development`); a row is an image, a column a finding with 0 or 1. NIH-CXR-LT names images by `id`,
NIH's file name; MIMIC-CXR-LT by `path`, its challenges by `fpath`. The images are NIH's and
MIMIC-CXR-JPG's. Columns beyond the common ones are findings where they hold labels alone.

Releases: of 2022 with the images of a single label (`single-label` in the names of tables), of 2023
(`miccai2023`) with all, and the challenges CXR-LT of 2023 (`train.csv`, `development.csv`,
`test.csv`) and 2024 (`train_labeled.csv`, `development_labeled_task1.csv`, ...; those of task2 are
annotated by hand; `labels.csv` states the part in a column). Of 2022 the spelling is
Pleural_Thickening; 2024 writes Normal for No Finding.

What the tables do not state is read from those of the images' own data set where they lie in the
tree: NIH's Data_Entry table, MIMIC's metadata and MIMIC-IV's patients.

Sources: Holste et al., DALI 2022 (arXiv 2208.13365) and MICCAI 2023 (arXiv 2308.09180). Of the
tables themselves only MIMIC's balanced ones of 2022 were at hand (285 and 570 rows, repository
VITA-Group/LongTailCXR); the other layouts are those that several public readers agree on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import NO_FINDING, canonical
from chestxray.sources.assembly import (
    Stated,
    assemble,
    chosen_first,
    completeness,
    tables_where,
)
from chestxray.sources.chexpert import OBSERVATIONS
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.files import cleaned_paths
from chestxray.sources.mimic import MIMIC, PATHS, PEOPLE, described, image_lists
from chestxray.sources.nih.adjudicated import nih_patients
from chestxray.sources.nih.source import label_tables
from chestxray.sources.nih.tables import FINDINGS, read_labels
from chestxray.sources.table_files import radiograph_stem, stem, table_stem, text_table
from chestxray.sources.table_labels import finding_columns, from_columns

NEW: Final = (
    "Subcutaneous Emphysema", "Tortuous Aorta", "Calcification of the Aorta", "Pneumoperitoneum",
    "Pneumomediastinum",
)  # fmt: skip
"""The findings that the long-tailed sets add to those of their images' data sets."""

OF_NIH: Final = frozenset({*FINDINGS, NO_FINDING, *NEW})
OF_MIMIC: Final = frozenset({*map(canonical, OBSERVATIONS), *NEW})
_NORMAL: Final = "Normal"  # of CXR-LT 2024, for No Finding
_NAMING: Final = frozenset(
    {"id", "subj_id", "subject_id", "study_id", "dicom_id", "split", "ViewPosition", *PATHS}
)
_PART: Final = re.compile(
    r"(?:^|[_-])(balanced[_-])?(train|val|valid|validation|dev|development|test)(?=$|[_-])"
)
_PARTS: Final = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "development": "val", "test": "test",
}  # fmt: skip
_SINGLE: Final = "single-label"
_COMMON: Final = re.compile(r"[_-](?:labeled|task1)(?=$|[_-])")  # in some names of a release
_WHOLE: Final = 377_110  # images of a challenge, all of MIMIC-CXR-JPG
_STUDY: Final = r"(?:^|/)p(\d{8})/s(\d+)/[^/]+$"
_OWN_SPLIT: Final = (
    "Its own, by the names of the tables: train, val and test; of 2022's balanced parts only where "
    "the full one is not there. "
)
_TWO_RELEASES: Final = "Holste et al., DALI 2022 (arXiv 2208.13365) and MICCAI 2023 (2308.09180)"


class _NihLongTailed:
    name: Final = "nih-lt"
    card: Final = SourceCard(
        title="NIH-CXR-LT",
        citation=_TWO_RELEASES,
        licence="The labels are on NIH's Box beside the images: cite both papers.",
        access="Get the images with `chestxray download raw --from nih`, and put the tables "
        "miccai2023_nih-cxr-lt_labels_train.csv, …_val.csv and …_test.csv of NIH's Box folder "
        "(https://nihcc.app.box.com/v/ChestXray-NIHCC) beside them. With NIH's Data_Entry table in "
        "the tree, which gives age, sex and view, name this source: --source nih-lt.",
        label_origin="NIH's labels of 14 findings, and five more mined from the reports by a "
        "program (RadText).",
        reasons="Nothing is uncertain or blank: each cell is 0 or 1.",
        split=f"{_OWN_SPLIT}11,616 images of the training part of 2022 are in NIH's official test: "
        f"a model trained on it may not be tested there.",
        heeds=("table",),
        differs=("not read by torchxrayvision",),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_nih_tables(tree)) and (tree.is_file() or not label_tables(tree))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        text, first, problems = _joined(_nih_tables(tree), tree, options, self.card, "id", OF_NIH)
        parts = text["part"]
        rows, found = _nih_rows(text["id"], label_tables(_folder(tree)))
        single = _SINGLE in first.name
        expected = {"train": 68_058} if single else {"": 112_120}
        stated = Stated(
            rows=rows,
            labels=from_columns(text[_finding_titles(text, OF_NIH)], rows["image"]),
            parts=parts,
            problems=(*problems, *found),
            facts=completeness(parts, expected),
            of_larger_set=single,
        )
        return replace(assemble(self, tree, first, stated, options), patients_of="nih")


class _MimicLongTailed:
    name: Final = "mimic-lt"
    card: Final = SourceCard(
        title="MIMIC-CXR-LT",
        citation=_TWO_RELEASES,
        licence="PhysioNet credentialed, as MIMIC-CXR-JPG.",
        access="Get MIMIC-CXR-JPG (see there), and put the tables of MIMIC-CXR-LT beside its "
        "metadata, which gives views and dates: those of one folder of "
        "https://physionet.org/content/cxr-lt-iccv-workshop-cvamd/2.0.0 "
        "(miccai-2023_mimic-cxr-lt, cxr-lt-2023 or cxr-lt-2024), or those of 2022 in "
        "https://github.com/VITA-Group/LongTailCXR. With MIMIC's own labels in the tree, name this "
        "source: --source mimic-lt.",
        label_origin="MIMIC's labels of the CheXpert labeler, and others mined from the reports by "
        "a program (RadText): five, in the challenges 12 (2023) or 26 (2024); the authors made 0 "
        "or 1 of what a report left open. Those of task2 of 2024 are of a subset that "
        "was annotated by hand (--columns table=test_labeled_task2.csv).",
        reasons="Nothing is uncertain or blank: each cell is 0 or 1.",
        split=f"{_OWN_SPLIT}The challenges' development is val. It is not MIMIC's: a model trained "
        f"on one may not be tested on the other.",
        heeds=("table",),
        differs=("not read by torchxrayvision",),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_mimic_tables(tree)) and (tree.is_file() or not MIMIC.recognises(tree))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        text, first, problems = _joined(
            _mimic_tables(tree), tree, options, self.card, "path", OF_MIMIC
        )
        rows, found = _mimic_rows(text, _folder(tree))
        text = text.loc[rows.index]
        expected = 257_018 if "miccai2023" in first.name else 0 if _SINGLE in first.name else _WHOLE
        stated = Stated(
            rows=rows,
            labels=from_columns(text[_finding_titles(text, OF_MIMIC)], rows["image"]),
            parts=text["part"],
            problems=(*problems, *found),
            facts=completeness(text["part"], {"": expected}) if expected else {},
            frontal=pd.Series(False, rows.index),
            of_larger_set=True,
        )
        return replace(assemble(self, tree, first, stated, options), patients_of="mimic")


NIH_LONG_TAILED: Final = _NihLongTailed()
MIMIC_LONG_TAILED: Final = _MimicLongTailed()


def _folder(tree: Path) -> Path:
    """Give the tree, or the folder of a table that is read alone: others lie beside it."""
    return tree.parent if tree.is_file() else tree


def _nih_tables(tree: Path) -> list[Path]:
    return tables_where(tree, lambda titles: "id" in titles and _names(titles) >= OF_NIH)


def _mimic_tables(tree: Path) -> list[Path]:
    return tables_where(
        tree, lambda titles: not titles.isdisjoint(PATHS) and _names(titles) >= OF_MIMIC
    )


def _names(titles: Iterable[str]) -> set[str]:
    """Give the canonical names of columns."""
    return {NO_FINDING if title == _NORMAL else canonical(title) for title in titles}


def _joined(
    tables: list[Path],
    tree: Path,
    options: ReadOptions,
    card: SourceCard,
    image: str,
    wanted: frozenset[str],
) -> tuple[pd.DataFrame, Path, list[Problem]]:
    """Join the tables of one release.

    Returns:
        Rows of text that name an image in the column `image` (`id` or `path`), with `part`; the
        first table; and the tables that are not used.

    Raises:
        SourceError: there is no table.
    """
    if not tables:
        raise SourceError(
            f"{tree} holds no label table of {card.title}: put its tables of train, val and test "
            f"into it, with the columns {', '.join((image, *sorted(wanted)))}"
        )
    tables = sorted(
        tables, key=lambda table: (len(table.parts), "balanced" in table.name, table.name)
    )
    chosen = _of_one_release(chosen_first(tables, tree, options))
    joined = pd.concat([_read(table, part) for part, table in chosen.items()])
    joined = joined.fillna("").drop_duplicates()
    joined = joined[joined[image] != ""].reset_index(drop=True)
    used = list(chosen.values())
    return joined, used[0], problem(
        "unused-label-table",
        (table.name for table in tables if table not in used),
        f"{', '.join(table.name for table in used)} are read; other label tables of the set are "
        f"not: choose another with --columns table=…",
        loses=False,
    )  # fmt: skip


def _read(table: Path, part: str) -> pd.DataFrame:
    """Read a table of one part, or one whose column `split` states it."""
    text = text_table(table)
    text = text.assign(part=part or text.get("split", pd.Series("", text.index)).map(_PARTS))
    other = {"fpath": "path", _NORMAL: NO_FINDING}
    return text.rename(columns={old: new for old, new in other.items() if new not in text})


def _of_one_release(tables: list[Path]) -> dict[str, Path]:
    """Give the first table of each part beside the first table and named like it, or without it."""
    chosen: dict[str, Path] = {}
    for table in tables:
        name = table_stem(table).casefold()
        parts = list(_PART.finditer(name))
        release = table.parent, _COMMON.sub("", _PART.sub("", name))
        if table == tables[0]:
            first = release
        if release == first:
            chosen.setdefault(_PARTS[parts[-1][2]] if parts else "", table)
    return chosen


def _finding_titles(text: pd.DataFrame, known: frozenset[str]) -> list[str]:
    """Give the columns of findings: the known ones, and others that hold labels alone."""
    names = {title: canonical(title) for title in text.columns}
    rest = [title for title, name in names.items() if name not in known]
    more, _ = finding_columns(text[[title for title in rest if title not in {*_NAMING, "part"}]])
    return [title for title, name in names.items() if name in known or title in more]


def _nih_rows(image: pd.Series, tables: list[Path]) -> tuple[pd.DataFrame, list[Problem]]:
    """Give what is known of NIH's images, by their names and NIH's own table."""
    patient, problems = nih_patients(image, pd.Series("", image.index, dtype="str"))
    rows = pd.DataFrame({"image": image, "file": image, "patient": patient}).assign(
        study="", follow_up=0, age=np.nan, sex="", view=""
    )
    if tables:
        known = read_labels(tables[0]).rows
        known = known.set_index(known["image"].map(stem)).reindex(image.map(stem))
        rows["follow_up"] = known["follow_up"].fillna(0).astype("int64").to_numpy()
        rows["age"] = known["age"].to_numpy()
        for name in ("sex", "view"):
            rows[name] = known[name].fillna("").astype("str").to_numpy()
    return rows, problems


def _mimic_rows(text: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Give what is known of MIMIC's images, by their table, MIMIC's metadata and patients."""
    path = cleaned_paths(text["path"])
    place = path.str.extract(_STUDY)
    lost = place[0].isna()
    name = path.str.rsplit("/", n=1).str[-1].map(radiograph_stem)
    images = pd.DataFrame({"dicom_id": name, "subject_id": place[0], "study_id": place[1]})[~lost]
    listed = image_lists(folder)
    images = images.assign(ViewPosition=text.get("ViewPosition", ""))
    if listed:
        known = text_table(listed[0]).drop_duplicates("dicom_id").set_index("dicom_id")
        known = known.reindex(images["dicom_id"]).fillna("").set_index(images.index)
        own = images["ViewPosition"]
        titles = [title for title in ("ViewPosition", "StudyDate") if title in known]
        images[titles] = known[titles]
        images["ViewPosition"] = images["ViewPosition"].mask(images["ViewPosition"] == "", own)
    people = tables_where(folder, lambda titles: titles >= PEOPLE)
    rows, problems = described(images, people)
    problems += problem(
        "no-patient",
        path[lost],
        "the path names no patient and study, as in files/p10/p10000032/s50414267/: left out",
        loses=True,
    )
    return rows.assign(file=path[~lost]), problems
