"""Tests a bundle on pairs of phantoms: does it see a finding because it is there?

Each patient is drawn without and with each finding (`sources.phantom.pairs`), at the size of the
model's input, so that nothing but the finding differs in what the network sees. The bundle answers
both, and so do copies of it with random weights; `evaluation.causal` measures the answers.

    OUT/causal.json    the measurements
    OUT/causal.png     four findings: without, with, the drawn mask, the change of the class map
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from chestxray import hub
from chestxray.artifacts import write_json
from chestxray.errors import SourceError
from chestxray.evaluation.causal import CausalEffects, PairedAnswers, causal_effects
from chestxray.model import bundle as bundles
from chestxray.model.bundle import Bundle
from chestxray.model.ensemble import Network
from chestxray.model.randomization import randomized
from chestxray.model.torch_engine import TorchEngine, device
from chestxray.progress import progress
from chestxray.reading.pair_figure import PairPanel, write_pairs
from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom import Pair, pairs
from chestxray.sources.phantom.intervention import SEED, pairs_of
from chestxray.sources.phantom.population import Exam

PATIENTS: Final = 20
_LAYERS: Final = {"head": 0.0, "head and half of the backbone": 0.5, "all layers": 1.0}
_MODELS: Final = 2  # with random weights, of each kind; each has K random maps
_SHOWN: Final = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairExplanation:
    """What `explain_pairs` wrote.

    Attributes:
        path: `causal.json`.
        picture: `causal.png`.
        effects: what the pairs show.
        left_out: findings of the model that phantoms cannot show.
    """

    path: Path
    picture: Path
    effects: CausalEffects
    left_out: tuple[str, ...]


@dataclass
class _Model:
    """A network and its answers so far."""

    engine: TorchEngine
    logits: list[npt.NDArray[np.float32]] = field(default_factory=list)
    change: list[npt.NDArray[np.float32]] = field(default_factory=list)
    maps: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def ask(self, drawn: Sequence[Pair], places: npt.NDArray[np.int64]) -> None:
        """Answer the pairs of one patient, which share the radiograph without a finding."""
        found = self.engine.run(
            np.stack([drawn[0].without, *(pair.with_finding for pair in drawn)])
        )
        with_finding = found.logits[1:]
        without = np.broadcast_to(found.logits[:1], with_finding.shape)
        self.logits.append(np.stack([without, with_finding], axis=1))
        self.change.append(found.maps[1:] - found.maps[:1])
        self.maps.append(found.maps[1:][np.arange(len(drawn)), places])


def explain_pairs(
    bundle: str | Path, out: str | Path, patients: int = PATIENTS, seed: int = SEED
) -> PairExplanation:
    """Measure what drawing a finding changes in a bundle's answer, and whether its map shows it.

    Args:
        bundle: the `bundle` folder of a run, or `hub:OWNER/NAME@REVISION`.
        out: folder for `causal.json` and `causal.png`.
        patients: how many; each gives a pair for each finding.
        seed: of the population of phantoms.

    Raises:
        SourceError: phantoms can show none of the bundle's findings, or no patient.
        BundleError: the bundle is damaged.
        ArtifactError: a file of the bundle is missing.
    """
    model, out = bundles.load(hub.local(bundle)), Path(out)
    drawable = _drawable(model)
    if not model.card.trained_on.synthetic:
        _log.warning("the pairs are phantoms, the model was trained on radiographs of patients")
    models, drawn = _ask_all(model, drawable, patients, seed)
    trained, *others = (_answers(model, each, drawn, drawable) for each in models)
    kinds = {
        words: others[kind * _MODELS : (kind + 1) * _MODELS] for kind, words in enumerate(_LAYERS)
    }
    effects = causal_effects(trained, kinds)
    named = drawable.values()
    left_out = tuple(name for k, name in enumerate(model.card.findings) if k not in named)
    shown = list(_shown(trained))
    panels = [_panel(trained, row, drawn[row], model.card.size) for row in shown]
    written = PairExplanation(out / "causal.json", out / "causal.png", effects, left_out)
    write_pairs(written.picture, panels)
    about = {
        "model": model.identity,
        "trained_on": model.card.trained_on.title,
        "synthetic": model.card.trained_on.synthetic,
        "pairs": {"patients": patients, "pixels": model.card.size, "seed": seed},
        "cells": list(trained.maps.shape[1:]),
        "left_out": list(left_out),
        "picture": written.picture.name,
        "shown": [panel.finding for panel in panels],
    }
    write_json(written.path, about | effects.model_dump(mode="json"))
    return written


def _drawable(model: Bundle) -> dict[str, int]:
    """Give the findings that phantoms can show, by NIH's names, with their places in the model."""
    places = {name: model.card.findings.place(name) for name in FINDINGS}
    drawable = {name: place for name, place in places.items() if place is not None}
    if not drawable:
        raise SourceError(
            f"phantoms can show none of this model's findings ({', '.join(model.card.findings)}): "
            f"they show {', '.join(FINDINGS)}"
        )
    return drawable


