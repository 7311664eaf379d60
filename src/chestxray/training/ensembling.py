"""Ensembles: one bundle of several, with its own calibration, thresholds and detector.

`logits` keeps all networks and averages their calibrated logits and class maps (see
`model.ensemble`). A calibration that is no straight line, such as that of focal loss, is replaced
by the line nearest to it on the validation images, since only a line can be folded into the head.

`weights` averages the weights of networks of one architecture, and reads at the cost of one (model
soups, Wortsman et al., arXiv 2203.05482). It serves for runs that started from the same weights,
such as those of one bundle; the average of networks that were drawn independently knows nothing.

What the bundle says of a reading is fitted on the validation part of a dataset, as at the end of a
training. These must not be images that a member was trained on (see `leakage`).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from chestxray import hub
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, BundleError, TrainingError
from chestxray.evaluation.calibration import Calibration, stated_log_odds
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.focal_link import FocalLink
from chestxray.evaluation.seen_images import Seen, list_sha256
from chestxray.findings import Findings
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.model.backbone_options import NO_OPTIONS
from chestxray.model.bundle import Bundle
from chestxray.model.ensemble import (
    Ensemble,
    Network,
    fold_lines,
    reorder_findings,
)
from chestxray.model.model_card import (
    ENSEMBLE,
    MOST_MEMBERS,
    Facts,
    FittedOn,
    Member,
    ModelCard,
    of_members,
)
from chestxray.model.network import Classifier
from chestxray.model.torch_engine import device
from chestxray.training.data import Part
from chestxray.training.finalize import (
    fit_detector,
    fit_on_validation,
    labels_of,
    logits_of,
    mean_auroc,
)
from chestxray.training.leakage import overlap

Method = Literal["logits", "weights"]

_SAME: Final = (
    "backbone",
    "backbone_options",
    "head",
    "size",
    "mean",
    "std",
    "tta",
    "crops",
    "final_activation",
)
_log = logging.getLogger(__name__)
_Floats = npt.NDArray[np.float64]


def ensemble(
    members: Sequence[str | Path],
    dataset: Dataset | str | Path,
    out: str | Path = "ensemble",
    method: Method = "logits",
) -> Bundle:
    """Write one bundle of several; their order does not matter.

    Args:
        members: 2 to 16 bundles with the same findings, none of them an ensemble: folders, or
            `hub:OWNER/NAME@REVISION`.
        dataset: or its folder; of the largest member's size. On its validation part calibration,
            thresholds and heatmap scales are fitted; on its training part, the detector of images
            unlike these.
        out: folder of the new bundle, which must not exist or be empty.
        method: `logits` keeps all networks; `weights` makes one network of the average weights.

    Returns:
        The new bundle.

    Raises:
        BundleError: not a bundle, bundles that do not go together, or `out` is not empty.
        ArtifactError: no such dataset, or it does not fit the bundles.
        TrainingError: a member was trained on the validation images, or these have no labels.
    """
    out = Path(out)
    if method not in get_args(Method):
        raise BundleError(f"there is no method {method!r}: choose logits or weights")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} is not empty: give a new folder for the bundle")
    given = [hub.local(folder) for folder in members]
    facts = {folder: model_card.read(folder) for folder in given}
    _check_members(facts, len(members), method)
    folders = sorted(given, key=lambda folder: facts[folder].identity)
    cards = [facts[folder].card for folder in folders]
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(Path(dataset))
    _check_dataset(dataset, cards)
    independent = _check_independent(dataset, [facts[folder] for folder in folders])
    val = Part(dataset, "val")
    found = [_answered(bundles.load(folder), cards[0].findings, val) for folder in folders]
    network, link = _combined(found, cards, method)
    return _saved(out, network, link, found, cards, dataset, independent)


class _Found(NamedTuple):
    """A member: its network, its record, and the lines of its calibration, [K] each."""

    classifier: Classifier
    member: Member
    slopes: _Floats
    offsets: _Floats


def _answered(bundle: Bundle, findings: Findings, val: Part) -> _Found:
    """Put a member's findings into the common order, and measure it on validation."""
    card, classifier = bundle.card, bundle.classifier
    if not isinstance(classifier, Classifier):
        raise BundleError("a member must not be an ensemble")
    places = [theirs for _, theirs in findings.common(card.findings)]
    logits = logits_of(classifier.to(device()), val)
    exact = card.calibration.lines()
    nearest = _nearest_lines(card.calibration, logits)
    names = [card.findings[place] for place in places]
    lines = np.array([exact.get(name, nearest[name]) for name in names])
    reorder_findings(classifier, findings, places)
    logits = logits[:, places]
    member = Member(
        identity=bundle.identity,
        backbone=card.backbone,
        backbone_options=card.backbone_options,
        head=card.head,
        size=card.size,
        mean=card.mean,
        std=card.std,
        tta=card.tta,
        crops=card.crops,
        final_activation=card.final_activation,
        trained_on=card.trained_on,
        origin=card.origin,
        straightened=tuple(
            own for own, name in zip(findings, names, strict=True) if name not in exact
        ),
        auroc=mean_auroc(labels_of(val, findings), logits),
    )
    return _Found(classifier, member, lines[:, 0], lines[:, 1])


