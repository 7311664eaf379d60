"""The values that `gateway.toml` may hold: each type checks its own form.

An error states the rule; it never repeats the value, which may be a token.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

_LAST_PORT: Final = 65535


def _ae_title(title: str) -> str:
    """Check an AE title (PS3.5 section 6.2)."""
    if not re.fullmatch(r"[!-\[\]-~][ -\[\]-~]{0,15}", title):
        raise ValueError(
            f"an AE title has 1 to 16 ASCII characters, no backslash and no leading space, "
            f"this one has {len(title)}"
        )
    return title


def _service_url(url: str) -> str:
    """Check the URL of a DICOMweb service, which appears in logs and in the audit record."""
    if not re.fullmatch(r"https?://[^?#\s]+", url):
        raise ValueError("must be http://… or https://…, without ? and #")
    if not _has_address(url):
        raise ValueError("must be http://HOST… or https://HOST…, with a port up to 65535 if any")
    if "@" in url:
        raise ValueError("must not contain a user name or password: put them into `headers`")
    if url.rstrip("/").endswith("/studies"):
        raise ValueError("must be the URL of the service without /studies, which is added")
    return url


def _has_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an IPv6 address
        return False


def _headers(headers: dict[str, str]) -> dict[str, str]:
    """Check HTTP headers (RFC 9110 section 5), which may hold a token."""
    if not all(
        re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and re.fullmatch(r"[ -~]*", value)
        for name, value in headers.items()
    ):
        raise ValueError(
            "must be names and values of ASCII characters, without line breaks, and no blanks in "
            "names"
        )
    return headers


def _short_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError("must consist of letters, digits, dots, - and _")
    return name


def _syslog_address(address: str) -> str:
    form = re.fullmatch(r"/\S+|(?:[^\s:/]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", address)
    if form is None or not 1 <= int(form[1] or 1) <= _LAST_PORT:
        raise ValueError("must be a socket such as /dev/log, or host:port")
    return address


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(
            "must be an IP address such as 10.1.2.3, or a network such as 10.1.2.0/24"
        ) from error


Network = Annotated[str, AfterValidator(_network)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
ServiceURL = Annotated[str, AfterValidator(_service_url)]  # without `/studies`
FilePath = Annotated[Path, Field(strict=False)]  # text in TOML
Port = Annotated[int, Field(ge=1, le=_LAST_PORT)]
Headers = Annotated[dict[str, str], AfterValidator(_headers)]
ShortName = Annotated[str, AfterValidator(_short_name)]
SyslogAddress = Annotated[str, AfterValidator(_syslog_address)]
