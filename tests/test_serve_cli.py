"""`chestxray serve`: what it refuses before it listens, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest

from chestxray.errors import ConfigError
from chestxray.serving.server import bind
from chestxray.serving.settings import check_address, token_of
from web_server import wait_until

WORD = "correct-horse-battery"
EVERY = str(IPv4Address(0))


@pytest.mark.parametrize("host", [EVERY, "192.168.1.5", "2001:db8::1", "example.org"])
def test_another_address_without_a_token_is_refused(host):
    with pytest.raises(ConfigError, match="no token is set"):
        check_address(host, None, force=False)
    check_address(host, WORD, force=False)
    check_address(host, None, force=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host):
    check_address(host, None, force=False)


def test_the_file_counts_before_the_environment_and_white_space_around_it_does_not(tmp_path):
    (tmp_path / "token").write_text(f"{WORD}\n", encoding="utf-8")
    assert token_of(tmp_path / "token", "another-long-enough-word") == WORD
    assert token_of(None, WORD) == WORD
    assert token_of(None, None) is None


@pytest.mark.parametrize("token", ["", "short", "a token with spaces in it", "ünïcödë-ünïcödë-ünï"])
def test_a_token_that_keeps_nobody_out_or_fits_no_header_is_refused(token, tmp_path):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    for source in ((tmp_path / "token", None), (None, token)):
        with pytest.raises(ConfigError, match="openssl rand"):
            token_of(*source)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* another --port"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="another --port or --host"):
        bind("192.0.2.1", port)
    bind("::1", port).close()
    bind("localhost", port).close()


def test_a_signal_ends_it_well_and_with_its_decoders(run: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "chestxray", "serve", str(run / "bundle"), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def is_ready() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(is_ready, 240)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert f"on http://127.0.0.1:{port}/" in said
    assert "Traceback" not in said
    assert children
    # Python's own tracker of resources ends a little after the rest.
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
