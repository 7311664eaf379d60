"""The entry point: names the verbs, turns a failure into one line and an exit status.

Exit status: 0 done, 1 failed with the reason and the next step, 2 wrong usage, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from chestxray.cli.compare import compare
from chestxray.cli.demo import demo
from chestxray.cli.doctor import doctor
from chestxray.cli.download import download
from chestxray.cli.evaluate import evaluate
from chestxray.cli.explain import explain
from chestxray.cli.export import export
from chestxray.cli.gateway import gateway
from chestxray.cli.predict import predict
from chestxray.cli.prepare import prepare
from chestxray.cli.report import report
from chestxray.cli.run import run
from chestxray.cli.serve import serve
from chestxray.cli.synth import synth
from chestxray.cli.train import train
from chestxray.cli.verify import verify
from chestxray.errors import ChestXrayError
from chestxray.version import __version__

app = typer.Typer(
    name="chestxray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins a paragraph's lines
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chestxray {__version__}")
        raise typer.Exit


@app.callback()
def chestxray(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure.")
    ] = False,
) -> None:
    """Chest radiographs in, trained, measured and explained findings out.

    For research, not a medical device.
    """
    # Both options act before a verb runs: `--version` in its callback, `--debug` in `main`.


for verb in (
    demo, run, synth, download, verify, prepare, train, predict, evaluate, compare, explain,
    export, serve, gateway, report, doctor,
):  # fmt: skip
    app.command()(verb)

_STOPPED: Final = 130


def main() -> None:
    """Run the command line."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except SystemExit as end:
        if end.code == _STOPPED:
            typer.echo(
                "stopped: the same command goes on where it was, `train` with --resume", err=True
            )
        raise
    except (ChestXrayError, OSError) as error:  # OSError: a full disk, a folder in a file's place
        if debug:
            raise
        typer.echo(f"chestxray: {error}", err=True)
        sys.exit(1)
