"""The requests that read radiographs: `POST /v1/read` and `POST /v1/read/batch`.

A batch is one form with several files. Each file counts as an upload of its own in all limits, and
its answer is one line of JSON, a reading or a problem, in the order of the files. Only a few files
are in work before the client has taken the lines before them, so that answers do not pile up; what
is finished counts with the bytes of uploads until the client takes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from chestxray.serving.admission import AdmissionControl, Slot
from chestxray.serving.clients import limited_as, peer_of
from chestxray.serving.content_negotiation import (
    DICOM,
    DICOM_PARTS,
    FHIR,
    JSON,
    JSON_LINES,
    accepted,
    chosen,
)
from chestxray.serving.error_responses import problem_responses
from chestxray.serving.http_errors import ProblemDetails, ProblemError
from chestxray.serving.middleware import REQUEST_ID, internal_error
from chestxray.serving.read_options import ReadOptions, some_findings, some_objects
from chestxray.serving.responses import Heatmaps, ReadResult
from chestxray.serving.result_objects import KINDS
from chestxray.serving.uploads import FIELD, BodyLimits, Patience, receive_files, upload_of

_STATUSES: Final = (400, 401, 403, 406, 408, 413, 415, 422, 429, 503)
_FORMS: Final = (JSON, FHIR, DICOM, DICOM_PARTS)
_FILE: Final = {
    "type": "string",
    "format": "binary",
    "description": "A chest radiograph: PNG, JPEG or DICOM.",
}

_MOST_IN_WORK: Final = 8  # files of a batch; a line with pictures has about 10 MB

router: Final = APIRouter(tags=["Reading"])


class BatchLine(BaseModel):
    """One line of the answer to a batch: the reading of one file, or why there is none."""

    index: int = Field(ge=0, description="The file's place in the form, from 0.")
    status: int = Field(description="That a request with this file alone would have.")
    reading: ReadResult | None
    problem: ProblemDetails | None


class _JsonLines(JSONResponse):
    media_type = JSON_LINES


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: schema}}
    content = {"multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


_FindingNames = Annotated[
    list[str] | None,
    Query(description="Only these findings: names under any spelling, with commas; repeatable."),
]
_HeatmapForm = Annotated[
    Heatmaps,
    Query(description="none; json: numbers; png: over the radiograph; npz: a file for NumPy."),
]
_Display = Annotated[bool, Query(description="Include the decoded radiograph as PNG.")]
_Force = Annotated[
    bool, Query(description="Read it even if it is refused, where the operator allows that.")
]


async def _of_one(
    request: Request,
    findings: _FindingNames = None,
    heatmaps: _HeatmapForm = "none",
    display: _Display = False,
    force: _Force = False,
    objects: Annotated[
        str | None,
        Query(description=f"DICOM objects of the answer, with commas: {', '.join(KINDS)}."),
    ] = None,
) -> ReadOptions:
    form = chosen(accepted(request.headers), _FORMS)
    admission = _admission(request, force)
    return ReadOptions(
        form,
        some_findings(findings or (), admission.reader.findings),
        heatmaps,
        display,
        force,
        some_objects(objects, form),
    ).check()


async def _of_each(
    request: Request,
    findings: _FindingNames = None,
    heatmaps: _HeatmapForm = "none",
    display: _Display = False,
    force: _Force = False,
) -> ReadOptions:
    form = chosen(accepted(request.headers), (JSON_LINES,))
    admission = _admission(request, force)
    wanted = some_findings(findings or (), admission.reader.findings)
    return ReadOptions(form, wanted, heatmaps, display, force)


def _admission(request: Request, force: bool) -> AdmissionControl:
    admission: AdmissionControl = request.app.state.admission
    if force and not admission.allow_force:
        raise ProblemError(
            403,
            "force-not-allowed",
            "This service does not read what the gate refuses. Leave out `force=true`, or start "
            "the service with --allow-force.",
        )
    return admission


@router.post(
    "/v1/read",
    summary="Read one radiograph",
    response_model=ReadResult,
    responses={
        **problem_responses(*_STATUSES),
        200: {
            "description": "The reading, in the form that `Accept` asks for.",
            "content": {
                FHIR: {"schema": {"type": "object"}},
                DICOM: {"schema": {"type": "string", "format": "binary"}},
                "multipart/related": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        204: {"description": "None of the DICOM objects asked for exists: no evidence is called."},
    },
    openapi_extra=_body(_FILE),
)
async def _read(request: Request, options: Annotated[ReadOptions, Depends(_of_one)]) -> Response:
    admission: AdmissionControl = request.app.state.admission
    most = admission.limits.max_upload_bytes
    with admission.slot(limited_as(peer_of(request.scope) or "")) as slot:
        (data,) = await _receive(request, slot, BodyLimits(most, most))
        upload = upload_of(data)
        del data
        slot.take_places()
        made = await admission.read(slot, upload, options)
    if not made.content:
        return Response(status_code=204)
    return Response(made.content, media_type=made.kind)


@router.post(
    "/v1/read/batch",
    summary="Read several radiographs",
    response_model=BatchLine,
    response_class=_JsonLines,
    responses=problem_responses(*_STATUSES),
    openapi_extra=_body({"type": "array", "items": _FILE}),
)
async def _read_batch(
    request: Request, options: Annotated[ReadOptions, Depends(_of_each)]
) -> Response:
    admission: AdmissionControl = request.app.state.admission
    limits = admission.limits
    most = BodyLimits(
        limits.max_held_bytes_per_client,
        limits.max_upload_bytes,
        min(limits.max_uploads, limits.max_uploads_per_client),
    )
    with admission.slot(limited_as(peer_of(request.scope) or "")) as slot:
        files = await _receive(request, slot, most)
        slot.take_places(len(files))
        batch = _Batch(admission, slot, files, options, request.scope[REQUEST_ID])
        slot.handed_over = True
    return _BatchResponse(batch)


async def _receive(request: Request, slot: Slot, most: BodyLimits) -> list[bytes]:
    admission: AdmissionControl = request.app.state.admission
    patience = Patience(admission.limits.upload_timeout, admission.limits.min_upload_rate)
    return await receive_files(request, most, patience, slot.reserve)


class _Line(NamedTuple):
    """A line of the answer, and how many of its bytes count as memory until it is taken."""

    content: bytes
    counted: int


class _Batch:
    """Several files in work; `close` releases what they hold, whatever has happened."""

    def __init__(
        self,
        admission: AdmissionControl,
        slot: Slot,
        files: Sequence[bytes],
        options: ReadOptions,
        request: str,
    ) -> None:
        self._admission = admission
        self._request = request
        self._options = options
        self._slot = slot
        self._waiting = deque(enumerate((slot.split(len(data)), data) for data in files))
        self._in_work: deque[tuple[asyncio.Task[_Line], Slot]] = deque()
        self._most = min(2 * admission.limits.decoders, _MOST_IN_WORK)

    async def lines(self) -> AsyncIterator[bytes]:
        """Give a line for each file, in order."""
        while self._waiting or self._in_work:
            while self._waiting and len(self._in_work) < self._most:
                index, (slot, data) = self._waiting.popleft()
                task = asyncio.create_task(self._line(index, slot, data))
                self._in_work.append((task, slot))
                del data, task
            line = await self._in_work[0][0]
            yield line.content
            self._slot.give_back(line.counted)  # now it lies in the buffer of the connection
            self._in_work.popleft()

    def close(self) -> None:
        """Release all slots; work that has begun releases its own when it ends."""
        for task, slot in self._in_work:
            task.cancel()
            if not slot.handed_over:  # a task that has not begun
                slot.release()
        for _, (slot, _) in self._waiting:
            slot.release()
        self._waiting.clear()
        self._slot.release()

    async def _line(self, index: int, slot: Slot, data: bytes) -> _Line:
        content = await self._content(index, slot, data)
        try:
            self._slot.hold_answer(len(content))
        except ProblemError as error:
            return _Line(self._problem(index, error.problem), 0)
        return _Line(content, len(content))

    async def _content(self, index: int, slot: Slot, data: bytes) -> bytes:
        try:
            made = await self._admission.read(slot, upload_of(data), self._options)
        except ProblemError as error:
            return self._problem(index, error.problem)
        except Exception as error:  # noqa: BLE001 (as the middleware, in place of the reading)
            return self._problem(index, internal_error(error, self._request))
        else:
            return b'{"index":%d,"status":200,"reading":%b,"problem":null}\n' % (
                index,
                made.content,
            )
        finally:
            if not slot.handed_over:
                slot.release()

    def _problem(self, index: int, problem: ProblemDetails) -> bytes:
        self._admission.metrics.problems.labels(problem.code).inc()
        line = BatchLine(index=index, status=problem.status, reading=None, problem=problem)
        return line.model_dump_json().encode() + b"\n"


class _BatchResponse(StreamingResponse):
    """Sends the lines of a batch as they come."""

    def __init__(self, batch: _Batch) -> None:
        super().__init__(batch.lines(), media_type=JSON_LINES)
        self._batch = batch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them, and release what is left where the client has gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._batch.close()
