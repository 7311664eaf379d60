"""The classifier, its class maps, and the bundle that it is saved as.

Names are loaded when they are first used: a model card and an export are read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import chestxray.model.source_code  # noqa: F401 - before the code is loaded
from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.model.bundle import Bundle
    from chestxray.model.engines import Answer, Engine
    from chestxray.model.ensemble import Ensemble
    from chestxray.model.importing import import_checkpoint
    from chestxray.model.model_card import ModelCard, TrainedOn
    from chestxray.model.network import Classifier
    from chestxray.model.publishing import push
    from chestxray.model.recalibration import calibrate
    from chestxray.model.signature import check_signature, create_key, sign

__all__ = [
    "Answer",
    "Bundle",
    "Classifier",
    "Engine",
    "Ensemble",
    "ModelCard",
    "TrainedOn",
    "calibrate",
    "check_signature",
    "create_key",
    "import_checkpoint",
    "push",
    "sign",
]

__getattr__ = exports(
    __name__,
    {
        "bundle": ("Bundle",),
        "engines": (
            "Answer",
            "Engine",
        ),
        "ensemble": ("Ensemble",),
        "importing": ("import_checkpoint",),
        "model_card": (
            "ModelCard",
            "TrainedOn",
        ),
        "network": ("Classifier",),
        "publishing": ("push",),
        "recalibration": ("calibrate",),
        "signature": ("check_signature", "create_key", "sign"),
    },
)
