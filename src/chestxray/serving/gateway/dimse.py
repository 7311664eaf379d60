"""DICOM over TCP, with mutual TLS where it is asked for."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
from collections.abc import Sequence
from socketserver import BaseServer
from typing import Any, Final

from pynetdicom import AE
from pynetdicom.transport import ThreadedAssociationServer

from chestxray.serving.gateway.destinations import TLS

_HANDSHAKE_SECONDS: Final = 10.0
_log = logging.getLogger(__name__)


class Server(ThreadedAssociationServer):
    """A server that shakes hands in the connection's own thread.

    pynetdicom's does it while it accepts: one client that connects and keeps silent would keep all
    others out.
    """

    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Secure the connection, then let it associate."""
        if self.tls is not None:
            request.settimeout(_HANDSHAKE_SECONDS)
            request = self.tls.wrap_socket(request, server_side=True)
            request.settimeout(self.ae.network_timeout)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Log why a connection came to nothing."""
        error = sys.exc_info()[1]
        why = str(error) if isinstance(error, OSError) else type(error).__name__
        source = str(client_address[0])
        extra = {"event": "connection-failed", "source": source}
        _log.warning("connection failed: %s", why, extra=extra)

    def shutdown(self) -> None:
        """Accept no more; pynetdicom's own also takes itself from a list that we are not in."""
        BaseServer.shutdown(self)
        self.server_close()


def serve(ae: AE, address: tuple[str, int], handlers: Sequence[Any], tls: TLS | None) -> Server:
    """Accept associations in a thread of its own.

    Raises:
        OSError: the address is taken or not ours, or a certificate cannot be read.
    """
    context = server_context(tls) if tls else None
    server: Any = ae.make_server(address, evt_handlers=list(handlers), server_class=Server)
    server.tls = context
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return server  # type: ignore[no-any-return]


def server_context(tls: TLS) -> ssl.SSLContext:
    """Make a context that asks the other side for a certificate of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.authority))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def client_context(tls: TLS) -> ssl.SSLContext:
    """Make a context that shows our certificate and wants one of the authority."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(tls.authority))
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def check_free(host: str, port: int) -> None:
    """Check that we could listen at an address.

    Raises:
        OSError: it is taken or not ours.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
