"""From a checkpoint that others trained to a bundle that gives their network's own probabilities.

Each tensor of the file must be the network's, and the network's logits are compared with those of
timm's own model before anything is written. Nothing is fitted: probabilities are the original
network's until `chestxray calibrate` is run, thresholds are the original's or none, and the bundle
has no detector of unusual images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn

from chestxray.artifacts import sha256
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.errors import BundleError, RecipeError
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.calibrators import Logistic
from chestxray.evaluation.seen_images import public_seen
from chestxray.findings import Findings
from chestxray.model.backbones import image_size, noise, without_final_activation
from chestxray.model.bundle import Bundle, save
from chestxray.model.importing import names
from chestxray.model.importing.formats import Format, check_backbone, check_thresholds, format_of
from chestxray.model.importing.tensors import Tensors, read_tensors
from chestxray.model.model_card import LARGEST, SMALLEST, InitialWeights, ModelCard, TrainedOn
from chestxray.model.network import Classifier
from chestxray.model.origin import Crops, Origin, PerChannel, channels_of, check_normalisation
from chestxray.sources.overlaps import is_known, nearest, public_model, title

HEAT_SCALE: Final = 5.0
"""Logits at which a heatmap is 1: about the median over findings of networks that this package
trained on radiographs. An imported model has no validation images to measure it on."""

ORIGINAL: Final = "original"
"""The operating point of thresholds that the model's authors chose."""
NONE: Final = "none"
"""The operating point of a model without thresholds."""

_TOLERANCE: Final = 1e-4  # logits


@dataclass(frozen=True)
class Choices:
    """What a format leaves to the user; None for the format's own.

    Attributes:
        backbone: timm's name.
        findings: of the outputs, in their order; empty text for an output to leave out.
        size: of the canonical image, pixels.
        crops: `none`, `centre` or `ten`.
        normalisation: mean and standard deviation of grey values in [0, 1].
        sources: short names of the data sets that it was trained on.
    """

    backbone: str | None = None
    findings: Sequence[str] | None = None
    size: int | None = None
    crops: str | None = None
    normalisation: tuple[PerChannel, PerChannel] | None = None
    sources: Sequence[str] = ()


@dataclass(frozen=True)
class Imported:
    """A new bundle and what of the file is in it.

    Attributes:
        bundle: as it was written.
        tensors: of the network, all of which the file gave.
        format: name of the format.
        leak: which images of public tests the model is known to have seen; None where the registry
            does not know it.
    """

    bundle: Bundle
    tensors: int
    format: str
    leak: str | None


def import_checkpoint(
    file: Path | str, form: str, out: Path | str, choices: Choices | None = None
) -> Imported:
    """Make a bundle of a checkpoint that another project trained.

    Args:
        file: the checkpoint.
        form: its format, a name of `formats.FORMATS`; or `torchxrayvision`, by the file's name.
        out: folder of the new bundle, which must not exist or be empty.
        choices: what the format leaves open.

    Raises:
        BundleError: no such format; a file that is damaged, of another format, or whose tensors
            are not all those of the network; a choice that does not fit; or `out` is not empty.
        MissingExtraError: a Keras file, and h5py is not installed.
    """
    path, out, choices = Path(file), Path(out), choices or Choices()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} is not empty: give a new folder for the bundle")
    name, of = format_of(form, path)
    plan = _planned(name, of, choices)
    held = read_tensors(path, of.classes)
    try:
        check_thresholds(name, of, held.of)
        tensors = of.rename({key: held.of[key] for key in held.of if key not in of.left})
        classifier, count = _classifier(plan, tensors)
    except (BundleError, RecipeError) as error:
        raise BundleError(f"{path}: {error}") from error
    card = _card(plan, classifier, _origin(name, of, path, held), tuple(choices.sources))
    about = public_model(name)
    return Imported(save(out, classifier, card), count, name, about.images if about else None)


@dataclass(frozen=True)
class _Plan:
    """A format with the user's choices.

    Attributes:
        outputs: names of all outputs of the file; empty text for one to leave out.
    """

    of: Format
    backbone: str
    outputs: tuple[str, ...]
    size: int
    crops: Crops | None
    normalisation: tuple[PerChannel, PerChannel] | None

    @property
    def side(self) -> int:
        """Of the network's images, pixels."""
        return self.crops.side if self.crops else self.size


