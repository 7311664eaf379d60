"""HTTPS: the certificate, and connections that become encrypted.

A connection counts in the table of connections from its first moment, and has as long for the TLS
handshake as for the head of a request. asyncio's own servers with TLS tell nobody of a connection
before its handshake is complete, so that a client could hold any number of them open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chestxray.errors import ConfigError
from chestxray.serving.clients import Proxies, limited_as
from chestxray.serving.http_connections import ConnectionTable, Phase

_OLDEST: Final = ssl.TLSVersion.TLSv1_2
_SHUTDOWN_SECONDS: Final = 3600.0  # the table of connections ends it long before


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make the context of a server, for TLS 1.2 and later.

    Args:
        certificate: its certificate and those of intermediate authorities, PEM.
        key: its private key, PEM, without a password.

    Raises:
        ConfigError: a file cannot be read or is not PEM, or they do not belong together.
    """
    for name, path in (("--tls-certificate", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{name} {path} cannot be read: {error.strerror}") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = _OLDEST
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(
            f"--tls-certificate {certificate} and --tls-key {key} cannot be used ({_cause(error)}):"
            " give a certificate and its own private key, both PEM, the key without a password"
        ) from error
    return context


def _no_password() -> str:
    raise ConfigError(
        "--tls-key is protected by a password: decrypt it, such as with `openssl pkey -in KEY -out "
        "DECRYPTED`, and make the file readable by this user alone"
    )


def _cause(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").lower().replace("_", " ")


class Handshake(asyncio.Protocol):
    """A connection until it is encrypted; then the protocol of HTTP takes it over.

    Args:
        context: of the server.
        seconds: limit of the handshake.
        table: counts the connection.
        proxies: whose connections are not limited per client.
        make_protocol: makes the protocol of HTTP, given the transport of the encrypted bytes.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        seconds: float,
        table: ConnectionTable,
        proxies: Proxies,
        make_protocol: Callable[[asyncio.Transport], asyncio.Protocol],
    ) -> None:
        self._context = context
        self._seconds = seconds
        self._table = table
        self._proxies = proxies
        self._make_protocol = make_protocol
        self._transport: asyncio.Transport | None = None
        self._early = bytearray()  # what arrives before HTTP has taken over
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection and begin the handshake."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{transport} is no stream")
        self._transport = transport
        transport.pause_reading()  # what comes now belongs to the handshake
        peer = str(transport.get_extra_info("peername")[0])
        self._table.add(self, None if self._proxies.include(peer) else limited_as(peer))
        self._task = asyncio.get_running_loop().create_task(self._encrypt(transport))

    def data_received(self, data: bytes) -> None:
        """Keep what was decrypted before HTTP has taken over."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Note that HTTP shall not take over."""
        self._lost = True

    async def _encrypt(self, transport: asyncio.Transport) -> None:
        try:
            if transport.is_closing():  # by the table; asyncio would wait for ever
                return
            encrypted = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except OSError:  # of TLS too; ended by the client, which speaks no TLS, or took too long
            encrypted = None
        finally:
            self._table.remove(self)
        if encrypted is None or self._lost:
            transport.abort()
        else:
            self._hand_over(encrypted, transport)

    def _hand_over(self, encrypted: asyncio.Transport, raw: asyncio.Transport) -> None:
        protocol = self._make_protocol(raw)
        encrypted.set_protocol(protocol)
        protocol.connection_made(encrypted)
        if self._early:
            protocol.data_received(bytes(self._early))

    def phase(self) -> Phase:
        """See `Connection.phase`."""
        return "waiting"

    def unsent_bytes(self) -> int:
        """See `Connection.unsent_bytes`."""
        return 0

    def abort(self) -> None:
        """See `Connection.abort`."""
        if self._transport is not None:
            self._transport.abort()
