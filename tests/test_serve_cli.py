"""Starting and stopping the service: what it refuses before it listens, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from ipaddress import IPv4Address
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import uvicorn
from pydicom import config
from typer.testing import CliRunner

import chestxray.serving
from chestxray.cli.main import app
from chestxray.errors import ConfigError, MissingExtraError, WorkerError
from chestxray.serving import serve
from chestxray.serving.admission import Limits
from chestxray.serving.middleware import check_address, read_token
from chestxray.serving.server import Server, bind, url_of
from chestxray.serving.upload_decoding import DecoderPool
from chestxray.serving.web import create_app, example_png
from dicom_files import dicom
from result_objects import USUAL
from viewer_parts import planted
from web_server import wait_until

WORD = "correct-horse-battery"
UNUSUAL_UID = "1.2.0345.67"
EVERY = str(IPv4Address(0))


@pytest.mark.parametrize("host", [EVERY, "192.168.1.5", "2001:db8::1", "example.org"])
def test_an_address_that_others_reach_without_a_token_is_refused(host, tmp_path):
    with pytest.raises(ConfigError, match="no token is set"):
        serve(tmp_path / "not-even-loaded", host=host)
    check_address(host, WORD, allow_remote=False)
    check_address(host, None, allow_remote=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host):
    check_address(host, None, allow_remote=False)


def test_the_token_file_takes_precedence_over_the_environment(tmp_path, monkeypatch):
    assert read_token() is None
    monkeypatch.setenv("CHESTXRAY_TOKEN", WORD)
    (tmp_path / "token").write_text(f"another-{WORD}\n", encoding="utf-8")
    assert read_token(tmp_path / "token") == f"another-{WORD}"
    assert read_token() == WORD


@pytest.mark.parametrize("token", ["", "short", "a token with spaces in it", "ünïcödë-ünïcödë-ünï"])
def test_a_token_that_is_easy_to_guess_or_fits_no_header_is_refused(token, tmp_path, monkeypatch):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    monkeypatch.setenv("CHESTXRAY_TOKEN", token)
    for file in (tmp_path / "token", None):
        with pytest.raises(ConfigError, match="openssl rand"):
            read_token(file)
    with pytest.raises(ConfigError, match="openssl rand"):
        serve(tmp_path / "not-even-loaded", token=token)


def test_a_token_file_that_every_user_can_read_is_warned_of(tmp_path, caplog):
    file = tmp_path / "a token"
    file.write_text(WORD, encoding="utf-8")
    for mode in (0o600, 0o640):
        file.chmod(mode)
        assert read_token(file) == WORD
    assert not caplog.text
    file.chmod(0o644)
    assert read_token(file) == WORD
    assert f"chmod o-rwx '{file}'" in caplog.text
    assert WORD not in caplog.text


def test_a_missing_token_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no-token cannot be read"):
        read_token(tmp_path / "no-token")


def test_a_taken_port_is_reported_before_anything_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* another --port"):
            serve(tmp_path / "not-even-loaded", port=port)
    with pytest.raises(ConfigError, match="another --port or --host"):
        bind("192.0.2.1", port)
    bind("localhost", port).close()


def test_the_url_has_the_port_that_was_taken_and_brackets_around_ipv6():
    with bind("127.0.0.1", 0) as address:
        assert url_of(address) == f"http://127.0.0.1:{address.getsockname()[1]}/"
    with bind("::1", 0) as address:
        assert url_of(address) == f"http://[::1]:{address.getsockname()[1]}/"


def test_answers_do_not_wait_for_the_acknowledgement_of_what_was_sent_before():
    """Head and content are two writes: Nagle's algorithm delays the second by 40 ms."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as address:
            async with await asyncio.start_server(connected, sock=address):
                socket.create_connection(address.getsockname()).close()
                return await found

    assert asyncio.run(accepted())


def test_a_service_that_cannot_start_ends_with_the_reason(run: Path, monkeypatch):
    def fail(_):
        raise WorkerError("no process")

    monkeypatch.setattr(DecoderPool, "start", fail)
    with bind("127.0.0.1", 0) as address, pytest.raises(WorkerError, match="no process"):
        Server(create_app(planted(run))).serve_on(address)


