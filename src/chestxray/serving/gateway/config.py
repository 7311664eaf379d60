"""`gateway.toml`: what the gateway may do, and with which other systems.

Every key is checked. An error states the key, the rule and the next step, and names the nearest
right key for an unknown one. It does not repeat a value, since that may be a token; only the `kind`
of a destination. Paths are relative to the file's own folder. Whether the findings that a rule
names are those of the model is checked when the gateway starts (`supervisor.check`).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from chestxray.errors import ConfigError
from chestxray.serving.clients import is_loopback
from chestxray.serving.gateway.access import require_secret
from chestxray.serving.gateway.config_errors import described
from chestxray.serving.gateway.config_values import (
    AETitle,
    FilePath,
    Headers,
    Network,
    Port,
    ServiceURL,
    ShortName,
    SyslogAddress,
)
from chestxray.serving.gateway.secondary_captures import CaptureRule

_log = logging.getLogger(__name__)
_ENGINES: Final = ("auto", "torch", "openvino")
_ResultKind = Literal["sr", "sc", "regions", "seg"]
_Modality = Literal["CR", "DX"]


class _Table(BaseModel):
    """A table of the file: unknown keys are errors, values keep their TOML type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TLS(_Table):
    """Mutual TLS: both sides present a certificate of the same authority.

    Attributes:
        certificate: certificate of this gateway, PEM.
        key: its private key, PEM.
        authority: authority that must have signed the other side's certificate, PEM.
    """

    certificate: FilePath
    key: FilePath
    authority: FilePath

    def server_context(self) -> ssl.SSLContext:
        """Make a context that requires a certificate of the authority from each client.

        Raises:
            OSError: a file cannot be read or is not PEM, or key and certificate do not match.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.authority))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Make a context that presents this certificate and requires one of the authority.

        Raises:
            OSError: a file cannot be read or is not PEM, or key and certificate do not match.
        """
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        return context


class Receive(_Table):
    """The Storage SCP.

    Attributes:
        ae_title: AE title of the gateway; associations that call another title are rejected.
        host: address to listen on; loopback by default.
        port: TCP port.
        allow: calling AE titles that may associate; all others are rejected.
        associations: maximum number of open associations; further ones are rejected.
        associations_per_title: the same for one calling AE title.
        associations_per_address: the same for one IP address.
        connections: maximum number of connections without an association yet; a further one
            displaces the oldest.
        connections_per_address: the same for one address.
        object_mib: maximum size of an object; a larger one aborts its association.
        secondary_captures: whether objects of the class Secondary Capture are received that are
            radiographs by their tags, see `secondary_captures`.
        burned_in_annotation: whether those are too whose pixels are said to contain text.
        addresses: IP addresses or networks from which an AE title may associate; a title that is
            not named here may do so from any address.
        tls: mutual TLS; plain DICOM without it.
    """

    ae_title: AETitle = "CHESTXRAY"
    host: str = "127.0.0.1"
    port: Port = 11112
    allow: list[AETitle] = Field(min_length=1)
    associations: int = Field(default=10, ge=1)
    associations_per_title: int = Field(default=8, ge=1)
    associations_per_address: int = Field(default=8, ge=1)
    connections: int = Field(default=32, ge=1)
    connections_per_address: int = Field(default=16, ge=1)
    object_mib: int = Field(default=256, ge=1)
    secondary_captures: bool = False
    burned_in_annotation: bool = False
    addresses: dict[AETitle, Annotated[list[Network], Field(min_length=1)]] = {}
    tls: TLS | None = None

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        unknown = set(self.addresses) - set(self.allow)
        if unknown:
            raise ValueError(f"addresses has titles that are not in allow: {sorted(unknown)}")
        return self

    @model_validator(mode="after")
    def _check_captures(self) -> Self:
        if self.burned_in_annotation and not self.secondary_captures:
            raise ValueError(
                "burned_in_annotation = true is about secondary captures, which are not received: "
                "add secondary_captures = true or remove burned_in_annotation"
            )
        return self

    @property
    def capture_rule(self) -> CaptureRule:
        """Which secondary captures are received."""
        return CaptureRule(self.secondary_captures, self.burned_in_annotation)

    def may_come_from(self, title: str, address: str) -> bool:
        """Tell whether an AE title may associate from an IP address."""
        networks = {name.strip(): networks for name, networks in self.addresses.items()}
        if title not in networks:
            return True
        ip = ipaddress.ip_address(address.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in ipaddress.ip_network(network) for network in networks[title])


class Poll(_Table):
    """A DICOMweb service that is polled for new studies.

    Attributes:
        url: base URL of the service, without `/studies`.
        seconds: interval between two polls.
        since: first study date to ask for; today by default.
        days: how many days after its study date a study may arrive and still be found.
        modalities: modalities to fetch.
        headers: HTTP headers of each request, such as a token.
    """

    url: ServiceURL
    seconds: float = Field(default=30, gt=0)
    since: Annotated[dt.date, Field(strict=False)] | None = None
    days: int = Field(default=3, ge=1)
    modalities: list[_Modality] = Field(default=["CR", "DX"], min_length=1)
    headers: Headers = {}


