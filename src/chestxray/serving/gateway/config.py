"""`gateway.toml`: what the gateway may do, and with whom.

Every key is checked; an unknown one is an error with the nearest right name. Paths are relative to
the file's own folder.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from chestxray.errors import ConfigError
from chestxray.serving.gateway import config_errors as mistakes
from chestxray.serving.gateway.destinations import (
    STRICT,
    TLS,
    AETitle,
    Destination,
    FilePath,
    Port,
    Rule,
    ServiceURL,
    StoreSCP,
    Stow,
)


class Receive(BaseModel):
    """The Storage SCP.

    Attributes:
        ae_title: ours; associations called otherwise are rejected.
        host: address to listen on; loopback unless told otherwise.
        port: TCP port.
        allow: calling AE titles that may associate; nobody else.
        associations: most at the same time; a further one is rejected.
        tls: mutual TLS; plain DICOM without.
    """

    model_config = STRICT

    ae_title: AETitle = "CHESTXRAY"
    host: str = "127.0.0.1"
    port: Port = 11112
    allow: list[AETitle] = Field(min_length=1)
    associations: int = Field(default=10, ge=1)
    tls: TLS | None = None


class Poll(BaseModel):
    """A DICOMweb source that is asked for new studies.

    Attributes:
        url: of the DICOMweb service, without `/studies`.
        seconds: between two questions.
        since: first study date to ask for; today where none is given.
        days: how late after its date a study may come and is seen: each question looks back so far.
        modalities: of the images to fetch.
        headers: sent with each request, such as a token.
    """

    model_config = STRICT

    url: ServiceURL
    seconds: float = Field(default=30, gt=0)
    since: Annotated[dt.date, Field(strict=False)] | None = None
    days: int = Field(default=3, ge=1)
    modalities: list[Literal["CR", "DX"]] = Field(default=["CR", "DX"], min_length=1)
    headers: dict[str, str] = {}


class Read(BaseModel):
    """The workers that read.

    Attributes:
        workers: processes, each with its own model.
        engine: `auto`, `torch` or `openvino`, as `chestxray.load` takes it; or the folder of an
            export of the bundle, by which a worker needs no torch and a third of the memory.
        lease: seconds that a reading may take; then its worker is ended and another takes it up.
        attempts: before an image is given up as dead.
        send_refusals: whether a refusal by the gate is sent as a result; it is kept either way.
    """

    model_config = STRICT

    workers: int = Field(default=1, ge=1)
    engine: str = Field(default="auto", min_length=1)
    lease: float = Field(default=120, gt=0)
    attempts: int = Field(default=5, ge=1)
    send_refusals: bool = True


class Storage(BaseModel):
    """What stays on disk. What was not read, or not sent to all, is never removed.

    Attributes:
        keep_days: how long images and results are kept after the last delivery.
        spare_mib: free space below which they go before that, the oldest first.
        free_mib: free space below which new images are refused (A700).
    """

    model_config = STRICT

    keep_days: float = Field(default=7, ge=0)
    spare_mib: int = Field(default=2048, ge=0)
    free_mib: int = Field(default=1024, ge=0)

    @model_validator(mode="after")
    def _makes_room_first(self) -> Self:
        if self.spare_mib < self.free_mib:
            raise ValueError(
                f"spare_mib = {self.spare_mib} must not be less than free_mib = {self.free_mib}, "
                "or images are refused while nothing makes room"
            )
        return self


class Metrics(BaseModel):
    """Figures for Prometheus.

    Attributes:
        host: address to listen on.
        port: TCP port.
    """

    model_config = STRICT

    host: str = "127.0.0.1"
    port: Port


class Config(BaseModel):
    """The whole of `gateway.toml`.

    Attributes:
        state: the folder that holds images, results, the queue and the audit record.
        receive: how images come in.
        poll: DICOMweb sources that are asked for images.
        read: how they are read.
        storage: how long they stay.
        metrics: where figures can be fetched; nowhere without.
        destinations: where results go.
    """

    model_config = STRICT

    state: FilePath
    receive: Receive
    poll: list[Poll] = []
    read: Read = Read()
    storage: Storage = Storage()
    metrics: Metrics | None = None
    destinations: list[Destination] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) < len(names):
            raise ValueError(f"destinations must have different names, these are {names}")
        urls = [source.url.rstrip("/") for source in self.poll]
        if len(set(urls)) < len(urls):
            raise ValueError("poll must have different urls: one source has one position")
        return self


MODELS: Final = (Config, Receive, Poll, Read, Storage, Metrics, TLS, Rule, StoreSCP, Stow)
_ENGINES: Final = ("auto", "torch", "openvino")


def load(path: Path) -> Config:
    """Read a configuration.

    Raises:
        ConfigError: no readable file, no TOML, an unknown key or an impossible value.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: see docs/gateway.md for an example") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        keys = {key for model in MODELS for key in model.model_fields}
        lines = "; ".join(mistakes.sentence(detail, keys) for detail in error.errors())
        raise ConfigError(f"{path}: {lines}") from error
    return _anchored(config, path.parent)


def _anchored(config: Config, folder: Path) -> Config:
    """Make paths absolute, so that the processes find them from anywhere."""
    raw: dict[str, Any] = config.model_dump()
    raw["state"] = folder.absolute() / config.state
    if config.read.engine not in _ENGINES:
        raw["read"]["engine"] = str(folder.absolute() / config.read.engine)
    for room in (raw["receive"], *raw["destinations"]):
        if room.get("tls"):
            room["tls"] = {key: folder.absolute() / path for key, path in room["tls"].items()}
    return Config.model_validate(raw)
