"""Metrics of millions of images, under a block of bootstrap weights at a time.

`weighted_counts` gives every image its weight. Here the weights stay those of patients, uint8
[P, b] with the b resamples of a block side by side (see `Draws.by_blocks`), and two things are made
of them:

    PatientSums   what each patient's images add to a sum, times the weights: one matrix product
    Ranking       the images in the order of their probability, as rows of a sparse matrix: a row
                  adds the weights of the images between two probabilities of positives

The second reads the weights of each image once per block, which is what an evaluation of millions
of images spends its time on. So weights are small, those of all resamples of a block lie together,
and eight of them are added at once, as the bytes of one 64-bit word. Steps are taken some hundred
at a time; memory does not grow with the resamples, and images are sorted once.

Counts are whole numbers, so areas under the ROC curve are exact. Other figures are those of
`weighted_counts` up to the order of their sums.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from chestxray.evaluation.bootstrap import Draws, Values
from chestxray.evaluation.logistic_regression import overlap, slices
from chestxray.evaluation.poisson_weights import Weights
from chestxray.evaluation.weighted_counts import (
    PARTIAL_FPR,
    Column,
    Weighted,
    passed_over,
    precision,
)

_IMAGES: Final = 250_000  # whose terms are computed at a time
_PATIENTS: Final = 4096  # whose weights are converted at a time
_STEPS: Final = 256  # at a time: their counts stay in the cache
_GROUP: Final = 16  # steps whose counts are added up one after the other
_BYTE: Final = 255
_WORD: Final = 8  # weights in one
_EXTREMES: Final = 256  # images looked at for the first one that was drawn

_Indices = npt.NDArray[np.int32]
_Edges = npt.NDArray[np.int64]
Terms = Callable[[npt.NDArray[np.int64]], Values]


class PatientSums:
    """Weighted sums over images, as one product with the sums of each patient.

    Args:
        terms: gives what some of the images add, int [n] → float64 [n, q].
        patient: int [m], of each image.
        patients: P.
    """

    def __init__(self, terms: Terms, patient: npt.NDArray[np.integer], patients: int) -> None:
        order = np.argsort(patient, kind="stable")
        ends = np.cumsum(np.bincount(patient, minlength=patients))
        self._sums = np.zeros((patients, terms(order[:0]).shape[1]))
        for some in slices(len(order), _IMAGES):
            images = order[some]
            each = terms(images)
            if not len(each):
                break
            first, last = patient[images[0]], patient[images[-1]] + 1
            within = np.append(0, ends[first:last] - some.start).clip(0, len(each))
            places = np.arange(len(each), dtype=np.int32)
            matrix = csr_array((np.ones(len(each)), places, within.astype(np.int32)))
            self._sums[first:last] += matrix @ each

    def __call__(self, w: Weights) -> Values:
        """Give the sums under weights, uint8 [P, b]: float64 [b, q]."""
        total = np.zeros((w.shape[1], self._sums.shape[1]))
        for some in slices(len(w), _PATIENTS):
            total += w[some].astype(np.float64).T @ self._sums[some]
        return total


def sums(draws: Draws, terms: Terms, rows: npt.NDArray[Any] | None = None) -> Values:
    """Sum what images add, in every row of weights, float64 [1 + R + G, q].

    Args:
        draws: the resamples.
        terms: gives what some of the `rows` add, by their places, int [n] → float64 [n, q].
        rows: the images, as for `Draws.apply`.
    """
    if draws.expanded:
        whole = terms(np.arange(len(draws.patient) if rows is None else len(rows)))
        return draws.apply(lambda w: w @ whole, rows)
    patient = draws.patient if rows is None else draws.patient[rows]
    return draws.by_blocks([PatientSums(terms, patient, draws.patients)])[0]


class _Chunk(NamedTuple):
    """Consecutive steps, from the highest probability of a positive down; float64 [c, b] each.

    Attributes:
        found: weights of the positives of this probability.
        hits: of all positives of this or a higher probability.
        above: of all negatives of a higher probability.
        upto: of all negatives of this or a higher probability.
    """

    found: Values
    hits: Values
    above: Values
    upto: Values


class Ranking:
    """A column in the order of its probabilities, whose images have the weights of patients.

    Args:
        column: labels and probabilities.
        patient: int32 [m], of each image in the order of the column.
        most: the largest weight.
    """

    def __init__(self, column: Column, patient: _Indices, most: int) -> None:
        count = column.positives
        starts, self._above, self._upto = column.step_places
        self._starts = np.append(starts, count)
        self._positives, self._negatives = patient[:count], patient[count:]
        self._x = column.log_odds
        self._longest = _BYTE // most
        steps = len(starts)
        self._ends = np.minimum(np.arange(_STEPS, steps + _STEPS, _STEPS), steps)
        sizes = (np.diff(at, prepend=0).max(initial=0) for at in self._chunk_bounds())
        self._ones = np.ones(max(sizes), dtype=np.uint64)

    def _chunk_bounds(self) -> tuple[_Edges, _Edges]:
        """Give where chunks end among positives and among negatives."""
        return self._starts[self._ends], self._upto[self._ends - 1]

    def chunks(self, w: Weights) -> Iterator[_Chunk]:
        """Give all steps under a block of weights, uint8 [P, b]."""
        words = _in_words(w)
        hits, passed = np.zeros(words.shape[1] * _WORD), np.zeros(words.shape[1] * _WORD)
        start = 0
        for end in self._ends:
            above, upto = self._above[start:end], self._upto[start:end]
            before = self._upto[start - 1] if start else 0
            tied = not np.array_equal(above, upto)
            edges = np.stack([above, upto], axis=1).ravel() if tied else above
            found = self._between(words, self._positives, self._starts[start : end + 1])
            counts = self._between(words, self._negatives, np.append(before, edges))
            reached = _cumulated(found, hits)
            counts = _cumulated(counts, passed)
            hits, passed, start = reached[-1], counts[-1], int(end)
            beside = (counts[::2], counts[1::2]) if tied else (counts, counts)
            yield _Chunk(*(part[:, : w.shape[1]] for part in (found, reached, *beside)))

    def _between(self, words: npt.NDArray[np.uint64], order: _Indices, edges: _Edges) -> Values:
        """Add the weights of the patients in `order` between each two edges, float64 [k, b]."""
        first, last = int(edges[0]), int(edges[-1])
        cut, firsts = _pieces(edges - first, self._longest)
        rows = (self._ones[: last - first], order[first:last], cut.astype(np.int32))
        matrix = csr_array(rows, shape=(len(cut) - 1, len(words)))
        pieces = (matrix @ words).view(np.uint8).astype(np.float64)
        if firsts is None:
            return pieces
        ones = np.ones(len(pieces))
        whole = (ones, np.arange(len(pieces), dtype=np.int32), np.append(firsts, len(pieces)))
        return np.asarray(csr_array(whole, shape=(len(firsts), len(pieces))) @ pieces)

    def overlap(self, w: Weights) -> npt.NDArray[np.bool_]:
        """Tell whether no threshold separates a resample's positives from its negatives, [b]."""
        count = len(self._positives)
        if count in {0, len(self._x)}:
            return np.zeros(w.shape[1], dtype=np.bool_)
        sides = (self._positives, self._x[:count]), (self._negatives, self._x[count:])
        return overlap(*(_drawn_range(x, patient, w) for patient, x in sides))


