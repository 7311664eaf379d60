"""`chestxray gateway`: the node in the PACS, and a look into its queue."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chestxray.serving.gateway.config import Config
    from chestxray.serving.gateway.store import Store

_NEEDED = ("highdicom", "prometheus_client", "pynetdicom")


def gateway(
    what: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|status|dead|retry|export-audit",
            help="A bundle to read with; or what to do with the queue of a gateway.",
        ),
    ],
    config: Annotated[Path, typer.Option("--config", help="gateway.toml.")],
    against: Annotated[
        Path | None,
        typer.Option("--against", help="export-audit: an earlier export that must still stand."),
    ] = None,
) -> None:
    """Receive radiographs by DICOM, read them, send the results back into the study.

    With a bundle it runs until it is told to stop (Ctrl-C, SIGTERM). `status` counts what waits,
    `dead` lists what was given up and why, `retry` queues that again, `export-audit` checks the
    audit record and prints it, a JSON object a line.
    """
    from chestxray.errors import MissingExtraError
    from chestxray.serving.gateway.config import load

    settings = load(config)
    if what not in {"status", "dead", "retry", "export-audit"}:
        for package in _NEEDED:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "pacs")
        _run(Path(what), settings)
        return
    store = _opened(settings)
    try:
        if what == "export-audit":
            _export_audit(store, against)
        else:
            {"status": _status, "dead": _dead, "retry": _retry}[what](store)
    finally:
        store.close()


def _run(bundle: Path, settings: Config) -> None:
    from chestxray.serving.gateway import logs
    from chestxray.serving.gateway.run import Gateway, check

    identity = check(settings, bundle.absolute())
    logs.set_up()
    receive = settings.receive
    typer.echo(
        f"{identity} as {receive.ae_title} on {receive.host}:{receive.port}, "
        f"state in {settings.state}; Ctrl-C ends it",
        err=True,
    )
    Gateway(settings, bundle.absolute()).run()


def _opened(settings: Config) -> Store:
    from chestxray.errors import ArtifactError
    from chestxray.serving.gateway.store import Store

    if not settings.state.is_dir():
        raise ArtifactError(f"{settings.state} does not exist: no gateway ran with this `state`")
    return Store(settings.state)


def _status(store: Store) -> None:
    from chestxray.serving.gateway import survey

    for queue, states in survey.counts(store.db).items():
        typer.echo(f"{queue}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    typer.echo(f"oldest unread image: {survey.oldest(store.db):.0f} s")
    for task in survey.troubled(store.db):
        typer.echo(f"waits: {task['queue']} {task['item']}: {task['reason']}")


def _dead(store: Store) -> None:
    from chestxray.serving.gateway import survey

    rows = survey.dead(store.db)
    for row in rows:
        attempts = f"{row['attempts']} attempt{'s' if row['attempts'] != 1 else ''}"
        typer.echo(f"{row['queue']} {row['item']}, {attempts}: {row['reason']}")
    typer.echo(f"{len(rows)} given up" + ("; `retry` queues them again" if rows else ""))


def _retry(store: Store) -> None:
    typer.echo(f"{store.retry()} queued again")


def _export_audit(store: Store, against: Path | None) -> None:
    from chestxray.serving.gateway import audit

    if against is not None:
        audit.check_against(store.db, against)
    number = 0
    for entry in audit.verified(store.db):
        number = entry["number"]
        typer.echo(json.dumps(entry))
    typer.echo(f"{number} entries, the chain is whole", err=True)
