"""The source `padchest`: PadChest of BIMCV, 160,861 radiographs with Spanish reports.

One table; its column `Labels` holds the text of a Python list, `['pleural effusion', 'normal']`, of
words from a tree of findings. A word that is not named means absent, except where the row leaves it
open:

- `unchanged` says that an earlier radiograph's findings persist, `exclude` that the report is of no
  use: what such a row does not name is unknown, unless it names `normal`.
- `suboptimal study` and `chronic changes` name no finding: where a row says nothing else, all are
  unknown.
- A word that may mean a finding or something broader (`mass` of any organ) makes it unknown.
- A broader word alone (`fracture`) makes its finer findings unknown, see `implications`.

Every word is mapped to a finding or left out on purpose, in the tables below; one that is in
neither makes what its row does not name unknown, and is counted.

Source: Bustos et al., PadChest, Medical Image Analysis 2020 (arXiv 1901.07441).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.sources.assembly import Stated, assemble, chosen_first, completeness, tables_where
from chestxray.sources.collection import (
    Collection,
    Labelers,
    Problem,
    ReadOptions,
    SourceCard,
    check_choice,
    problem,
)
from chestxray.sources.demographics import OLDEST, follow_ups, sexes, views
from chestxray.sources.implications import open_finer
from chestxray.sources.table_files import text_table
from chestxray.sources.table_labels import TableLabels, listed

_IMAGES: Final = 160_861
_NEEDED: Final = ("ImageID", "PatientID", "Projection", "Labels")
_USEFUL: Final = (
    "ImageDir", "StudyID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM", "MethodLabel",
    "PhotometricInterpretation_DICOM",
)  # fmt: skip
_MARKS: Final = frozenset(_USEFUL) - {"StudyID"}  # titles by which a table is known as PadChest's

WORDS: Final[dict[str, tuple[str, ...]]] = {
    "Atelectasis": (
        "atelectasis", "segmental atelectasis", "atelectasis basal", "round atelectasis",
    ),
    "Laminar Atelectasis": ("laminar atelectasis",),
    "Lobar Atelectasis": ("lobar atelectasis",),
    "Total Atelectasis": ("total atelectasis",),
    "Cardiomegaly": ("cardiomegaly",),
    "Effusion": ("pleural effusion", "loculated fissural effusion"),
    "Loculated Pleural Effusion": ("loculated pleural effusion",),
    "Hydropneumothorax": ("hydropneumothorax",),
    "Pneumothorax": ("pneumothorax",),
    "Infiltration": ("infiltrates",),
    "Mass": ("pulmonary mass",),
    "Nodule": ("nodule", "multiple nodules"),
    "Pseudonodule": ("pseudonodule",),
    "Lung Metastasis": ("lung metastasis",),
    "Lung Cavity": ("cavitation",),
    "Pneumonia": ("pneumonia",),
    "Atypical Pneumonia": ("atypical pneumonia",),
    "Consolidation": ("consolidation",),
    "Alveolar Pattern": ("alveolar pattern",),
    "Edema": ("pulmonary edema",),
    "Emphysema": ("emphysema",),
    "COPD Signs": ("copd signs",),
    "Air Trapping": ("air trapping",),
    "Flattened Diaphragm": ("flattened diaphragm",),
    "Fibrosis": ("pulmonary fibrosis",),
    "Fibrotic Band": ("fibrotic band",),
    "Bronchiectasis": ("bronchiectasis",),
    "Volume Loss": ("volume loss",),
    "Interstitial Pattern": ("interstitial pattern",),
    "Reticular Interstitial Pattern": ("reticular interstitial pattern",),
    "Reticulonodular Interstitial Pattern": ("reticulonodular interstitial pattern",),
    "Ground Glass Pattern": ("ground glass pattern",),
    "Miliary Opacities": ("miliary opacities",),
    "Granuloma": ("granuloma",),
    "Calcified Granuloma": ("calcified granuloma",),
    "Tuberculosis": ("tuberculosis",),
    "Tuberculosis Sequelae": ("tuberculosis sequelae",),
    "Pleural_Thickening": ("pleural thickening", "calcified pleural thickening"),
    "Apical Pleural Thickening": ("apical pleural thickening",),
    "Costophrenic Angle Blunting": ("costophrenic angle blunting",),
    "Hemidiaphragm Elevation": ("hemidiaphragm elevation",),
    "Hernia": ("hiatal hernia",),
    "Hilar Enlargement": ("hilar enlargement", "vascular hilar enlargement"),
    "Hilar Congestion": ("hilar congestion",),
    "Enlarged PA": ("pulmonary artery enlargement",),
    "Mediastinal Enlargement": ("mediastinal enlargement", "superior mediastinal enlargement"),
    "Mediastinal Mass": ("mediastinal mass",),
    "Mediastinal Shift": ("mediastinal shift",),
    "Aortic Elongation": (
        "aortic elongation", "ascendent aortic elongation", "descendent aortic elongation",
    ),
    "Aortic Enlargement": ("aortic button enlargement", "aortic aneurysm"),
    "Aortic Atheromatosis": ("aortic atheromatosis",),
    "Pneumomediastinum": ("pneumomediastinum",),
    "Pneumoperitoneum": ("pneumoperitoneo",),
    "Subcutaneous Emphysema": ("subcutaneous emphysema",),
    "Scoliosis": ("scoliosis",),
    "Kyphosis": ("kyphosis",),
    "Vertebral Degenerative Changes": ("vertebral degenerative changes",),
    "Fracture": ("fracture",),
    "Rib Fracture": ("rib fracture",),
    "Callus Rib Fracture": ("callus rib fracture",),
    "Clavicle Fracture": ("clavicle fracture",),
    "Humeral Fracture": ("humeral fracture",),
    "Vertebral Fracture": ("vertebral fracture",),
    "Support Devices": (
        "catheter", "electrical device", "gastrostomy tube", "nephrostomy tube", "double j stent",
        "ventriculoperitoneal drain tube", "endoprosthesis", "aortic endoprosthesis",
    ),
    "Endotracheal Tube": ("endotracheal tube",),
    "Tracheostomy Tube": ("tracheostomy tube",),
    "NSG Tube": ("nsg tube",),
    "Chest Drain Tube": ("chest drain tube",),
    "Central Venous Catheter": (
        "central venous catheter", "central venous catheter via jugular vein",
        "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
        "reservoir central venous catheter",
    ),
    "Artificial Heart Valve": (
        "artificial heart valve", "artificial aortic heart valve", "artificial mitral heart valve",
    ),
    "Pacemaker": ("pacemaker",),
    "Dual Chamber Device": ("dual chamber device",),
    "Single Chamber Device": ("single chamber device",),
}  # fmt: skip
"""The words that name a finding."""

MAY_MEAN: Final[dict[str, tuple[str, ...]]] = {
    "mass": ("Mass",),
    "air bronchogram": ("Consolidation", "Alveolar Pattern"),
    "empyema": ("Effusion", "Loculated Pleural Effusion"),
    "supra aortic elongation": ("Aortic Elongation",),
    "vertebral compression": ("Vertebral Fracture", "Fracture"),
    "vertebral anterior compression": ("Vertebral Fracture", "Fracture"),
    "prosthesis": ("Support Devices", "Artificial Heart Valve"),
    "lymphangitis carcinomatosa": ("Interstitial Pattern",),
    "kerley lines": ("Interstitial Pattern",),
}
"""The words that may mean these findings, which are unknown where the row does not name them."""

LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {
    "says nothing of a finding": (
        "", "normal", "unchanged", "exclude", "suboptimal study", "chronic changes",
        "end on vessel", "nipple shadow", "obesity",
    ),
    "a trace or a material of treatment that is no device": (
        "sternotomy", "suture material", "osteosynthesis material", "metal", "mastectomy",
        "mammary prosthesis", "humeral prosthesis", "bone cement", "post radiotherapy changes",
        "surgery", "surgery breast", "surgery neck", "surgery lung", "surgery heart",
        "surgery humeral", "abnormal foreign body", "external foreign body",
    ),
    "a variant of bones, vessels or soft tissue without a name in the vocabulary": (
        "azygos lobe", "cervical rib", "dextrocardia", "right sided aortic arch",
        "pectum excavatum", "pectum carinatum", "thoracic cage deformation", "osteopenia",
        "osteoporosis", "axial hyperostosis", "sclerotic bone lesion", "lytic bone lesion",
        "blastic bone lesion", "bone metastasis", "costochondral junction hypertrophy",
        "sternoclavicular junction hypertrophy", "subacromial space narrowing",
        "non axial articular degenerative changes", "gynecomastia", "soft tissue mass",
        "breast mass", "calcified fibroadenoma", "goiter", "lipomatosis",
        "mediastinic lipomatosis", "chilaiditi sign", "esophagic dilatation",
        "diaphragmatic eventration",
    ),
    "a finding or diagnosis without a name in the vocabulary": (
        "bronchovascular markings", "increased density", "calcified densities", "hypoexpansion",
        "hypoexpansion basal", "hyperinflated lung", "bullas", "cyst", "abscess",
        "air fluid level", "heart insufficiency", "heart valve calcified", "pericardial effusion",
        "vascular redistribution", "central vascular redistribution", "lung vascular paucity",
        "pulmonary hypertension", "pulmonary artery hypertension",
        "pulmonary venous hypertension", "adenopathy", "calcified adenopathy",
        "calcified mediastinal adenopathy", "tracheal shift", "azygoesophageal recess shift",
        "fissure thickening", "minor fissure thickening", "major fissure thickening",
        "pleural plaques", "calcified pleural plaques", "pleural mass", "asbestosis signs",
        "lepidic adenocarcinoma", "respiratory distress", "dai",
    ),
}  # fmt: skip
"""The words that are left out on purpose, by reason."""

_NORMAL: Final = "normal"
_OPEN: Final = frozenset({"unchanged", "exclude"})  # what such a row does not name is unknown
_SILENT: Final = frozenset({"suboptimal study", "chronic changes", ""})  # alone they say nothing
FINDINGS: Final = Findings(WORDS)
_FINDING_OF: Final = {word: place for place, words in enumerate(WORDS.values()) for word in words}
_DROPPED: Final = frozenset(word for words in LEFT_OUT.values() for word in words)


class _PadChest:
    name: Final = "padchest"
    card: Final = SourceCard(
        title="PadChest",
        citation="Bustos et al., PadChest, Medical Image Analysis 2020 (arXiv 1901.07441)",
        licence="Research use after an application to BIMCV; no redistribution.",
        access="Apply at https://bimcv.cipf.es/bimcv-projects/padchest, download and unpack the "
        "archives 0 to 50 and 54 (16-bit PNG, 1 TB), and put the table "
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz beside them.",
        label_origin="Named by physicians on 39,053 images (MethodLabel Physician), by a recurrent "
        "network from the reports on the others.",
        uncertain="ignore",
        blank="negative",
        reasons="Reports are labelled with every finding that they name, so one that is not named "
        "is taken for absent, except where the report says that nothing changed.",
        split="None. Patients are drawn. --labelers physicians keeps the images that physicians "
        "labelled: to test a model of other data sets on them.",
        heeds=("table", "labelers"),
        differs=(
            "views: only PA, here PA, AP and AP_horizontal",
            "patients: the first image of each, here all",
            "children: images of people born after 2008 are left out, here they are kept",
            "age: 2017 minus the year of birth, here the year of the study minus it",
            "words are parts of words: mediastinal mass is Mass; here they are whole words",
            "Infiltration: patterns and consolidation too, here they are not",
            "air bronchogram: Consolidation, here it leaves Consolidation unknown",
            "adenopathy: Hilar Enlargement, here not",
            "hydropneumothorax, catheters: no Effusion, no Support Devices, here they are",
            "unchanged and exclude: read as the absence of all, here as unknown",
            "suboptimal study or chronic changes alone: the absence of all, here unknown",
            "damaged files: 21 names are left out, here those that cannot be decoded",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(tables_where(tree, lambda titles: _named(titles) and bool(titles & _MARKS)))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        tables = chosen_first(_tables(tree), tree, options)
        check_choice("labelers", options.labelers or "all", Labelers)
        if not tables:
            raise SourceError(
                f"{tree} holds no label table of PadChest (columns {', '.join(_NEEDED)}): put "
                f"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz into it"
            )
        text, problems = _usable(text_table(tables[0]))
        rows, found = _described(text)
        problems += found
        problems += problem(
            "unused-label-table",
            (path.name for path in tables[1:]),
            f"{tables[0].name} is read; other label tables are not",
            loses=False,
        )
        methods = text["MethodLabel"].value_counts()
        stated = Stated(
            rows=rows,
            labels=_labels(text["Labels"], rows["image"]),
            parts=pd.Series("", rows.index, dtype="str"),
            problems=tuple(problems),
            facts={
                **completeness(rows["patient"], {"": _IMAGES}),
                "labels by": ", ".join(f"{name or 'unknown'} {n}" for name, n in methods.items()),
            },
        )
        collection = assemble(self, tree, tables[0], stated, options)
        if options.labelers == "physicians":
            return _only_physicians(collection, text, tables[0])
        return collection


PADCHEST: Final = _PadChest()


def _tables(tree: Path) -> list[Path]:
    return tables_where(tree, _named)


def _named(titles: frozenset[str]) -> bool:
    return titles.issuperset(_NEEDED)


def _usable(text: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave out rows without an image or a patient; columns that are missing are empty."""
    text = text.assign(**{title: "" for title in _USEFUL if title not in text})
    lacking = (text["ImageID"] == "") | text["PatientID"].str.casefold().isin(["", "nan"])
    return text[~lacking].reset_index(drop=True)[[*_NEEDED, *_USEFUL]], problem(
        "no-patient",
        text["ImageID"][lacking],
        "the row names no image or no patient: left out",
        loses=True,
    )