def _nearest_lines(calibration: Calibration, logits: _Floats) -> dict[str, tuple[float, float]]:
    """Give slope and offset of the least-squares line through each finding's log-odds."""
    log_odds = stated_log_odds(calibration.apply(logits))
    lines = {}
    for finding, x, y in zip(calibration.calibrators, logits.T, log_odds.T, strict=True):
        off = x - x.mean()
        slope = float(off @ y / (off @ off)) if off.any() else 1.0
        lines[finding] = (slope, float(y.mean() - slope * x.mean()))
    return lines


def _combined(
    found: Sequence[_Found], cards: Sequence[ModelCard], method: Method
) -> tuple[Network, FocalLink]:
    """Give the network, and the link from its logits to log-odds."""
    if method == "weights":
        return _averaged([of.classifier for of in found]), cards[0].calibration.link
    for of in found:
        fold_lines(of.classifier, of.slopes, of.offsets)
    return Ensemble([of.classifier for of in found], max(of.size for of in cards)), FocalLink()


def _averaged(classifiers: Sequence[Classifier]) -> Classifier:
    """Give a classifier with the mean of all weights and statistics, added up in float64."""
    states = [classifier.state_dict() for classifier in classifiers]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        for name, tensor in states[0].items()
    }
    network = copy.deepcopy(classifiers[0])
    network.load_state_dict(mean)
    return network


def _saved(
    out: Path,
    network: Network,
    link: FocalLink,
    found: Sequence[_Found],
    cards: Sequence[ModelCard],
    dataset: Dataset,
    independent: bool,
) -> Bundle:
    """Fit on validation what follows from the network, and write the bundle."""
    first, manifest, val = cards[0], dataset.manifest, Part(dataset, "val")
    network = network.eval().to(memory_format=torch.channels_last)
    validation = fit_on_validation(network, val, first.findings, link)
    kept = isinstance(network, Ensemble)
    card = ModelCard(
        package_version="",
        weights_sha256="",
        backbone=ENSEMBLE if kept else first.backbone,
        backbone_options=NO_OPTIONS if kept else first.backbone_options,
        head="plain" if kept else first.head,
        size=network.size,
        mean=0.0 if kept else first.mean,
        std=1.0 if kept else first.std,
        tta=() if kept else first.tta,
        crops=None if kept else first.crops,
        final_activation=True if kept else first.final_activation,
        pixel_rule=manifest.pixel_rule,
        findings=first.findings,
        trained_on=of_members([of.trained_on for of in cards]),
        members=tuple(_recorded(of.member, kept) for of in found),
        fitted_on=FittedOn(
            source=manifest.title,
            split_sha256=manifest.split.sha256,
            images=len(val),
            patients=int(dataset.index["patient"].iloc[val.rows].nunique()),
            independent=independent,
            auroc=validation.auroc,
            seen=(_list_of(dataset, val),),
        ),
        **validation.fitted,
    )
    return bundles.save(out, network, card, fit_detector(dataset, 0, val, validation.features))


