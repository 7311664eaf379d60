"""Serves a bundle to others: over HTTP with a viewer (here), and in the PACS (`gateway`).

    from chestxray.serving import Limits, serve

    serve("run/bundle", port=8000, limits=Limits(max_uploads=8))

`create_app` gives the same service as an ASGI application, for another server or a larger
application.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from chestxray.errors import MissingExtraError

if TYPE_CHECKING:
    from chestxray.serving.admission import Limits
    from chestxray.serving.server import serve
    from chestxray.serving.web import create_app

__all__ = ["Limits", "create_app", "serve"]

_HOMES: Final = {"Limits": "admission", "create_app": "web", "serve": "server"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the gateway does not need the extra `serve`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.split(".")[0] == "chestxray":
            raise
        raise MissingExtraError(missing, "serve") from error
    return getattr(module, name)