def _planned(name: str, of: Format, choices: Choices) -> _Plan:
    backbone, outputs = choices.backbone or of.backbone, choices.findings or of.outputs
    if of.backbone and backbone != of.backbone:
        raise BundleError(f"a file of {name} is a {of.backbone}: leave --backbone out")
    if of.outputs and choices.findings:
        raise BundleError(f"the findings of {name} are known: leave --findings out")
    if of.backbone and choices.normalisation:
        raise BundleError(f"mean and std of {name} are known: leave --mean and --std out")
    if of.backbone and choices.sources:
        raise BundleError(f"what {name} was trained on is known: leave --trained-on out")
    if backbone is None or outputs is None:
        raise BundleError(
            f"{name} does not say which network it is: give --backbone, timm's name, and "
            f"--findings, the names of its outputs in their order"
        )
    check_backbone(name, backbone)
    _check_numbers(choices)
    _check_sources(choices.sources)
    size, crops = _crops(of, of.side or _side(backbone, choices), choices)
    return _Plan(
        of, backbone, tuple(outputs), size, crops, choices.normalisation or of.normalisation
    )


def _check_numbers(choices: Choices) -> None:
    """Check size, mean and standard deviation, where they are given.

    Raises:
        BundleError: one is out of its range, or mean and std are of other channels.
    """
    size, both = choices.size, choices.normalisation
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise BundleError(f"--size {size} is not from {SMALLEST} to {LARGEST} px: give another")
    if both is None:
        return
    try:
        check_normalisation(*both)
    except ValueError as error:
        raise BundleError(f"--mean {both[0]} and --std {both[1]} do not fit: {error}") from error


def _check_sources(given: Sequence[str]) -> None:
    """Check that data sets are known, so that overlaps with them are.

    Raises:
        BundleError: one is not.
    """
    for name in given:
        if not is_known(name):
            near = " or ".join(nearest(name))
            hint = f"did you mean {near}?" if near else "give one of docs/overlaps.md."
            raise BundleError(
                f"--trained-on {name!r} is no data set of the registry: {hint} Leave out one that "
                f"is not public"
            )


def _crops(of: Format, side: int, choices: Choices) -> tuple[int, Crops | None]:
    """Give the side of the canonical image, and what is read of it."""
    own_size, own = of.crops or (side, None)
    rule = choices.crops or (own.rule if own else "none")
    if rule == "none":
        return choices.size or side, None
    if rule not in {"centre", "ten"}:
        raise BundleError(f"there are no crops {rule!r}: choose none, centre or ten")
    size = choices.size or (own_size if own else round(side * 8 / 7))
    if size < side:
        raise BundleError(f"crops of {side} px need a larger image than {size} px: give --size")
    if side < SMALLEST:
        raise BundleError(
            f"crops of {side} px are smaller than {SMALLEST} px: give a larger --size"
        )
    return size, Crops.model_validate({"side": side, "rule": rule})


def _side(backbone: str, choices: Choices) -> int:
    """Give the side of a network's images where its format leaves it open, pixels."""
    if choices.size is not None:
        cropped = choices.crops in {"centre", "ten"}
        return round(choices.size * 7 / 8) if cropped else choices.size
    known = timm.get_pretrained_cfg(backbone)
    return 224 if known is None else int(known.input_size[-1])


def _classifier(plan: _Plan, tensors: dict[str, Tensor]) -> tuple[Classifier, int]:
    """Build the network with the file's weights; give it and the number of its tensors."""
    whole = _timms(plan, tensors)
    wanted = whole.state_dict()
    what = f"{plan.backbone} with {len(plan.outputs)} outputs"
    names.check_fits(tensors, wanted, what)
    needed = {key: of for key, of in tensors.items() if not key.endswith(names.COUNTER)}
    whole.load_state_dict(needed, strict=False)  # counters alone are missing
    named = [place for place, name in enumerate(plan.outputs) if name]
    classifier = Classifier(
        plan.backbone,
        Findings(plan.outputs[place] for place in named),
        plan.size,
        channels=_channels(whole),
        crops=plan.crops,
        final_activation=plan.of.final_activation,
    )
    if plan.normalisation:
        classifier.normalise_by(*plan.normalisation)
    image = noise(plan.side)
    with torch.no_grad():
        expected = whole.eval()((image - classifier.mean) / classifier.std)[:, named]
        last = _last_layer(whole, plan.backbone)
        classifier.head.weight.copy_(last.weight[named])
        classifier.head.bias.copy_(last.bias[named])
        classifier.take_backbone(whole, plan.backbone)
        found, *_ = classifier.eval().explain_view(image)
    _check_same(found, expected)
    return classifier, sum(not name.endswith(names.COUNTER) for name in wanted)


