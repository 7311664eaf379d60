"""`chestxray serve`: REST and the viewer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from chestxray.cli.options import EngineName

TOKEN: Final = "CHESTXRAY_TOKEN"  # noqa: S105 (the variable's name)


def serve(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder of a run.")],
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"A file with the token that clients must show; or set {TOKEN}."),
    ] = None,
    engine: EngineName = "auto",
    upload_mb: Annotated[int, typer.Option(min=1, help="The largest upload, MB.")] = 64,
    places: Annotated[int, typer.Option(min=1, help="Uploads in the house at once.")] = 32,
    seconds: Annotated[float, typer.Option(min=1, help="A reading may take.")] = 60,
    force: Annotated[
        bool, typer.Option("--force", help="Serve others than this machine without a token.")
    ] = False,
) -> None:
    """Read radiographs over HTTP, and show them in a browser, until stopped (Ctrl-C, SIGTERM).

    Nothing of an upload is kept or written to disk, and the log names no file.
    """
    try:
        import uvicorn  # noqa: F401

        from chestxray.serving import server, web
    except ImportError as error:
        from chestxray.errors import MissingExtraError

        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from chestxray import load
    from chestxray.serving.settings import Limits, check_address, token_of

    token = token_of(token_file, os.environ.get(TOKEN))
    check_address(host, token, force)
    address = server.bind(host, port)
    reader = load(bundle, engine)
    server.set_up_logs()
    limits = Limits(upload_bytes=upload_mb * 2**20, places=places, seconds=seconds)
    for warning in reader.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{reader.bundle.identity} on http://{host}:{port}/ ; Ctrl-C ends it", err=True)
    app = web.create(reader, limits, token, anyone=force)
    server.Server(app, host, port).run(sockets=[address])
