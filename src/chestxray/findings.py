"""The words: the 14 findings of NIH ChestX-ray14, their order, their other spellings.

The order is CheXNet's (arXiv 1711.05225), which most published prediction files use. Tables
are read by column name, and a bundle that lists its findings otherwise is refused.
"""

from __future__ import annotations

from typing import Final

FINDINGS: Final[tuple[str, ...]] = (
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

NO_FINDING: Final = "No Finding"

DESCRIPTIONS: Final[dict[str, str]] = {
    "Atelectasis": "A part of the lung has lost its air and shrunk.",
    "Cardiomegaly": "The heart is wider than half of the chest.",
    "Effusion": "Fluid between the lung and the chest wall.",
    "Infiltration": "A hazy density in the lung of unstated kind.",
    "Mass": "A rounded shadow in the lung wider than 3 cm.",
    "Nodule": "A rounded shadow in the lung of at most 3 cm.",
    "Pneumonia": "An infection that fills part of the lung.",
    "Pneumothorax": "Air between the lung and the chest wall.",
    "Consolidation": "Air spaces of the lung are filled and opaque.",
    "Edema": "Water in the lung, mostly from a failing heart.",
    "Emphysema": "Overinflated lungs whose tissue is destroyed.",
    "Fibrosis": "Scarring that draws lines through the lung.",
    "Pleural_Thickening": "The lining of the lung is thickened.",
    "Hernia": "Part of the stomach lies in the chest, behind the heart.",
}

_ALIASES: Final[dict[str, str]] = {
    "p.t.": "Pleural_Thickening",
    "pt": "Pleural_Thickening",
    "infiltrate": "Infiltration",  # the box table's word
    "pleural effusion": "Effusion",
    "oedema": "Edema",
    "no_finding": NO_FINDING,
    "nofinding": NO_FINDING,
}
_BY_KEY: Final[dict[str, str]] = {
    **{name.casefold().replace("_", " "): name for name in (*FINDINGS, NO_FINDING)},
    **{alias.replace("_", " "): name for alias, name in _ALIASES.items()},
}


def canonical(token: str) -> str | None:
    """Give the finding (or `NO_FINDING`) that a label token names, None where it names none.

    The whole token is matched, never a part of it, without regard to case, outer white space,
    and underscore against space: `Pleural Thickening`, `P.T.` and `Infiltrate` are understood.
    """
    return _BY_KEY.get(" ".join(token.casefold().replace("_", " ").split()))


def probability_column(finding: str) -> str:
    """Name the column of a finding in `predictions.csv`, such as `prob_Effusion`."""
    return f"prob_{finding}"
