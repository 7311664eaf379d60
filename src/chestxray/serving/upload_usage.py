"""What the uploads in progress use: places and memory, in total and for each client."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass


@dataclass
class Usage:
    """What uploads use.

    Attributes:
        places: complete uploads.
        held_bytes: of all request bodies, complete or not.
    """

    places: int = 0
    held_bytes: int = 0

    def add(self, more: Usage) -> None:
        """Count more."""
        self.places += more.places
        self.held_bytes += more.held_bytes

    def remove(self, less: Usage) -> None:
        """Count less."""
        self.places -= less.places
        self.held_bytes -= less.held_bytes

    def fits(self, more: Usage, most: Usage) -> bool:
        """Say whether more would stay within a maximum."""
        return (
            self.places + more.places <= most.places
            and self.held_bytes + more.held_bytes <= most.held_bytes
        )

    def __str__(self) -> str:
        noun = "upload" if self.places == 1 else "uploads"
        return f"{self.places} {noun} of {self.held_bytes / 2**20:.0f} MB"


class UsageTable:
    """What all uploads use; for several threads.

    Args:
        most: of all clients together.
        most_per_client: of one client.
    """

    def __init__(self, most: Usage, most_per_client: Usage) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._total = Usage()
        self._clients: defaultdict[str, Usage] = defaultdict(Usage)
        self._lock = threading.Lock()

    def add(self, client: str, more: Usage) -> str | None:
        """Count more for a client; where it does not fit, nothing, and say what is in use."""
        with self._lock:
            if reason := self._reason(client, more):
                return reason
            self._total.add(more)
            self._clients[client].add(more)
        return None

    def full(self, client: str) -> str | None:
        """Say what is in use where a client's complete upload would not fit now."""
        with self._lock:
            return self._reason(client, Usage(places=1))

    def remove(self, client: str, less: Usage) -> None:
        """Count less for a client."""
        with self._lock:
            self._total.remove(less)
            self._clients[client].remove(less)
            if self._clients[client] == Usage():
                del self._clients[client]

    def is_empty(self) -> bool:
        """Say whether nothing is in use."""
        return self._total == Usage() and not self._clients

    @property
    def held_bytes(self) -> int:
        """Bytes of all request bodies."""
        return self._total.held_bytes

    def _reason(self, client: str, more: Usage) -> str | None:
        own = self._clients.get(client, Usage())
        if not own.fits(more, self._most_per_client):
            return f"{own} in progress for this client (at most {self._most_per_client})"
        if not self._total.fits(more, self._most):
            return f"{self._total} in progress (at most {self._most})"
        return None
