"""Ridge regression of many findings on the same features, its strength chosen by patient.

Labels 1 and 0 are regressed on standardised features by least squares with the penalty
strength × n × |w|²; the intercept is not penalised (Hoerl and Kennard 1970,
doi:10.1080/00401706.1970.10488634). The strength of each finding is the one of `STRENGTHS` with the
least squared error in `FOLDS`-fold cross-validation, whose folds keep the images of a patient
together.

All folds and strengths come from one pass over the images. A fold's share of the normal equations
(Xᵀ X, Xᵀ Y) is summed once and subtracted from the whole, and one eigendecomposition of a fold
solves them for every strength. So 86,000 images × 256 features × 14 findings take seconds, where
refitting for each fold and strength would take minutes. Findings whose labels are known for the
same images share this work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Floats, Values

FOLDS: Final = 5
STRENGTHS: Final = tuple(float(of) for of in np.logspace(-4, 3, 15))

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ridge:
    """Fitted ridge regressions of K findings; a column is NaN where a finding was not fitted.

    Attributes:
        mean, scale: float64 [d], of the training features.
        weights: float64 [d, K], of the standardised features.
        intercepts: float64 [K].
        strengths: float64 [K], as chosen.
        held_out: float64 [n, K], the score of each training image from the folds without its
            patient; NaN where the label is unknown. Each fold's share of positives is replaced by
            that of all images: a fold with many leaves the others few, so the fold's own level
            would fall as its labels rise.
    """

    mean: Values
    scale: Values
    weights: Values
    intercepts: Values
    strengths: Values
    held_out: Values

    @classmethod
    def fit(
        cls, features: Floats, labels: Floats, patients: npt.NDArray[Any], seed: int = 0
    ) -> Ridge:
        """Fit every finding that has positives and negatives.

        Args:
            features: float [n, d].
            labels: float [n, K], 1, 0, NaN = unknown (left out).
            patients: the patient of each image, [n] of any kind that sorts.
            seed: of the folds.
        """
        mean, scale = (
            features.mean(axis=0, dtype=np.float64),
            features.std(axis=0, dtype=np.float64),
        )
        scale[scale == 0] = 1
        x = _standard(features, mean, scale)
        fold = folds_of(patients, FOLDS, seed)
        d, k = x.shape[1], labels.shape[1]
        weights, intercepts, strengths = np.full((d, k), np.nan), *np.full((2, k), np.nan)
        held_out = np.full(labels.shape, np.nan)
        fitted = np.flatnonzero((labels == 1).any(axis=0) & (labels == 0).any(axis=0))
        for places in known_together(labels[:, fitted]):
            columns = fitted[places]
            known = ~np.isnan(labels[:, columns[0]])
            y = labels[np.ix_(known, columns)].astype(np.float64)
            chosen, scores = _by_folds(x[known], y, fold[known])
            w, b = NormalEquations.of(x[known], y).solved(np.unique(chosen))
            place = np.searchsorted(np.unique(chosen), chosen)
            own = np.arange(len(columns))
            weights[:, columns], intercepts[columns] = w[:, place, own], b[place, own]
            strengths[columns] = chosen
            held_out[np.ix_(known, columns)] = scores
        return cls(mean, scale, weights, intercepts, strengths, held_out)

    def scores(self, features: Floats) -> Values:
        """Give the score of each image for each finding, float64 [m, K]; NaN if not fitted."""
        return _standard(features, self.mean, self.scale) @ self.weights + self.intercepts


def folds_of(patients: npt.NDArray[Any], folds: int, seed: int) -> _Ints:
    """Give each image the fold of its patient, int64 [n]; patients are dealt out at random."""
    names, patient = np.unique(patients, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray(order[patient] % folds, dtype=np.int64)


@dataclass(frozen=True)
class NormalEquations:
    """The normal equations of ridge regressions of k findings on d features, as sums.

    Attributes:
        n: images.
        x: float64 [d], y: float64 [k], sums.
        xx: float64 [d, d], xy: float64 [d, k], sums of products.
    """

    n: int
    x: Values
    y: Values
    xx: Values
    xy: Values

    @classmethod
    def of(cls, x: Values, y: Values) -> NormalEquations:
        """Sum over images: features float64 [n, d] and known labels float64 [n, k]."""
        return cls(len(x), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y)

    def without(self, part: NormalEquations) -> NormalEquations:
        """Leave out a part of the images."""
        return NormalEquations(
            self.n - part.n,
            self.x - part.x,
            self.y - part.y,
            self.xx - part.xx,
            self.xy - part.xy,
        )

    def solved(self, strengths: npt.ArrayLike) -> tuple[Values, Values]:
        """Give weights [d, s, k] and intercepts [s, k] for each strength; 0 for no image."""
        n, x, y = max(self.n, 1), self.x, self.y
        values, vectors = np.linalg.eigh(self.xx - np.outer(x, x) / n)
        turned = vectors.T @ (self.xy - np.outer(x, y) / n)
        penalised = np.clip(values, 0, None)[:, None] + n * np.asarray(strengths)
        shrunk = turned[:, None, :] / penalised[:, :, None]
        weights = np.einsum("de,esk->dsk", vectors, shrunk, optimize=True)
        return weights, y / n - np.einsum("d,dsk->sk", x / n, weights)


def _by_folds(x: Values, y: Values, fold: _Ints) -> tuple[Values, Values]:
    """Choose the strength of each finding, [k], and give its held-out scores, [n, k]."""
    parts = [NormalEquations.of(x[fold == f], y[fold == f]) for f in range(FOLDS)]
    whole = NormalEquations(*(sum(getattr(p, name) for p in parts) for name in vars(parts[0])))
    squared = np.zeros((len(STRENGTHS), y.shape[1]))
    solutions = [whole.without(part).solved(STRENGTHS) for part in parts]
    for f, (weights, intercepts) in enumerate(solutions):
        here = fold == f
        for s in range(len(STRENGTHS)):
            error = x[here] @ weights[:, s] + intercepts[s] - y[here]
            squared[s] += np.einsum("nk,nk->k", error, error)
    best = squared.argmin(axis=0)
    scores = np.empty(y.shape)
    own = np.arange(y.shape[1])
    for f, (weights, intercepts) in enumerate(solutions):
        rest = whole.without(parts[f])
        level = intercepts[best, own] - rest.y / max(rest.n, 1) + whole.y / whole.n
        scores[fold == f] = x[fold == f] @ weights[:, best, own] + level
    return np.array(STRENGTHS)[best], scores


def known_together(labels: Floats) -> Iterator[_Ints]:
    """Group the columns of labels [n, K] whose labels are known for the same images."""
    groups: dict[bytes, list[int]] = {}
    for column, y in enumerate(labels.T):
        groups.setdefault(np.packbits(np.isnan(y)).tobytes(), []).append(column)
    for columns in groups.values():
        yield np.array(columns, dtype=np.int64)


def _standard(features: Floats, mean: Values, scale: Values) -> Values:
    return np.asarray((features - mean) / scale, dtype=np.float64)
