"""HTTPS: what connects, what is refused, and that a handshake holds nothing for long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from fastapi import Response

from chestxray.errors import ConfigError
from chestxray.serving import serve
from chestxray.serving.admission import Limits
from chestxray.serving.clients import Proxies
from chestxray.serving.http_connections import ConnectionTable
from chestxray.serving.server import Server, bind, url_of
from chestxray.serving.tls import Handshake, server_context
from chestxray.serving.web import create_app, example_png
from viewer_parts import planted
from web_server import listening, wait_until


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of this machine, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    leaf.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def server(run: Path, files) -> Iterator[Server]:
    limits = Limits(decoders=1, head_timeout=1, max_connections=24, max_connections_per_client=20)
    app = create_app(planted(run), limits)
    server = Server(app, None, server_context(*files))
    with bind("127.0.0.1", 0) as address:
        server.url = url_of(address, "https")
        thread = threading.Thread(target=server.serve_on, args=(address,), daemon=True)
        thread.start()
        wait_until(lambda: server.started and app.state.admission.state == "ready")
        yield server
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def trusting(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def address(server) -> tuple[str, int]:
    url = httpx.URL(server.url)
    return url.host, url.port


def test_a_radiograph_is_read_over_https_and_its_own_page_may_ask(server, trusting):
    with httpx.Client(base_url=server.url, verify=trusting, timeout=60) as client:
        origin = {"Origin": server.url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        files = {"file": example_png("clear")}
        assert client.post("v1/read", files=files, headers=origin).status_code == 200
        plain = {"Origin": server.url.rstrip("/").replace("https", "http")}
        assert client.get("v1/model", headers=plain).status_code == 403
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)  # which does not know the authority


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_from_1_2_on_is_spoken(server, trusting, version):
    trusting.minimum_version = trusting.maximum_version = version
    with httpx.Client(base_url=server.url, verify=trusting) as client:
        assert client.get("healthz").status_code == 200


def test_a_request_that_comes_in_one_piece_with_the_end_of_the_handshake_is_answered(
    server, trusting
):
    """With TLS 1.3 it may, so HTTP gets its bytes before it knows of the connection."""
    trusting.minimum_version = ssl.TLSVersion.TLSv1_3
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(received, sent, server_hostname="127.0.0.1")
    with socket.create_connection(address(server), timeout=30) as line:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                line.sendall(sent.read())
                received.write(line.recv(2**16))
        tls.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        line.sendall(sent.read())
        answer = b""
        while b"alive" not in answer:
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += tls.read(2**16)
                continue
            arrived = line.recv(2**16)
            assert arrived
            received.write(arrived)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_and_plain_http_are_refused(server, trusting):
    trusting.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    trusting.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}healthz", verify=trusting)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{server.url}healthz".replace("https", "http"))


def test_connections_without_a_handshake_are_counted_and_closed(server, trusting):
    silent = [socket.create_connection(address(server)) for _ in range(40)]
    wait_until(lambda: server.table.closed >= 20)
    assert len(server.table) <= 24
    with httpx.Client(base_url=server.url, verify=trusting, timeout=60) as client:
        assert client.get("healthz").status_code == 200  # it displaces one of them
    for line in silent:
        line.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(1) == b""
        line.close()
    wait_until(lambda: len(server.table) == 0)


LARGE = 2**24


@pytest.fixture
def slow(run: Path, files, trusting):
    """Serve a large answer; gives who connects by TLS, asks for it and takes none of it yet."""

    @contextlib.contextmanager
    def asked(more: str = "", **limits: float) -> Iterator[tuple[Server, ssl.SSLSocket]]:
        app = create_app(planted(run), Limits(decoders=1, **limits))
        app.add_api_route("/large", lambda: Response(bytes(LARGE)))
        with listening(app, server_context(*files)) as server, socket.socket() as line:
            line.connect(address(server))
            with trusting.wrap_socket(line, server_hostname="127.0.0.1") as encrypted:
                encrypted.settimeout(60)
                encrypted.sendall(f"GET /large HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
                yield server, encrypted

    return asked


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
def test_a_slow_client_has_the_time_of_an_answer_not_that_of_a_head(slow, monkeypatch, more):
    """Nor asyncio's limit for the end of TLS, 30 s, within which it wants all to be taken."""
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 0.5)
    with slow(more, head_timeout=1) as (server, line):
        wait_until(
            lambda: [entry.phase for entry in server.table._entries.values()] == ["unloading"]
        )
        time.sleep(2.5)
        answer = b""
        while len(answer) < LARGE:
            part = line.recv(2**20)
            assert part
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_take_its_answer_is_closed(slow):
    with slow(head_timeout=60, answer_timeout=1) as (server, _):
        wait_until(lambda: server.table.closed == 1, 20)
        wait_until(lambda: len(server.table) == 0)


def test_answers_that_are_not_taken_count_as_memory(slow):
    with slow(head_timeout=60, max_upload_bytes=2**20) as (server, _):
        wait_until(lambda: server.table.closed == 1, 20)


class Busy:
    """A connection that gives way to no other."""

    def phase(self) -> str:
        return "busy"

    def unsent_bytes(self) -> int:
        return 0

    def abort(self) -> None:
        raise AssertionError


def test_a_connection_that_is_closed_at_once_leaves_no_task(files):
    """Where all others are busy the new one is closed, before its handshake has begun."""

    async def tasks_left() -> int:
        table = ConnectionTable(9, 1, 1, 60, 1000)
        table.add(busy := Busy(), "127.0.0.1")
        table.update(busy)
        context = server_context(*files)

        def handshake() -> Handshake:
            return Handshake(context, 1, table, Proxies(), lambda _: asyncio.Protocol())

        server = await asyncio.get_running_loop().create_server(handshake, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        server.close()
        assert (table.closed, len(table)) == (1, 1)
        await asyncio.sleep(0.05)
        return len(asyncio.all_tasks()) - 1

    assert asyncio.run(tasks_left()) == 0


def test_a_file_that_is_no_certificate_or_another_key_is_named(files, authority, tmp_path):
    certificate, key = files
    other = tmp_path / "other.pem"
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(other)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for pair in ((certificate, other), (text, key), (certificate, text)):
        with pytest.raises(ConfigError, match="give a certificate and its own private key"):
            serve(tmp_path / "not-even-loaded", port=0, tls=pair)
    with pytest.raises(ConfigError, match=r"--tls-key .*missing.pem cannot be read"):
        server_context(certificate, tmp_path / "missing.pem")


def test_a_key_with_a_password_is_named(files, tmp_path):
    from cryptography.hazmat.primitives import serialization as forms

    key = forms.load_pem_private_key(files[1].read_bytes(), None)
    locked = tmp_path / "locked.pem"
    form = forms.BestAvailableEncryption(b"a password")
    locked.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, form))
    with pytest.raises(ConfigError, match="protected by a password"):
        server_context(files[0], locked)
