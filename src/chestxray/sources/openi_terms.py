"""What the MeSH terms of Open-i's reports say of findings.

A term is a heading with qualifiers, `Opacity/lung/base/left`. Here `opacity/lung` means the heading
Opacity with the qualifier lung among others, `lung/hilum+enlarged` one with both qualifiers. Every
heading stands in one of the tables; one that is in none makes what its report does not name
unknown, and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from chestxray.findings import Findings
from chestxray.sources.collection import Problem, problem
from chestxray.sources.implications import open_finer
from chestxray.sources.table_labels import TableLabels

_SPINE: Final = ("spine", "cervical vertebrae", "thoracic vertebrae", "lumbar vertebrae")

TERMS: Final[dict[str, tuple[str, ...]]] = {
    "Atelectasis": ("pulmonary atelectasis",),
    "Cardiomegaly": ("cardiomegaly",),
    "Enlarged Cardiomediastinum": ("cardiac shadow/enlarged",),
    "Mediastinal Enlargement": ("mediastinum/enlarged",),
    "Mediastinal Shift": ("shift/mediastinum",),
    "Effusion": ("pleural effusion",),
    "Pneumothorax": ("pneumothorax", "hemopneumothorax"),
    "Hydropneumothorax": ("hydropneumothorax",),
    "Pleural_Thickening": ("thickening/pleura",),
    "Costophrenic Angle Blunting": ("costophrenic angle/blunted", "sulcus/blunted"),
    "Lung Opacity": ("opacity/lung", "density/lung", "airspace disease"),
    "Infiltration": ("infiltrate",),
    "Consolidation": ("consolidation/lung",),
    "Edema": ("pulmonary edema",),
    "Pneumonia": ("pneumonia",),
    "Nodule": ("nodule/lung",),
    "Mass": ("mass/lung",),
    "Lung Cavity": ("cavitation",),
    "Lung Cyst": ("cysts/lung",),
    "Volume Loss": ("volume loss",),
    "ILD": ("lung diseases, interstitial",),
    "Fibrosis": ("pulmonary fibrosis",),
    "Emphysema": ("emphysema", "pulmonary emphysema", "bullous emphysema"),
    "COPD": ("pulmonary disease, chronic obstructive",),
    "Bronchiectasis": ("bronchiectasis",),
    "Granuloma": ("granuloma",),
    "Calcified Granuloma": ("calcified granuloma",),
    "Calcification": ("calcinosis",),
    "Calcification of the Aorta": ("calcinosis/aorta", "calcinosis/aorta, thoracic"),
    "Aortic Atheromatosis": ("atherosclerosis/aorta", "atherosclerosis/aorta, thoracic"),
    "Tortuous Aorta": ("aorta/tortuous", "aorta, thoracic/tortuous"),
    "Aortic Enlargement": ("aorta/enlarged", "aorta, thoracic/enlarged", "aortic aneurysm"),
    "Enlarged PA": ("pulmonary artery/enlarged",),
    "Hilar Enlargement": ("lung/hilum+enlarged",),
    "Hernia": ("hernia, hiatal",),
    "Hemidiaphragm Elevation": ("diaphragm/elevated",),
    "Flattened Diaphragm": ("diaphragm/flattened",),
    "Pneumomediastinum": ("mediastinal emphysema",),
    "Pneumoperitoneum": ("pneumoperitoneum",),
    "Subcutaneous Emphysema": ("subcutaneous emphysema",),
    "Fracture": ("fractures, bone",),
    "Rib Fracture": ("fractures, bone/ribs",),
    "Clavicle Fracture": ("fractures, bone/clavicle",),
    "Humeral Fracture": ("fractures, bone/humerus",),
    "Vertebral Fracture": tuple(f"fractures, bone/{place}" for place in _SPINE),
    "Scoliosis": ("scoliosis",),
    "Kyphosis": ("kyphosis",),
    "Vertebral Degenerative Changes": (
        *(f"{place}/degenerative" for place in _SPINE), "spondylosis",
        *(f"osteophyte/{place}" for place in _SPINE), "arthritis/spine",
        "hyperostosis, diffuse idiopathic skeletal",
    ),
    "Support Devices": (
        "catheters, indwelling", "tube, inserted", "implanted medical device", "medical device",
        "stents",
    ),
    "Artificial Heart Valve": (
        "implanted medical device/aortic valve", "implanted medical device/mitral valve",
    ),
}  # fmt: skip
"""The terms that name a finding."""

MAY_MEAN: Final[dict[str, tuple[str, ...]]] = {
    "opacity": ("Lung Opacity",), "density": ("Lung Opacity",),
    "consolidation": ("Consolidation", "Lung Opacity"),
    "nodule": ("Nodule",), "mass": ("Mass",), "cysts": ("Lung Cyst",),
    "thickening": ("Pleural_Thickening",), "pleura": ("Pleural_Thickening",),
    "hemothorax": ("Effusion",), "hemopneumothorax": ("Effusion", "Hydropneumothorax"),
    "markings/interstitial": ("ILD",), "sarcoidosis": ("ILD",),
    "cicatrix/lung": ("Fibrosis",), "fibrosis": ("Fibrosis",), "cystic fibrosis": ("Fibrosis",),
    "granulomatous disease": ("Granuloma", "Calcified Granuloma", "Calcification"),
    "calcified granuloma": ("Calcification",),
    "atherosclerosis": ("Calcification", "Calcification of the Aorta", "Aortic Atheromatosis"),
    "heart failure": ("Cardiomegaly", "Enlarged Cardiomediastinum", "Edema"),
    "pericardial effusion": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "heart atria": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "heart ventricles": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "cardiac shadow/prominent": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "pulmonary congestion": ("Edema",),
    "mediastinum/prominent": ("Mediastinal Enlargement", "Enlarged Cardiomediastinum"),
    "aorta/prominent": ("Aortic Enlargement",),
    "aorta, thoracic/prominent": ("Aortic Enlargement",),
    "pulmonary artery/prominent": ("Enlarged PA",), "hypertension, pulmonary": ("Enlarged PA",),
    "lung/hilum+prominent": ("Hilar Enlargement",), "lung/hyperdistention": ("Emphysema", "COPD"),
    "lung, hyperlucent": ("Emphysema", "COPD"), "blister": ("Emphysema",),
    "deformity/ribs": ("Fracture", "Rib Fracture"),
    "deformity/clavicle": ("Fracture", "Clavicle Fracture"),
    **{f"deformity/{place}": ("Fracture", "Vertebral Fracture") for place in _SPINE},
    "osteophyte": ("Vertebral Degenerative Changes",),
    "arthritis": ("Vertebral Degenerative Changes",),
    "implanted medical device/heart": ("Artificial Heart Valve",),
    "foreign bodies": ("Support Devices",), "hernia, diaphragmatic": ("Hernia",),
}  # fmt: skip
"""The terms that may mean these findings, which are unknown where the report does not name them."""

LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {
    "says nothing of a finding": (
        "normal", "no indexing", "technical quality of image unsatisfactory", "nipple shadow",
        "contrast media",
    ),
    "a trace or a material of treatment that is no device": (
        "surgical instruments", "sutures", "spinal fusion", "pneumonectomy", "mastectomy",
        "breast implants", "colonic interposition",
    ),
    "a variant or an abnormality of bones or soft tissue without a name in the vocabulary": (
        "bone diseases, metabolic", "bone and bones", "sclerosis", "shoulder", "humerus", "ribs",
        "dislocations", "osteoporosis", "expansile bone lesions", "funnel chest",
        "pectus carinatum", "epicardial fat", "adipose tissue", "abdomen", "thorax",
        "diaphragmatic eventration", "cholelithiasis",
    ),
    "a finding or diagnosis without a name in the vocabulary": (
        "markings", "lucency", "deformity", "cicatrix", "heart", "cardiac shadow", "lymph nodes",
        "trachea", "trachea, carina", "blood vessels", "bronchitis", "bronchiolitis",
        "hypovolemia", "tuberculosis",
    ),
}  # fmt: skip
"""The headings that are left out on purpose, by reason, but for their qualifiers above."""

_OPEN: Final = frozenset({"no indexing"})  # what such a report does not name is unknown
_SILENT: Final = frozenset({"technical quality of image unsatisfactory", ""})
FINDINGS: Final = Findings(TERMS)


class _Meaning(NamedTuple):
    """What a term says: places of findings, and whether its heading is known."""

    present: tuple[int, ...]
    open: tuple[int, ...]
    heading: str
    known: bool


def split_term(term: str) -> tuple[str, frozenset[str]]:
    """Give the heading and the qualifiers of a term, in lower case with single spaces."""
    heading, *qualifiers = (" ".join(word.split()).casefold() for word in term.split("/"))
    return heading, frozenset(qualifiers)


@lru_cache(maxsize=4096)
def _meaning(term: str) -> _Meaning:
    heading, qualifiers = split_term(term)
    present = tuple(
        FINDINGS.index(finding)
        for finding, patterns in TERMS.items()
        if any(_fits(pattern, heading, qualifiers) for pattern in patterns)
    )
    may = {
        FINDINGS.index(name)
        for pattern, names in MAY_MEAN.items()
        if _fits(pattern, heading, qualifiers)
        for name in names
    }
    return _Meaning(present, tuple(sorted(may)), heading, heading in headings())


def _fits(pattern: str, heading: str, qualifiers: frozenset[str]) -> bool:
    wanted, _, needed = pattern.partition("/")
    return wanted == heading and qualifiers.issuperset(filter(None, needed.split("+")))


@lru_cache(maxsize=1)
def headings() -> frozenset[str]:
    """Give all headings that are known."""
    patterns = [pattern for of in (*TERMS.values(), *LEFT_OUT.values()) for pattern in of]
    return frozenset(pattern.partition("/")[0] for pattern in (*patterns, *MAY_MEAN))


def labels_of(reports: Sequence[Sequence[str]], images: pd.Series) -> TableLabels:
    """Read the labels of images by the terms of their reports.

    Args:
        reports: the terms of each image's report.
        images: a name for each, for problems.
    """
    values = np.full((len(reports), len(FINDINGS)), np.nan)
    unknown = np.zeros(values.shape, dtype=bool)
    empty = np.zeros(len(reports), dtype=bool)
    strange: list[str] = []
    for row, terms in enumerate(reports):
        meanings = [_meaning(term) for term in terms]
        odd = sorted({each.heading for each in meanings if not each.known and each.heading})
        strange.append(", ".join(odd))
        said = {each.heading for each in meanings}
        empty[row] = said <= (_OPEN | _SILENT)
        unknown[row, [place for each in meanings for place in each.open]] = True
        unknown[row] |= bool(odd) or bool(said & _OPEN)
        values[row, [place for each in meanings for place in each.present]] = 1
    labels = TableLabels(
        findings=FINDINGS,
        values=values,
        unknown=unknown & np.isnan(values),
        empty=empty,
        blank="negative",
        reason="since the indexers named every abnormality of a report",
        rules={
            "": "unknown where a report was not indexed, or has a term that is broader or may mean "
            "the finding"
        },
        problems=_problems(pd.Series(strange, images.index, dtype="str"), empty, images),
    )
    return open_finer(labels)


def _problems(strange: pd.Series, empty: np.ndarray, images: pd.Series) -> list[Problem]:
    odd = strange != ""
    return [
        *problem(
            "no-label",
            images[empty],
            "the report was not indexed, or only its image quality was: all findings are unknown",
            loses=True,
        ),
        *problem(
            "unknown-label",
            images[odd] + " (" + strange[odd] + ")",
            "a heading is not one of Open-i: what the report does not name is unknown",
            loses=True,
        ),
    ]
