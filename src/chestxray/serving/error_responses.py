"""Errors as they are sent: problem details, or an OperationOutcome to a client that asks for FHIR.

A client that accepts both gets the problem details, unless it prefers FHIR. One that accepts
neither gets them all the same: an error is better sent in another form than not at all (RFC 9110,
section 12.5.1).

References: RFC 9457; https://hl7.org/fhir/R4/operationoutcome.html, valueset-issue-type.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import JSONResponse

from chestxray.serving.content_negotiation import FHIR, JSON, chosen
from chestxray.serving.http_errors import ProblemDetails, ProblemError

_PROBLEM_JSON: Final = "application/problem+json"
_ISSUE_TYPES: Final = {
    400: "structure",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    408: "timeout",
    413: "too-costly",
    415: "not-supported",
    422: "processing",
    429: "throttled",
    500: "exception",
    503: "transient",
}
_REFUSED: Final = "business-rule"

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


def error_response(
    problem: ProblemDetails, accept: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Make the response that carries an error, in the form that the client asks for.

    Args:
        problem: the error.
        accept: the header `Accept` of the request.
        headers: to send with it.
    """
    try:
        is_fhir = chosen(accept, (_PROBLEM_JSON, JSON, FHIR)) == FHIR
    except ProblemError:
        is_fhir = False
    if is_fhir:
        return JSONResponse(_operation_outcome(problem), problem.status, headers, FHIR)
    return JSONResponse(problem.model_dump(), problem.status, headers, _PROBLEM_JSON)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe responses with these statuses for OpenAPI."""
    return {
        status: {"model": ProblemDetails, "description": _MEANINGS[status]} for status in statuses
    }


def with_error_types(schema: dict[str, Any]) -> dict[str, Any]:
    """Give errors their media types in an OpenAPI schema, not that of the answer."""
    reference = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    outcome = {"type": "object", "description": "A FHIR R4 OperationOutcome."}
    for methods in schema["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                described = response.get("content", {}).values()
                if any(content.get("schema") == reference for content in described):
                    response["content"] = {
                        _PROBLEM_JSON: {"schema": reference},
                        FHIR: {"schema": outcome},
                    }
    return schema


def _operation_outcome(problem: ProblemDetails) -> dict[str, Any]:
    """Give an issue for the error and one for each notice of a refused radiograph."""
    kind = _REFUSED if problem.notices else _ISSUE_TYPES.get(problem.status, "processing")
    notices = [
        _issue("error" if each.refuses else "warning", _REFUSED, each.code, each.sentence)
        for each in problem.notices
    ]
    issues = [_issue("error", kind, problem.code, problem.detail), *notices]
    return {"resourceType": "OperationOutcome", "issue": issues}


def _issue(severity: str, kind: str, code: str, text: str) -> dict[str, Any]:
    return {
        "severity": severity,
        "code": kind,
        "details": {"coding": [{"code": code}], "text": text},
    }