def _list_of(dataset: Dataset, val: Part) -> Seen:
    manifest = dataset.manifest
    return Seen(
        through="calibration",
        sources=tuple(dict.fromkeys(source.name for source in manifest.sources)),
        synthetic=manifest.synthetic,
        training_list_sha256=list_sha256(dataset.index["image"].iloc[val.rows]),
    )


def _recorded(member: Member, kept: bool) -> Member:
    """Give a member's record; weights are averaged without any calibration."""
    return member if kept else member.model_copy(update={"straightened": ()})


def _check_members(facts: dict[Path, Facts], count: int, method: Method) -> None:
    if not 2 <= count <= MOST_MEMBERS:
        raise BundleError(f"{count} bundles: give 2 to {MOST_MEMBERS}")
    if len({of.identity for of in facts.values()}) < count:
        raise BundleError("a bundle is given twice, which changes nothing: give each of them once")
    (folder, first), *others = facts.items()
    for path, of in facts.items():
        if of.card.is_ensemble:
            raise BundleError(f"{path} is an ensemble already: give its members instead")
    for path, other in others:
        ours, theirs = first.card.findings, other.card.findings
        if len(ours.common(theirs)) != len(ours) or len(ours) != len(theirs):
            lacking = [name for name in ours if theirs.place(name) is None]
            more = [name for name in theirs if ours.place(name) is None]
            raise BundleError(
                f"{folder} and {path} have other findings: the second lacks "
                f"{', '.join(lacking) or 'none'} and has {', '.join(more) or 'none'} more; give "
                f"bundles with the same findings"
            )
        if method == "weights":
            _check_alike(folder, first.card, path, other.card)


def _check_alike(folder: Path, first: ModelCard, path: Path, other: ModelCard) -> None:
    """Refuse networks whose weights do not stand for the same things."""
    values = {key: (getattr(first, key), getattr(other, key)) for key in _SAME}
    values["link of the loss"] = (first.calibration.link, other.calibration.link)
    for key, (ours, theirs) in values.items():
        if ours != theirs:
            raise BundleError(
                f"the weights of {folder} and {path} cannot be averaged: their {key} are {ours!r} "
                f"and {theirs!r}; average their logits with --method logits"
            )


def _check_dataset(dataset: Dataset, cards: Sequence[ModelCard]) -> None:
    """Check that a dataset has the findings, the images and the labels to fit on."""
    wanted = max(card.size for card in cards), cards[0].pixel_rule
    found = dataset.images.shape[1], dataset.manifest.pixel_rule
    if found != wanted:
        raise ArtifactError(
            f"{dataset.folder} holds images of {found[0]} px by rule {found[1]!r}, but the bundles "
            f"need {wanted[0]} px by {wanted[1]!r}: prepare with --size {wanted[0]}"
        )
    lacking = [name for name in cards[0].findings if dataset.findings.place(name) is None]
    if lacking:
        raise ArtifactError(
            f"{dataset.folder} lacks the findings {', '.join(lacking)}: give a dataset with all "
            f"findings of the bundles"
        )
    labels = labels_of(Part(dataset, "val"), cards[0].findings)
    if all(one_sided(column) for column in labels.T) or len(dataset.rows("train")) < 2:
        raise TrainingError(
            f"{dataset.folder} needs two images in the train split, and in the val split a finding "
            f"that is both present and absent: prepare with another --split"
        )


def _check_independent(dataset: Dataset, members: Sequence[Facts]) -> bool:
    """Refuse validation images that a member was trained on; tell whether that is ruled out."""
    found = {of.identity: overlap(of.card, dataset, ["val"]) for of in members}
    if seen := [name for name, how in found.items() if how == "certain"]:
        raise TrainingError(
            f"{', '.join(seen)} was trained on the validation images of {dataset.folder}, where "
            f"its probabilities are too sure: give a dataset with the split that the bundles were "
            f"trained with"
        )
    if unknown := [name for name, how in found.items() if how == "unknown"]:
        _log.warning(
            "%s was trained on images of the same source with another split than that of %s, or of "
            "a source that shares radiographs with it (`chestxray overlap` finds them): they may "
            "be among the validation images, so that probabilities and calls are too sure; "
            "each reading by the new bundle says so",
            ", ".join(unknown),
            dataset.folder,
        )
    return "unknown" not in found.values()
