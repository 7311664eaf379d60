"""Example radiographs for the viewer: phantoms, drawn in memory when first asked for.

The web application: one image in, one reading out over HTTP, and the viewer in a browser.

| request | answer |
|---|---|
| `POST /v1/read` | a reading of the image in the multipart field `file` |
| `GET /v1/model` | what reads, and what it learnt from |
| `GET /v1/examples`, `/v1/examples/{name}.png` | phantoms to try it with |
| `GET /healthz`, `/readyz` | whether the process works, whether it takes requests |
| `GET /metrics` | figures for Prometheus |
| `GET /` | the viewer |

Nothing of an upload is kept, and nothing is written to disk.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import cv2
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from chestxray.reading.reader import Reader
from chestxray.serving import responses as answers
from chestxray.serving.admission import Desk
from chestxray.serving.http_errors import Problem, ProblemError, responses
from chestxray.serving.middleware import CONTENT_TYPE, Guard
from chestxray.serving.responses import Heatmaps, ModelCard, ReadResult
from chestxray.serving.settings import Limits
from chestxray.serving.uploads import FIELD, upload
from chestxray.sources.phantom.population import exams, patient
from chestxray.sources.phantom.render import render
from chestxray.version import __version__

PIXELS: Final = 640
_SEED: Final = 5


class Example(NamedTuple):
    """A phantom: who it is of, and which findings are drawn into it."""

    patient: int
    findings: tuple[str, ...]


EXAMPLES: Final = {
    "clear": Example(3, ()),
    "effusion": Example(4, ("Effusion",)),
    "cardiomegaly": Example(6, ("Cardiomegaly", "Edema")),
    "pneumothorax": Example(8, ("Pneumothorax",)),
    "mass": Example(9, ("Mass", "Nodule")),
    "consolidation": Example(11, ("Consolidation", "Pneumonia")),
}


@cache
def png(name: str) -> bytes:
    """Draw an example as a PNG; raises KeyError for an unknown name."""
    example = EXAMPLES[name]
    exam = replace(exams(patient(_SEED, example.patient))[0], findings=frozenset(example.findings))
    _, data = cv2.imencode(".png", render(exam, PIXELS).image)
    return bytes(data)


STATIC: Final = Path(__file__).with_name("static")
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "string",
                            "format": "binary",
                            "description": "A chest radiograph: PNG, JPEG or DICOM.",
                        }
                    },
                }
            }
        },
    }
}


class Health(BaseModel):
    """Whether the service works."""

    state: Literal["alive", "dead", "starting", "ready", "stopping", "failed"]


class ExampleCard(BaseModel):
    """A phantom to try the viewer with."""

    name: str
    findings: list[str]


def create(
    reader: Reader, limits: Limits | None = None, token: str | None = None, anyone: bool = False
) -> FastAPI:
    """Make the application; `app.state.desk` lets requests in once it has started.

    Args:
        reader: what reads.
        limits: bounds; the defaults when None.
        token: that clients must show, None for none.
        anyone: whether those without a token may come from elsewhere than this machine.
    """
    desk = Desk(reader, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=desk.start, name="start", daemon=True).start()
        yield
        desk.close()

    app = FastAPI(
        title="chestxray",
        version=__version__,
        summary="Chest radiographs in, calibrated and explained findings out.",
        description=f"{answers.RESEARCH} Nothing of an upload is kept.",
        docs_url=None,  # the pages load scripts from other hosts
        redoc_url=None,
        responses=responses(500),
        lifespan=lifespan,
    )
    app.state.desk = desk
    _read_routes(app, desk)
    _model_routes(app, desk)
    _watch_routes(app, desk)
    _problem_handlers(app, desk)
    _viewer_routes(app)
    app.add_middleware(Guard, token=token, anyone=anyone, metrics=desk.metrics)
    return app


def _read_routes(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/read",
        summary="Read one radiograph",
        responses=responses(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra=_BODY,
    )
    async def read(
        request: Request,
        heatmaps: Annotated[
            Heatmaps, Query(description="none, maps (numbers) or inline (PNG pictures too).")
        ] = "none",
        display: Annotated[bool, Query(description="The decoded radiograph as PNG too.")] = False,
    ) -> ReadResult:
        with desk.place() as place:
            data, kind = await upload(request, desk.limits, place.hold)
            desk.metrics.upload_bytes.inc(len(data))
            return await desk.read(place, (data, kind), heatmaps, display)


def _model_routes(app: FastAPI, desk: Desk) -> None:
    card = answers.card(desk.reader)

    @app.get("/v1/model", summary="What reads", responses=responses(401, 403))
    def model() -> ModelCard:
        return card

    @app.get("/v1/examples", summary="Phantoms to try it with", responses=responses(401, 403))
    def list_examples() -> list[ExampleCard]:
        return [
            ExampleCard(name=name, findings=[*example.findings])
            for name, example in EXAMPLES.items()
        ]

    @app.get(
        "/v1/examples/{name}.png",
        summary="A phantom",
        response_class=Response,
        responses=responses(401, 403, 404) | {200: {"content": {"image/png": {}}}},
    )
    def example(name: str) -> Response:
        if name not in EXAMPLES:
            raise ProblemError(404, "not-found", "There is no such example.")
        return Response(png(name), media_type="image/png")


def _watch_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/healthz", summary="Whether the process works", responses={503: {"model": Health}})
    def health(response: Response) -> Health:
        response.status_code = 200 if desk.alive else 503
        return Health(state="alive" if desk.alive else "dead")

    @app.get("/readyz", summary="Whether images are read", responses={503: {"model": Health}})
    def ready(response: Response) -> Health:
        response.status_code = 200 if desk.state == "ready" else 503
        return Health(state=desk.state)

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses=responses(401, 403) | {200: {"content": {"text/plain": {}}}},
    )
    def metrics() -> Response:
        return Response(desk.metrics.page(), media_type=CONTENT_TYPE)


def _viewer_routes(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def viewer() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    # Not at "/", where it would answer a wrong method on another route with 404.
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _problem_handlers(app: FastAPI, desk: Desk) -> None:
    def told(status: int, problem: Problem, headers: Any = None) -> JSONResponse:  # noqa: ANN401
        desk.metrics.problems.labels(problem.code).inc()
        return JSONResponse(problem.model_dump(), status, headers)

    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> JSONResponse:
        return told(error.status, error.problem, error.headers)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        found = Problem(code=f"http-{error.status_code}", sentence=str(error.detail))
        return told(error.status_code, found, error.headers)

    @app.exception_handler(RequestValidationError)
    async def parameter(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return told(422, Problem(code="parameter", sentence=f"{where}: {first['msg']}"))
