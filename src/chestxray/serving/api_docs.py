"""The interface, described: `GET /openapi.json` for programs, `GET /docs` for people (Swagger UI).

Script and style of Swagger UI come from a Python package, so a browser asks no other host. Its
content security policy allows images in style sheets (`data:`) besides what all pages may do.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from chestxray.serving.error_responses import with_error_types
from chestxray.serving.middleware import CONTENT_POLICY
from chestxray.serving.page_files import PageFile, page_files

_PAGE: Final = Path(__file__).with_name("api_docs_page")
_ASSETS: Final = ("swagger-ui-bundle.js", "swagger-ui.css")
_POLICY: Final = CONTENT_POLICY.replace("img-src 'self'", "img-src 'self' data:")


def add_api_docs(app: FastAPI, *, token: bool) -> None:
    """Add the page and the description.

    Args:
        app: the application with all its routes.
        token: whether clients must send one.
    """
    _describe(app, token=token)
    assets = resources.files("fastapi_swagger.resources")
    files = page_files(_PAGE) | {name: PageFile.read(assets / name) for name in _ASSETS}

    @app.get("/docs", include_in_schema=False)
    async def page(request: Request) -> Response:
        return files["index.html"].answer(request, _POLICY)

    @app.get("/docs/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request, _POLICY)


def _describe(app: FastAPI, *, token: bool) -> None:
    @cache
    def openapi() -> dict[str, Any]:
        schema = with_error_types(
            get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
        )
        if token:
            bearer = {"type": "http", "scheme": "bearer"}
            schema["components"]["securitySchemes"] = {"token": bearer}
            schema["security"] = [{"token": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way
