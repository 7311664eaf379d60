"""Progress of long operations: a bar on a terminal, otherwise a line of text every ten seconds.

Both are written to standard error, so that standard output contains results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_TO_ESTIMATE = 5.0  # before this, workers start and files are read for the first time


class Advance(Protocol):
    """Reports that more units are done."""

    def __call__(self, count: int = 1) -> None:
        """Add `count` units."""
        ...


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Show units per second, averaged over the last half minute."""
        return Text(f"{task.finished_speed or task.speed or 0:.1f} {self.unit}/s")


class _Left(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        """Show the time left after the first seconds, whose rate says nothing, or that taken."""
        if not task.finished and (task.elapsed or 0.0) < _SECONDS_TO_ESTIMATE:
            return Text("-:--:--", style="progress.remaining")
        return super().render(task)


@contextmanager
def progress(label: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Advance]:
    """Show the progress of an operation; nothing where there is nothing to do.

    Args:
        label: name of the operation, such as `prepare`.
        total: number of units.
        unit: name of the units, in the plural.
        done: units of an earlier, interrupted run; the rate ignores them.
    """
    show = _nothing if total == 0 else _bar if sys.stderr.isatty() else _lines
    with show(label, total, unit, done) as advance:
        yield advance


def say(label: str, text: str) -> None:
    """Tell what a long operation does now, on standard error."""
    print(f"{label}: {text}", file=sys.stderr, flush=True)


@contextmanager
def _nothing(label: str, total: int, unit: str, done: int) -> Iterator[Advance]:  # noqa: ARG001
    yield lambda count=1: None  # noqa: ARG005


@contextmanager
def _bar(label: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        _Left(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda count=1: bar.advance(task, count)


@contextmanager
def _lines(label: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    now_done, shown = done, -1

    def line() -> None:
        nonlocal shown
        shown = now_done
        seconds = time.monotonic() - start
        rate = (now_done - done) / max(seconds, 1e-9)
        text = f"{now_done}/{total} {unit}, {rate:.1f}/s"
        if now_done < total and rate:
            text += f", {(total - now_done) / rate:.0f} s left"
        elif now_done >= total:
            text += f", {seconds:.0f} s"
        say(label, text)

    def advance(count: int = 1) -> None:
        nonlocal now_done, last
        now_done += count
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            line()

    yield advance
    if now_done != shown:
        line()
