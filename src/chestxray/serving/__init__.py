"""Serves a bundle to others: over HTTP with a viewer (here), and in the PACS (`gateway`).

    from chestxray.serving import Limits, serve

    serve("run/bundle", port=8000, limits=Limits(max_uploads=8))

`create_app` gives the same service as an ASGI application, for another server or a larger
application. Names are loaded when they are first used: the gateway needs no web framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.serving.admission import Limits
    from chestxray.serving.server import serve
    from chestxray.serving.web import create_app

__all__ = [
    "Limits",
    "create_app",
    "serve",
]

__getattr__ = exports(
    __name__,
    {
        "admission": ("Limits",),
        "server": ("serve",),
        "web": ("create_app",),
    },
)
