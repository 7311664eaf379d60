"""What the soak counts, and which promises its figures keep."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field

ACCEPTED_SHARE = 0.99
LATENCY_SECONDS = 10.0
RECEIVER_MIB = 200.0
GROWTH_SHARE, GROWTH_MIB = 0.1, 24.0
CALM_SECONDS = 120.0
LOG_MIB = 64.0


@dataclass
class Figures:
    """What was counted.

    Attributes:
        acknowledged: images that the gateway acknowledged.
        lost: acknowledged UIDs that are in no final state, or of which a result did not arrive.
        dead: legitimate images that became dead letters.
        doubled: studies that received two results of a kind.
        attempts: associations that legitimate senders asked for while the receiver was up.
        accepted: those that were accepted.
        seconds: latencies of the web service for legitimate radiographs.
        wrong: answers for legitimate radiographs that are not the model's, by what they were.
        errors: server errors on hostile files.
        memory: MiB by process, at each time in seconds of the run.
        calm: seconds from which on nothing was killed.
        names: places where a planted name was found.
        log_mib: size of the logs.
        unfinished: what did not come to an end.
    """

    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    attempts: int = 0
    accepted: int = 0
    seconds: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    calm: float = 0.0
    names: list[str] = field(default_factory=list)
    log_mib: float = 0.0
    unfinished: list[str] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        """Latency in seconds; infinite where fewer than two were measured."""
        if len(self.seconds) < 2:
            return float("inf")
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]

    def growth(self) -> dict[str, tuple[float, float]]:
        """Median memory of each process in the first and the last third of the calm time, MiB.

        Of a calm time that is too short nothing can be said: a process needs some to warm up.
        """
        found = {}
        for name, series in self.memory.items():
            calm = [held for at, held in series if at >= self.calm]
            third = len(calm) // 3
            if third and series[-1][0] - self.calm >= CALM_SECONDS:
                found[name] = (statistics.median(calm[:third]), statistics.median(calm[-third:]))
        return found


def broken(figures: Figures) -> list[str]:
    """Say which promises are broken."""
    share = figures.accepted / max(1, figures.attempts)
    receiver = max((held for _, held in figures.memory.get("receiver", [])), default=0.0)
    grown = [
        f"{name} from {first:.0f} to {last:.0f} MiB"
        for name, (first, last) in figures.growth().items()
        if last > first * (1 + GROWTH_SHARE) + GROWTH_MIB
    ]
    checks = {
        "nothing was acknowledged": not figures.acknowledged,
        f"{len(figures.lost)} acknowledged images lost": figures.lost,
        f"{len(figures.dead)} legitimate images became dead letters": figures.dead,
        f"{len(figures.doubled)} studies with a doubled result": figures.doubled,
        f"{share:.1%} of legitimate associations accepted": share < ACCEPTED_SHARE,
        f"p99 of serve {figures.percentile(99):.1f} s": figures.percentile(99) >= LATENCY_SECONDS,
        f"wrong answers of serve: {dict(figures.wrong)}": figures.wrong,
        f"server errors on hostile files: {dict(figures.errors)}": figures.errors,
        f"receiver used {receiver:.0f} MiB": receiver > RECEIVER_MIB,
        f"memory grew: {grown}": grown,
        f"planted names in {figures.names}": figures.names,
        f"logs of {figures.log_mib:.0f} MiB": figures.log_mib > LOG_MIB,
        f"not finished: {figures.unfinished}": figures.unfinished,
    }
    return [sentence for sentence, is_broken in checks.items() if is_broken]


def lines(figures: Figures) -> list[str]:
    """Give the figures as text."""
    share = figures.accepted / max(1, figures.attempts)
    text = [
        f"acknowledged {figures.acknowledged}, lost {len(figures.lost)}",
        f"doubled {len(figures.doubled)}, legitimate dead letters {len(figures.dead)}",
        f"legitimate associations: {figures.accepted} of {figures.attempts} ({share:.2%})",
        f"answers of serve: {len(figures.seconds)}, wrong {dict(figures.wrong)}",
        f"p50 {figures.percentile(50):.2f} s, p99 {figures.percentile(99):.2f} s",
        f"errors of serve on hostile files: {dict(figures.errors) or 'none'}",
        "memory, MiB: at most; first and last third of the calm time",
    ]
    for name, series in sorted(figures.memory.items()):
        most = max(held for _, held in series)
        calm = figures.growth().get(name)
        shown = "too short" if calm is None else f"{calm[0]:6.0f} {calm[1]:6.0f}"
        text.append(f"  {name:24} {most:6.0f} {shown}")
    text.append(f"logs: {figures.log_mib:.1f} MiB; planted names in: {figures.names or 'none'}")
    return text + [f"BROKEN: {sentence}" for sentence in broken(figures)]