class _Drawn(NamedTuple):
    """What is kept of a pair; the radiographs are drawn again where they are shown."""

    exam: Exam
    finding: str
    mask: npt.NDArray[np.bool_]


def _ask_all(
    model: Bundle, drawable: dict[str, int], patients: int, seed: int
) -> tuple[list[_Model], list[_Drawn]]:
    """Draw the pairs patient by patient, and have the model and its random copies answer them."""
    classifiers = [model.classifier.to(device()), *_random_copies(model)]
    models = [_Model(TorchEngine(classifier)) for classifier in classifiers]
    places = np.array(list(drawable.values()))
    kept: list[_Drawn] = []
    stream = pairs(patients, list(drawable), model.card.size, seed)
    with progress("explain", patients * len(drawable), "pairs") as advance:
        for _, group in groupby(stream, key=lambda pair: pair.exam.patient.number):
            drawn = list(group)
            for each in models:
                each.ask(drawn, places)
            kept += [_Drawn(pair.exam, pair.finding, pair.mask) for pair in drawn]
            advance(len(drawn))
    return models, kept


def _random_copies(model: Bundle) -> Iterator[Network]:
    for share in _LAYERS.values():
        for seed in range(_MODELS):
            yield randomized(model.card, model.classifier, share, seed)


def _answers(
    model: Bundle, asked: _Model, drawn: Sequence[_Drawn], drawable: dict[str, int]
) -> PairedAnswers:
    logits = np.concatenate(asked.logits)
    flat = logits.reshape(-1, logits.shape[2]).astype(np.float64)
    return PairedAnswers(
        findings=model.card.findings,
        patients=np.array([each.exam.patient.number for each in drawn]),
        drawn=np.array([drawable[each.finding] for each in drawn]),
        masks=np.stack([each.mask for each in drawn]),
        logits=logits,
        probabilities=model.card.calibration.apply(flat).reshape(logits.shape),
        change=np.concatenate(asked.change),
        maps=np.concatenate(asked.maps),
    )


def _shown(answers: PairedAnswers) -> Iterator[int]:
    """Choose pairs by a rule: findings from the greatest mean rise of the logit to the least.

    They are evenly spaced in that order. Of each, the pair with the median rise is shown.
    """
    rise = answers.moved(answers.logits)
    rows = {k: np.flatnonzero(answers.drawn == k) for k in np.unique(answers.drawn)}
    ranked = sorted(rows, key=lambda k: -rise[rows[k]].mean())
    for place in np.unique(np.linspace(0, len(ranked) - 1, _SHOWN).round().astype(int)):
        own = rows[ranked[place]]
        yield int(own[np.argsort(rise[own], kind="stable")[(len(own) - 1) // 2]])


def _panel(answers: PairedAnswers, row: int, drawn: _Drawn, pixels: int) -> PairPanel:
    """Draw a pair again, which takes a moment and gives the same bytes."""
    (pair,) = pairs_of(drawn.exam, [drawn.finding], pixels)
    k = answers.drawn[row]
    without, with_finding = (float(p) for p in answers.probabilities[row, :, k])
    return PairPanel(
        finding=answers.findings[k],
        without=pair.without,
        with_finding=pair.with_finding,
        mask=pair.mask,
        change=answers.change[row, k],
        probabilities=(without, with_finding),
    )