def _only_physicians(collection: Collection, text: pd.DataFrame, table: Path) -> Collection:
    """Keep the images that a physician labelled, and count the others.

    Raises:
        SourceError: no image is left.
    """
    physicians = text["ImageID"][text["MethodLabel"].str.casefold() == "physician"]
    kept = collection.rows["image"].isin(physicians)
    if not kept.any():
        raise SourceError(
            f"--labelers physicians leaves none of {len(kept)} images: {table.name} says Physician "
            f"of none of them in the column MethodLabel; leave the option out"
        )
    return replace(
        collection,
        rows=collection.rows[kept].reset_index(drop=True),
        policies={**collection.policies, "labelers": "physicians"},
        problems=(
            *collection.problems,
            *problem(
                "other-labeler",
                collection.rows["image"][~kept],
                "the labels are not a physician's: left out by --labelers physicians",
                loses=False,
            ),
        ),
    )


def _described(text: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Read all that is not a label."""
    born = pd.to_numeric(text["PatientBirth"], errors="coerce")
    taken = pd.to_numeric(text["StudyDate_DICOM"].str.slice(0, 4), errors="coerce")
    age = (taken - born).astype("float64")
    impossible = (age < 0) | (age > OLDEST)
    order, _ = follow_ups(text["StudyDate_DICOM"], text["PatientID"])
    rows = pd.DataFrame(
        {
            "image": text["ImageID"],
            "file": text["ImageID"],
            "patient": text["PatientID"],
            "study": text["StudyID"],
            "follow_up": order,
            "age": age.mask(impossible),
            "sex": sexes(text["PatientSex_DICOM"])[0],
            "view": views(text["Projection"]),
        }
    )
    problems = problem(
        "impossible-age",
        text["ImageID"][impossible],
        f"study minus birth is not from 0 to {OLDEST:.0f} years: the age is taken as unknown",
        loses=False,
    )
    return rows, problems + problem(
        "inverted-in-table",
        text["ImageID"][text["PhotometricInterpretation_DICOM"].str.upper() == "MONOCHROME1"],
        "the table calls the image MONOCHROME1, as no row of PadChest's own is: the grey values of "
        "its file are used as they are; look whether they are inverted",
        loses=False,
    )


@dataclass(frozen=True)
class _Cell:
    """What a distinct cell of `Labels` says.

    Attributes:
        present: places of findings.
        open: places of findings that are unknown if they are not present.
        words: all of them.
        empty: it says nothing.
        unreadable: it is not a list.
    """

    present: tuple[int, ...]
    open: tuple[int, ...]
    words: tuple[str, ...]
    empty: bool
    unreadable: bool


def _cell(text: str) -> _Cell:
    missing = text.casefold() in {"", "nan"}
    read = [] if missing else listed(text)
    words = tuple(sorted({" ".join(word.split()).casefold() for word in read or ()}))
    present = tuple(_FINDING_OF[word] for word in words if word in _FINDING_OF)
    known = {*_FINDING_OF, *MAY_MEAN, *_DROPPED}
    open_ = bool(_OPEN & {*words}) and _NORMAL not in words
    everything = open_ or not known.issuperset(words) or (any(words) and {*words} <= _SILENT)
    may = (FINDINGS.index(name) for word in words for name in MAY_MEAN.get(word, ()))
    return _Cell(
        present,
        tuple(range(len(FINDINGS))) if everything else tuple(may),
        words,
        empty=read is not None and not any(words),
        unreadable=read is None,
    )


def _labels(cells: pd.Series, images: pd.Series) -> TableLabels:
    """Read the column `Labels`; each distinct cell is read once."""
    codes, distinct = pd.factorize(cells)
    read = [_cell(str(text)) for text in distinct]
    values, unknown = _marked(read)
    labels = TableLabels(
        findings=FINDINGS,
        values=values[codes],
        unknown=unknown[codes],
        empty=np.array([cell.empty or cell.unreadable for cell in read], dtype=bool)[codes],
        blank="negative",
        reason="since a report names what it finds",
        problems=_problems(read, codes, images),
        facts=_left_out(read, codes),
        rules={
            "": "unknown where a row says unchanged, exclude or nothing of a finding, or a word "
            "that is broader or may mean the finding"
        },
    )
    return open_finer(labels)


def _marked(read: list[_Cell]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    values = np.full((len(read), len(FINDINGS)), np.nan)
    unknown = np.zeros(values.shape, dtype=bool)
    for row, cell in enumerate(read):
        unknown[row, list(cell.open)] = True
        values[row, list(cell.present)] = 1
    unknown &= np.isnan(values)
    return values, unknown


def _problems(read: list[_Cell], codes: npt.NDArray[np.intp], images: pd.Series) -> list[Problem]:
    known = {*_FINDING_OF, *MAY_MEAN, *_DROPPED}
    strange = [", ".join(word for word in cell.words if word not in known) for cell in read]
    strange_of = pd.Series(np.array(strange, dtype=object)[codes], images.index, dtype="str")
    empty = np.array([cell.empty for cell in read], dtype=bool)[codes]
    bad = np.array([cell.unreadable for cell in read], dtype=bool)[codes]
    return [
        *problem(
            "no-label",
            images[empty],
            "the row has no label: all findings are unknown",
            loses=True,
        ),
        *problem(
            "unreadable-labels",
            images[bad],
            "the labels are not a list of names: all findings of the row are unknown",
            loses=True,
        ),
        *problem(
            "unknown-label",
            images[strange_of != ""] + " (" + strange_of[strange_of != ""] + ")",
            "a label is not a word of PadChest: what the row does not name is unknown",
            loses=True,
        ),
    ]


def _left_out(read: list[_Cell], codes: npt.NDArray[np.intp]) -> dict[str, str]:
    """Count the words that are left out on purpose, by reason."""
    rows = np.bincount(codes, minlength=len(read))
    counts: Counter[str] = Counter()
    for cell, n in zip(read, rows, strict=True):
        counts.update(dict.fromkeys(cell.words, int(n)))
    return {
        f"not read, {reason}": ", ".join(
            f"{word} {counts[word]}" for word in words if word and counts[word]
        )
        for reason, words in LEFT_OUT.items()
        if any(counts[word] for word in words if word)
    }
