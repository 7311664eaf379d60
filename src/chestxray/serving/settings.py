"""What the web service allows itself and its clients."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from chestxray.errors import ConfigError
from chestxray.parallel import cores

_SHORTEST_TOKEN = 16
_LARGEST_AT_ONCE = 8


@dataclass(frozen=True)
class Limits:
    """Bounds that keep memory and waiting finite.

    Uploads held in memory are bounded by number (`places`) and by bytes together (`held_bytes`).

    Attributes:
        upload_bytes: the largest request body that is read.
        places: requests in the house at once; whoever comes then is asked to come back.
        seconds: from the end of the upload to the answer.
        upload_seconds: an upload may take.
        batch: images that the model reads at once.
        decoders: processes that decode.
    """

    upload_bytes: int = 64 * 2**20
    places: int = 32
    seconds: float = 60.0
    upload_seconds: float = 60.0
    batch: int = 16
    decoders: int = field(default_factory=cores)

    @property
    def held_bytes(self) -> int:
        """Of request bodies at once: a few of the largest, many of the usual."""
        return _LARGEST_AT_ONCE * self.upload_bytes


def token_of(path: Path | None, environment: str | None) -> str | None:
    """Give the bearer token that clients must show, None where none is wanted.

    Args:
        path: a file that holds it, which counts before the environment.
        environment: the value of the variable.

    Raises:
        ConfigError: it is too short to keep anybody out, or no HTTP header can hold it.
    """
    if path is None and environment is None:
        return None
    token = (environment or "") if path is None else path.read_text(encoding="utf-8")
    token = token.strip()
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        raise ConfigError(
            f"the token must have at least {_SHORTEST_TOKEN} ASCII characters and no space, this "
            f"has {len(token)}: make one with `openssl rand -hex 32`"
        )
    return token


def check_address(host: str, token: str | None, force: bool) -> None:
    """Refuse to offer patients' radiographs' readings to a whole network without a token.

    Raises:
        ConfigError: another address than this machine's own, and no token.
    """
    if token is None and not force and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines and no token is set: give --token-file "
            f"(`openssl rand -hex 32 > token`), or --force where something else guards the door"
        )


def is_loopback(host: str) -> bool:
    """Say whether a name or address stands for this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(header: str) -> str:
    """Give the name or address in a `Host` header, without port and brackets; empty if broken."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
