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


@contextmanager
def progress(label: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Advance]:
    """Show the progress of an operation.

    Args:
        label: name of the operation, such as `prepare`.
        total: number of units.
        unit: name of the units, in the plural.
        done: units of an earlier, interrupted run; the rate ignores them.
    """
    show = _bar if sys.stderr.isatty() else _lines
    with show(label, total, unit, done) as advance:
        yield advance


@contextmanager
def _bar(label: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
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
        rate = (now_done - done) / max(time.monotonic() - start, 1e-9)
        left = (total - now_done) / rate if rate else 0.0
        print(
            f"{label}: {now_done}/{total} {unit}, {rate:.1f}/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def advance(count: int = 1) -> None:
        nonlocal now_done, last
        now_done += count
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            line()

    yield advance
    if now_done != shown:
        line()
