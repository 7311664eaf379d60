"""The web application: one image in, one reading out over HTTP, and the viewer in a browser.

| request | answer |
|---|---|
| `POST /v1/read` | a reading of the image in the multipart field `file` |
| `POST /v1/read/batch` | likewise of several, a line each |
| `GET /v1/model` | the model card |
| `GET /v1/examples`, `/v1/examples/{name}.png` | example radiographs: phantoms, drawn on demand |
| `GET /healthz`, `/readyz` | whether the process works, whether it accepts images |
| `GET /metrics` | metrics for Prometheus |
| `GET /openapi.json`, `/docs` | the interface, for programs and for people |
| `GET /` | the viewer |

Nothing of an upload is kept, and nothing is written to disk.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import cv2
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from chestxray.findings import label
from chestxray.reading.reader import Reader
from chestxray.serving import reading_routes
from chestxray.serving.admission import AdmissionControl, Limits
from chestxray.serving.api_docs import add_api_docs
from chestxray.serving.clients import Proxies
from chestxray.serving.content_negotiation import accepted
from chestxray.serving.error_responses import error_response, problem_responses
from chestxray.serving.http_errors import ProblemDetails, ProblemError, problem_details
from chestxray.serving.middleware import HttpMiddleware
from chestxray.serving.page_files import page_files
from chestxray.serving.responses import (
    RESEARCH_NOTICE,
    ModelCardResult,
    model_card_result,
)
from chestxray.sources.phantom.population import exams, patient
from chestxray.sources.phantom.render import render
from chestxray.version import __version__

_STATIC: Final = Path(__file__).with_name("static")
_EXAMPLE_PIXELS: Final = 640
_EXAMPLE_SEED: Final = 5


class _Example(NamedTuple):
    """A phantom: its patient, and the findings that are drawn into it."""

    patient: int
    findings: tuple[str, ...]


EXAMPLES: Final = {
    "clear": _Example(3, ()),
    "effusion": _Example(4, ("Effusion",)),
    "cardiomegaly": _Example(6, ("Cardiomegaly", "Edema")),
    "pneumothorax": _Example(8, ("Pneumothorax",)),
    "mass": _Example(9, ("Mass", "Nodule")),
    "consolidation": _Example(11, ("Consolidation", "Pneumonia")),
}


class Health(BaseModel):
    """The state of the service."""

    state: Literal["alive", "starting", "ready", "stopping", "failed"]


class ExampleCard(BaseModel):
    """An example radiograph: a phantom."""

    name: str
    title: str = Field(description="Its findings for people.")
    findings: list[str]


def create_app(
    reader: Reader,
    limits: Limits | None = None,
    token: str | None = None,
    *,
    allow_remote: bool = False,
    proxies: Sequence[str] = (),
    allow_force: bool = False,
) -> FastAPI:
    """Make the ASGI application; `app.state.admission` accepts requests once it has started.

    Args:
        reader: reads the images.
        limits: bounds of memory and waiting; the defaults when None.
        token: bearer token that clients must send, None for none.
        allow_remote: whether clients without a token may come from other machines.
        proxies: addresses or networks of reverse proxies, whose `X-Forwarded-For` is believed.
        allow_force: whether clients may have read what the gate refuses, with `force=true`.

    Raises:
        ConfigError: a proxy's address is invalid.
    """
    trusted = Proxies(proxies)
    admission = AdmissionControl(reader, limits or Limits(), allow_force=allow_force)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=admission.start, name="start", daemon=True).start()
        yield
        admission.close()

    app = FastAPI(
        title="chestxray",
        version=__version__,
        summary="Chest radiographs in, calibrated and explained findings out.",
        description=f"{RESEARCH_NOTICE} Nothing of an upload is kept.",
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        responses=problem_responses(500),
        lifespan=lifespan,
    )
    app.state.admission = admission
    app.include_router(reading_routes.router)
    _add_model(app, admission)
    _add_monitoring(app, admission)
    _add_problem_handlers(app, admission)
    _add_viewer(app)
    add_api_docs(app, token=token is not None)
    app.add_middleware(
        HttpMiddleware,
        token=token,
        allow_remote=allow_remote,
        proxies=trusted,
        metrics=admission.metrics,
    )
    return app


@cache
def example_png(name: str) -> bytes:
    """Draw an example radiograph; raises KeyError for an unknown name."""
    example = EXAMPLES[name]
    exam = exams(patient(_EXAMPLE_SEED, example.patient))[0]
    exam = replace(exam, findings=frozenset(example.findings))
    _, data = cv2.imencode(".png", render(exam, _EXAMPLE_PIXELS).image)
    return bytes(data)


def _add_model(app: FastAPI, admission: AdmissionControl) -> None:
    card = model_card_result(admission.reader)

    @app.get(
        "/v1/model", tags=["Model"], summary="The model card", responses=problem_responses(401, 403)
    )
    def model() -> ModelCardResult:
        return card

    @app.get(
        "/v1/examples",
        tags=["Model"],
        summary="Example radiographs",
        responses=problem_responses(401, 403),
    )
    def examples() -> list[ExampleCard]:
        return [_example_card(name) for name in EXAMPLES]

    @app.get(
        "/v1/examples/{name}.png",
        tags=["Model"],
        summary="An example radiograph",
        response_class=Response,
        responses=problem_responses(401, 403, 404) | {200: {"content": {"image/png": {}}}},
    )
    def example(name: str) -> Response:
        if name not in EXAMPLES:
            raise ProblemError(404, "not-found", "There is no example of this name.")
        return Response(example_png(name), media_type="image/png")


def _example_card(name: str) -> ExampleCard:
    findings = EXAMPLES[name].findings
    title = ", ".join(map(label, findings)) or "No finding"
    return ExampleCard(name=name, title=title, findings=[*findings])


def _add_monitoring(app: FastAPI, admission: AdmissionControl) -> None:
    @app.get(
        "/healthz",
        tags=["Monitoring"],
        summary="Whether the process works",
        responses={503: {"model": Health}},
    )
    def health(response: Response) -> Health:
        response.status_code = 200 if admission.alive else 503
        return Health(state="alive" if admission.alive else "failed")

    @app.get(
        "/readyz",
        tags=["Monitoring"],
        summary="Whether images are accepted",
        responses={503: {"model": Health}},
    )
    def ready(response: Response) -> Health:
        response.status_code = 200 if admission.state == "ready" else 503
        return Health(state=admission.state)

    @app.get(
        "/metrics",
        tags=["Monitoring"],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses=problem_responses(401, 403) | {200: {"content": {"text/plain": {}}}},
    )
    def metrics() -> Response:
        return Response(admission.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _add_viewer(app: FastAPI) -> None:
    files = page_files(_STATIC)

    @app.get("/", include_in_schema=False)
    async def viewer(request: Request) -> Response:
        return files["index.html"].answer(request)

    @app.get("/static/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request)


def _add_problem_handlers(app: FastAPI, admission: AdmissionControl) -> None:
    def response(
        request: Request, problem: ProblemDetails, headers: Mapping[str, str] | None = None
    ) -> Response:
        admission.metrics.problems.labels(problem.code).inc()
        return error_response(problem, accepted(request.headers), headers)

    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> Response:
        return response(request, error.problem, error.headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        status = error.status_code
        problem = problem_details(status, f"http-{status}", error.detail)
        return response(request, problem, error.headers)

    @app.exception_handler(RequestValidationError)
    async def parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = problem_details(422, "invalid-parameter", f"{where}: {first['msg']}")
        return response(request, problem)