class Read(_Table):
    """The worker processes that read radiographs.

    Attributes:
        workers: number of processes, each with its own model.
        engine: `auto`, `torch` or `openvino`, as `chestxray.load` takes it; or the folder of an
            export of the bundle, with which a worker needs no torch and a third of the memory.
        operating_point: which of the bundle's operating points calls findings; without it the
            bundle's default, `joint`.
        require_signature: public key, PEM, of who must have signed the bundle, and the export where
            `engine` is one.
        lease: maximum seconds of one reading; then the worker is ended and the image is read again.
        attempts: number of attempts before an image becomes a dead letter.
        send_refusals: whether a refusal by the gate is sent as a result; it is recorded either way.
    """

    workers: int = Field(default=1, ge=1)
    engine: str = Field(default="auto", min_length=1)
    operating_point: str | None = Field(default=None, min_length=1)
    require_signature: FilePath | None = None
    lease: float = Field(default=120, gt=0)
    attempts: int = Field(default=5, ge=1)
    send_refusals: bool = True


class Storage(_Table):
    """Retention on disk. What is not yet read or not yet sent everywhere is never removed.

    Attributes:
        keep_days: how long images and results are kept after the last delivery.
        spare_mib: free space below which delivered files are removed early, oldest first.
        free_mib: free space below which new images are refused (A700).
    """

    keep_days: float = Field(default=7, ge=0)
    spare_mib: int = Field(default=2048, ge=0)
    free_mib: int = Field(default=1024, ge=0)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.spare_mib < self.free_mib:
            raise ValueError(
                f"spare_mib = {self.spare_mib} must not be less than free_mib = {self.free_mib}: "
                "images would be refused before delivered files are removed"
            )
        return self


class Metrics(_Table):
    """The endpoint for Prometheus and for health checks.

    Attributes:
        host: address to listen on.
        port: TCP port.
    """

    host: str = "127.0.0.1"
    port: Port


class Audit(_Table):
    """Where the last links of the audit record go, besides the file in the state folder.

    Attributes:
        syslog: socket such as `/dev/log`, or host and UDP port such as `10.1.2.3:514`.
        url: where they are posted as JSON.
        headers: HTTP headers of each request, such as a token.
    """

    syslog: SyslogAddress | None = None
    url: ServiceURL | None = None
    headers: Headers = {}

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.headers and self.url is None:
            raise ValueError("headers are for url, which is missing: add url or remove headers")
        return self


class Drift(_Table):
    """What counts as drift: how far a week's radiographs may lie from what they are compared with.

    Attributes:
        level: chance of an alarm in a week without any drift.
        tolerance: largest distance that is not worth an alarm, see `evaluation.drift`.
        baseline: first and last day of a period of this gateway that later weeks are compared with
            instead of the bundle's validation images.
        keep_weeks: how long the figures of readings are kept; those of the baseline stay.
    """

    level: float = Field(default=0.01, gt=0, lt=0.5)
    tolerance: float = Field(default=0.05, ge=0, lt=1)
    baseline: (
        Annotated[list[Annotated[dt.date, Field(strict=False)]], Field(min_length=2, max_length=2)]
        | None
    ) = None
    keep_weeks: int = Field(default=53, ge=2)

    @model_validator(mode="after")
    def _check_baseline(self) -> Self:
        if self.baseline is not None and self.baseline[0] > self.baseline[1]:
            raise ValueError(
                f"baseline = {self.baseline[0]} to {self.baseline[1]} ends before it begins: give "
                "its first and its last day"
            )
        return self

    @property
    def period(self) -> tuple[float, float] | None:
        """Beginning and end of the baseline, seconds since 1970; None without one."""
        if self.baseline is None:
            return None
        first, last = (dt.datetime.combine(day, dt.time(), dt.UTC) for day in self.baseline)
        return first.timestamp(), (last + dt.timedelta(days=1)).timestamp()


class Shadow(_Table):
    """A second bundle that reads every radiograph too; its results are never sent.

    Attributes:
        bundle: folder of the bundle.
        engine: as `read.engine`.
        operating_point: as `read.operating_point`.
    """

    bundle: FilePath
    engine: str = Field(default="auto", min_length=1)
    operating_point: str | None = Field(default=None, min_length=1)


class Rule(_Table):
    """Which results a destination receives: all conditions that are given must hold.

    A refusal by the gate has no calls, so a rule with `findings` or `called` does not hold for it.

    Attributes:
        findings: at least one of these is called; any spelling that the vocabulary knows.
        called: true: at least one finding is called; false: none is.
        modalities: modalities of the image.
        calling: AE titles that sent the image.
    """

    findings: list[str] = []
    called: bool | None = None
    modalities: list[_Modality] = []
    calling: list[AETitle] = []

    @model_validator(mode="after")
    def _check_conditions(self) -> Self:
        if self.findings and self.called is False:
            raise ValueError("called = false excludes every finding: remove findings or called")
        return self


