"""Where results go, and which: the destinations and rules of `gateway.toml`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

STRICT: Final = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _ae_title(title: str) -> str:
    """Check an AE title by PS3.5 section 6.2."""
    if not re.fullmatch(r"[!-\[\]-~][ -\[\]-~]{0,15}", title):
        raise ValueError(
            f"an AE title has 1 to 16 ASCII characters, no backslash and no space at its "
            f"beginning, this has {len(title)}"
        )
    return title


def _service(url: str) -> str:
    """Check the URL of a DICOMweb service; it stands in logs and in the audit record."""
    if not re.fullmatch(r"https?://[^?#\s]+", url):
        raise ValueError("must be http://… or https://…, without ? and #")
    if "@" in url:
        raise ValueError("no name and password here, where logs show them: use `headers`")
    return url


def _short_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError("a name has letters, digits, dots, - and _ alone")
    return name


AETitle = Annotated[str, AfterValidator(_ae_title)]
ServiceURL = Annotated[str, AfterValidator(_service)]  # without `/studies`
FilePath = Annotated[Path, Field(strict=False)]  # text in TOML
Port = Annotated[int, Field(ge=1, le=65535)]
Kind = Literal["sr", "sc", "regions"]


class TLS(BaseModel):
    """Mutual TLS: both sides show a certificate of the authority.

    Attributes:
        certificate: our certificate, PEM.
        key: its private key, PEM.
        authority: who must have signed the other side's certificate, PEM.
    """

    model_config = STRICT

    certificate: FilePath
    key: FilePath
    authority: FilePath


class Rule(BaseModel):
    """Which images' results go to a destination: all that is given must hold.

    A refusal by the gate calls nothing, neither way: a rule that asks for calls does not hold.

    Attributes:
        findings: at least one of these is called.
        called: true, at least one finding is called; false, none is.
        modalities: of the image, CR or DX.
        calling: AE titles that sent the image.
    """

    model_config = STRICT

    findings: list[str] = []
    called: bool | None = None
    modalities: list[Literal["CR", "DX"]] = []
    calling: list[AETitle] = []

    @model_validator(mode="after")
    def _names_findings(self) -> Self:
        if self.findings and self.called is False:
            raise ValueError("called = false asks for none at all: leave findings away")
        return self


class _Destination(BaseModel):
    """What all destinations have.

    Attributes:
        name: for logs, `status` and `dead`.
        send: kinds of result objects.
        rules: one of these must hold; everything is sent where there are none.
        attempts: that it may turn a result down before the delivery is given up as dead. While it
            cannot be reached at all, nothing is counted: results wait.
        lease: seconds that a delivery may take; then its sender is ended, and the next one tries.
    """

    model_config = STRICT

    name: Annotated[str, AfterValidator(_short_name)]
    send: list[Kind] = Field(default=["sr", "sc"], min_length=1)
    rules: list[Rule] = []
    attempts: int = Field(default=10, ge=1)
    lease: float = Field(default=120, gt=0)


class StoreSCP(_Destination):
    """A destination that takes C-STORE."""

    kind: Literal["dicom"]
    ae_title: AETitle
    host: str
    port: Port
    tls: TLS | None = None


class Stow(_Destination):
    """A destination that takes STOW-RS.

    Attributes:
        url: of the DICOMweb service, without `/studies`.
        headers: sent with each request, such as a token.
    """

    kind: Literal["stow"]
    url: ServiceURL
    headers: dict[str, str] = {}


Destination = Annotated[StoreSCP | Stow, Field(discriminator="kind")]
