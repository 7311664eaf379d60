"""The web service under attack, over real sockets: honest clients are answered all the while."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import Response

import chestxray
from chestxray.serving.admission import Limits
from chestxray.serving.http_protocol import HttpProtocol
from chestxray.serving.uploads import Patience
from chestxray.serving.web import create_app, example_png
from http_attacks import HALF_HEAD, Crowd, Honest, Service, service, upload_head
from web_server import listening, ready, wait_until

OTHER = "127.0.0.9"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def reader(run: Path):
    return chestxray.load(run / "bundle", "torch")


@contextlib.contextmanager
def crowd(*arguments, **options) -> Iterator[Crowd]:
    attackers = Crowd(*arguments, **options)
    try:
        yield attackers
    finally:
        attackers.stop()


@contextlib.contextmanager
def limited(reader, **limits: float) -> Iterator[tuple]:
    """A server in this process: its table of connections, its address, an honest client."""
    app = create_app(reader, Limits(decoders=1, **limits))
    with listening(app) as server:
        wait_until(lambda: app.state.admission.state == "ready")
        host, port = server.url.removeprefix("http://").split(":")
        yield server.table, (host, int(port)), Honest(server.url)


@pytest.mark.parametrize("sources", [("127.0.0.1",), ("127.0.0.2", "127.0.0.3", "127.0.0.4")])
def test_half_sent_heads_keep_nobody_out_not_even_at_the_same_address(reader, sources):
    limits = {"max_connections": 60, "max_connections_per_client": 40, "head_timeout": 1}
    with limited(reader, **limits) as (table, address, honest):
        with crowd(address, 90, HALF_HEAD, b"x", sources, pause=1) as attackers:
            wait_until(lambda: attackers.made >= 90)
            for _ in range(20):
                honest.ask()
                assert len(table) <= 60
        assert honest.failures == []
        wait_until(lambda: len(table) == 0)


@pytest.mark.parametrize("opening", [b"", b"GET", HALF_HEAD])
def test_a_connection_without_a_complete_request_is_closed_though_it_sends(reader, opening):
    with (
        limited(reader, head_timeout=1) as (table, address, _),
        contextlib.closing(socket.create_connection(address)) as line,
    ):
        line.sendall(opening)
        wait_until(lambda: len(table) == 1)
        with contextlib.suppress(OSError):
            while len(table):
                line.sendall(b"x")
                time.sleep(0.1)
        wait_until(lambda: len(table) == 0)


def test_a_body_that_drips_after_its_answer_does_not_keep_the_connection(reader):
    """Uvicorn's own limit for idle connections begins again with each byte."""
    with (
        limited(reader, head_timeout=1) as (table, address, _),
        contextlib.closing(socket.create_connection(address)) as line,
    ):
        line.sendall(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 405")
        with contextlib.suppress(OSError):
            for _ in range(600):
                line.sendall(b"x")
                time.sleep(0.1)
            pytest.fail("the connection is still open")
        wait_until(lambda: len(table) == 0)


def test_a_client_that_does_not_take_its_answer_is_closed(reader):
    app = create_app(reader, Limits(decoders=1, answer_timeout=1))
    app.add_api_route("/large", lambda: Response(bytes(2**24)))
    with listening(app) as server, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        line.connect((host, int(port)))
        line.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: len(server.table) == 1)
        wait_until(lambda: len(server.table) == 0)
        assert httpx.get(f"{server.url}/healthz", timeout=60).status_code == 200


def test_a_connection_serves_several_requests(reader):
    with limited(reader) as (table, address, _):
        with contextlib.closing(socket.create_connection(address)) as line:
            request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            for sent in (request, request, 3 * request):  # the last three at once
                line.sendall(sent)
                answers = b""
                while answers.count(b'"alive"') < len(sent) / len(request):
                    answers += line.recv(4096)
            assert len(table) == 1
        wait_until(lambda: len(table) == 0)


def test_a_body_must_reach_the_minimum_rate_after_five_seconds():
    patience = Patience(seconds=60, bytes_per_second=1000)
    assert [patience.until(length) for length in (0, 1000, 30_000, 10**9)] == [5, 6, 35, 60]
    assert Patience(0.2, 1000).until(0) == 0.2


def test_slow_bodies_keep_nobody_out_and_are_ended(reader):
    image = example_png("clear")
    with limited(reader, max_uploads=4, max_uploads_per_client=2) as (table, address, honest):
        honest.image = image
        with crowd(address, 30, upload_head(10**7), b"x") as attackers:
            wait_until(lambda: attackers.open == 30)
            start = time.monotonic()
            honest.ask()
            wait_until(lambda: attackers.made >= 60)  # each was answered with 408 and came again
            assert 3 < time.monotonic() - start < 30
            honest.ask()
        assert honest.failures == []
        wait_until(lambda: len(table) == 0)


