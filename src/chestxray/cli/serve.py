"""`chestxray serve`: REST interface and viewer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import (
    BundleFolder,
    EngineName,
    OperatingPointName,
    RequireSignature,
)


class LogFormat(StrEnum):
    """Forms of the log."""

    text = "text"
    json = "json"


def serve(
    bundle: BundleFolder,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 selects a free port.")
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that clients must send; or set CHESTXRAY_TOKEN."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(help="Certificate (PEM) for HTTPS, with those of intermediate authorities."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Private key (PEM) of the certificate.")
    ] = None,
    engine: EngineName = "auto",
    device: Annotated[
        str,
        typer.Option(help="Where torch computes: cpu, cuda, cuda:N, mps; auto: a GPU if present."),
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Radiographs that the model reads at once, at most.")
    ] = 16,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that decode files; one per core by default."),
    ] = None,
    operating_point: OperatingPointName = None,
    require_signature: RequireSignature = None,
    upload_mb: Annotated[int, typer.Option(min=1, help="Largest upload, MB.")] = 64,
    max_uploads: Annotated[int, typer.Option(min=1, help="Uploads in progress at once.")] = 64,
    max_uploads_per_client: Annotated[
        int, typer.Option(min=1, help="Uploads in progress at once of one address.")
    ] = 32,
    max_connections: Annotated[int, typer.Option(min=1, help="Open connections.")] = 512,
    max_connections_per_client: Annotated[
        int, typer.Option(min=1, help="Open connections of one address.")
    ] = 128,
    timeout: Annotated[float, typer.Option(min=1, help="Timeout per image in seconds.")] = 60,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Serve other machines without a token.")
    ] = False,
    allow_force: Annotated[
        bool,
        typer.Option(
            "--allow-force",
            help="Let users read what the gate refuses, with a warning in the picture.",
        ),
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="text, or json: one object a line.")
    ] = LogFormat.text,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network of a reverse proxy, whose X-Forwarded-For is believed; "
            "repeatable."
        ),
    ] = None,
) -> None:
    """Read radiographs over HTTP and show them in a browser, until stopped (Ctrl-C, SIGTERM).

    Uploads are never stored, and file names are not logged.
    """
    from chestxray.parallel import cores
    from chestxray.serving import Limits
    from chestxray.serving import serve as start
    from chestxray.serving.middleware import read_token

    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter("give --tls-certificate and --tls-key together")
    tls = (tls_certificate, tls_key) if tls_certificate and tls_key else None
    limits = Limits(
        max_batch=batch_size,
        decoders=workers or cores(),
        max_upload_bytes=upload_mb * 2**20,
        max_uploads=max_uploads,
        max_uploads_per_client=max_uploads_per_client,
        timeout=timeout,
        max_connections=max_connections,
        max_connections_per_client=max_connections_per_client,
    )
    start(
        bundle,
        host=host,
        port=port,
        engine=engine,
        operating_point=operating_point,
        require_signature=require_signature,
        token=read_token(token_file),
        limits=limits,
        allow_remote=allow_remote,
        proxies=proxy or (),
        allow_force=allow_force,
        device=device,
        tls=tls,
        log_format=log_format.value,
    )