def _timms(plan: _Plan, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401 - timm has no common type
    """Make timm's whole model, of as many channels as the file's first layer takes."""
    settings = timm.get_pretrained_cfg(plan.backbone)
    first = tensors.get(f"{settings.first_conv}.weight") if settings else None
    channels = int(first.shape[1]) if first is not None and first.ndim == 4 else 3
    if plan.normalisation:
        channels = channels_of(plan.normalisation[0])
    if channels not in {1, 3}:
        raise BundleError(f"its first layer takes {channels} channels: 1 or 3 are possible")
    try:
        whole = timm.create_model(
            plan.backbone,
            pretrained=False,
            num_classes=len(plan.outputs),
            in_chans=channels,
            **image_size(plan.backbone, plan.side),
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"timm cannot make {plan.backbone} ({error}): give another") from error
    if getattr(whole, "global_pool", None) == "token":
        raise BundleError(
            f"{plan.backbone} classifies by its class token, so that no class maps add up to its "
            f"logits: it cannot be imported exactly"
        )
    if not plan.of.final_activation:
        without_final_activation(whole, plan.backbone)
    return whole


def _channels(whole: Any) -> int:  # noqa: ANN401
    return int(next(of for of in whole.parameters() if of.ndim == 4).shape[1])


def _last_layer(whole: Any, backbone: str) -> nn.Linear:  # noqa: ANN401
    last = whole.get_classifier()
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise BundleError(f"{backbone} does not end in one linear layer: it cannot be imported")
    return last


def _check_same(found: Tensor, expected: Tensor) -> None:
    """Check that the classifier's logits are finite, and those of timm's whole model."""
    if not bool(expected.isfinite().all()):
        raise BundleError(
            "its logits on an image of noise are not finite: the weights are damaged, or mean and "
            "std are not the network's own"
        )
    difference = float((found - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise BundleError(
            f"its logits and those of timm's own model differ by {difference:.2g} on an image of "
            f"noise: it cannot be imported exactly"
        )


def _origin(name: str, of: Format, path: Path, held: Tensors) -> Origin:
    return Origin(
        format=name,
        file=path.name,
        sha256=sha256(path),
        url=of.url,
        citation=of.citation,
        licence=of.licence,
        preprocessing=of.preprocessing,
        differences=of.differences,
        training_list=of.training_list,
        converted=held.converted,
    )


def _card(
    plan: _Plan, classifier: Classifier, origin: Origin, sources: tuple[str, ...]
) -> ModelCard:
    findings = Findings(classifier.findings)
    thresholds = {finding: plan.of.thresholds.get(finding) for finding in findings}
    point = ORIGINAL if plan.of.thresholds else NONE
    mean, std = plan.normalisation or classifier.normalisation
    no_threshold = f"the {origin.format} model has no threshold for it"
    unfitted = f"imported from {origin.format}: nothing was fitted"
    return ModelCard(
        package_version="",
        weights_sha256="",
        backbone=plan.backbone,
        size=plan.size,
        mean=mean,
        std=std,
        crops=plan.crops,
        final_activation=plan.of.final_activation,
        pixel_rule=PIXEL_RULE,
        findings=findings,
        calibration=Calibration(
            calibrators={finding: Logistic(family="offset") for finding in findings},
            unfitted=dict.fromkeys(findings, unfitted),
        ),
        thresholds=thresholds,
        operating_points={point: thresholds},
        operating_point=point,
        not_assessed={name: no_threshold for name, t in thresholds.items() if t is None},
        prevalences={},
        heat_references=dict.fromkeys(findings, 0.0),
        heat_scales=dict.fromkeys(findings, HEAT_SCALE),
        trained_on=_trained_on(origin.format, plan.of, sources),
        origin=origin,
    )


def _trained_on(name: str, of: Format, given: Sequence[str]) -> TrainedOn:
    """State what is known of the training: of a public model also the lists of its images.

    Args:
        name: of the format.
        of: the format.
        given: data sets that the user names, of a format that leaves them open.
    """
    learned, *more = public_seen(name) or (None,)
    listed = None if learned is None else learned.published
    sources = given or (of.sources if learned is None else learned.sources)
    return TrainedOn(
        source=" + ".join(map(title, sources)) or None,
        release=None,
        synthetic=False,
        policies={source: {} for source in sources},
        split=None if listed is None else listed.title,
        split_sha256=None,
        train_images=None if listed is None else listed.images,
        train_patients=None if listed is None else listed.patients,
        training_list_sha256=None if listed is None else listed.images_sha256,
        recipe=None,
        initial_weights=InitialWeights(kind="imagenet") if of.from_imagenet else None,
        seen=tuple(seen for seen in more if seen is not None),
    )
