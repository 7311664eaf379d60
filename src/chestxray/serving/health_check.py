"""Asks a service of this machine whether it is well, as the health check of a container image does.

    python -m chestxray.serving.health_check http://127.0.0.1:8000/readyz

The exit status is 0 where the answer has the status 200, otherwise 1 with what was answered. It
needs no other program, such as curl, and asks no proxy, whatever the environment names.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from typing import Final
from urllib.parse import urlsplit

from chestxray.serving.clients import is_loopback

_SECONDS: Final = 5.0
_SHOWN: Final = 500  # bytes of an answer


def health_check(url: str) -> str:
    """Ask for a URL of this machine and give what is wrong; empty text where nothing is.

    Args:
        url: of http or https, on a loopback address. The certificate is not verified: the request
            does not leave this machine, and the certificate is of the name that others use.

    Raises:
        ValueError: the URL is of another machine, or of another scheme.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not is_loopback(parts.hostname or ""):
        raise ValueError(f"{url}: give an http or https URL of this machine, such as 127.0.0.1")
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=_unverified())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=_SECONDS)
    )
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        text = answer.read(_SHOWN).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"
    finally:
        connection.close()
    return "" if answer.status == http.HTTPStatus.OK else f"{url}: {answer.status} {text}"


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main() -> None:
    """Ask for the URL that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        wrong = health_check(sys.argv[1])
    except ValueError as error:
        wrong = str(error)
    if wrong:
        sys.exit(wrong)


if __name__ == "__main__":
    main()