def test_a_client_uses_its_own_places_only(reader):
    app = create_app(reader, Limits(decoders=1, max_uploads_per_client=3))
    with ready(app) as client, contextlib.ExitStack() as slots:
        for _ in range(3):
            slots.enter_context(client.admission.slot("127.0.0.1")).take_places()
        image = example_png("clear")
        same, other = (
            Honest(str(client.base_url), image),
            Honest(str(client.base_url), image, OTHER),
        )
        same.ask()
        other.ask()
    assert same.failures == ["429 busy"]
    assert other.failures == []


def test_a_body_of_very_many_chunks_of_a_byte_is_refused(reader):
    """Each costs as much as one of a thousand bytes."""
    with limited(reader) as (table, address, honest):
        head = b"POST /v1/read HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        form = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n7\r\n--b\r\n\r\n\r\n"
        with contextlib.closing(socket.create_connection(address)) as line:
            line.settimeout(60)
            line.sendall(head + form)
            received = b""
            with contextlib.suppress(ConnectionError):
                for _ in range(50):
                    line.sendall(b"1\r\nx\r\n" * 100)
                while more := line.recv(4096):
                    received += more
        assert received == b"" or received.startswith(b"HTTP/1.1 400")
        wait_until(lambda: len(table) == 0)
        honest.ask()
        assert honest.failures == []


def test_only_a_body_that_is_one_piece_is_read_in_large_parts(reader, monkeypatch):
    """Of a body in chunks each costs, so that much of them at once would delay all others."""
    parts: list[int] = []
    arrived = HttpProtocol.data_received

    def data_received(protocol: HttpProtocol, data: bytes) -> None:
        parts.append(len(data))
        arrived(protocol, data)

    monkeypatch.setattr(HttpProtocol, "data_received", data_received)
    small, large = 32 * 2**10, 256 * 2**10
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    start = b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\n'
    with ready(create_app(reader, Limits(decoders=1))) as client:
        for whole in (True, False, True, False):  # over one connection
            parts.clear()
            pieces = itertools.chain([start], itertools.repeat(bytes(1000), 8000))
            body = b"".join(pieces) if whole else pieces
            answer = client.post("/v1/read", content=body, headers=form)
            assert answer.json()["code"] == "invalid-multipart"  # without an end
            assert parts[0] <= small  # with the head
            assert max(parts) <= (large if whole else small)
            assert (max(parts) > small) == whole


def test_a_form_of_very_many_parts_is_refused(reader):
    with ready(create_app(reader, Limits(decoders=1))) as client:
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = client.post("/v1/read", content=b"--b\r\n\r\n\r\n" * 10_000, headers=form)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-multipart")


def under_attack(
    served_by: tuple[Path, Path], log: Path, descriptors: int, seconds: float, count: int
) -> str:
    """Attack with half-sent heads; check what must hold and give the figures."""
    image = example_png("clear")
    bundle, engine = served_by
    with (
        service(bundle, log, "--engine", str(engine), descriptors=descriptors) as served,
        crowd(served.address, count, HALF_HEAD, b"x") as attackers,
    ):
        wait_until(lambda: attackers.made >= count)
        clients = [Honest(served.url), Honest(served.url, image), Honest(served.url, image, OTHER)]
        most = watch(served, clients, seconds)
        figures = "; ".join(client.figures() for client in clients)
        assert all(client.failures == [] and client.seconds for client in clients), figures
        assert most < descriptors
        assert served.log.stat().st_size < MEGABYTE
        return f"{figures}; at most {most} descriptors, log {served.log.stat().st_size} bytes"


def watch(served: Service, clients: list[Honest], seconds: float) -> int:
    """Let clients ask for some time; give the highest number of descriptors meanwhile."""
    threads = [threading.Thread(target=client.ask_for, args=(seconds, 0.5)) for client in clients]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, served.descriptors())
        time.sleep(0.1)
    return most


def test_with_256_descriptors_300_half_sent_heads_keep_nobody_out(run, exported, tmp_path):
    under_attack((run / "bundle", exported), tmp_path / "log", 256, seconds=3, count=300)


@pytest.mark.slow
@pytest.mark.parametrize(("descriptors", "count"), [(256, 300), (4096, 1500)])
def test_80_seconds_of_half_sent_heads(run, exported, tmp_path, descriptors, count):
    said = under_attack((run / "bundle", exported), tmp_path / "log", descriptors, 80, count)
    sys.stderr.write(f"{count} connections, {descriptors} descriptors: {said}\n")
