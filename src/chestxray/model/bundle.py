"""A bundle: a trained classifier and all that is needed to use it, in a folder.

`model_card` describes the folder and reads it without torch; here is the classifier beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from chestxray.artifacts import sha256, write_json, written
from chestxray.errors import BundleError, RecipeError
from chestxray.evaluation.bundle_thresholds import CARD, model_identity
from chestxray.model.ensemble import Network, backbone_bytes, members_of, network_of
from chestxray.model.model_card import GATE, WEIGHTS, Facts, GateCard, Member, ModelCard, read
from chestxray.model.network import check_finite
from chestxray.model.out_of_distribution import Detector
from chestxray.version import __version__

_FLOAT32: Final = 4  # bytes
_BEYOND: Final = 2**28
"""Bytes that a backbone may take beyond twice its weights. Of all families of timm, relative
positions take the most beyond them, which the image's size decides: 27 % in a network of 3 MB."""


@dataclass(frozen=True)
class Bundle(Facts):
    """A model card, its detector and its classifier.

    Attributes:
        classifier: in evaluation mode.
    """

    classifier: Network


def save(
    folder: Path, classifier: Network, card: ModelCard, detector: Detector | None = None
) -> Bundle:
    """Write a bundle; the card's hashes, package version and gate are filled in here.

    Args:
        folder: to write into.
        classifier: to save; is put into evaluation mode.
        card: of the model.
        detector: of images unlike those it knows, if one was fitted.

    Raises:
        BundleError: a weight is NaN or infinite.
    """
    check_finite(classifier)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()
    }
    with written(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    card = card.model_copy(
        update={
            "weights_sha256": sha256(folder / WEIGHTS),
            "package_version": __version__,
            "gate": _save_detector(folder, detector),
        }
    )
    values = card.model_dump(mode="json")
    write_json(folder / CARD, values)
    return Bundle(card, detector, model_identity(values), classifier.eval())


def load(folder: Path, facts: Facts | None = None) -> Bundle:
    """Read a bundle, refusing one whose parts do not match.

    Args:
        folder: of the bundle.
        facts: what `model_card.read` gave of this folder just now; it is asked where None.

    Raises:
        BundleError: as `model_card.read` says; a network that takes far more memory than the
            weights, before it is made; or tensors that are missing, extra, misshapen or not finite.
        ArtifactError: a file is missing.
    """
    facts = facts or read(folder)
    path = folder / WEIGHTS
    classifier = _build(folder, facts.card)
    try:
        classifier.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{path} does not fit {facts.card.backbone}: {error}") from error
    check_finite(classifier)
    _check_normalisation(folder, facts.card, classifier)
    classifier = classifier.eval().to(memory_format=torch.channels_last)
    return Bundle(facts.card, facts.detector, facts.identity, classifier, origin=facts.origin)


def _save_detector(folder: Path, detector: Detector | None) -> GateCard | None:
    if detector is None:
        (folder / GATE).unlink(missing_ok=True)
        return None
    detector.save(folder / GATE)
    return GateCard(**detector.limits.model_dump(), sha256=sha256(folder / GATE))


def _build(folder: Path, card: ModelCard) -> Network:
    """Make the network of a card, if the weights beside it can be its own."""
    path = folder / WEIGHTS
    most = 2 * _FLOAT32 * _numbers(path) + _BEYOND
    try:
        needed = backbone_bytes(card)
        if needed > most:
            raise BundleError(
                f"{folder / CARD}: a {card.backbone} for images of {card.size} px takes "
                f"{needed / 2**30:.1f} GiB, far more than the weights in {path}, which are not "
                f"of that network: copy the whole bundle again"
            )
        return network_of(card)
    except RecipeError as error:
        raise BundleError(f"{folder / CARD}: {error}") from error


def _numbers(path: Path) -> int:
    """Count the numbers in a file of weights, of which the header alone is read."""
    try:
        with safe_open(path, "pt") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise BundleError(f"{path} is damaged ({error}): copy the whole bundle again") from error


def _check_normalisation(folder: Path, card: ModelCard, classifier: Network) -> None:
    stated: Sequence[Member | ModelCard] = card.members if card.is_ensemble else (card,)
    for of, network in zip(stated, members_of(classifier), strict=True):
        inside, said = network.normalisation, (of.mean, of.std)
        if not all(
            np.allclose(*pair, rtol=1e-5, atol=1e-6) for pair in zip(inside, said, strict=True)
        ):
            raise BundleError(
                f"{folder}: the weights normalise by {inside}, {CARD} says {said}: copy the whole "
                f"bundle again"
            )
