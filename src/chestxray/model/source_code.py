"""The code that decides what a network computes, as the SHA-256 of its files.

`chestxray.model` imports this module before its others. So the SHA-256 is of the code that runs:
the files may be exchanged later, by an upgrade while a network is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final


def sha256_of(modules: Iterable[Path]) -> str | None:
    """Give the SHA-256 of modules; None where one has no file, as in a program that is frozen."""
    digest = hashlib.sha256()
    try:
        for module in modules:
            digest.update(hashlib.sha256(module.with_suffix(".py").read_bytes()).digest())
    except OSError:
        return None
    return digest.hexdigest()


_OWN: Final = Path(__file__).with_suffix(".py")  # it may be that of a compiled file
MODEL_SHA256: Final = sha256_of(sorted({_OWN, *_OWN.parent.glob("*.py")}))
"""Of the modules of `chestxray.model`."""
