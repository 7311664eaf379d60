"""The connections of an HTTP port: how many are kept, from whom, and how long each may wait.

A connection waits until the head of its next request is complete, is busy until the request is
answered, and unloads while its client has not taken the answer. A client that waits or unloads
costs a descriptor and memory for nothing (RFC 9112, section 9.5, allows closing it at any time), so
each phase has a time limit, and where there are too many connections a new one displaces one that
waits: the oldest of the client that has most. An honest client sends its head within milliseconds
and is not displaced. What limits busy connections is admission control.

Nothing here belongs to a web framework: the web service and the gateway's endpoint share it. All is
called in the thread of the event loop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from chestxray import process_limits
from chestxray.errors import ConfigError

ACCEPTED_AT_ONCE: Final = 4
"""Connections that the event loop accepts in one turn, before any of them is counted here.

Few, so that a head that has arrived is read before many others displace its connection. It is the
`backlog` of asyncio's `create_server`, which also calls `listen` with it: call `listen` again with
`LISTEN_BACKLOG`.
"""

LISTEN_BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted."""

_DESCRIPTORS_IN_RESERVE: Final = 64  # connections accepted or closing, decoders, files
_LEAST_CONNECTIONS: Final = 16

Phase = Literal["waiting", "busy", "unloading"]


class Connection(Protocol):
    """A connection as the table sees it."""

    def phase(self) -> Phase:
        """Give what the connection does now."""

    def unsent_bytes(self) -> int:
        """Give the size of the answer that the client has not taken."""

    def abort(self) -> None:
        """Close it at once, without sending what is left."""


@dataclass
class _Entry:
    client: str | None
    phase: Phase
    since: float  # monotonic seconds


class ConnectionTable:
    """All open connections of a port.

    Args:
        most: connections in all.
        per_client: connections of one client; no limit for a client that is None, a proxy.
        head_seconds: how long a connection may wait for a complete head.
        answer_seconds: how long a client may take to receive an answer.
        unsent_bytes: of all answers that are not taken.
        clock: gives seconds.

    Attributes:
        closed: connections that were closed because they took too long or were too many.
    """

    def __init__(
        self,
        most: int,
        per_client: int,
        head_seconds: float,
        answer_seconds: float,
        unsent_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.closed = 0
        self._most = most
        self._per_client = per_client
        self._seconds: dict[Phase, float] = {"waiting": head_seconds, "unloading": answer_seconds}
        self._unsent_bytes = unsent_bytes
        self._clock = clock
        self._entries: dict[Connection, _Entry] = {}  # of each phase, the oldest first
        self._counts: Counter[str | None] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, connection: Connection, client: str | None) -> None:
        """Count a new connection, which displaces another one, or is closed, if it is too much."""
        self._entries[connection] = _Entry(client, "waiting", self._clock())
        self._counts[client] += 1
        if client is not None and self._counts[client] > self._per_client:
            self._displace(client, connection)
        elif len(self._entries) > self._most:
            self._displace(self._most_crowded(), connection)

    def update(self, connection: Connection, *, anew: bool = False) -> None:
        """Note that the phase of a connection may have changed.

        Args:
            connection: of the table, or already forgotten.
            anew: its time begins again, also in the same phase: the client has taken a part.
        """
        entry = self._entries.get(connection)
        if entry is None or ((phase := connection.phase()) == entry.phase and not anew):
            return
        # At the end of the order, since its time begins now.
        self._entries[connection] = self._entries.pop(connection)
        entry.phase, entry.since = phase, self._clock()
        if phase == "unloading":
            self._bound_unsent()

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        entry = self._entries.pop(connection, None)
        if entry is not None:
            self._counts[entry.client] -= 1
            if not self._counts[entry.client]:
                del self._counts[entry.client]

    def close_slow(self) -> None:
        """Close connections that have been in their phase for too long; to be called every second.

        The phase is looked up again: the end of a connection's request is not always told, nor is
        that more of an answer was written.
        """
        now = self._clock()
        for connection, entry in [*self._entries.items()]:
            self.update(connection)
            limit = self._seconds.get(entry.phase)
            if limit is not None and now - entry.since >= limit:
                self._close(connection)
        self._bound_unsent()

    def close_all(self) -> None:
        """Close all connections."""
        for connection in [*self._entries]:
            self._close(connection)

    def _most_crowded(self) -> str | None:
        waiting = Counter(e.client for e in self._entries.values() if e.phase == "waiting")
        return waiting.most_common(1)[0][0]

    def _displace(self, client: str | None, new: Connection) -> None:
        """Close the connection of a client that has waited longest, the new one where none does."""
        of_client = [
            (connection, entry.phase)
            for connection, entry in self._entries.items()
            if entry.client == client and connection is not new
        ]
        for phase in ("waiting", "unloading"):
            for connection, its in of_client:
                if its == phase:
                    self._close(connection)
                    return
        self._close(new)

    def _bound_unsent(self) -> None:
        """Close the clients that have taken longest, until what is unsent fits into the limit."""
        unloading = [c for c, entry in self._entries.items() if entry.phase == "unloading"]
        excess = sum(c.unsent_bytes() for c in unloading) - self._unsent_bytes
        for connection in unloading:
            if excess <= 0:
                return
            excess -= connection.unsent_bytes()
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self.closed += 1
        self.remove(connection)
        connection.abort()


def connections_possible(wanted: int) -> int:
    """Give how many connections this process can keep, at most `wanted`.

    The limit of open descriptors is raised as far as the system allows without privileges. A part
    is kept in reserve, so that a connection can always be accepted, and files can be opened.

    Raises:
        ConfigError: too few descriptors are left, on a system that limits them.
    """
    used = process_limits.open_files()
    soft = process_limits.allow_open_files(used + _DESCRIPTORS_IN_RESERVE + wanted)
    if soft is None:
        return wanted
    possible = soft - used - _DESCRIPTORS_IN_RESERVE
    least = min(wanted, _LEAST_CONNECTIONS)
    if possible < least:
        raise ConfigError(
            f"at most {soft} files may be open, too few for {least} connections: set the limit to "
            f"at least {used + _DESCRIPTORS_IN_RESERVE + least}, such as with `ulimit -n 1024`"
        )
    return min(wanted, possible)
