"""Clients behind proxies: who may pass without a token, and whose limits apply."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.datastructures import Headers

import chestxray
from chestxray.errors import ConfigError
from chestxray.serving import serve
from chestxray.serving.admission import Limits
from chestxray.serving.clients import Proxies, limited_as
from chestxray.serving.web import create_app
from web_server import ready

FORWARDED = (
    {"X-Forwarded-For": "203.0.113.7"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"Forwarded": "for=203.0.113.7"},
    {"X-Real-IP": "203.0.113.7"},
    {"X-Forwarded-Host": "reader.example"},
    {"Via": "1.1 proxy"},
    {"X-Forwarded-Server": "reader.example"},
    {"X-Forwarded-Port": "443"},
    {"X-Forwarded-Ssl": "on"},
)


@pytest.fixture(scope="module")
def reader(run: Path):
    return chestxray.load(run / "bundle", "torch")


@pytest.mark.parametrize("proxies", [(), ("127.0.0.1",)])
def test_without_a_token_nothing_passes_through_a_proxy(reader, proxies):
    """A proxy on this machine connects from it and may name it as the host, whoever asks."""
    with ready(create_app(reader, Limits(decoders=1), proxies=proxies)) as client:
        for forwarded in FORWARDED:
            headers = {"Host": "127.0.0.1:8000"} | forwarded
            for answer in (
                client.get("/v1/model", headers=headers),
                client.get("/metrics", headers=headers),
                client.post("/v1/read", headers=headers, files={"file": b"\x89PNG"}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "not-local"), forwarded
        assert client.get("/v1/model").status_code == 200


def test_a_client_that_is_not_on_this_machine_needs_a_token_whatever_host_it_names(reader):
    app = create_app(reader, Limits(decoders=1))

    async def from_elsewhere(scope, receive, send):
        if scope["type"] == "http":
            scope = {**scope, "client": ("192.0.2.1", 4711)}
        await app(scope, receive, send)

    from_elsewhere.state = app.state
    with ready(from_elsewhere) as client:
        assert client.get("/v1/model").status_code == 403


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "127.0.0.1, 203.0.113.7", "203.0.113.7"),  # the first is what it claims
        ("127.0.0.1", "203.0.113.7, 10.1.2.3", "203.0.113.7"),  # two proxies
        ("10.1.2.3", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.1.2.3", "203.0.113.7:4711", "203.0.113.7"),
        ("192.0.2.1", "203.0.113.7", "192.0.2.1"),  # not a proxy
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7, x", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
def test_a_client_is_what_trusted_proxies_have_seen(peer, header, expected):
    proxies = Proxies(["127.0.0.1", "10.0.0.0/8"])
    assert proxies.client(peer, Headers({"X-Forwarded-For": header})) == expected


def test_an_ipv6_client_is_limited_with_its_network():
    assert limited_as("2001:db8:1:2:3::4") == limited_as("2001:db8:1:2:ffff::") != limited_as("::1")
    assert limited_as("::ffff:192.0.2.1") == limited_as("192.0.2.1") != limited_as("192.0.2.2")


def test_clients_of_a_configured_proxy_have_limits_of_their_own(reader):
    limits = Limits(decoders=1, max_uploads_per_client=1)
    app = create_app(reader, limits, allow_remote=True, proxies=["127.0.0.1"])
    with ready(app) as client, client.admission.slot("203.0.113.7") as slot:
        slot.take_places()
        statuses = [
            client.post(
                "/v1/read", files={"file": b"x"}, headers={"X-Forwarded-For": address}
            ).status_code
            for address in ("203.0.113.7", "203.0.113.8")
        ]
    assert statuses == [429, 415]


def test_a_proxy_that_is_not_configured_is_told_once(reader, caplog):
    with ready(create_app(reader, Limits(decoders=1), allow_remote=True)) as client:
        for _ in range(3):
            headers = {"X-Forwarded-For": "203.0.113.7"}
            assert client.get("/v1/model", headers=headers).status_code == 200
    assert caplog.text.count("--proxy") == 1


def test_an_address_that_is_none_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match=r"'nginx' .* such as 127\.0\.0\.1"):
        serve(tmp_path / "not-even-loaded", proxies=["nginx"])
