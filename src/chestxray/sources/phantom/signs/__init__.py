"""The signs of the findings: what each adds to or takes from the lungs, and where exactly.

Signs that change the chest's shape (the wide heart, the flat or raised diaphragm) are in the
measures of `measures`; the rest is drawn here. A sign's place belongs to the patient, so it stays
over follow-ups; how strong it is belongs to the examination.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from chestxray.sources.nih.labels import FINDINGS
from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.signs import airspace, pleura
from chestxray.sources.phantom.signs import mediastinum as middle
from chestxray.sources.phantom.signs import parenchyma as tissue
from chestxray.sources.phantom.signs.sign import Sign

__all__ = ["Sign", "sign"]

_Draw = Callable[[Anatomy, np.random.Generator], Sign]

_DRAWN: Final[tuple[_Draw, ...]] = (  # in the findings' order
    tissue.atelectasis, middle.cardiomegaly, pleura.effusion, airspace.infiltration, tissue.mass,
    tissue.nodule, airspace.pneumonia, pleura.pneumothorax, airspace.consolidation, airspace.edema,
    tissue.emphysema, tissue.fibrosis, pleura.pleural_thickening, middle.hernia,
)  # fmt: skip
_SIGNS: Final = dict(zip(FINDINGS, _DRAWN, strict=True))


def sign(scene: Anatomy, finding: str) -> Sign:
    """Draw one finding."""
    return _SIGNS[finding](scene, scene.exam.patient.stream(finding))
