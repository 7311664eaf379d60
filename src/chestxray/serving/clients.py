"""Who sends a request: the address of its client, also behind a proxy.

A proxy names its client in `X-Forwarded-For`, which anyone else can forge. So the header counts
only where the connection comes from a proxy that is configured, and it is read from the right: each
proxy appends the address that it saw itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from chestxray.errors import ConfigError

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import Scope

_FORWARDING: Final = (
    "forwarded",  # RFC 7239
    "via",  # RFC 9110, section 7.6.3
    "x-real-ip",
)
_FORWARDING_PREFIX: Final = "x-forwarded-"
_IPV6_SITE: Final = 64  # bits; one user has at least as many addresses (RFC 6177)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The proxies that are trusted.

    Args:
        addresses: IP addresses or networks.

    Raises:
        ConfigError: one is neither.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self._networks = [_network(address) for address in addresses]

    def include(self, address: str) -> bool:
        """Say whether an address is that of a proxy."""
        known = _parsed(address)
        return known is not None and any(known in network for network in self._networks)

    def client(self, peer: str, headers: Headers) -> str:
        """Give the address of the client: the peer's, or what proxies say of it.

        Args:
            peer: where the connection comes from.
            headers: of the request.
        """
        client = peer
        forwarded = ",".join(headers.getlist("x-forwarded-for")).split(",")
        while self.include(client) and forwarded:
            named = _parsed(_without_port(forwarded.pop().strip()))
            if named is None:
                break
            client = str(named)
        return client


def peer_of(scope: Scope) -> str | None:
    """Give the address that a connection comes from; None where there is none (a Unix socket)."""
    client = scope.get("client")
    return None if client is None else str(client[0])


def is_forwarded(headers: Headers) -> bool:
    """Say whether a request says that it came through a proxy."""
    return any(name in _FORWARDING or name.startswith(_FORWARDING_PREFIX) for name in headers)


def is_loopback(host: str) -> bool:
    """Say whether a name or address is that of this machine alone."""
    address = _parsed(host)
    return host == "localhost" if address is None else address.is_loopback


def limited_as(address: str) -> str:
    """Give the name under which a client's connections and uploads are counted together.

    An IPv6 client has a whole network of addresses.
    """
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_SITE), strict=False))
    return address if parsed is None else str(parsed)


def _network(address: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(address)
    except ValueError as error:
        raise ConfigError(
            f"{address!r} is not the address of a proxy: give an IP address or a network, such as "
            f"127.0.0.1 or 10.0.0.0/24"
        ) from error


def _parsed(address: str) -> _Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _without_port(value: str) -> str:
    """Give the address in `192.0.2.1:4711`, `[2001:db8::1]:4711` or without a port."""
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0] if value.count(":") == 1 else value
