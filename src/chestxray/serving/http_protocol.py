"""HTTP/1.1 over a connection, as uvicorn speaks it with h11, with limits of time and number.

A body in chunks of a few bytes costs much more than its length, so it is refused.

Uvicorn alone gives a client as long as it likes for the head of its first request and for taking an
answer, and its `limit_concurrency` rejects a request only after its head is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from chestxray.serving.clients import Proxies, limited_as
from chestxray.serving.http_connections import ConnectionTable, Phase
from chestxray.serving.tls import Handshake

_READ_AT_ONCE: Final = 32 * 2**10  # bytes; in the smallest pieces they take h11 about 10 ms
_BODY_AT_ONCE: Final = 256 * 2**10  # bytes of a body that is one piece
_HEAD_BYTES: Final = 16 * 2**10
_PIECES: Final = 1000  # of a body, before their size counts
_PIECE_BYTES: Final = 64  # on average


class ServerConfig(uvicorn.Config):
    """Uvicorn's configuration, with the table of connections.

    Attributes:
        table: of the connections to this server.
        proxies: whose connections are not limited per client.
    """

    table: ConnectionTable
    proxies: Proxies
    _tls: tuple[ssl.SSLContext, float] | None = None

    def encrypt(self, context: ssl.SSLContext, seconds: float) -> None:
        """Encrypt all connections; a handshake may take so many seconds."""
        self._tls = context, seconds

    def load(self) -> None:
        """Load the configuration; with TLS a connection begins with a handshake."""
        super().load()
        if self._tls is not None:
            context, seconds = self._tls
            http: Any = self.http_protocol_class

            def handshake(**arguments: Any) -> Handshake:  # noqa: ANN401 - uvicorn's

                def make(raw: asyncio.Transport) -> asyncio.Protocol:
                    protocol: asyncio.Protocol = http(**arguments, raw=raw)
                    return protocol

                return Handshake(context, seconds, self.table, self.proxies, make)

            self.http_protocol_class = handshake  # type: ignore[assignment] # it is only called


class HttpProtocol(H11Protocol):
    """One connection, which the table may close.

    Args:
        config: see `uvicorn.Config`.
        server_state: uvicorn's.
        app_state: uvicorn's.
        raw: the transport of the encrypted bytes, where there is TLS. An answer lies in its buffer:
            asyncio's transport over TLS encrypts all that is written at once, counts only what is
            left, and tells nobody that the client does not take it.
    """

    config: ServerConfig

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        raw: asyncio.Transport | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._table = config.table
        self._raw = raw
        self.conn: _Connection = _Connection()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Count the connection."""
        super().connection_made(transport)
        self._bound_read()
        client = None
        if self.client and not self.config.proxies.include(self.client[0]):
            client = limited_as(self.client[0])
        self._table.add(self, client)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._table.remove(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Process what has arrived; a head may be complete now."""
        super().handle_events()
        self._bound_read()
        self._table.update(self)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._table.update(self)

    def pause_writing(self) -> None:
        """Note that the client does not take its answer as fast as it is written."""
        super().pause_writing()
        self._table.update(self)

    def resume_writing(self) -> None:
        """Note that the client has taken most of its answer."""
        super().resume_writing()
        self._table.update(self, anew=True)

    def phase(self) -> Phase:
        """See `Connection.phase`."""
        if self.flow.write_paused or self._holds_answer():
            return "unloading"
        in_progress = self.cycle is not None and not self.cycle.response_complete
        return "busy" if in_progress and not self.transport.is_closing() else "waiting"

    def unsent_bytes(self) -> int:
        """See `Connection.unsent_bytes`."""
        if self._raw is None:
            return self.transport.get_write_buffer_size()
        unsent = self._raw.get_write_buffer_size()
        with contextlib.suppress(AttributeError):  # asyncio's, of one that was closed twice
            unsent += self.transport.get_write_buffer_size()
        return unsent

    def abort(self) -> None:
        """See `Connection.abort`; uvicorn's own way of closing would wait for the client."""
        (self._raw or self.transport).abort()

    def _bound_read(self) -> None:
        """Bound what is read at once, so that no connection delays all others."""
        size = _BODY_AT_ONCE if self.conn.expects_whole_body else _READ_AT_ONCE
        self.transport.max_size = size  # type: ignore[attr-defined]

    def _holds_answer(self) -> bool:
        """Say whether much is unsent that asyncio does not tell of: see `raw`."""
        if self._raw is None:
            return False
        low, _ = self._raw.get_write_buffer_limits()
        return self.unsent_bytes() > low


class _Connection(h11.Connection):
    """HTTP/1.1 without bodies of very many small pieces."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _HEAD_BYTES)
        self._pieces = self._bytes = 0
        self._chunked = False

    @property
    def expects_whole_body(self) -> bool:
        """Whether what comes next is of a body whose length was told, not one in chunks."""
        return self.their_state is h11.SEND_BODY and not self._chunked

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
            self._chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _PIECES and self._bytes < _PIECE_BYTES * self._pieces:
                raise h11.RemoteProtocolError("the pieces of the body are too small")
        return event
