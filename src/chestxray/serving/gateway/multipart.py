"""The one part of a multipart answer (RFC 2046), as it arrives.

WADO-RS answers a request for one instance with one part (PS3.18 section 10.4). It may be as large
as an image, so it is never whole in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from typing import Final

from chestxray.serving.gateway.http_client import AnswerError

_MAX_CONTENT_TYPE: Final = 1000  # characters
_MAX_HEADER: Final = 2**14  # bytes before the part's content


def only_part(content_type: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Give the content of the only part.

    Args:
        content_type: header of the answer, which names the boundary.
        chunks: content of the answer.

    Raises:
        AnswerError: it is not multipart, has not exactly one part, or ends before it is complete.
    """
    delimiter = b"--" + _boundary(content_type)
    content = _after_header(delimiter, chunks)
    end = b"\r\n" + delimiter
    for chunk in chunks:
        at = content.find(end)
        if at >= 0 and len(content) >= at + len(end) + 2:
            break
        safe = at if at >= 0 else max(0, len(content) - len(end))
        if safe:
            yield bytes(content[:safe])
            del content[:safe]
        content += chunk
    at = content.find(end)
    if at < 0:
        raise AnswerError("the answer ends before its part is complete")
    yield bytes(content[:at])
    if not content.startswith(b"--", at + len(end)):
        raise AnswerError("the answer has more than one part, one instance has one")
    for _ in chunks:  # what follows has no meaning; once it is read, the connection is used again
        pass


def _boundary(content_type: str) -> bytes:
    if len(content_type) > _MAX_CONTENT_TYPE:
        raise AnswerError("the answer is not multipart")
    try:
        header = Message()
        header["Content-Type"] = content_type
        boundary = (header.get_boundary() or "").encode("ascii")
    except (ValueError, TypeError, LookupError) as error:  # of a damaged header
        raise AnswerError("the answer is not multipart") from error
    if not boundary:
        raise AnswerError("the answer is not multipart")
    return boundary


def _after_header(delimiter: bytes, chunks: Iterator[bytes]) -> bytearray:
    """Skip what precedes the part's content; give what was read of it."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        start = content.find(delimiter)
        end = content.find(b"\r\n\r\n", start + len(delimiter)) if start >= 0 else -1
        if 0 <= end <= _MAX_HEADER:
            del content[: end + 4]
            return content
        if len(content) > _MAX_HEADER:
            break
    raise AnswerError("the answer has no part")
