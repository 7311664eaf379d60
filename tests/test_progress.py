"""Progress: an estimate is given when there is one, and nothing is said of nothing."""

from __future__ import annotations

import re

import pytest
from rich.progress import Task

from chestxray import progress as module
from chestxray.progress import progress
from conftest import Clock


def test_a_finished_operation_tells_how_long_it_took_and_not_what_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("pack", 3) as advance:
        advance(3)
    said = capsys.readouterr().err
    assert re.fullmatch(r"pack: 3/3 images, \d+\.\d/s, \d+ s\n", said)


def test_an_interrupted_operation_tells_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(module.time, "monotonic", clock)
    with progress("pack", 30) as advance:
        clock.seconds = 20.0
        advance(10)
    assert capsys.readouterr().err == "pack: 10/30 images, 0.5/s, 40 s left\n"


def test_an_operation_on_nothing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("pack", 0) as advance:
        advance(0)
    assert capsys.readouterr().err == ""


def test_the_bar_gives_no_estimate_in_the_first_seconds(clock: Clock) -> None:
    column = module._Left(elapsed_when_finished=True)
    task = Task(0, "pack", 1000, 0, _get_time=clock)
    task.start_time = 0.0
    clock.seconds, task.completed = 0.4, 1
    assert column.render(task).plain == "-:--:--"
    task.completed, task.finished_time = 1000, 3.0
    assert column.render(task).plain == "0:00:03"
