"""The source `openi`: the chest radiographs of Indiana University, as Open-i or Kaggle gives them.

Open-i: a report per study in `ecgen-radiology/<n>.xml`, with MeSH terms by human indexers (`major`)
and the names of its images; or `NLMCXR_reports.tgz` alone. Kaggle: `indiana_reports.csv` with the
same terms, and `indiana_projections.csv` with the images. Labels belong to a study; each study is
of a different patient.

Half of the images are lateral, and the reports do not say which. The view is that of Kaggle's
table, of the DICOM headers, or of a table of headers (`imageid`, `View Position`) in the tree, such
as torchxrayvision's. Where none states it, it is called UNSTATED, and `--views frontal` leaves the
image out.

Source: Demner-Fushman et al., Journal of the American Medical Informatics Association 23(2), 2016.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.assembly import Stated, assemble, completeness, tables_where
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import views
from chestxray.sources.files import scan
from chestxray.sources.openi_reports import has_reports, read_reports
from chestxray.sources.openi_terms import labels_of
from chestxray.sources.table_files import text_table

UNSTATED: Final = "UNSTATED"
"""The view of an image whose view is stated nowhere."""

_IMAGES: Final = 7_470
_REPORTS: Final = frozenset({"uid", "MeSH", "Problems"})
_PROJECTIONS: Final = frozenset({"uid", "filename", "projection"})
_HEADERS: Final = frozenset({"imageid", "View Position"})


class _Read(NamedTuple):
    """The images of a tree by its reports.

    Attributes:
        rows: `image`, `file`, `patient` and `view` (empty where unknown).
        terms: of the report of each image.
        table: that names the images.
        problems: what could not be read.
        unstated: what to call a view that is stated nowhere.
    """

    rows: pd.DataFrame
    terms: list[tuple[str, ...]]
    table: Path
    problems: list[Problem]
    unstated: str


class _OpenI:
    name: Final = "openi"
    card: Final = SourceCard(
        title="Open-i (Indiana)",
        citation="Demner-Fushman et al., Journal of the American Medical Informatics Association "
        "23(2), 2016",
        licence="Open; each report states CC BY-NC-ND 4.0.",
        access="Download NLMCXR_reports.tgz and NLMCXR_dcm.tgz (or NLMCXR_png.tgz) from "
        "https://openi.nlm.nih.gov/imgs/collections and unpack them into one folder. With PNG put "
        "nlmcxr_dicom_metadata.csv.gz of torchxrayvision's wheel beside them, for the views. Or "
        "Kaggle's raddar/chest-xrays-indiana-university.",
        label_origin="MeSH terms that human indexers gave to the reports of radiologists.",
        uncertain="ignore",
        blank="negative",
        reasons="The indexers named every abnormality that a report states, so one that is not "
        "named is taken for absent, except where a term is broader or may mean it.",
        split="None. Patients are drawn; each study is of a different patient.",
        differs=(
            "terms: those that a program found (automatic), here those of human indexers (major)",
            "words are parts of words: subcutaneous emphysema is Emphysema; here terms are whole",
            "broader terms: opacity leaves finer findings absent, here unknown",
            "reports that were not indexed: all findings absent, here unknown",
            "views: only PA by the header, or a guess from a plot of features; here PA and AP",
            "patients: the first image of each, here all",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_tables(tree, _PROJECTIONS)) or has_reports(tree)

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        if _tables(tree, _PROJECTIONS):
            read = _from_kaggle(tree)
        elif has_reports(tree):
            read = _from_reports(tree)
        else:
            raise SourceError(
                f"{tree} holds no reports of Open-i (ecgen-radiology/1.xml, …), nor Kaggle's "
                f"indiana_reports.csv and indiana_projections.csv: put them into it"
            )
        rows = read.rows.assign(study=read.rows["patient"], follow_up=0, age=np.nan, sex="")
        stated = Stated(
            rows=rows,
            labels=labels_of(read.terms, rows["image"]),
            parts=pd.Series("", rows.index, dtype="str"),
            problems=tuple(read.problems),
            facts={
                **completeness(rows["image"], {"": _IMAGES}),
                "label table": f"reports of {rows['patient'].nunique()} studies",
            },
            headers=True,
            unstated_view=read.unstated,
        )
        return assemble(self, tree, read.table, stated, options)


OPENI: Final = _OpenI()


def _tables(tree: Path, wanted: frozenset[str]) -> list[Path]:
    return tables_where(tree, lambda titles: wanted <= titles)


def _folder(tree: Path) -> Path:
    """Give the folder of what lies beside the reports."""
    return tree.parent if tree.is_file() else tree


def _from_reports(tree: Path) -> _Read:
    """Read Open-i's reports; a DICOM file has the image's name without CXR."""
    reports, bad = read_reports(tree)
    if not reports:
        raise SourceError(f"{tree} has no report that can be read, such as {', '.join(bad[:3])}")
    listed = [(image, each.study, each.terms) for each in reports for image in each.images]
    rows = pd.DataFrame(
        [(image, study) for image, study, _ in listed], columns=["image", "patient"], dtype="str"
    )
    there = scan(tree).images if tree.is_dir() else {}
    plain = rows["image"].str.removeprefix("CXR")
    file = rows["image"].where(rows["image"].isin(list(there)) | tree.is_file(), plain)
    return _Read(
        rows=rows.assign(file=file, view=_header_views(tree, rows["image"])),
        terms=[terms for _, _, terms in listed],
        table=tree,
        problems=problem(
            "unreadable-report",
            bad,
            "a report is not the XML of Open-i, or declares entities: its images are left out",
            loses=True,
        ),
        unstated=UNSTATED,
    )


def _header_views(tree: Path, images: pd.Series) -> pd.Series:
    """Give the views of a table of headers, empty where there is none or it does not say."""
    tables = _tables(_folder(tree), _HEADERS)
    if not tables:
        return pd.Series("", images.index, dtype="str")
    table = text_table(tables[0]).drop_duplicates("imageid").set_index("imageid")
    return views(table["View Position"].reindex(images).fillna("").set_axis(images.index))


def _from_kaggle(tree: Path) -> _Read:
    """Read Kaggle's two tables; an image's report is that of its `uid`."""
    projections = _tables(tree, _PROJECTIONS)[0]
    reports = _tables(_folder(tree), _REPORTS)
    if not reports:
        raise SourceError(
            f"{_folder(tree)} has {projections.name}, but no table of reports (columns "
            f"{', '.join(sorted(_REPORTS))}): put indiana_reports.csv into it"
        )
    images, text = text_table(projections), text_table(reports[0]).drop_duplicates()
    images = images[images["filename"] != ""].reset_index(drop=True)
    twice = text["uid"][text["uid"].duplicated()].unique()
    text = text[~text["uid"].isin(twice)].set_index("uid")
    cells = images["uid"].map(text["MeSH"])
    view = views(images["projection"]).where(images["projection"] != "", UNSTATED)
    rows = pd.DataFrame(
        {"image": images["filename"], "file": images["filename"], "view": view}, dtype="str"
    ).assign(patient="CXR" + images["uid"])
    problems = problem(
        "conflicting-rows",
        twice,
        "two reports of one study contradict each other: its labels are unknown",
        loses=True,
    )
    problems += problem(
        "no-report",
        images["filename"][cells.isna() & ~images["uid"].isin(twice)],
        "the table of reports has no row of the image's study: all findings are unknown",
        loses=True,
    )
    terms = [tuple(filter(None, map(str.strip, cell.split(";")))) for cell in cells.fillna("")]
    return _Read(rows, terms, projections, problems, "")