class _Destination(_Table):
    """What all destinations have.

    Attributes:
        name: name in logs, `status` and `dead`.
        send: kinds of result objects.
        rules: at least one must hold; without rules every result is sent.
        attempts: how often the destination may reject a result before it becomes a dead letter.
            While the destination cannot be reached, results wait and no attempt is counted.
        lease: maximum seconds of one delivery; then the sender is ended and delivery is retried.
    """

    name: ShortName
    send: list[_ResultKind] = Field(default=["sr", "sc"], min_length=1)
    rules: list[Rule] = []
    attempts: int = Field(default=10, ge=1)
    lease: float = Field(default=120, gt=0)


class StoreSCP(_Destination):
    """A destination that receives by C-STORE."""

    kind: Literal["dicom"]
    ae_title: AETitle
    host: str
    port: Port
    tls: TLS | None = None


class Stow(_Destination):
    """A destination that receives by STOW-RS.

    Attributes:
        url: base URL of the DICOMweb service, without `/studies`.
        headers: HTTP headers of each request, such as a token.
    """

    kind: Literal["stow"]
    url: ServiceURL
    headers: Headers = {}


Destination = Annotated[StoreSCP | Stow, Field(discriminator="kind")]


class Config(_Table):
    """The whole of `gateway.toml`.

    Attributes:
        state: folder of images, results, queue and audit record.
        receive: the Storage SCP.
        poll: DICOMweb services that are polled.
        read: the workers.
        storage: retention.
        metrics: endpoint for Prometheus and health checks; none by default.
        audit: further places for the last links of the audit record.
        drift: what counts as drift.
        shadow: a second bundle that reads too; none by default.
        destinations: where results go.
        dry_run: results are kept in the outbox and sent nowhere.
    """

    state: FilePath
    dry_run: bool = False
    receive: Receive
    poll: list[Poll] = []
    read: Read = Read()
    storage: Storage = Storage()
    metrics: Metrics | None = None
    audit: Audit = Audit()
    drift: Drift = Drift()
    shadow: Shadow | None = None
    destinations: list[Destination] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) < len(names):
            raise ValueError(f"destinations must have different names, these are {names}")
        urls = [service.url.rstrip("/") for service in self.poll]
        if len(set(urls)) < len(urls):
            raise ValueError("poll must have different urls: one position is saved for each url")
        return self


TABLES: Final = (
    Config, Receive, Poll, Read, Storage, Metrics, Audit, Drift, Shadow, TLS, Rule, StoreSCP, Stow
)  # fmt: skip


def load(path: Path) -> Config:
    """Read a configuration, and warn of tokens that would be sent without encryption.

    Raises:
        ConfigError: the file cannot be read or is not TOML, a key is unknown or a value invalid, or
            it has `headers` and every user can read it.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: see docs/gateway.md for an example") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        keys = {key for table in TABLES for key in table.model_fields}
        lines = "; ".join(described(detail, keys) for detail in error.errors())
        raise ConfigError(f"{path}: {lines}") from error
    if any(service.headers for _, service in _services(config)):
        require_secret(path)
    for warning in in_clear_text(config):
        _log.warning("%s: %s", path, warning, extra={"event": "insecure"})
    return _with_absolute_paths(config, path.parent)


def in_clear_text(config: Config) -> list[str]:
    """List the services to which headers, which may hold a token, go without encryption."""
    return [
        f"{place}.url: {service.url} is not https, so its `headers`, such as a token, can be read "
        "on the network: use https://, or a TLS proxy on this machine"
        for place, service in _services(config)
        if service.headers and service.url is not None and not _is_private(service.url)
    ]


def _services(config: Config) -> Iterator[tuple[str, Poll | Stow | Audit]]:
    """Give all services with headers and their places in the file."""
    yield from ((f"poll[{number}]", service) for number, service in enumerate(config.poll))
    for number, to in enumerate(config.destinations):
        if isinstance(to, Stow):
            yield f"destinations[{number}]", to
    yield "audit", config.audit


def _is_private(url: str) -> bool:
    """Tell whether what is sent to a URL is encrypted, or stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def _with_absolute_paths(config: Config, folder: Path) -> Config:
    """Make paths absolute, so that every process finds them from any working directory."""
    raw: dict[str, Any] = config.model_dump()
    raw["state"] = folder.absolute() / config.state
    if config.read.engine not in _ENGINES:
        raw["read"]["engine"] = str(folder.absolute() / config.read.engine)
    if config.shadow is not None:
        raw["shadow"]["bundle"] = folder.absolute() / config.shadow.bundle
        if config.shadow.engine not in _ENGINES:
            raw["shadow"]["engine"] = str(folder.absolute() / config.shadow.engine)
    if config.read.require_signature is not None:
        raw["read"]["require_signature"] = folder.absolute() / config.read.require_signature
    for table in (raw["receive"], *raw["destinations"]):
        if table.get("tls"):
            table["tls"] = {key: folder.absolute() / path for key, path in table["tls"].items()}
    return Config.model_validate(raw)
