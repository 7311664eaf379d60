"""An HTTP client for services that are not trusted: every answer is bounded in bytes and in time.

httpx limits the time of each read, so a byte now and then, or interim responses without end, keep a
request open for ever. Here a thread closes the connection when the time of the whole request is
up, or when the process is told to stop. Compressed answers are not asked for and are refused, since
a kilobyte may stand for a mebibyte. Redirects are not followed.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import httpx

from chestxray.errors import ChestXrayError

_TIMEOUT: Final = 30.0
_SECONDS: Final = 60.0
_BYTES_PER_SECOND: Final = 2**18  # 2 Mbit/s, the slowest line to a PACS
_WATCH_SECONDS: Final = 0.1
_CONNECTED: Final = (".connect_tcp.complete", ".start_tls.complete")


class AnswerError(ChestXrayError):
    """A service gave no valid answer within the limits; the message does not quote the answer."""


class UnreachableError(AnswerError):
    """No connection to a service came about, or it says nothing."""


class Answer(NamedTuple):
    """An answer whose content is still to come.

    Attributes:
        status: HTTP status.
        content_type: value of the header, empty where it is missing.
        chunks: the content as it arrives; it raises `AnswerError`.
    """

    status: int
    content_type: str
    chunks: Iterator[bytes]

    def content(self) -> bytes:
        """Read the whole content.

        Raises:
            AnswerError: it exceeds its limits, or the connection was lost.
        """
        return b"".join(self.chunks)


class HTTPClient:
    """A client with one connection; one thread uses it.

    Args:
        headers: of each request, such as a token.
        stop: when it is set, requests in progress fail at once.
    """

    def __init__(self, headers: Mapping[str, str], stop: threading.Event) -> None:
        sent = httpx.Headers(dict(headers))
        sent["Accept-Encoding"] = "identity"
        self._client = httpx.Client(
            headers=sent, timeout=_TIMEOUT, limits=httpx.Limits(max_connections=1)
        )
        self._stop = stop
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        max_bytes: int,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        seconds: float | None = None,
    ) -> Iterator[Answer]:
        """Send a request and give the answer.

        Args:
            method: HTTP method.
            url: of the resource.
            max_bytes: maximum size of the answer's content.
            params: query.
            headers: further headers.
            content: body of the request.
            seconds: maximum time of request and answer, apart from their bytes; 60 by default.

        Raises:
            UnreachableError: no connection came about, or nothing was said for 30 s.
            AnswerError: the answer is compressed, too large or too slow, or is no HTTP.
        """
        most = _SECONDS if seconds is None else seconds
        budget = _Budget(most + len(content) / _BYTES_PER_SECOND)
        with self._watched(budget), _translated(budget):
            request = self._client.build_request(
                method, url, params=params, headers=headers, content=content or None
            )
            request.extensions["trace"] = self._traced(budget)
            response = self._client.send(request, stream=True)
            try:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise AnswerError("the answer is compressed, although `identity` was asked for")
                kind = response.headers.get("content-type", "")
                chunks = _chunks(response, max_bytes, budget)
                yield Answer(response.status_code, kind, chunks)
            finally:
                response.close()

    def _traced(self, budget: _Budget) -> Any:  # noqa: ANN401 (httpcore does not type it)
        """Make a trace function that remembers the socket of the connection."""

        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event.endswith(_CONNECTED):
                self._socket = info["return_value"].get_extra_info("socket")
                budget.check()

        return trace

    @contextmanager
    def _watched(self, budget: _Budget) -> Iterator[None]:
        """Close the connection when the time of a request is up."""
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(budget, done), daemon=True)
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()

    def _watch(self, budget: _Budget, done: threading.Event) -> None:
        while not done.wait(_WATCH_SECONDS):
            if self._stop.is_set():
                budget.cut = "the gateway stops"
            elif time.monotonic() > budget.end:
                budget.cut = "the answer takes too long"
            if budget.cut and self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


class _Budget:
    """The time that one request may take; each byte that arrives extends it.

    Attributes:
        end: when it is up, seconds of the monotonic clock.
        cut: why the request was cut; empty as long as it was not.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.cut = ""

    def check(self) -> None:
        """Raise `AnswerError` when the request was cut."""
        if self.cut:
            raise AnswerError(self.cut)


def _chunks(response: httpx.Response, max_bytes: int, budget: _Budget) -> Iterator[bytes]:
    received = 0
    with _translated(budget):
        for chunk in response.iter_raw():
            budget.check()
            received += len(chunk)
            if received > max_bytes:
                raise AnswerError(f"the answer has more than {max_bytes} bytes")
            budget.end += len(chunk) / _BYTES_PER_SECOND
            yield chunk
    budget.check()  # a connection that is cut may look like the end of the content


@contextmanager
def _translated(budget: _Budget) -> Iterator[None]:
    """Raise httpx's errors as ours, without the text of an answer that some of them quote."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        budget.check()
        if isinstance(error, httpx.ConnectError | httpx.TimeoutException):
            raise UnreachableError(str(error)) from error
        shown = "" if isinstance(error, httpx.ProtocolError) else str(error)
        raise AnswerError(shown or type(error).__name__) from error
