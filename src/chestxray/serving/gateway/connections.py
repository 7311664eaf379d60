"""The association server: how many connections it keeps, from whom and for how long.

A connection is pending until its association is admitted. Pending ones are few, in total and for
each address: a further one displaces the oldest, since an honest peer needs milliseconds. Only
admitted associations count against `receive.associations`; those of one calling AE title and of one
address are fewer, so that none of them keeps all others out. An IPv6 address is counted as its /64
network (`limited_as`).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from socketserver import BaseServer
from typing import Any, Final

from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from chestxray.serving.clients import limited_as
from chestxray.serving.gateway.config import Receive

REQUEST_SECONDS: Final = 5.0
"""Time that a peer has for TLS handshake and association request: the ARTIM timer of PS3.8."""

_ENDING_SECONDS: Final = 1.0  # that a new connection waits for displaced ones to end
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    address: str
    opened: float
    association: Association | None = None
    admitted: bool = False
    title: str = ""
    dropped: bool = False
    failed: bool = False  # before its association began

    @property
    def is_pending(self) -> bool:
        return not (self.admitted or self.dropped)

    @property
    def has_ended(self) -> bool:
        association = self.association
        if association is None or self.failed:
            return self.failed
        return association.ident is not None and not (
            association.is_alive() or association.dul.is_alive()
        )

    def drop(self) -> None:
        """Close it under the threads that read it; they end."""
        self.dropped = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Connections:
    """All connections of a server.

    Args:
        limits: how many there may be.
    """

    def __init__(self, limits: Receive) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._open: list[_Connection] = []

    def add(self, request: socket.socket, address: str) -> _Connection | None:
        """Take a new connection; give None where there are too many that do not end."""
        address = limited_as(address)
        deadline = time.monotonic() + _ENDING_SECONDS
        while True:
            with self._lock:
                self._forget_ended()
                self._make_room(address)
                if len(self._open) < self._limits.associations + 2 * self._limits.connections:
                    connection = _Connection(request, address, time.monotonic())
                    self._open.append(connection)
                    return connection
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)

    def admit(self, association: Association, title: str) -> str:
        """Count an association as open; give the reason where it must not be.

        Args:
            association: that was requested.
            title: its calling AE title.
        """
        with self._lock:
            self._forget_ended()
            found = (one for one in self._open if one.association is association)
            connection = next(found, None)
            if connection is None or connection.dropped:
                return "its connection is closed"
            reason = self._crowded(title, connection.address)
            if not reason:
                connection.title, connection.admitted = title, True
            return reason

    def drop_slow(self, seconds: float) -> None:
        """Close connections that have been pending for so long."""
        with self._lock:
            for one in self._pending_ones():
                if time.monotonic() - one.opened >= seconds:
                    one.drop()

    def _crowded(self, title: str, address: str) -> str:
        """Say which limit one more association exceeds; empty text where it exceeds none."""
        limits = self._limits
        serving = [one for one in self._open if one.admitted and _serves(one)]
        if len(serving) >= limits.associations:
            return f"{limits.associations} are open already, see receive.associations"
        if sum(one.title == title for one in serving) >= limits.associations_per_title:
            most = limits.associations_per_title
            return f"{most} of {title} are open already, see receive.associations_per_title"
        if sum(one.address == address for one in serving) >= limits.associations_per_address:
            most = limits.associations_per_address
            return f"{most} of {address} are open already, see receive.associations_per_address"
        return ""

    def _forget_ended(self) -> None:
        self._open = [one for one in self._open if not one.has_ended]

    def _make_room(self, address: str) -> None:
        """Drop the oldest of this address, or else of the one that has most."""
        while True:
            counts = Counter(one.address for one in self._pending_ones())
            if counts[address] >= self._limits.connections_per_address:
                crowded = address
            elif counts.total() >= self._limits.connections:
                crowded = counts.most_common(1)[0][0]
            else:
                return
            next(one for one in self._pending_ones() if one.address == crowded).drop()

    def _pending_ones(self) -> Iterator[_Connection]:
        return (one for one in self._open if one.is_pending)


class Server(ThreadedAssociationServer):
    """A server with limits, that performs the TLS handshake in the connection's own thread.

    pynetdicom's server does so while it accepts, so one silent client would block all others.
    """

    request_queue_size = 128
    daemon_threads = True
    tls: ssl.SSLContext | None = None
    connections: Connections
    prepare: Callable[[Association], None]

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Take the connection into a thread of its own."""
        connection = self.connections.add(request, str(client_address[0]))
        if connection is None:
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self._serve, args=(connection, client_address))
        thread.daemon = True
        thread.start()

    def service_actions(self) -> None:
        """Close connections that take too long."""
        super().service_actions()
        self.connections.drop_slow(REQUEST_SECONDS)

    def shutdown(self) -> None:
        """Accept no more; pynetdicom's method also expects this server in a list of its own."""
        BaseServer.shutdown(self)
        self.server_close()
        self.connections.drop_slow(0)

    def _serve(self, connection: _Connection, client_address: Any) -> None:  # noqa: ANN401
        """Perform the handshake, then start the association."""
        request = connection.socket
        try:
            request.settimeout(REQUEST_SECONDS)
            if self.tls is not None:
                request = self.tls.wrap_socket(
                    request, server_side=True, do_handshake_on_connect=False
                )
                connection.socket = request
                request.do_handshake()
            self.finish_request((request, connection), client_address)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 (it is logged)
            if not connection.dropped:
                self.handle_error(request, client_address)
            self.shutdown_request(request)
            connection.failed = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Log why a connection failed."""
        error = sys.exc_info()[1]
        reason = str(error) if isinstance(error, OSError) else type(error).__name__
        source = str(client_address[0])
        extra = {"event": "connection-failed", "source": source}
        _log.warning("connection failed: %s", reason, extra=extra)


class Handler(RequestHandler):
    """Makes the association of a connection."""

    server: Server

    def setup(self) -> None:
        """Part socket and connection."""
        taken: Any = self.request
        self.request, self._connection = taken

    def _create_association(self) -> Association:
        association = super()._create_association()
        self.server.prepare(association)
        self._connection.association = association
        return association


def _serves(connection: _Connection) -> bool:
    association = connection.association
    return association is not None and not (
        association.is_aborted or association.is_released or association.is_rejected
    )
