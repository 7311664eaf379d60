"""The sources `shenzhen` and `montgomery`: the two tuberculosis sets of the NLM.

There is no label table: `CXR_png/CHNCXR_0001_0.png` ends in 0 for an image without tuberculosis and
in 1 for one with it. `ClinicalReadings/CHNCXR_0001_0.txt` states sex and age: in Shenzhen by a line
such as `male 45yrs`, in Montgomery by `Patient's Sex: F` and `Patient's Age: 027Y`. Montgomery's
readings name repeated images of one patient (`same pt as MCUCXR_0162_1`), which share a patient
here. Masks of the lungs are read by `anatomy`.

Kaggle's copy of both sets in one folder has one mask per image in `masks`, under the same name.

Not checked on the owners' files: the layout, the counts, both forms of a reading and the odd
spellings of some (`femal 32yrs`, `16month`, `64days`) are those that several public readers and an
inventory of Kaggle's copy agree on; that some patients have several images is known by one of them.

Source: Jaeger et al., Quantitative Imaging in Medicine and Surgery 4(6), 2014.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
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
from chestxray.sources.table_labels import TableLabels

FINDINGS: Final = Findings(("Tuberculosis",))
READINGS: Final = "ClinicalReadings"
_LONGEST: Final = 65_536  # bytes of a reading; those of the sets have a few hundred
_MASK_FOLDERS: Final = frozenset({"leftmask", "rightmask", "masks"})  # the last in Kaggle's copy
_LABELS: Final = {"0": 0.0, "1": 1.0}
_SEX: Final = re.compile(r"sex\s*:\s*([a-z]*)", re.IGNORECASE)
_AGE: Final = re.compile(r"age\s*:\s*(\d+)\s*([a-z]?)", re.IGNORECASE)
_LINE: Final = re.compile(r"(fem[a-z]*|male|[mf]\b)?[^a-z0-9]*(?:(\d+)\s*([a-z]?))?", re.IGNORECASE)
_SAME: Final = re.compile(r"same\s+(?:pt|patient)\s+as\s+([a-z]+_\d+)", re.IGNORECASE)


class _Reading(NamedTuple):
    """What the text beside an image states; empty where it does not."""

    sex: str = ""
    age: str = ""
    same: tuple[str, ...] = ()
    found: bool = False


@dataclass(frozen=True)
class _TuberculosisSet:
    """A set whose file names state the label.

    Attributes:
        name: of the source.
        prefix: of its file names.
        view: of all images, empty where they differ.
        images: in the whole set.
        card: of the source.
    """

    name: str
    prefix: str
    view: str
    images: int
    card: SourceCard

    def recognises(self, tree: Path) -> bool:
        if not tree.is_dir():
            return False
        return any(
            name.startswith(f"{self.prefix}_")
            and name[-2:] in {"_0", "_1"}
            and not all(map(is_mask, paths))
            for name, paths in scan(tree).images.items()
        )

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        if not self.recognises(tree):
            raise SourceError(
                f"{tree} holds no image of {self.card.title} ({self.prefix}_0001_0.png, …): give "
                f"the folder that holds CXR_png and {READINGS}"
            )
        scanned = scan(tree)
        rows, labels, problems = self._named(scanned)
        readings = [_reading(scanned.root / path) for path in rows["file"]]
        rows, found = _described(rows, readings)
        used = frozenset(rows["file"])
        stated = Stated(
            rows=rows.assign(study="", follow_up=0, view=self.view),
            labels=labels,
            parts=pd.Series("", rows.index, dtype="str"),
            problems=(*problems, *found),
            facts={
                "label table": "none: the names of the images state the label",
                **completeness(rows["image"], {"": self.images}),
            },
            apart=frozenset(_relative(scanned, _all_paths(scanned))) - used,
        )
        return assemble(self, tree, tree, stated, options)

    def _named(self, tree: Tree) -> tuple[pd.DataFrame, TableLabels, list[Problem]]:
        """Give a row and a label per image of the set, and what its names leave open."""
        radiographs = {
            name: [path for path in paths if not is_mask(path)]
            for name, paths in tree.images.items()
            if name.startswith(f"{self.prefix}_") and not name.endswith("_mask")
        }
        chosen, problems = one_file_per_image({n: p for n, p in radiographs.items() if p})
        parts = {name: re.fullmatch(rf"({self.prefix}_\d+)_([01])", name) for name in chosen}
        odd = [name for name, part in parts.items() if part is None]
        named = {name: part for name, part in sorted(parts.items()) if part is not None}
        rows = pd.DataFrame(
            {
                "image": list(named),
                "file": _relative(tree, [chosen[name] for name in named]),
                "patient": [part[1] for part in named.values()],
            },
            dtype="str",
        )
        values = np.array([_LABELS[part[2]] for part in named.values()])
        twice = rows["patient"].duplicated(keep=False)
        problems += problem(
            "unknown-label",
            odd,
            "the name of the image does not end in _0 or _1, which state the label: left out",
            loses=True,
        )
        problems += problem(
            "contradiction",
            rows["image"][twice],
            "an image of the same number has the other label in its name: both are unknown",
            loses=True,
        )
        unknown = twice.to_numpy()[:, None]
        labels = TableLabels(
            findings=FINDINGS,
            values=np.where(unknown, np.nan, values[:, None]),
            unknown=unknown,
            empty=np.zeros(len(rows), dtype=bool),
            blank="negative",
            reason="since the name of every image states it",
        )
        return rows, labels, problems


_LICENCE: Final = (
    "Public, of the U.S. National Library of Medicine; cite the papers that its read-me names."
)
_ORIGIN: Final = (
    "Read by radiologists in the screening or the care of each patient; an image without "
    "tuberculosis is normal."
)
_CITATION: Final = (
    "Jaeger et al., Quantitative Imaging in Medicine and Surgery 4(6), 2014; Candemir et al., "
    "IEEE Transactions on Medical Imaging 33(2), 2014"
)
_REASONS: Final = (
    "Nothing is uncertain or blank: the name of every image states the label. Only Tuberculosis is "
    "labelled; the free text of the readings is not."
)
_URL: Final = "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets"

SHENZHEN: Final = _TuberculosisSet(
    "shenzhen",
    "CHNCXR",
    "",
    662,
    SourceCard(
        title="Shenzhen",
        citation=_CITATION,
        licence=_LICENCE,
        access=f"Download CXR_png and ClinicalReadings from {_URL}/Shenzhen-Hospital-CXR-Set, or "
        "https://openi.nlm.nih.gov/imgs/collections/ChinaSet_AllFiles.zip, and unpack them.",
        label_origin=_ORIGIN,
        reasons=_REASONS,
        split="None. Patients are drawn; each image counts as its own patient.",
        differs=(
            "views: all PA, here unknown, since the set holds AP radiographs of children",
            "age and sex: not read, here those of ClinicalReadings",
            "shenzhen_consensus_roi.csv and masks of lesions: not read, here neither",
        ),
    ),
)
MONTGOMERY: Final = _TuberculosisSet(
    "montgomery",
    "MCUCXR",
    "PA",
    138,
    SourceCard(
        title="Montgomery",
        citation=_CITATION,
        licence=_LICENCE,
        access=f"Download CXR_png, ClinicalReadings and ManualMask from "
        f"{_URL}/Montgomery-County-CXR-Set/MontgomerySet, or "
        "https://openi.nlm.nih.gov/imgs/collections/NLM-MontgomeryCXRSet.zip, and unpack them.",
        label_origin=_ORIGIN,
        reasons=_REASONS,
        split="None. Patients are drawn; images that the readings say are of one patient stay "
        "together.",
        differs=(
            "patients: each image its own, here those that a reading calls the same are one",
            "age and sex: not read, here those of ClinicalReadings",
            "montgomery_consensus_roi.csv: not read, here neither",
        ),
    ),
)


def is_mask(path: str) -> bool:
    """Tell whether a file lies in Montgomery's folders of masks, which have the images' names."""
    return Path(path).parent.name.casefold() in _MASK_FOLDERS


def _all_paths(tree: Tree) -> list[str]:
    return [path for paths in tree.images.values() for path in paths]


def _relative(tree: Tree, paths: Iterable[str]) -> list[str]:
    return [Path(path).relative_to(tree.root).as_posix() for path in paths]


def _reading(image: Path) -> _Reading:
    """Read the text of an image, beside its folder or beside the image."""
    for folder in (image.parent.parent / READINGS, image.parent):
        path = folder / f"{image.stem}.txt"
        if path.is_file():
            with path.open("rb") as file:
                return _parsed(file.read(_LONGEST).decode("utf-8-sig", errors="replace"))
    return _Reading()


def _parsed(text: str) -> _Reading:
    """Read sex and age as either set writes them, and the images of the same patient."""
    same = tuple(name.upper() for name in _SAME.findall(text))
    sex, age = _SEX.search(text), _AGE.search(text)
    if sex or age:
        return _Reading(sex[1] if sex else "", "".join(age.groups()) if age else "", same, True)
    line = _LINE.match(next(iter(text.split("\n")), "").strip())
    if line is None:
        return _Reading(same=same, found=True)
    word, years, unit = (line[place] or "" for place in (1, 2, 3))
    return _Reading("F" if word[:3].casefold() == "fem" else word, years + unit, same, True)


def _described(rows: pd.DataFrame, readings: list[_Reading]) -> tuple[pd.DataFrame, list[Problem]]:
    """Add patient, sex and age by the readings."""
    written = pd.DataFrame(readings, index=rows.index, columns=list(_Reading._fields))
    age = in_years(written["age"].astype("str"))
    sex, _ = sexes(written["sex"].astype("str"))
    lacking = written["found"] & ((sex == "") | np.isnan(age))
    problems = problem(
        "no-reading",
        rows["image"][~written["found"]],
        f"the image has no text in {READINGS}: sex and age are unknown",
        loses=False,
    )
    problems += problem(
        "unreadable-reading",
        rows["image"][lacking],
        "the text of the image states no sex or no age that is understood: unknown",
        loses=False,
    )
    patient = _joined(rows["patient"], written["same"])
    return rows.assign(patient=patient, age=age, sex=sex), problems


def _joined(patient: pd.Series, same: pd.Series) -> pd.Series:
    """Give images that are of one patient, by chains of references, its smallest number."""
    of = {name: name for name in patient}

    def root(name: str) -> str:
        while of[name] != name:
            name = of[name]
        return name

    for own, others in zip(patient, same, strict=True):
        for other in others:
            if other in of:
                first, last = sorted((root(own), root(other)))
                of[last] = first
    return patient.map(root).astype("str")
