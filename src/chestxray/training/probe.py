"""Probing: linear regression of the findings on the pooled features of a frozen network.

Pooling and head are linear, so that a probe is an ordinary classifier: its weights go into the
head, and class maps stay exact. Features are standardised, and a finding's weights w are penalised
by strength × |w|² beside its mean loss: the squared error (`ridge`) or the cross-entropy
(`logistic`). Ridge scores become logits by a logistic regression on held-out scores.

The strength of each finding has the least loss in cross-validation by patient. A rare finding says
little about its own strength, so its losses are averaged with those of all findings, each relative
to the loss without features: a finding with `_HALF` positives (or negatives, if fewer) counts as
much as all others together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from chestxray.dataset.store import Dataset
from chestxray.evaluation.logistic_regression import fit_logistic
from chestxray.evaluation.ridge import FOLDS, NormalEquations, folds_of, known_together
from chestxray.model.network import Classifier
from chestxray.model.torch_engine import TorchEngine, device
from chestxray.progress import progress

Regression = Literal["ridge", "logistic"]

_STRENGTHS: Final = tuple(float(of) for of in np.logspace(2, -4, 13))  # the strongest first
_HALF: Final = 100.0
BATCH: Final = 32  # images
_STEPS: Final = 100  # of L-BFGS for one strength at most

_Floats = npt.NDArray[np.float64]
_Path = tuple[_Floats, _Floats]
_Fitter = Callable[[_Floats, _Floats], _Path]
_Loss = Callable[[_Floats, _Floats], _Floats]


@dataclass(frozen=True)
class Probe:
    """Linear logits of K findings from C features.

    Attributes:
        weights: float64 [K, C], of the features as they are.
        biases: float64 [K]; a finding without positives or without negatives has weights of 0 and
            the log-odds of its share, with one image added to each side.
        strengths: float64 [K], as chosen; NaN where nothing was fitted.
        held_out: float64 [N, K], logits of each training image from the folds without its patient.
    """

    weights: _Floats
    biases: _Floats
    strengths: _Floats
    held_out: _Floats

    @classmethod
    def fit(
        cls,
        features: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        patients: npt.NDArray[Any],
        regression: Regression = "logistic",
        seed: int = 0,
    ) -> Probe:
        """Fit all findings.

        Args:
            features: float [N, C].
            labels: float [N, K] of 1, 0, NaN = unknown (left out).
            patients: of each image, [N] of any kind that sorts.
            regression: which loss.
            seed: of the folds.
        """
        mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        scale[scale == 0] = 1
        x, y = (features - mean) / scale, labels.astype(np.float64)
        path, loss = _REGRESSIONS[regression]
        held_out = _held_out(x, y, folds_of(patients, FOLDS, seed), path)
        chosen = _chosen(_losses(held_out, y, loss), y)
        weights, biases = path(x, y)
        own = np.arange(y.shape[1])
        w, b = weights[:, chosen, own].T, biases[chosen, own]
        scores = held_out[:, chosen, own]
        if regression == "ridge":
            w, b, scores = _as_logits(w, b, scores, labels)
        fitted = _two_sided(labels)
        w[~fitted], b[~fitted] = 0, _prior(labels)[~fitted]
        strengths = np.where(fitted, np.array(_STRENGTHS)[chosen], np.nan)
        w = w / scale
        return cls(w, b - w @ mean, strengths, scores)

    def into(self, classifier: Classifier) -> None:
        """Put the weights into a classifier's head, in place."""
        with torch.no_grad():
            classifier.head.weight.copy_(torch.from_numpy(self.weights))
            classifier.head.bias.copy_(torch.from_numpy(self.biases))


def probe_of(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    engine: TorchEngine,
    method: Regression,
    seed: int,
) -> Probe:
    """Fit a probe to the features of some images of a dataset.

    Args:
        dataset: with patients and labels.
        rows: of the images.
        engine: with the network, whose head is not used.
        method: which regression.
        seed: of the folds.
    """
    patients = dataset.index["patient"].iloc[rows].to_numpy(dtype=str)
    features = features_of(engine, dataset, rows)
    return Probe.fit(features, dataset.labels(rows), patients, method, seed)


def start_head(classifier: Classifier, dataset: Dataset, method: Regression, seed: int) -> None:
    """Fit the head to the training images before the network is trained, in place.

    Gradients through a random head spoil good features first (Kumar et al., Fine-Tuning can Distort
    Pretrained Features, arXiv 2202.10054).
    """
    there = next(classifier.parameters()).device
    engine = TorchEngine(classifier.eval().to(device()))
    probe_of(dataset, dataset.rows("train"), engine, method, seed).into(classifier)
    classifier.to(there).train()


