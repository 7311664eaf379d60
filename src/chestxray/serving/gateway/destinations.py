"""Where results go, and which: the destinations and rules of `gateway.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from chestxray.findings import FINDINGS

# PS3.5 section 6.2: at most 16 characters of the default repertoire, no backslash, not all spaces.
AETitle = Annotated[str, StringConstraints(pattern=r"^[!-\[\]-~][ -\[\]-~]{0,15}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Kind = Literal["sr", "sc", "regions"]

STRICT: Final = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _without_secret(url: str) -> str:
    if "@" in url:
        raise ValueError("no name and password here, where logs show them: use `headers`")
    return url


# Of a DICOMweb service, without `/studies`. It stands in logs and in the audit record.
ServiceURL = Annotated[
    str, StringConstraints(pattern=r"^https?://[^?#]+$"), AfterValidator(_without_secret)
]


class TLS(BaseModel):
    """Mutual TLS: both sides show a certificate of the authority.

    Attributes:
        certificate: our certificate, PEM.
        key: its private key, PEM.
        authority: who must have signed the other side's certificate, PEM.
    """

    model_config = STRICT

    certificate: Path
    key: Path
    authority: Path


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
        unknown = [name for name in self.findings if name not in FINDINGS]
        if unknown:
            raise ValueError(f"no finding is called {unknown}; findings are {', '.join(FINDINGS)}")
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

    name: str = Field(pattern=r"^[\w.-]+$")
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
