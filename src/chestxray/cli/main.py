"""The entry point: registers the verbs, and turns a failure into one line and an exit status."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from chestxray.cli.calibrate import calibrate
from chestxray.cli.compare import compare
from chestxray.cli.crossval import crossval
from chestxray.cli.demo import demo
from chestxray.cli.doctor import doctor
from chestxray.cli.download import download
from chestxray.cli.ensemble import ensemble
from chestxray.cli.evaluate import evaluate
from chestxray.cli.explain import explain
from chestxray.cli.export import export
from chestxray.cli.findings import findings
from chestxray.cli.gateway import gateway
from chestxray.cli.import_ import import_
from chestxray.cli.overlap import overlap
from chestxray.cli.plan import plan
from chestxray.cli.predict import predict
from chestxray.cli.prepare import prepare
from chestxray.cli.pretrain import pretrain
from chestxray.cli.probe import probe
from chestxray.cli.push import card, push
from chestxray.cli.recipe import recipe
from chestxray.cli.report import report
from chestxray.cli.run import run
from chestxray.cli.serve import serve
from chestxray.cli.sign import keygen, sign
from chestxray.cli.synth import synth
from chestxray.cli.train import train
from chestxray.cli.validate import validate
from chestxray.cli.verify import verify
from chestxray.errors import ChestXrayError, of_missing_module
from chestxray.file_names import one_line
from chestxray.storage import path_of, shown
from chestxray.version import __version__

app = typer.Typer(
    name="chestxray",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins the lines of a paragraph
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train, evaluate, explain and run classifiers of chest radiographs.

    For research only. Not a medical device.
    """
    # Both options act before a verb runs: `--version` in its callback, `--debug` in `main`.


_PANELS: Final[dict[str, tuple[Callable[..., Any] | typer.Typer, ...]]] = {
    "Start": (demo, run, doctor),
    "Data": (synth, download, verify, prepare, findings, overlap),
    "Models": (
        train,
        pretrain,
        probe,
        ensemble,
        crossval,
        calibrate,
        import_,
        export,
        card,
        push,
        sign,
        keygen,
        recipe,
    ),
    "Results": (predict, evaluate, validate, compare, plan, explain, report),
    "Clinic": (serve, gateway),
}
for panel, verbs in _PANELS.items():
    for verb in verbs:
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, rich_help_panel=panel)
        else:
            app.command(verb.__name__.rstrip("_"), rich_help_panel=panel)(verb)

_LONGEST_NAME: Final = 300  # characters of a path that are shown
_FAILED: Final = 1
_INTERRUPTED: Final = 130
EXIT_STATUSES: Final = {
    0: "done",
    _FAILED: "failed: the reason and the next step are on standard error",
    2: "wrong usage: an unknown command or option, or a value that it cannot have",
    _INTERRUPTED: "interrupted (Ctrl-C): the message says how to resume",
}
"""What the status of every command means."""

_SAME_AGAIN: Final = "interrupted: run the same command again"
_RESUMES: Final = f"{_SAME_AGAIN} to resume"
_AFTER_CTRL_C: Final = {
    **dict.fromkeys(
        ("download", "prepare", "pretrain", "crossval", "predict", "validate", "run", "demo"),
        _RESUMES,
    ),
    "train": f"{_SAME_AGAIN}, with --resume if the run folder exists, to resume",
    "serve": "stopped",
}


def main() -> None:
    """Run the command line."""
    if logging.lastResort is not None:  # how warnings look where a verb sets up no log of its own
        logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that is not UTF-8 is shown escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        for argument in arguments:
            _refuse_credentials(argument)
        app(arguments)
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        verb = next((word for word in arguments if not word.startswith("-")), "")
        typer.echo(f"chestxray: {_AFTER_CTRL_C.get(verb, _SAME_AGAIN)}", err=True)
        sys.exit(_INTERRUPTED)
    except ModuleNotFoundError as error:
        _fail(of_missing_module(error), debug)
    except (ChestXrayError, OSError) as error:  # OSError: a full disk, a folder instead of a file
        _fail(error, debug)
    except UnicodeEncodeError as error:
        _fail(_not_utf8(error), debug)


def _refuse_credentials(argument: str) -> None:
    """Refuse a URL that holds a key before anything could repeat it; raises `StorageError`."""
    if "://" in argument and ("@" in argument or "?" in argument):
        path_of(argument.partition("=")[2] if argument.startswith("--") else argument)


def _not_utf8(error: UnicodeEncodeError) -> Exception:
    """Explain a path of which some library takes no bytes that are not UTF-8."""
    return ChestXrayError(
        f"the name {one_line(error.object)[:_LONGEST_NAME]!r} is not valid UTF-8: choose another "
        f"name"
    )


def _fail(error: Exception, debug: bool) -> None:
    if debug or isinstance(error, ModuleNotFoundError):
        raise error
    lines = shown(str(error)).split(
        "\n"
    )  # words of a stranger's file are no commands to the terminal
    typer.echo("chestxray: " + "\n".join(map(one_line, lines)), err=True)
    sys.exit(_FAILED)