def features_of(
    engine: TorchEngine, dataset: Dataset, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Give the head's input of some images, float32 [N, C]."""
    found = []
    with progress("features", len(rows), "images") as advance:
        for start in range(0, len(rows), BATCH):
            answer = engine.run(dataset.images[rows[start : start + BATCH]])
            found.append(answer.features)
            advance(len(answer.features))
    return np.concatenate(found)


def _held_out(x: _Floats, y: _Floats, fold: npt.NDArray[np.int64], path: _Fitter) -> _Floats:
    """Give the scores of each image by the other folds for every strength, [N, S, K]."""
    scores = np.empty((len(y), len(_STRENGTHS), y.shape[1]))
    for f in range(FOLDS):
        here = fold == f
        weights, biases = path(x[~here], y[~here])
        scores[here] = np.tensordot(x[here], weights, 1) + biases
    return scores


def _ridge(x: _Floats, y: _Floats) -> _Path:
    """Give the weights [C, S, K] and biases [S, K] of least squares for every strength."""
    weights = np.zeros((x.shape[1], len(_STRENGTHS), y.shape[1]))
    biases = np.zeros(weights.shape[1:])
    for columns in known_together(y):
        known = ~np.isnan(y[:, columns[0]])
        equations = NormalEquations.of(x[known], y[np.ix_(known, columns)])
        weights[:, :, columns], biases[:, columns] = equations.solved(_STRENGTHS)
    return weights, biases


def _logistic(x: _Floats, y: _Floats) -> _Path:
    """Give the same of logistic regression; each strength starts from the one before."""
    known = ~np.isnan(y)
    features, target = torch.from_numpy(x), torch.from_numpy(np.where(known, y, 0))
    share = torch.from_numpy(known / known.sum(0).clip(min=1))
    w = features.new_zeros((x.shape[1], y.shape[1]), requires_grad=True)
    b = torch.from_numpy(_prior(y)).requires_grad_()
    weights, biases = [], []
    for strength in _STRENGTHS:
        search = torch.optim.LBFGS(
            [w, b], max_iter=_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def step(search: torch.optim.LBFGS = search, strength: float = strength) -> Tensor:
            search.zero_grad()
            logits = features @ w + b
            cost = binary_cross_entropy_with_logits(logits, target, share, reduction="sum")
            cost = cost + strength / 2 * w.square().sum()
            cost.backward()  # type: ignore[no-untyped-call]
            return cost

        search.step(step)  # type: ignore[no-untyped-call]
        weights.append(w.detach().numpy().copy())
        biases.append(b.detach().numpy().copy())
    return np.stack(weights, 1), np.stack(biases)


def _squared(scores: _Floats, y: _Floats) -> _Floats:
    return (scores - y) ** 2


def _cross_entropy(scores: _Floats, y: _Floats) -> _Floats:
    return np.asarray(np.logaddexp(0, scores) - y * scores)


_REGRESSIONS: Final[dict[str, tuple[_Fitter, _Loss]]] = {
    "ridge": (_ridge, _squared),
    "logistic": (_logistic, _cross_entropy),
}


def _losses(scores: _Floats, y: _Floats, loss: _Loss) -> _Floats:
    """Give each finding's mean loss for each strength over known labels, [S, K]."""
    known = ~np.isnan(y)
    each = loss(scores, np.where(known, y, 0)[:, None]) * known[:, None]
    return np.asarray(each.sum(0) / known.sum(0).clip(min=1))


def _chosen(losses: _Floats, y: _Floats) -> npt.NDArray[np.int64]:
    """Choose the place of each finding's strength, [K], with losses shared among findings."""
    fitted = _two_sided(y)
    if not fitted.any():
        return np.zeros(len(fitted), dtype=np.int64)
    # The strongest penalty leaves the share of positives alone.
    relative = losses / np.where(fitted, losses[0], 1)
    few = np.minimum((y == 1).sum(0), (y == 0).sum(0)).astype(np.float64)
    together = (relative * few)[:, fitted].sum(1) / few[fitted].sum()
    own = few / (few + _HALF)
    return np.asarray((own * relative + (1 - own) * together[:, None]).argmin(0), dtype=np.int64)


def _as_logits(
    w: _Floats, b: _Floats, scores: _Floats, labels: npt.NDArray[Any]
) -> tuple[_Floats, _Floats, _Floats]:
    """Scale ridge scores to logits by a logistic regression of held-out scores; slope above 0."""
    w, b, scores = w.copy(), b.copy(), scores.copy()
    for k, fitted in enumerate(_two_sided(labels)):
        if not fitted:
            continue
        known = ~np.isnan(labels[:, k])
        spread = max(float(scores[known, k].std()), 1e-12)
        design = np.column_stack([np.ones(known.sum()), scores[known, k] / spread])
        level, slope = fit_logistic(
            design, np.zeros(len(design)), labels[known, k].astype(np.float64), (0, 1e-4)
        )
        factor = max(slope, 1e-3) / spread
        w[k], b[k], scores[:, k] = (
            factor * w[k],
            level + factor * b[k],
            level + factor * scores[:, k],
        )
    return w, b, scores


def _two_sided(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray((labels == 1).any(0) & (labels == 0).any(0))


def _prior(labels: npt.NDArray[Any]) -> _Floats:
    """Give the log-odds of each finding's share, with one image added to each side."""
    return np.asarray(np.log(((labels == 1).sum(0) + 1) / ((labels == 0).sum(0) + 1)), np.float64)
