"""The classifier, its class maps, and the bundle that it is saved as.

Names are imported when they are first used: a model card and an export are read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chestxray.model.bundle import Bundle
    from chestxray.model.engines import Answer, Engine
    from chestxray.model.model_card import ModelCard, TrainedOn
    from chestxray.model.network import Classifier

__all__ = ["Answer", "Bundle", "Classifier", "Engine", "ModelCard", "TrainedOn"]

_MODULES: Final = {
    "Answer": "engines",
    "Bundle": "bundle",
    "Classifier": "network",
    "Engine": "engines",
    "ModelCard": "model_card",
    "TrainedOn": "model_card",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
