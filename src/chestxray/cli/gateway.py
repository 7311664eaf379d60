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
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read everything, keep the results and send nothing."),
    ] = False,
) -> None:
    """Receive radiographs over DICOM, read them, and send the results, until stopped.

    Stops on Ctrl-C or SIGTERM.
    """
    _require_packages()
    from chestxray.serving.gateway import logs
    from chestxray.serving.gateway.access import private_files, require_posix
    from chestxray.serving.gateway.config import load
    from chestxray.serving.gateway.supervisor import Gateway, check

    require_posix()
    settings = load(config)
    if dry_run:
        settings = settings.model_copy(update={"dry_run": True})
    with private_files():
        identity = check(settings, bundle.absolute())
        logs.set_up()
        receive = settings.receive
        typer.echo(
            f"{identity} as {receive.ae_title} on {receive.host}:{receive.port}, "
            f"state in {settings.state}{'; dry run' if settings.dry_run else ''}; stop with Ctrl-C",
            err=True,
        )
        Gateway(settings, bundle.absolute()).run()


@gateway.command()
def check(bundle: BundleFolder, config: ConfigFile) -> None:
    """Check configuration, model and state, and ask each PACS whether it answers; change nothing.

    A PACS is asked by C-ECHO, a DICOMweb service by a search. It may be used beside a running
    gateway. Exit status 1 where something is wrong.
    """
    _require_packages()
    from chestxray.serving.gateway.access import require_posix
    from chestxray.serving.gateway.config import load
    from chestxray.serving.gateway.reachability import reach
    from chestxray.serving.gateway.supervisor import check as check_all

    require_posix()
    settings = load(config)
    identity = check_all(settings, bundle.absolute(), starting=False)
    typer.echo(f"ok      configuration, state and model {identity}")
    failures = 0
    for one in reach(settings):
        failures += bool(one.problem)
        typer.echo(
            f"{'failed' if one.problem else 'ok    '}  {one.place}: {one.problem or one.said}"
        )
    if failures:
        raise typer.Exit(1)


@gateway.command()
def status(config: ConfigFile) -> None:
    """Show whether the gateway is well, and how many images and results are waiting."""
    from chestxray.serving.gateway import health, statistics

    with _opened(config) as store:
        for line in (*health.status_lines(store.folder), *statistics.status_lines(store.db)):
            typer.echo(line)


@gateway.command()
def report(
    config: ConfigFile,
    weeks: Annotated[int, typer.Option(min=1, max=520, help="Weeks up to the current one.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Write the report as an HTML page instead of text.")
    ] = None,
) -> None:
    """Report drift by week, agreement with the shadow, and what is kept until when.

    It holds numbers only, and no data of a patient.
    """
    from chestxray.serving.gateway import report as reports
    from chestxray.serving.gateway.config import load

    with _opened(config) as store:
        found = reports.gather(load(config), store, weeks)
    if out is None:
        for line in reports.lines(found):
            typer.echo(line)
    else:
        reports.write_page(found, out)
        typer.echo(out)


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
    """Queue dead letters again: all of them, or each --item.

    Those whose destination is no longer configured stay.
    """
    from chestxray.serving.gateway import dead_letters
    from chestxray.serving.gateway.config import load
    from chestxray.serving.gateway.store import served_queues

    served = served_queues(to.name for to in load(config).destinations)
    with _opened(config) as store:
        queued = dead_letters.retry(store.db, item or [], served)
        left = sum(row["queue"] not in served for row in dead_letters.dead_letters(store.db))
    stay = f"; {left} stay, whose destination is no longer in gateway.toml" if left else ""
    typer.echo(f"{queued} queued again{stay}")


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


def _require_packages() -> None:
    """Raise `MissingExtraError` where the extra `pacs` is not installed."""
    from chestxray.errors import MissingExtraError

    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "pacs")


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
