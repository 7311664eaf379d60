"""The gateway's endpoint for monitoring: few connections, none for long, and one answer each."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import httpx
import pytest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from chestxray.serving.gateway.endpoint import Endpoint, Page
from http_attacks import HALF_HEAD, Crowd
from web_server import wait_until

PAGE = b"# TYPE chestxray_gateway_tasks gauge\n"


class Pages:
    """Gives the page, and counts how often."""

    def __init__(self) -> None:
        self.computed = 0
        self.error: Exception | None = None

    def __call__(self) -> Page:
        self.computed += 1
        if self.error is not None:
            raise self.error
        return Page(HTTPStatus.OK, CONTENT_TYPE_LATEST, PAGE)


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def endpoint(pages) -> Iterator[Endpoint]:
    endpoint = Endpoint("127.0.0.1", 0, {"/": pages, "/metrics": pages})
    endpoint.start()
    yield endpoint
    endpoint.stop()


def get(endpoint: Endpoint, path: str = "/metrics", method: str = "GET") -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{endpoint.port}{path}", timeout=30)


def test_it_gives_the_page_in_prometheus_format(endpoint):
    for path in ("/metrics", "/metrics?name[]=x", "/"):
        answer = get(endpoint, path)
        assert (answer.status_code, answer.content) == (200, PAGE)
        assert answer.headers["content-type"].startswith("text/plain; version=")
    assert get(endpoint, method="HEAD").content == b""
    assert get(endpoint, "/other").status_code == 404
    assert get(endpoint, method="POST").status_code == 405


def test_many_requests_compute_the_page_seldom(endpoint, pages):
    started = time.monotonic()
    for _ in range(50):
        assert get(endpoint).status_code == 200
    assert pages.computed <= 1 + time.monotonic() - started


def test_a_page_that_fails_is_a_status_and_the_next_one_is_given(endpoint, pages, caplog):
    pages.error = ValueError("DOE^JANE")
    assert get(endpoint).status_code == 500
    assert "ValueError" in caplog.text
    assert "DOE" not in caplog.text
    pages.error = None
    assert get(endpoint).status_code == 200


def test_half_sent_heads_keep_prometheus_out_neither_by_number_nor_by_time(endpoint):
    before = threading.active_count()
    attackers = Crowd(("127.0.0.1", endpoint.port), 300, HALF_HEAD, b"x", pause=3)
    try:
        wait_until(lambda: attackers.made >= 300)
        for _ in range(20):
            assert get(endpoint).status_code == 200
            assert len(endpoint.table) <= 32
        assert threading.active_count() <= before + 2  # the attackers' and that of the page
    finally:
        attackers.stop()
    wait_until(lambda: len(endpoint.table) == 0)


def test_a_slow_head_and_a_long_one_end_the_connection(endpoint):
    with contextlib.closing(socket.create_connection(("127.0.0.1", endpoint.port))) as line:
        line.settimeout(30)
        line.sendall(HALF_HEAD)
        assert line.recv(1) == b""
    with contextlib.closing(socket.create_connection(("127.0.0.1", endpoint.port))) as line:
        line.settimeout(3)  # less than a slow head may take
        line.sendall(HALF_HEAD + b"x" * 9000)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(1) == b""
    assert get(endpoint).status_code == 200


def test_garbage_is_answered_and_does_no_harm(endpoint):
    for garbage in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b" \r\n\r\n"):
        with contextlib.closing(socket.create_connection(("127.0.0.1", endpoint.port))) as line:
            line.settimeout(30)
            line.sendall(garbage)
            answer = http.client.HTTPResponse(line)
            answer.begin()
            assert answer.status in {404, 405}
    assert get(endpoint).status_code == 200
