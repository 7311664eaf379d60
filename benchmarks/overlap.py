"""How many planted copies `chestxray overlap` finds, and how many different films it takes for one.

Usage: python benchmarks/overlap.py FOLDER

FOLDER holds radiographs whose names begin with the patient's number of eight digits, as NIH's do.
A copy of each is made in each way of `tests/planted_copies.py`. One half of the patients gives the
threshold: the middle between the highest score of two different films and the score that 99.5 % of
the copies of the hardest kind exceed. The other half is measured with it. Intervals are
95 %: Wilson's for shares, Poisson's upper end for false pairs.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from scipy.stats import binomtest, chi2

from chestxray.dataset.copies import SCORE, Images, find
from chestxray.dataset.fingerprints import fingerprint
from planted_copies import KINDS, planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    paths = sorted(parser.parse_args().folder.glob("*.png"))
    cv2.setNumThreads(1)
    films = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    names = [path.name for path in paths]
    patients = sorted({name[:8] for name in names})
    chosen = set(np.random.default_rng(0).permutation(patients)[::2])
    first = np.array([name[:8] in chosen for name in names])

    start = time.perf_counter(), time.process_time()
    own = images(names, films)
    print(f"fingerprints: {len(films) / (time.process_time() - start[1]):.0f} images/s of one core")
    alike = {(pair.a, pair.b): pair.score for pair in find(own, least=0.0)}
    same = {kind: copies(own, films, number, kind) for number, kind in enumerate(KINDS)}

    in_first = [s for (a, b), s in alike.items() if first[a] and first[b]]
    hardest = min(np.quantile(scores[first], 0.005) for scores, _ in same.values())
    threshold = (max(in_first) + hardest) / 2
    print(
        f"first half: {first.sum()} films of {len(chosen)} patients; two different films score at "
        f"most {max(in_first):.3f}, 99.5 % of the hardest copies {hardest:.3f} or more: threshold "
        f"{threshold:.3f}; the program uses {SCORE}"
    )
    other = ~first
    left = len(patients) - len(chosen)
    print(f"second half: {other.sum()} films of {left} patients")
    for kind, (scores, _) in same.items():
        shown = []
        for least in (threshold, SCORE):
            found = int((scores[other] >= least).sum())
            low, high = binomtest(found, int(other.sum())).proportion_ci(method="wilson")
            shown.append(f"{found / other.sum():.4f} ({low:.4f}-{high:.4f})")
        print(f"  {kind:28} {' at the threshold, at the program: '.join(shown)}")
    for title, part in (("second half", other), ("all", np.ones(len(films), dtype=bool))):
        false_pairs(title, part, alike, same, SCORE)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{time.perf_counter() - start[0]:.0f} s, {time.process_time() - start[1]:.0f} s of CPU, "
    )
    print(f"peak memory {peak:.0f} MB")


def images(names: list[str], films: list[np.ndarray]) -> Images:
    prints = np.stack([fingerprint(film) for film in films])
    return Images(tuple(names), tuple((name,) for name in names), prints)


def copies(
    own: Images, films: list[np.ndarray], number: int, kind: str
) -> tuple[np.ndarray, dict[tuple[int, int], float]]:
    """Give the score of each film's copy, 0 where it was no candidate, and those of other films."""
    made = [
        planted(film, kind, np.random.default_rng([number, place]))
        for place, film in enumerate(films)
    ]
    there = images([f"copy of {name}" for name in own.names], made)
    scores, others = np.zeros(len(films)), {}
    for pair in find(own, there, least=0.0):
        if pair.a == pair.b:
            scores[pair.a] = pair.score
        else:
            others[pair.a, pair.b] = pair.score
    return scores, others


def false_pairs(
    title: str,
    part: np.ndarray,
    alike: dict[tuple[int, int], float],
    same: dict[str, tuple[np.ndarray, dict[tuple[int, int], float]]],
    least: float,
) -> None:
    """Count different films that are called copies, among films and between films and copies."""
    n = int(part.sum())
    wrong = sum(s >= least for (a, b), s in alike.items() if part[a] and part[b])
    pairs = n * (n - 1) // 2
    say(f"{title}, between films", wrong, pairs)
    for _, others in same.values():
        wrong += sum(s >= least for (a, b), s in others.items() if part[a] and part[b])
        pairs += n * (n - 1)
    say(f"{title}, between films and copies too", wrong, pairs)


def say(title: str, wrong: int, pairs: int) -> None:
    high = chi2.ppf(0.975, 2 * wrong + 2) / 2 / pairs * 1e6
    print(f"{title}: {wrong} false of {pairs} pairs, at most {high:.2f} in a million")


if __name__ == "__main__":
    main()
