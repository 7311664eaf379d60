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

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from chestxray.artifacts import write_json, write_table
from chestxray.dataset.store import Dataset
from chestxray.evaluation.logistic_regression import fit_logistic
from chestxray.evaluation.ridge import FOLDS, folds_of
from chestxray.model.engines import run_all
from chestxray.model.network import Classifier
from chestxray.model.torch_engine import TorchEngine, device
from chestxray.progress import progress
from chestxray.training import recipe as recipes
from chestxray.training.lightning_module import Task
from chestxray.training.loop import Outcome

Regression = Literal["ridge", "logistic"]

_STRENGTHS: Final = tuple(float(of) for of in np.logspace(2, -4, 13))  # the strongest first
_HALF: Final = 100.0
_STEPS: Final = 100  # of L-BFGS for one strength at most

_Floats = npt.NDArray[np.float64]
_Path = tuple[Tensor, Tensor]
_Fitter = Callable[[Tensor, Tensor], _Path]


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
        x = torch.from_numpy((features - mean) / scale)
        y = torch.from_numpy(np.asarray(labels, dtype=np.float64))
        path, loss = _REGRESSIONS[regression]
        held_out = _held_out(x, y, folds_of(patients, FOLDS, seed), path)
        chosen = _chosen(_losses(held_out, y, loss), y)
        weights, biases = path(x, y)
        own = np.arange(y.shape[1])
        w, b = weights.numpy()[chosen, :, own], biases.numpy()[chosen, own]
        scores = held_out.numpy()[chosen, :, own].T
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


def fit_head(dataset: Dataset, task: Task, run: Path) -> Outcome:
    """Fit the head of a task's classifier by its recipe's `method`; the backbone stays as it is.

    Writes `dataset.json`, `recipe.yaml` and `history.csv` into the run's folder. The history has
    one epoch, whose training figures are those of held-out logits.

    Args:
        dataset: with the splits `train` and `val`.
        task: of the recipe, its classifier with the initial weights.
        run: the folder of the run.
    """
    start, recipe = time.monotonic(), task.recipe
    classifier = task.classifier.eval().to(device())
    write_json(run / "dataset.json", dataset.manifest.model_dump(mode="json"))
    recipes.save(run / "recipe.yaml", recipe)
    rows = dataset.rows("train")
    patients = dataset.index["patient"].iloc[rows].to_numpy(dtype=str)
    labels = dataset.labels(rows)
    method: Regression = "ridge" if recipe.method == "ridge" else "logistic"
    features = _features(classifier, dataset, rows)
    probe = Probe.fit(features, labels, patients, method, recipe.seed)
    probe.into(classifier)
    task.outputs["train"].add(torch.from_numpy(probe.held_out), torch.from_numpy(labels))
    val = dataset.rows("val")
    logits = _features(classifier, dataset, val) @ probe.weights.T + probe.biases
    task.outputs["val"].add(torch.from_numpy(logits), torch.from_numpy(dataset.labels(val)))
    table = [{"epoch": 0, "split": split, **task.measures(split)} for split in task.outputs]
    write_table(run / "history.csv", pd.DataFrame(table))
    return Outcome(0, 1, time.monotonic() - start, torch.get_num_threads())


def _features(
    classifier: Classifier, dataset: Dataset, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Give the head's input of some images, float32 [N, C]."""
    found = []
    with progress("features", len(rows), "images") as advance:
        for answer in run_all(TorchEngine(classifier), dataset.images[rows]):
            found.append(answer.features)
            advance(len(answer.features))
    return np.concatenate(found)


def _held_out(x: Tensor, y: Tensor, fold: npt.NDArray[np.int64], path: _Fitter) -> Tensor:
    """Give the scores of each image by the other folds for every strength, [S, N, K]."""
    scores = torch.empty((len(_STRENGTHS), *y.shape), dtype=torch.float64)
    for f in range(FOLDS):
        here = torch.from_numpy(fold == f)
        weights, biases = path(x[~here], y[~here])
        scores[:, here] = x[here] @ weights + biases[:, None]
    return scores


def _ridge(x: Tensor, y: Tensor) -> _Path:
    """Give the weights [S, C, K] and biases [S, K] of least squares for every strength."""
    weights = x.new_zeros((len(_STRENGTHS), x.shape[1], y.shape[1]))
    biases = x.new_zeros((len(_STRENGTHS), y.shape[1]))
    known = ~y.isnan()
    patterns, place = torch.unique(known, dim=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        columns = torch.nonzero(place == number)[:, 0]
        if not rows.any():
            continue
        cells, targets = x[rows], y[rows][:, columns]
        middle, level = cells.mean(0), targets.mean(0)
        centred = cells - middle
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(cells))
        turned = vectors.T @ (centred.T @ (targets - level) / len(cells))
        for s, strength in enumerate(_STRENGTHS):
            w = vectors @ (turned / (values.clamp(min=0) + strength)[:, None])
            weights[s][:, columns] = w
            biases[s, columns] = level - middle @ w
    return weights, biases


def _logistic(x: Tensor, y: Tensor) -> _Path:
    """Give the same of logistic regression; each strength starts from the one before."""
    known = ~y.isnan()
    share = known / known.sum(0).clamp(min=1)
    target = torch.where(known, y, torch.zeros_like(y))
    w = x.new_zeros((x.shape[1], y.shape[1]), requires_grad=True)
    b = torch.from_numpy(_prior(y.numpy())).requires_grad_()
    weights, biases = [], []
    for strength in _STRENGTHS:
        search = torch.optim.LBFGS(
            [w, b], max_iter=_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def step(search: torch.optim.LBFGS = search, strength: float = strength) -> Tensor:
            search.zero_grad()
            cost = binary_cross_entropy_with_logits(x @ w + b, target, share, reduction="sum")
            cost = cost + strength / 2 * w.square().sum()
            cost.backward()  # type: ignore[no-untyped-call]
            return cost

        search.step(step)  # type: ignore[no-untyped-call]
        weights.append(w.detach().clone())
        biases.append(b.detach().clone())
    return torch.stack(weights), torch.stack(biases)


def _squared(scores: Tensor, y: Tensor) -> Tensor:
    return (scores - y).square()


def _cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(scores, y.expand_as(scores), reduction="none")


_REGRESSIONS: Final[dict[str, tuple[_Fitter, Callable[[Tensor, Tensor], Tensor]]]] = {
    "ridge": (_ridge, _squared),
    "logistic": (_logistic, _cross_entropy),
}


def _losses(scores: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> _Floats:
    """Give each finding's mean loss for each strength over known labels, [S, K]."""
    known = ~y.isnan()
    each = loss(scores, torch.where(known, y, torch.zeros_like(y))) * known
    means: _Floats = (each.sum(1) / known.sum(0).clamp(min=1)).numpy()
    return means


def _chosen(losses: _Floats, y: Tensor) -> npt.NDArray[np.int64]:
    """Choose the place of each finding's strength, [K], with losses shared among findings."""
    fitted = _two_sided(y.numpy())
    if not fitted.any():
        return np.zeros(len(fitted), dtype=np.int64)
    # The strongest penalty leaves the share of positives alone.
    relative = losses / np.where(fitted, losses[0], 1)
    few = np.minimum((y == 1).sum(0).numpy(), (y == 0).sum(0).numpy()).astype(np.float64)
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
