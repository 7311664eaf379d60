"""The fingerprint of the drawing: a hash of what it draws, by which a change is noticed.

What was learned from phantoms belongs to the drawing that made them. A version number would have to
be raised by hand, and a hash of the source code would change with each comment.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Final

from chestxray.sources.nih.tables import FINDINGS
from chestxray.sources.phantom.population import population
from chestxray.sources.phantom.render import render

_EXAMS: Final = 256
_PIXELS: Final = 64


@cache
def drawing_sha256(balanced: bool = False) -> str:
    """Give the SHA-256, in hexadecimal, of some examinations and of a phantom of each finding.

    It takes about 0.3 s. A change that shows only in phantoms without a finding, with several, or
    at a larger size may be missed. Processors whose arithmetic differs may give different ones.

    Args:
        balanced: as `synth` takes it.
    """
    exams = list(population(_EXAMS, balanced=balanced))
    found = hashlib.sha256()
    for exam in exams:  # a set has no order
        found.update(repr((sorted(exam.findings), replace(exam, findings=frozenset()))).encode())
    for exam, finding in zip(islice(exams, len(FINDINGS)), FINDINGS, strict=True):
        phantom = render(replace(exam, findings=frozenset({finding})), _PIXELS)
        found.update(phantom.image.tobytes())
        for mask in phantom.masks.values():
            found.update(mask.tobytes())
    return found.hexdigest()