def test_stopped_while_it_starts_it_closes_no_decoder_that_is_being_started(
    run: Path, monkeypatch, caplog
):
    start, close = DecoderPool.start, DecoderPool.close
    starting, overlaps = threading.Event(), []

    def watched_start(pool: DecoderPool) -> None:
        starting.set()
        try:
            start(pool)
        finally:
            starting.clear()

    def watched_close(pool: DecoderPool) -> None:
        overlaps.append(starting.is_set())
        close(pool)

    monkeypatch.setattr(DecoderPool, "start", watched_start)
    monkeypatch.setattr(DecoderPool, "close", watched_close)
    server = Server(create_app(planted(run)))
    with bind("127.0.0.1", 0) as address:
        thread = threading.Thread(target=server.serve_on, args=(address,))
        thread.start()
        wait_until(lambda: server.started and starting.is_set())
        server.handle_exit(signal.SIGINT, None)
        thread.join(60)
    assert not thread.is_alive()
    assert overlaps == [False]
    assert caplog.text == ""


def test_without_the_extra_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "chestxray.serving.server")
    monkeypatch.delattr(chestxray.serving, "serve", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'chestxray\[serve\]'"):
        _ = chestxray.serving.serve


def unusual_dicom() -> bytes:
    """A radiograph whose study has a UID with a leading zero, as some devices write."""
    phantom = cv2.imdecode(np.frombuffer(example_png("clear"), np.uint8), cv2.IMREAD_GRAYSCALE)
    with config.disable_value_validation():
        return dicom(
            phantom.astype(np.uint16) * 16, 12, **USUAL | {"StudyInstanceUID": UNUSUAL_UID}
        )


def test_the_url_comes_when_it_is_ready_and_a_signal_ends_it_with_its_decoders(
    run: Path, exported: Path
):
    bundle, engine = str(run / "bundle"), str(exported)
    options = f"port=0, engine={engine!r}, log_format='json'"
    call = f"from chestxray.serving import serve; serve({bundle!r}, {options})"
    process = subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if url := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        assert url, said
        answer = httpx.get(f"{url[0]}readyz")
        assert answer.status_code == 200  # at once
        told = [json.loads(line) for line in [*said, process.stderr.readline()]]
        assert any(line["level"] == "warning" and "synthetic" in line["message"] for line in told)
        assert told[-2]["event"] == "ready"
        assert told[-1]["request"] == answer.headers["X-Request-ID"]
        assert (told[-1]["route"], told[-1]["status"]) == ("/readyz", 200)
        made = httpx.post(
            f"{url[0]}v1/read",
            files={"file": unusual_dicom()},
            headers={"Accept": 'multipart/related; type="application/dicom"'},
            timeout=120,
        )
        assert made.status_code == 200
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=120)
    finally:
        watchdog.cancel()
        process.kill()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    assert UNUSUAL_UID not in rest  # as pydicom's warnings of it would have it
    assert children
    # Python's own tracker of resources ends a little after the rest.
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_the_url_is_logged_when_the_port_is_open_and_radiographs_are_read(
    run: Path, monkeypatch, caplog
):
    """The model may be ready long before the port is."""
    caplog.set_level("INFO", logger="chestxray")
    startup = uvicorn.Server.startup

    async def late(server, sockets=None):
        await startup(server, sockets)
        admission = server.config.app.state.admission
        while not admission.started.done():
            await asyncio.sleep(0.01)
        assert "serving" not in caplog.text

    monkeypatch.setattr(uvicorn.Server, "startup", late)
    answers = []
    announce = Server._announce

    def announced(server, address, started) -> None:
        announce(server, address, started)
        answers.append(socket.create_connection(address.getsockname(), timeout=10).close())

    monkeypatch.setattr(Server, "_announce", announced)
    server = Server(create_app(planted(run), Limits(decoders=1)))
    with bind("127.0.0.1", 0) as address:
        thread = threading.Thread(target=server.serve_on, args=(address,))
        thread.start()
        wait_until(lambda: answers)
        assert f"at {url_of(address)}" in caplog.text
        server.should_exit = True
        thread.join(60)


def test_a_device_that_is_not_here_is_named_with_those_that_are(run: Path, exported: Path):
    for device in ("cuda:99", "tpu", "CPU"):
        with pytest.raises(ConfigError, match=rf"no device '{device}' here, but: auto, cpu"):
            serve(run / "bundle", port=0, device=device)
    with pytest.raises(ConfigError, match="an export computes on the CPU, not on cuda"):
        serve(run / "bundle", port=0, device="cuda", engine=exported)


def test_certificate_and_key_are_given_together(tmp_path):
    done = CliRunner().invoke(app, ["serve", str(tmp_path), "--tls-key", "key.pem"])
    assert done.exit_code == 2
    assert "together" in done.output
