"""What goes wrong over HTTP: a status, a code for programs, a sentence for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, Field

from chestxray.errors import Notice


class NoticeModel(BaseModel):
    """One thing to know about a radiograph."""

    code: str = Field(description="Stable name for programs, such as `view-lateral`.")
    sentence: str = Field(description="The same for people, with the figures in it.")
    values: dict[str, float | str] = Field(description="The figures behind it.")
    refuses: bool = Field(description="Whether the radiograph is not to be read because of it.")


class Problem(BaseModel):
    """Why there is no reading."""

    code: str = Field(description="Stable name for programs.")
    sentence: str = Field(description="What is wrong and what to do.")
    notices: list[NoticeModel] = Field(
        default=[], description="Of a refused radiograph: each reason, and warnings."
    )
    display: str | None = Field(
        default=None, description="Of a refused radiograph, with `display=true`: its picture."
    )


class ProblemError(Exception):
    """Ends a request with a `Problem`.

    Attributes:
        status: of HTTP.
        problem: the body.
        headers: to send with it: when to come back.
    """

    def __init__(
        self,
        status: int,
        code: str,
        sentence: str,
        notices: Sequence[Notice] = (),
        retry_seconds: int | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.problem = Problem(code=code, sentence=sentence, notices=[*map(shown, notices)])
        self.headers = None if retry_seconds is None else {"Retry-After": str(retry_seconds)}


def shown(notice: Notice) -> NoticeModel:
    """Give a notice as it is sent."""
    return NoticeModel(
        code=notice.code,
        sentence=notice.sentence,
        values=notice.values,
        refuses=notice.refuses,
    )


_MEANINGS: Final = {
    400: "The body is no whole multipart form.",
    401: "The bearer token is missing or wrong.",
    403: "Without a token, only programs and pages of this machine are served.",
    404: "There is no such thing.",
    408: "The upload took too long.",
    413: "The upload is too large.",
    415: "No multipart form, or neither PNG, JPEG nor DICOM.",
    422: "The image cannot be read (`unreadable`) or must not be judged (`refused`), or the "
    "request lacks something.",
    429: "Too many or too large uploads are in the house; come back after `Retry-After` seconds.",
    500: "The service failed; its log says where.",
    503: "Starting, stopping, out of time, or failed; come back after `Retry-After` seconds.",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe answers with these statuses for OpenAPI."""
    return {status: {"model": Problem, "description": _MEANINGS[status]} for status in statuses}
