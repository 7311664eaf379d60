"""`chestxray gateway`: the node in the PACS, and a look into its queue."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chestxray.serving.gateway.config import Config
    from chestxray.serving.gateway.store import Store

_NEEDED = ("prometheus_client", "pynetdicom")


def gateway(
    what: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|status|dead|retry|discard|export-audit",
            help="A bundle to read with; or what to do with the queue of a gateway.",
        ),
    ],
    config: Annotated[Path, typer.Option("--config", help="gateway.toml.")],
    item: Annotated[
        list[str] | None,
        typer.Option("--item", help="retry, discard: a UID that `dead` names; may be repeated."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="export-audit: an earlier export that must still stand."),
    ] = None,
) -> None:
    """Receive radiographs by DICOM, read them, send the results back into the study.

    With a bundle it runs until it is told to stop (Ctrl-C, SIGTERM). `status` counts what waits,
    `dead` lists what was given up and why, `retry` queues all of that again or each `--item`,
    `discard` lets each `--item` go for good, `export-audit` checks the audit record and prints it,
    a JSON object a line.
    """
    from chestxray.serving.gateway.config import load

    settings = load(config)
    verbs: dict[str, Callable[[Store], None]] = {
        "status": _status,
        "dead": _dead,
        "retry": partial(_retry, items=item or []),
        "discard": partial(_discard, items=item or []),
        "export-audit": partial(_export_audit, against=against),
    }
    if what not in verbs:
        _run(Path(what), settings)
        return
    store = _opened(settings)
    try:
        verbs[what](store)
    finally:
        store.close()


def _run(bundle: Path, settings: Config) -> None:
    from chestxray.errors import MissingExtraError

    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "pacs")
    from chestxray.serving.gateway import logs
    from chestxray.serving.gateway.supervisor import Gateway, check

    identity = check(settings, bundle.absolute())
    logs.set_up()
    gateway = Gateway(settings, bundle.absolute())
    receive = settings.receive
    typer.echo(
        f"{identity} as {receive.ae_title} on {receive.host}:{receive.port}, "
        f"state in {settings.state}; Ctrl-C ends it",
        err=True,
    )
    gateway.run()


def _opened(settings: Config) -> Store:
    from chestxray.serving.gateway.store import Store

    return Store.existing(settings.state)


def _status(store: Store) -> None:
    from chestxray.serving.gateway import statistics

    for line in statistics.status_lines(store.db):
        typer.echo(line)


def _dead(store: Store) -> None:
    from chestxray.serving.gateway import dead_letters as letters

    rows = letters.dead_letters(store.db)
    for row in rows:
        attempts = f"{row['attempts']} attempt{'s' if row['attempts'] != 1 else ''}"
        typer.echo(f"{row['queue']} {row['item']}, {attempts}: {row['reason']}")
    after = "; `retry` queues them again, `discard` lets them go" if rows else ""
    typer.echo(f"{len(rows)} given up{after}")


def _retry(store: Store, items: list[str]) -> None:
    from chestxray.serving.gateway import dead_letters as letters

    typer.echo(f"{letters.retry(store.db, items)} queued again")


def _discard(store: Store, items: list[str]) -> None:
    from chestxray.errors import ConfigError
    from chestxray.serving.gateway import dead_letters as letters

    if not items:
        raise ConfigError("what is discarded is gone: name each letter with --item, as `dead` does")
    typer.echo(f"{letters.discard(store.db, items)} discarded")


def _export_audit(store: Store, against: Path | None) -> None:
    from chestxray.serving.gateway import audit

    if against is not None:
        audit.check_against(store.db, against)
    number = 0
    for entry in audit.verified_entries(store.db):
        number = entry["number"]
        typer.echo(json.dumps(entry))
    typer.echo(f"{number} entries, the chain is whole", err=True)
