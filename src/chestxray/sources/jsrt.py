"""The source `jsrt`: 247 radiographs of the Japanese Society of Radiological Technology.

`JPCLN001.IMG` to `JPCLN154.IMG` show one nodule each, `JPCNN001.IMG` to `JPCNN093.IMG` none; they
are raw images without a header, which the decoder knows by their size. `CLNDAT_EN.txt` has a line
per nodule: file, subtlety, size in mm, age, sex, the centre in pixels, and what it was.
`CNNDAT_EN.TXT` has file, age and sex of the others. PNG copies of these names are read as they are.

A nodule of up to 30 mm is a Nodule, a larger one a Mass. Its box is a square of its size around its
centre.

Known by descriptions of the set alone, not checked on its files: the order of the columns, which
may be separated by tabs or spaces, and lines that run into each other.

Source: Shiraishi et al., American Journal of Roentgenology 174(1), 2000.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.sources.assembly import Stated, assemble, completeness
from chestxray.sources.collection import Collection, Problem, ReadOptions, SourceCard, problem
from chestxray.sources.demographics import in_years, sexes
from chestxray.sources.files import Tree, one_file_per_image, scan
from chestxray.sources.regions import fractions
from chestxray.sources.table_labels import TableLabels

FINDINGS: Final = Findings(("Nodule/Mass", "Nodule", "Mass"))
_IMAGES: Final = 247
_SIDE: Final = 2048  # pixels
_SPACING: Final = 0.175  # mm per pixel
_LARGEST_NODULE: Final = 30.0  # mm; what is larger is a mass
_LONGEST: Final = 2**20  # bytes of a list; that of the nodules has some 15 kB
_NAME: Final = re.compile(r"JPC([LN])N\d{3}", re.IGNORECASE)
_RECORD: Final = re.compile(r"(?=JPC[LN]N\d{3})", re.IGNORECASE)
_AGE_SEX: Final = r"(\d{1,3}|\?)\s+(male|female|\?)"
_NODULE: Final = re.compile(
    rf"(JPCLN\d{{3}})(?:\.\w{{3}})?\s+[\d?]\s+(\d+(?:\.\d+)?|\?)\s+{_AGE_SEX}\s+(\d+)\s+(\d+)\b",
    re.IGNORECASE,
)
_NONE: Final = re.compile(rf"(JPCNN\d{{3}})(?:\.\w{{3}})?\s+{_AGE_SEX}\b", re.IGNORECASE)


class _Line(NamedTuple):
    """What a list says of an image; NaN and empty where it does not."""

    age: str = ""
    sex: str = ""
    size: float = np.nan  # mm
    x: float = np.nan  # of the centre, pixels
    y: float = np.nan


class _JSRT:
    name: Final = "jsrt"
    card: Final = SourceCard(
        title="JSRT",
        citation="Shiraishi et al., American Journal of Roentgenology 174(1), 2000",
        licence="Research use after registration with the JSRT; no redistribution.",
        access="Register at http://db.jsrt.or.jp/eng.php, download the images with and without a "
        "nodule and the clinical information, and unpack them into one folder.",
        label_origin="Nodules confirmed by CT, histology or follow-up; images without one "
        "confirmed by CT.",
        uncertain="ignore",
        blank="negative",
        reasons="Nothing is uncertain or blank: the name of every image says whether it shows a "
        "nodule, whose size tells a nodule from a mass.",
        split="None. Patients are drawn; each image is of a different patient.",
        differs=("not read by torchxrayvision",),
    )

    def recognises(self, tree: Path) -> bool:
        return tree.is_dir() and any(map(_NAME.fullmatch, scan(tree).images))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        if not self.recognises(tree):
            raise SourceError(
                f"{tree} holds no image of JSRT (JPCLN001.IMG, …): give the folder that holds the "
                f"images and CLNDAT_EN.txt"
            )
        scanned = scan(tree)
        chosen, problems = one_file_per_image(_files(scanned))
        lines, found = _lines(scanned)
        problems += found
        rows, found = _described(chosen, lines, scanned)
        stated = Stated(
            rows=rows,
            labels=_labels(rows["image"], lines),
            parts=pd.Series("", rows.index, dtype="str"),
            problems=(*problems, *found),
            facts={
                "label table": "none: the names of the images state the label",
                **completeness(rows["image"], {"": _IMAGES}),
            },
            apart=frozenset(
                Path(path).relative_to(scanned.root).as_posix()
                for name in chosen
                for path in scanned.images[name]
            ),
        )
        collection = assemble(self, tree, tree, stated, options)
        boxes, bad = fractions(_boxes(collection.rows, lines))
        return replace(collection, boxes=boxes, problems=(*collection.problems, *bad))


JSRT: Final = _JSRT()


def _files(tree: Tree) -> dict[str, list[str]]:
    """Give the files of each image; where there are raw ones, their copies are not used."""
    found = {}
    for name, paths in tree.images.items():
        if _NAME.fullmatch(name):
            raw = [path for path in paths if path.casefold().endswith(".img")]
            found[name] = raw or paths
    return found


def _lines(tree: Tree) -> tuple[dict[str, _Line], list[Problem]]:
    """Read the lists of nodules and of images without one, by the image's name in capitals."""
    found: dict[str, _Line] = {}
    odd, contrary = [], []
    for path in tree.texts:
        if path.name.casefold() in {"clndat_en.txt", "cnndat_en.txt"}:
            with path.open("rb") as file:
                text = file.read(_LONGEST).decode("utf-8-sig", errors="replace")
            for record in _RECORD.split(text)[1:]:
                name = record[:8].upper()
                line = _line(record)
                if line is None:
                    odd.append(name)
                elif str(found.setdefault(name, line)) != str(line):
                    contrary.append(name)
    for name in contrary:
        found.pop(name, None)
    problems = problem(
        "unreadable-line",
        odd,
        "a line of the clinical information is not understood: what it states is unknown",
        loses=True,
    )
    return found, problems + problem(
        "conflicting-rows",
        contrary,
        "two lines of one image contradict each other: what they state is unknown",
        loses=True,
    )


