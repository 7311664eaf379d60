"""Errors over HTTP as problem details (RFC 9457): `application/problem+json`.

Each has a status, a code for programs and a sentence for people. `ProblemError` ends a request with
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from chestxray.errors import Notice

_PROBLEM_JSON: Final = "application/problem+json"


class NoticeModel(BaseModel):
    """A warning about a radiograph, or a reason to refuse it."""

    code: str = Field(description="Stable name for programs, such as `view-lateral`.")
    sentence: str = Field(description="The notice for people, with its figures.")
    values: dict[str, float | str] = Field(description="The figures behind the notice.")
    refuses: bool = Field(description="Whether the radiograph is refused because of it.")

    @classmethod
    def of(cls, notice: Notice) -> NoticeModel:
        """Give a notice as it is sent."""
        return cls(
            code=notice.code,
            sentence=notice.sentence,
            values=notice.values,
            refuses=notice.refuses,
        )


class ProblemDetails(BaseModel):
    """Why a request failed (RFC 9457)."""

    type: str = Field(default="about:blank", description="`title` is that of the status.")
    title: str = Field(description="The HTTP status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong and what to do.")
    code: str = Field(description="Stable name for programs.")
    notices: list[NoticeModel] = Field(
        default=[], description="Of a refused radiograph: each reason, and warnings."
    )
    display: str | None = Field(
        default=None,
        description="Of a refused radiograph, with `display=true`: the radiograph as PNG in "
        "base64.",
    )
    force_allowed: bool = Field(
        default=False,
        description="Of a refused radiograph: whether `force=true` has it read all the same.",
    )


class ProblemError(Exception):
    """Ends a request with problem details.

    Attributes:
        problem: the body.
        headers: to send with it: when to retry.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        notices: Sequence[Notice] = (),
        retry_seconds: int | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.problem = problem_details(status, code, detail, notices)
        self.headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}


def problem_details(
    status: int, code: str, detail: str, notices: Sequence[Notice] = ()
) -> ProblemDetails:
    """Make problem details."""
    return ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        notices=[NoticeModel.of(notice) for notice in notices],
    )


def problem_response(
    problem: ProblemDetails, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Make the response that carries problem details."""
    return JSONResponse(problem.model_dump(), problem.status, headers, _PROBLEM_JSON)


_MEANINGS: Final = {
    400: "The body is not a complete multipart form.",
    401: "The bearer token is missing or wrong.",
    403: "Without a token, only programs and pages on the same machine are served, and not through "
    "a proxy (`not-local`); or `force=true` is not allowed (`force-not-allowed`).",
    404: "The resource does not exist.",
    406: "None of the forms of the answer is accepted.",
    408: "The upload took too long, or came too slowly.",
    413: "The upload is too large (`too-large`), or the answer would be (`answer-too-large`).",
    415: "The body is not a multipart form, or the file is neither PNG, JPEG nor DICOM.",
    422: "The image cannot be read (`unreadable`), the model must not judge it (`refused`), or a "
    "parameter is invalid.",
    429: "Too many uploads are in progress, in total or of this client. Retry after `Retry-After` "
    "seconds.",
    500: "The service failed. Its log has the traceback.",
    503: "The service is starting or stopping, timed out, or failed, or a decoder ended. Retry "
    "after `Retry-After` seconds.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe responses with these statuses for OpenAPI."""
    return {
        status: {"model": ProblemDetails, "description": _MEANINGS[status]} for status in statuses
    }


def with_problem_type(schema: dict[str, Any]) -> dict[str, Any]:
    """Give problem details their media type in an OpenAPI schema, not that of the answer."""
    reference = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    for methods in schema["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                described = response.get("content", {}).values()
                if any(content.get("schema") == reference for content in described):
                    response["content"] = {_PROBLEM_JSON: {"schema": reference}}
    return schema