def _in_words(w: Weights) -> npt.NDArray[np.uint64]:
    """See weights [P, b] as words of eight, filled up with 0: uint64 [P, ⌈b / 8⌉]."""
    missing = -w.shape[1] % _WORD
    whole = np.pad(w, ((0, 0), (0, missing))) if missing else w
    return whole.view(np.uint64)


def _pieces(edges: _Edges, longest: int) -> tuple[_Edges, _Edges | None]:
    """Cut what is longer than `longest`: the edges, and the first piece of each where any is."""
    sizes = np.diff(edges)
    if sizes.max(initial=0) <= longest:
        return edges, None
    counts = np.maximum(-(-sizes // longest), 1)
    firsts = np.cumsum(counts) - counts
    within = np.arange(counts.sum()) - np.repeat(firsts, counts)
    starts = np.repeat(edges[:-1], counts) + longest * within
    return np.append(starts, edges[-1]), firsts


def _cumulated(counts: Values, before: Values) -> Values:
    """Add up rows from the first on, and `before` to all; NumPy's own takes five times as long.

    Args:
        counts: float64 [c, b].
        before: float64 [b].
    """
    rows = len(counts)
    whole = np.zeros((-(-rows // _GROUP), _GROUP, counts.shape[1]))
    whole.reshape(-1, counts.shape[1])[:rows] = counts
    for row in range(1, _GROUP):
        whole[:, row] += whole[:, row - 1]
    for group in range(len(whole)):
        whole[group] += before
        before = whole[group, -1]
    return whole.reshape(-1, counts.shape[1])[:rows]


def _drawn_range(x: Values, patient: _Indices, w: Weights) -> Values:
    """Give the lowest and the highest of falling values [k] that were drawn, [2, b]."""
    return np.stack([_first_drawn(x[::-1], patient[::-1], w), _first_drawn(x, patient, w)])


def _first_drawn(x: Values, patient: _Indices, w: Weights) -> Values:
    """Give the first of some values that was drawn in each resample, [b]; NaN where none was."""
    found = np.full(w.shape[1], np.nan)
    for start in range(0, len(x), _EXTREMES):
        has = w[patient[start : start + _EXTREMES]] > 0
        here = np.isnan(found) & has.any(axis=0)
        found[here] = x[start + has.argmax(axis=0)[here]]
        if not np.isnan(found).any():
            break
    return found


class BlockWeighted(Weighted):
    """A column under a block of weights: what `Weighted` gives, from the weights of patients.

    Args:
        column: labels and probabilities.
        ranking: of the column.
        all_sums: float64 [b, q + 1], of `Column.terms` or only its first, and of the positives.
        areas: names of the sums over steps that are wanted: `lost`, `precisions`, `partial`.
        w: uint8 [P, b].
    """

    def __init__(
        self, column: Column, ranking: Ranking, all_sums: Values, areas: Collection[str], w: Weights
    ) -> None:
        super().__init__(column, np.empty((w.shape[1], 0)))
        self._ranking, self._all_sums, self._wanted, self._block = ranking, all_sums, areas, w

    @cached_property
    def sums(self) -> Values:
        """As `Weighted.sums`."""
        return self._all_sums[:, :-1]

    @cached_property
    def found(self) -> Values:
        """As `Weighted.found`."""
        return self._all_sums[:, -1]

    @cached_property
    def pairs(self) -> Values:
        """As `Weighted.pairs`."""
        return self.found * (self._all_sums[:, 0] - self.found)

    @cached_property
    def two_sided(self) -> npt.NDArray[np.bool_]:
        """As `Weighted.two_sided`."""
        return np.asarray(self.pairs > 0)

    @cached_property
    def overlap(self) -> npt.NDArray[np.bool_]:
        """As `Weighted.overlap`."""
        return self._ranking.overlap(self._block)

    @property
    def lost(self) -> Values:
        """As `Weighted.lost`."""
        return self._areas["lost"]

    @property
    def precisions(self) -> Values:
        """As `Weighted.precisions`."""
        return self._areas["precisions"]

    @property
    def partial(self) -> Values:
        """As `Weighted.partial`."""
        return self._areas["partial"]

    def heights(self, grid: Values) -> Values:
        """Give both curves at places of their x axes, as `curves.heights_at`: float64 [b, 2 g].

        Args:
            grid: float64 [g], rising, in [0, 1].
        """
        negatives = self._all_sums[:, 0] - self.found
        curves = _CurveHeights(grid[:, None] * negatives, grid[:, None] * self.found)
        for chunk in self._ranking.chunks(self._block):
            curves.pass_over(chunk)
        curves.end()
        recall = np.divide(curves.recall, self.found, out=curves.recall, where=self.found > 0)
        both = np.concatenate([recall, curves.precision]).T
        both[~self.two_sided] = np.nan
        return both

    @cached_property
    def _areas(self) -> dict[str, Values]:
        """Sum what is wanted over all steps, float64 [b] each."""
        areas = {name: np.zeros(self._block.shape[1]) for name in self._wanted}
        limit = PARTIAL_FPR * (self._all_sums[:, 0] - self.found)
        for found, hits, above, upto in self._ranking.chunks(self._block):
            if "lost" in areas:
                both = 2 * above if above is upto else above + upto
                areas["lost"] += _dot(found, both)
            if "partial" in areas and (above[0] < limit).any():
                areas["partial"] += _dot(found, passed_over(above, upto, limit))
            if "precisions" in areas:
                areas["precisions"] += _dot(found, precision(hits, upto))
        return areas


class _CurveHeights:
    """Positives found at false positive rates, and precision at recalls, as steps go by.

    Attributes:
        recall: float64 [g, b], positives found where the wanted negatives are passed.
        precision: float64 [g, b], where the wanted positives are first found.

    Args:
        passed: float64 [g, b], rising, negatives.
        wanted: float64 [g, b], rising, positives.
    """

    def __init__(self, passed: Values, wanted: Values) -> None:
        self._passed = passed
        # Weights are whole, so the margin only compensates the rounding of the product.
        self._wanted = np.maximum(wanted, 1) - 1e-6
        lanes = passed.shape[1]
        self._next = np.zeros((2, lanes), dtype=np.int64)  # place of `passed`, and of `wanted`
        self._hits = np.zeros((2, lanes))  # before the last step, and with it
        self._last = np.zeros((2, lanes))  # negatives above the last step, and up to it
        self.recall, self.precision = np.zeros(passed.shape), np.zeros(passed.shape)

    def pass_over(self, chunk: _Chunk) -> None:
        """Take the next steps."""
        _, hits, above, upto = chunk
        for lane in self._due(1, self._wanted, hits[-1] + 1e-9):
            self._find(lane, hits[:, lane], upto[:, lane])
        for lane in self._due(0, self._passed, above[-1]):
            self._rise(lane, hits[:, lane], above[:, lane], upto[:, lane])
        self._hits = np.stack([hits[-2] if len(hits) > 1 else self._hits[1], hits[-1]])
        self._last = np.stack([above[-1], upto[-1]])

    def end(self) -> None:
        """Take what lies beyond the last step."""
        for lane in range(self._passed.shape[1]):
            self._rise(lane, *np.zeros((3, 0)))

    def _due(self, kind: int, places: Values, below: Values) -> npt.NDArray[np.intp]:
        """Give the lanes whose next place is below a limit, [b]."""
        at = self._next[kind]
        last = len(places) - 1
        there = np.take_along_axis(places, np.minimum(at, last)[None], axis=0)[0]
        return np.flatnonzero((at <= last) & (there < below))

    def _find(self, lane: int, hits: Values, upto: Values) -> None:
        begin = self._next[1, lane]
        end = np.searchsorted(self._wanted[:, lane], hits[-1], side="right")
        at = np.searchsorted(hits, self._wanted[begin:end, lane])
        self.precision[begin:end, lane] = hits[at] / (hits[at] + upto[at])
        self._next[1, lane] = end

    def _rise(self, lane: int, hits: Values, above: Values, upto: Values) -> None:
        """Take the places from the last step to the one before the end of the given steps."""
        begin, end = self._next[0, lane], len(self._passed)
        if len(above):
            end = np.searchsorted(self._passed[:, lane], above[-1])
        some = self._passed[begin:end, lane]
        hits = np.concatenate([self._hits[:, lane], hits])
        above, upto = np.append(self._last[0, lane], above), np.append(self._last[1, lane], upto)
        at = np.searchsorted(above, some, side="right") - 1
        before, after, start, stop = hits[at], hits[at + 1], above[at], upto[at]
        part = np.divide(some - start, stop - start, out=np.ones_like(some), where=stop > some)
        self.recall[begin:end, lane] = before + part * (after - before)
        self._next[0, lane] = end


class Blocked:
    """A column made ready to be measured under blocks of weights.

    Args:
        column: labels and probabilities.
        draws: the resamples.
        areas: as of `BlockWeighted`.
        terms: whether `Weighted.sums` are wanted; only the first of them otherwise.
    """

    def __init__(
        self, column: Column, draws: Draws, areas: Collection[str], *, terms: bool
    ) -> None:
        self.column, self._areas = column, areas
        patient = draws.patient[column.rows].astype(np.int32)
        self.ranking = Ranking(column, patient, draws.most)

        def each(some: npt.NDArray[np.int64]) -> Values:
            present = column.present[some]
            first = column.terms_of(some) if terms else np.ones((len(present), 1))
            return np.column_stack([first, present])

        self._sums = PatientSums(each, patient, draws.patients)

    def under(self, w: Weights) -> BlockWeighted:
        """Weigh it, by weights of patients, uint8 [P, b]."""
        return BlockWeighted(self.column, self.ranking, self._sums(w), self._areas, w)


def _dot(a: Values, b: Values) -> Values:
    """Multiply column by column, [c, b] → [b]."""
    return np.asarray(np.einsum("cb,cb->b", a, b))
