"""The soak finds each broken promise; a short one keeps them all."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from conftest import REPOSITORY
from gateway_parts import tool

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from soak_figures import Figures, broken, lines
from soak_parts import Outages


def kept() -> Figures:
    """Figures that keep all promises."""
    figures = Figures(acknowledged=100, attempts=100, accepted=99, seconds=[0.1] * 100, calm=10.0)
    figures.memory["receiver"] = [(second, 90.0) for second in range(30)]
    return figures


def growing() -> list[tuple[float, float]]:
    return [(second, 90.0 + max(0, second - 10)) for second in range(150)]


BREAKERS = {
    "lost": lambda figures: figures.lost.append("1.2"),
    "dead letters": lambda figures: figures.dead.append("1.2"),
    "doubled": lambda figures: figures.doubled.append("1.2"),
    "associations": lambda figures: setattr(figures, "accepted", 98),
    "nothing was acknowledged": lambda figures: setattr(figures, "acknowledged", 0),
    "p99": lambda figures: figures.seconds.extend([11.0] * 3),
    "wrong answers": lambda figures: figures.wrong.update(["422 unreadable"]),
    "server errors": lambda figures: figures.errors.update(["500"]),
    "receiver used": lambda figures: figures.memory["receiver"].append((5.0, 201.0)),
    "memory grew": lambda figures: figures.memory.update({"worker-0": growing()}),
    "planted names": lambda figures: figures.names.append("log.jsonl"),
    "logs": lambda figures: setattr(figures, "log_mib", 65.0),
    "not finished": lambda figures: figures.unfinished.append("the queue"),
}


def test_figures_that_keep_all_promises_break_none():
    assert broken(kept()) == []
    assert not any(line.startswith("BROKEN") for line in lines(kept()))


@pytest.mark.parametrize("promise", BREAKERS)
def test_each_broken_promise_is_found(promise):
    figures = kept()
    BREAKERS[promise](figures)
    found = broken(figures)
    assert len(found) == 1
    assert promise in found[0]


def test_of_a_short_calm_time_nothing_is_said():
    figures = kept()
    figures.memory["worker-0"] = growing()[:100]
    assert broken(figures) == []


def test_no_answer_at_all_is_no_low_latency():
    figures = kept()
    figures.seconds = []
    assert "p99 of serve inf s" in broken(figures)


def test_a_short_moment_of_being_down_counts_for_who_asked_before_its_end_alone():
    outages = Outages()
    with outages.during("receiver"):
        assert outages.seconds("receiver", since=0.0) > 0
        assert outages.seconds("serve", since=0.0) == 0
    assert outages.seconds("receiver", since=0.0) > 0
    assert outages.seconds("receiver", since=float("1e12")) == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_minutes_of_everything_together_keep_all_promises(tmp_path):
    command = [sys.executable, str(REPOSITORY / "benchmarks/soak.py"), "--minutes", "3"]
    command += ["--images", "150", "--out", str(tmp_path / "soak")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1700)
    print(done.stdout)
    if "run this as root" in done.stderr or "a C compiler is needed" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    counts = Counter(line.split(":")[0] for line in done.stdout.splitlines())
    assert counts["struck"] == 1


def test_the_benchmark_of_the_gateway_that_fails_ends_its_archive() -> None:
    """It waited for ever for the archive that it had not ended."""
    tool("storescp")
    folders = [str(REPOSITORY / name) for name in ("benchmarks", "tests")]
    code = f"import sys; sys.path[:0] = {folders}; from gateway import archive\n"
    code += "with archive(): sys.exit(3)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 3
