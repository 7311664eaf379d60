"""Errors over HTTP as problem details (RFC 9457).

Each has a status, a code for programs and a sentence for people. `ProblemError` ends a request with
one; `error_responses` sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from pydantic import BaseModel, Field

from chestxray.errors import Notice


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