def _line(record: str) -> _Line | None:
    nodule, none = _NODULE.match(record), _NONE.match(record)
    if nodule:
        size = np.nan if nodule[2] == "?" else float(nodule[2])
        return _Line(nodule[3], nodule[4], size, float(nodule[5]), float(nodule[6]))
    return _Line(none[2], none[3]) if none else None


def _described(
    chosen: Mapping[str, str], lines: Mapping[str, _Line], tree: Tree
) -> tuple[pd.DataFrame, list[Problem]]:
    images = sorted(chosen)
    known = [lines.get(name.upper(), _Line()) for name in images]
    image = pd.Series(images, dtype="str")
    lacking = image[~image.str.upper().isin(list(lines))]
    rows = pd.DataFrame(
        {
            "image": image,
            "file": [Path(chosen[name]).relative_to(tree.root).as_posix() for name in images],
            "patient": image.str.upper(),
            "age": in_years(pd.Series([line.age for line in known], dtype="str")),
            "sex": sexes(pd.Series([line.sex for line in known], dtype="str"))[0],
        }
    )
    return rows.assign(study="", follow_up=0, view="PA"), problem(
        "no-line",
        lacking,
        "CLNDAT_EN.txt and CNNDAT_EN.TXT have no line of the image: age, sex, size and place of "
        "its nodule are unknown",
        loses=False,
    )


def _labels(images: pd.Series, lines: Mapping[str, _Line]) -> TableLabels:
    """Give Nodule/Mass by the name, and which of both by the size."""
    size = np.array([lines.get(name.upper(), _Line()).size for name in images], dtype=np.float64)
    present = images.str.upper().str.startswith("JPCLN").to_numpy()
    nodule = np.where(present, (size <= _LARGEST_NODULE).astype(np.float64), 0.0)
    values = np.column_stack([present.astype(np.float64), nodule, np.where(present, 1 - nodule, 0)])
    unknown = np.zeros(values.shape, dtype=bool)
    unknown[present & np.isnan(size), 1:] = True
    values[unknown] = np.nan
    return TableLabels(
        findings=FINDINGS,
        values=values,
        unknown=unknown,
        empty=np.zeros(len(images), dtype=bool),
        blank="negative",
        reason="since the name of every image states it",
    )


def _boxes(rows: pd.DataFrame, lines: Mapping[str, _Line]) -> pd.DataFrame:
    """Give a square of the nodule's size around its centre, cut at the edges of the image."""
    found = []
    for row in rows.to_dict("records"):
        line = lines.get(str(row["image"]).upper(), _Line())
        reach = line.size / _SPACING / 2
        if np.isnan(reach + line.x + line.y):
            continue
        left, right = np.clip([line.x - reach, line.x + reach], 0, _SIDE)
        top, bottom = np.clip([line.y - reach, line.y + reach], 0, _SIDE)
        place = (left, top, right - left, bottom - top, _SIDE, _SIDE)
        found += [(row["image"], name, *place) for name in FINDINGS if row[name] == 1]
    return pd.DataFrame(found, columns=["image", "finding", *"xywh", "width", "height"])
