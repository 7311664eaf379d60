"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere.

Both go to standard error, so that standard output holds results alone.
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
    """Tell the progress that some more units are done."""

    def __call__(self, count: int = 1) -> None:
        """Count `count` units as done."""
        ...


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Show units a second, averaged by rich over the last half minute."""
        return Text(f"{task.finished_speed or task.speed or 0:.1f} {self.unit}/s")


@contextmanager
def progress(label: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Advance]:
    """Show how far work has come.

    Args:
        label: what is being done, such as `prepare`.
        total: units in all.
        unit: what is counted, in the plural.
        done: units that were done before (a resumed run); they do not count for the rate.
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
