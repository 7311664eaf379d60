"""`chestxray gateway`: the node in the PACS, and its queue."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import BundleFolder

if TYPE_CHECKING:
    from chestxray.serving.gateway.store import Store

gateway = typer.Typer(
    name="gateway",
    help="Run a DICOM node that reads radiographs and sends results back into the study.",
    no_args_is_help=True,
)


_NEEDED = ("prometheus_client", "pynetdicom")

ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration, gateway.toml.")]
Items = Annotated[
    list[str] | None,
    typer.Option("--item", help="A UID listed by `gateway dead`. Repeatable."),
]


@gateway.command()
def run(
    bundle: BundleFolder,
    config: ConfigFile,
) -> None:
    """Receive radiographs over DICOM, read them, and send the results, until stopped.

    Stops on Ctrl-C or SIGTERM.
    """
    from chestxray.errors import MissingExtraError

    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "pacs")
    from chestxray.serving.gateway import logs
    from chestxray.serving.gateway.access import private_files, require_posix
    from chestxray.serving.gateway.config import load
    from chestxray.serving.gateway.supervisor import Gateway, check

    require_posix()
    settings = load(config)
    with private_files():
        identity = check(settings, bundle.absolute())
        logs.set_up()
        receive = settings.receive
        typer.echo(
            f"{identity} as {receive.ae_title} on {receive.host}:{receive.port}, "
            f"state in {settings.state}; stop with Ctrl-C",
            err=True,
        )
        Gateway(settings, bundle.absolute()).run()


@gateway.command()
def status(config: ConfigFile) -> None:
    """Show whether the gateway is well, and how many images and results are waiting."""
    from chestxray.serving.gateway import health, statistics

    with _opened(config) as store:
        for line in (*health.status_lines(store.folder), *statistics.status_lines(store.db)):
            typer.echo(line)


@gateway.command()
def dead(config: ConfigFile) -> None:
    """List the dead letters: failed items and the reasons."""
    from chestxray.serving.gateway import dead_letters

    with _opened(config) as store:
        rows = dead_letters.dead_letters(store.db)
    for row in rows:
        attempts = f"{row['attempts']} attempt{'s' if row['attempts'] != 1 else ''}"
        typer.echo(f"{row['queue']} {row['item']}, {attempts}: {row['reason']}")
    letters = f"{len(rows)} dead letter{'s' if len(rows) != 1 else ''}"
    after = "; `gateway retry` queues them again, `gateway discard` deletes them" if rows else ""
    typer.echo(f"{letters}{after}")


@gateway.command()
def retry(config: ConfigFile, item: Items = None) -> None:
    """Queue dead letters again: all of them, or each --item."""
    from chestxray.serving.gateway import dead_letters

    with _opened(config) as store:
        typer.echo(f"{dead_letters.retry(store.db, item or [])} queued again")


@gateway.command()
def discard(config: ConfigFile, item: Items = None) -> None:
    """Delete dead letters for good: each --item."""
    from chestxray.errors import ConfigError
    from chestxray.serving.gateway import dead_letters

    if not item:
        raise ConfigError(
            "a discarded letter cannot be recovered: name each one with --item, as `gateway dead` "
            "prints it"
        )
    with _opened(config) as store:
        typer.echo(f"{dead_letters.discard(store.db, item)} discarded")


@gateway.command("export-audit")
def export_audit(
    config: ConfigFile,
    against: Annotated[
        Path | None,
        typer.Option(help="An earlier export, or anchors kept elsewhere, to compare with."),
    ] = None,
) -> None:
    """Check the audit record and print it, one JSON object per line."""
    from chestxray.serving.gateway import anchors, audit

    with _opened(config) as store:
        file = store.folder / anchors.FILE
        if file.exists():
            audit.check_against(store.db, file)
        if against is not None:
            audit.check_against(store.db, against)
        number = 0
        for entry in audit.verified_entries(store.db):
            number = entry["number"]
            typer.echo(json.dumps(entry))
    typer.echo(f"{number} entries, the chain is intact", err=True)


@gateway.command()
def restore(
    config: ConfigFile,
    backup: Annotated[
        Path | None,
        typer.Option(help="The backup; without it the newest intact one of the state folder."),
    ] = None,
) -> None:
    """Put a backup in the place of a damaged or missing database, and record that."""
    from chestxray.serving.gateway import backups, health
    from chestxray.serving.gateway.access import (
        lock,
        private_files,
        require_posix,
        require_private,
    )
    from chestxray.serving.gateway.config import load

    require_posix()
    state = load(config).state
    with private_files():
        require_private(state)
        with lock(state):
            typer.echo(backups.restore(state, backup))
            health.forget(state)


@contextmanager
def _opened(config: Path) -> Iterator[Store]:
    """Open the state folder, whose database is checked.

    Raises:
        ArtifactError: it is damaged, or other users can access it.
    """
    from chestxray.serving.gateway import integrity
    from chestxray.serving.gateway.access import private_files, require_posix
    from chestxray.serving.gateway.config import load
    from chestxray.serving.gateway.store import Store

    require_posix()
    state = load(config).state
    with private_files():
        if state.is_dir():
            integrity.check(state)
        store = Store.existing(state)
        try:
            yield store
        finally:
            store.close()
