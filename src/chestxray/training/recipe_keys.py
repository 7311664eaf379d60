"""The keys of a recipe: every one with its default, its range and its meaning.

What is chosen by name is in `registry`. Nothing here imports torch, so that a wrong key is answered
at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from chestxray import hub
from chestxray.training.registry import (
    AUGMENTATIONS,
    LOSSES,
    OPTIMISERS,
    SCHEDULES,
    Registry,
    nearest,
)

_SMALLEST_SIDE: Final = 16  # pixels
_APART: Final = 1000  # seeds from a member to the next, so that those of other runs lie between
_OF_ALL_MEMBERS: Final = {"name", "description", "cost", "expected", "members"}
_MOST_MEMBERS: Final = 16  # as in `model_card`, which takes seconds to import

_Probability = Annotated[float, Field(ge=0, le=1)]
_BelowOne = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _small_side(value: object) -> int | float:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= _SMALLEST_SIDE
    share = isinstance(value, float) and 0 < value < 1
    if not (whole or share):
        rule = f"it should be a whole number of pixels from {_SMALLEST_SIDE} on, or a share below 1"
        raise PydanticCustomError("rule", "{rule}", {"rule": rule})
    return value  # type: ignore[return-value]


def changes_of_members(value: object) -> tuple[dict[str, Any], ...]:
    """Give what each member changes, of the value of `members`; one member is none.

    Raises:
        PydanticCustomError: it is no number or list of members.
    """
    number = isinstance(value, int) and not isinstance(value, bool)
    given = [{}] * value if number and 1 <= value <= _MOST_MEMBERS else value  # type: ignore[operator]
    many = isinstance(given, list | tuple) and all(isinstance(each, dict) for each in given)
    if not many or len(given) > _MOST_MEMBERS:  # type: ignore[arg-type]
        rule = f"it should be a number from 1 to {_MOST_MEMBERS}, or a list of so many mappings"
        raise PydanticCustomError("rule", "{rule}", {"rule": rule})
    plain = json.loads(json.dumps(given, default=str))  # as a file gives them
    if len(plain) == 1 and any(plain):
        rule = "one network alone changes nothing; write its keys into the recipe itself"
        raise PydanticCustomError("rule", "{rule}", {"rule": rule})
    return tuple(plain) if len(plain) > 1 else ()


_SmallSide = Annotated[int | float, BeforeValidator(_small_side)]
_Side = Annotated[int, Field(ge=32, le=2048)]

PHANTOMS: Final = "phantoms"
"""The value of `weights` that pretrains on phantoms, and the recipe by which that is done."""
NO_TEACHER: Final = "none"
"""The `teacher` of a recipe that learns from labels alone."""
TEACHER_WANTED: Final = "required"
"""The `teacher` of a recipe that cannot be run before one is given."""

WORDS: Final = frozenset({"imagenet", "none", PHANTOMS, TEACHER_WANTED})
"""Values of `weights` and `teacher` that are no paths."""

_OF_EVERY_METHOD: Final = {
    "name", "description", "cost", "expected", "backbone", "head", "weights", "phantoms", "size",
    "method", "tta", "precision", "threads", "seed",
}  # fmt: skip
"""Keys that count where the head alone is fitted, too; see `_of_every_method`."""
_DEFAULT_AUGMENT: Final = {"flip": 0.5, "rotate": 10.0, "gamma": 0.1, "contrast": 0.1}


def _of_every_method(weights: object) -> set[str]:
    """Name the keys that count whatever is trained; of phantoms' network all that decides it."""
    return _OF_EVERY_METHOD | {"drop_path"} if weights == PHANTOMS else _OF_EVERY_METHOD


def _name_of(registry: Registry[Any]) -> Callable[[str], str]:
    def checked(name: str) -> str:
        if name not in registry.names:
            raise PydanticCustomError("unknown_name", "{rule}", {"rule": registry.unknown(name)})
        return name

    return checked


_LossName = Annotated[str, AfterValidator(_name_of(LOSSES))]
_OptimiserName = Annotated[str, AfterValidator(_name_of(OPTIMISERS))]
_ScheduleName = Annotated[str, AfterValidator(_name_of(SCHEDULES))]


class Strict(BaseModel):
    """A model without other keys, whose values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(BaseModel):
    """Random changes to training images: the names of `registry.AUGMENTATIONS`, with ranges.

    A number stands for a range around no change, such as `rotate: 10` for -10 to 10 degrees; a pair
    `[low, high]` gives both ends. What is left out has its default: flip 0.5, rotate 10, gamma 0.1,
    contrast 0.1, and nothing of all others.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: object) -> object:
        """Fill in what is left out, in the order of the registry; refuse what is not there."""
        if not isinstance(values, dict):
            return values
        faults = [fault for name, amount in values.items() if (fault := _fault_of(name, amount))]
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        names = AUGMENTATIONS.names
        given = {name: _DEFAULT_AUGMENT.get(name, float(AUGMENTATIONS[name].off)) for name in names}
        given.update({name: _plain(amount) for name, amount in values.items()})
        return given

    def __getitem__(self, name: str) -> float | list[float]:
        """Give the number or the pair of an augmentation."""
        amount: float | list[float] = (self.model_extra or {})[name]
        return amount

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Give the range of each augmentation that changes something, in the order to apply."""
        found = {}
        for name, amount in (self.model_extra or {}).items():
            entry = AUGMENTATIONS[name]
            if isinstance(amount, list):
                found[name] = (amount[0], amount[1])
            elif amount != entry.off:
                found[name] = entry.span(amount)
        return found


def _fault_of(name: str, amount: object) -> InitErrorDetails | None:
    if name not in AUGMENTATIONS.names:
        return InitErrorDetails(type="extra_forbidden", loc=(name,), input=amount)
    rule = AUGMENTATIONS[name].fault(amount)
    if not rule:
        return None
    error = PydanticCustomError("range", "{rule}", {"rule": rule})
    return InitErrorDetails(type=error, loc=(name,), input=amount)


def _plain(amount: Any) -> float | list[float]:  # noqa: ANN401 - checked before
    if isinstance(amount, list | tuple):
        return [float(end) for end in amount]
    return float(amount)


class Loss(Strict):
    """The loss.

    Attributes:
        kind: `bce`, binary cross-entropy; `focal` (arXiv 1708.02002); `asymmetric`
            (arXiv 2009.14119); or one of another package.
        gamma: focusing of the focal loss; of the asymmetric loss, focusing of absent findings.
        gamma_present: focusing of present findings, of the asymmetric loss.
        margin: probability below which the asymmetric loss counts an absent finding as solved.
        class_weights: `true` weights both classes of each finding by scikit-learn's `balanced`
            rule; `opposite` weights each class by the other's share (arXiv 1711.05225, section
            2.1), so that rare findings weigh less in all.
        pos_weight: factor of the cost of present findings.
        smoothing: labels 0 and 1 become half of it, and 1 minus half of it.
    """

    kind: _LossName = "bce"
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    gamma_present: Annotated[float, Field(ge=0, le=10)] = 0.0
    margin: _BelowOne = 0.05
    class_weights: bool | Literal["opposite"] = False
    pos_weight: _Positive = 1.0
    smoothing: _BelowOne = 0.0


class Recipe(Strict):
    """How to train.

    Attributes:
        name: what reports call it; a file without one is named after the file.
        description: one sentence that says what it is.
        cost: time and machine of a run, as measured.
        expected: what it should score, on which data and split.
        backbone: a timm model that ends in a feature map or in patch tokens; or `hub:OWNER/NAME`,
            a repository of timm, DINOv2 or open_clip, with its own weights where `weights` is
            `imagenet` or `none`.
        head: `plain` pools the last feature map; `multiscale` pools those at strides 8 and 16 as
            well, so that class maps are four times finer.
        weights: what the network starts from: `imagenet`, `none`, `phantoms`, a timm checkpoint
            file of that backbone, `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` for such a file in
            a repository of the Hugging Face hub (`model.safetensors`), or the folder of a bundle
            of it. Findings that the bundle has too keep their part of its head; the others start
            anew. `phantoms` is a bundle that is trained on phantoms by the recipe `phantoms`, once,
            and kept: see `phantom_weights`.
        initial_head: `weights` takes the head of the initial weights, as far as there is one;
            `ridge` and `logistic` fit it to the training images first, as the methods of these
            names do, and then the whole network is trained.
        phantoms: how many are drawn for `weights: phantoms`, and by `chestxray pretrain`.
        size: side of the images in pixels; the dataset must have been prepared at this size.
        progressive: smaller sides to start with, each with its epochs, such as
            `[[224, 10], [384, 5]]`, in pixels or as shares of `size` such as `[[0.75, 10]]`; the
            epochs that are left of `max_epochs` use `size`, and the best epoch is one of them.
        dropout: probability of dropping a pooled feature.
        drop_path: probability of skipping the last residual block, falling to 0 at the first;
            for backbones that timm gives it. Of `weights: phantoms` it is that of the pretraining
            too.
        augment: random changes to training images.
        mixup: alpha of the beta distribution by which pairs of images and their labels are mixed
            (arXiv 1710.09412); 0 mixes none.
        method: `gradient` trains the network. `ridge` and `logistic` leave the backbone as it
            starts and fit the head alone, by a regression of the findings on its features, see
            `probe`; keys of augmentation, loss, sampling, optimiser and epochs are refused then.
        loss: what is minimised.
        mask_weight: weight of the mask loss, which is added to it; 0 trains without masks. The
            dataset must have masks, as those of phantoms do.
        auxiliary_weight: weight of the loss of view, sex and age, which the network then learns to
            tell beside the findings, as far as the dataset states them; 0 leaves them out.
        teacher: the folder of a bundle from whose probabilities the network learns as well
            (distillation), `none`, or `required` in a recipe that needs one to be given. It must
            have all findings of the dataset. Its probabilities of the training images are
            computed once and kept with the run. In cross-validation also the folder of another one
            on the same folds, see `fold_teachers`.
        teacher_weight: w of a teacher: the loss is (1 - w) times the loss of the known labels plus
            w times the cross-entropy to the teacher's probabilities of all findings.
        sampling: `balanced` draws each finding and No Finding equally often, as far as `max_draws`
            allows; `sources` draws each source of the dataset equally often, likewise; `natural`
            shows each image once per epoch, except for a short last batch.
        order: `images` shuffles all images, so that each process reads from all shards; `shards`
            deals the shards to the processes in each epoch, so that each reads its own alone.
        max_draws: with balanced sampling or by sources, the most draws of one image per epoch.
        optimiser: `adam`, `adamw`, `sgd`, or one of another package.
        learning_rate: of the optimiser, at its highest.
        weight_decay: of weights, per step; biases and normalisation layers have none. `adam` and
            `sgd` add it to the gradient, `adamw` shrinks the weights by it.
        momentum: of `sgd`.
        layer_decay: factor of the learning rate from each layer of the backbone to the one before
            it; 1 gives all the same rate.
        freeze: epochs at the start in which only the head is trained.
        schedule: of the learning rate, at every step: `constant`; `plateau`, divided by 10 after
            two epochs without a better validation value; `cosine`, falling to zero over
            `max_epochs`; `one_cycle`, rising for 30 % of the epochs and then falling to zero; or
            one of another package.
        warmup: epochs at the start, or part of one, over which the rate rises from zero.
        clip: largest norm of all gradients together; 0 leaves them as they are.
        accumulate: batches whose gradients are averaged for one step of the optimiser.
        ema: decay per step of an average of the weights, such as 0.99, which is what is validated
            and saved; 0 takes the weights themselves.
        batch_size: images per batch.
        max_epochs: passes over the training split, at most.
        monitor: what chooses the best epoch on validation: the lowest `loss`, or the highest mean
            `auroc`.
        patience: epochs without a better value of the monitor before training stops.
        tta: views of an image whose logits and class maps the model averages, in validation and
            wherever it is used: `flip` adds the mirror image, `crops` adds four corners and the
            centre. Each multiplies the cost of a reading, by 2 and by 6.
        members: networks that are trained one after the other, each with a seed of its own; the
            bundle averages their calibrated logits and class maps, see `ensembling`. A number, or
            a list of what each changes in this recipe, such as `[{}, {}, {method: ridge}]`; a
            member that fits its head alone leaves out what only training by gradients uses, and
            one of a smaller `size` sees the images reduced.
        precision: `auto` takes bfloat16 where the machine has instructions for it, float32
            elsewhere.
        threads: processor threads; `auto` times a few steps and takes the fastest number.
        seed: of weights, sampling, augmentation and dropout.
    """

    name: str = "unnamed"
    description: str = ""
    cost: str = "not measured"
    expected: str = "not measured"
    backbone: str = "densenet121.tv_in1k"
    head: Literal["plain", "multiscale"] = "plain"
    weights: str = "imagenet"
    initial_head: Literal["weights", "ridge", "logistic"] = "weights"
    phantoms: Annotated[int, Field(ge=16)] = 10_000
    size: _Side = 224
    progressive: tuple[tuple[_SmallSide, Annotated[int, Field(ge=1)]], ...] = ()
    dropout: _BelowOne = 0.0
    drop_path: _BelowOne = 0.0
    augment: Augment = Field(default_factory=Augment)
    mixup: _NotNegative = 0.0
    method: Literal["gradient", "ridge", "logistic"] = "gradient"
    loss: Loss = Loss()
    mask_weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    auxiliary_weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    teacher: str = NO_TEACHER
    teacher_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    sampling: Literal["balanced", "natural", "sources"] = "natural"
    max_draws: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    order: Literal["images", "shards"] = "images"
    optimiser: _OptimiserName = "adam"
    learning_rate: _Positive = 1e-4
    weight_decay: _NotNegative = 0.0
    momentum: _BelowOne = 0.9
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    freeze: Annotated[int, Field(ge=0)] = 0
    schedule: _ScheduleName = "constant"
    warmup: _NotNegative = 0.0
    clip: _NotNegative = 0.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    ema: _BelowOne = 0.0
    batch_size: Annotated[int, Field(ge=2)] = 32
    max_epochs: Annotated[int, Field(ge=1)] = 30
    monitor: Literal["loss", "auroc"] = "loss"
    patience: Annotated[int, Field(ge=1)] = 5
    tta: tuple[Literal["flip", "crops"], ...] = ()
    members: Annotated[tuple[dict[str, Any], ...], BeforeValidator(changes_of_members)] = ()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _leave_epochs_for_the_full_size(self) -> Self:
        if self.progressive and self.first_full_epoch >= self.max_epochs:
            rule = (
                f"the epochs at smaller sides are {self.first_full_epoch}; they should be fewer "
                f"than max_epochs, {self.max_epochs}; [] trains at one size"
            )
            raise _of_key("progressive", rule, self.progressive)
        sides = [side for side, _ in self.smaller]
        fits = all(_SMALLEST_SIDE <= side < self.size for side in sides)
        if sides != sorted(sides) or not fits:
            rule = (
                f"the sides should rise from {_SMALLEST_SIDE} pixels on and be smaller than size, "
                f"{self.size}; [] trains at one size"
            )
            raise _of_key("progressive", rule, self.progressive)
        return self

    @model_validator(mode="after")
    def _refuse_what_only_gradients_use(self) -> Self:
        default = Recipe.model_construct()
        idle = [
            key
            for key in Recipe.model_fields
            if key not in _of_every_method(self.weights)
            and getattr(self, key) != getattr(default, key)
        ]
        if self.method != "gradient" and idle:
            rule = (
                f"it fits the head alone and does not use {', '.join(idle)}; leave them out, or "
                f"take method = 'gradient'"
            )
            raise _of_key("method", rule, self.method)
        return self

    @model_validator(mode="after")
    def _let_each_member_be_a_recipe(self) -> Self:
        for number, changes in enumerate(self.members, 1):
            if unfit := sorted({*changes} & _OF_ALL_MEMBERS):
                rule = f"network {number} cannot change {', '.join(unfit)}; leave it out"
                raise _of_key("members", rule, changes)
            try:
                network = self.member(number)
            except ValidationError as error:
                message = f"network {number}: {_first_fault(error)}"
                raise _of_key("members", message, changes) from error
            if network.size > self.size:
                rule = f"network {number} cannot read larger images than size = {self.size}"
                raise _of_key("members", rule, changes)
        largest = max(of.size for of in self.networks)
        if largest < self.size:
            rule = f"no network reads images of size = {self.size}; give size = {largest}"
            raise _of_key("members", rule, self.members)
        # Of one backbone the seed gives the same head.
        each = [
            of.model_copy(update={"seed": 0}) if of.method != "gradient" and not of.drawn else of
            for of in self.networks
        ]
        for (one, of_one), (other, of_other) in combinations(enumerate(each, 1), 2):
            if of_one == of_other:
                rule = f"networks {one} and {other} are the same; let them differ, or leave one out"
                raise _of_key("members", rule, self.members)
        return self

    @property
    def networks(self) -> list[Recipe]:
        """The recipe of each network: of the members, or this one."""
        return [self.member(number) for number in range(1, len(self.members) + 1)] or [self]

    def member(self, number: int) -> Recipe:
        """Give the recipe of one of the members, from 1."""
        changes = self.members[number - 1]
        values = self.model_dump(mode="json") | {"seed": self.seed + _APART * (number - 1)}
        if changes.get("method", self.method) != "gradient":
            kept = _of_every_method(changes.get("weights", self.weights))
            values = {key: value for key, value in values.items() if key in kept}
        for key, value in changes.items():  # a group such as `augment` key by key, as by --set
            own = values.get(key)
            values[key] = (
                own | value if isinstance(own, dict) and isinstance(value, dict) else value
            )
        return Recipe.model_validate({**values, "members": 1})

    @property
    def drawn(self) -> bool:
        """Whether the network starts from random weights; a backbone of the hub has its own."""
        return self.weights == "none" and not self.backbone.startswith(hub.PREFIX)

    @property
    def taught(self) -> bool:
        """Whether the network learns from a teacher."""
        return self.teacher != NO_TEACHER

    @property
    def smaller(self) -> tuple[tuple[int, int], ...]:
        """The smaller sides of `progressive` in pixels, each with its epochs."""
        return tuple(
            (side if isinstance(side, int) else round(side * self.size), epochs)
            for side, epochs in self.progressive
        )

    @property
    def first_full_epoch(self) -> int:
        """The first epoch, from 0, in which images have their full size."""
        return sum(epochs for _, epochs in self.progressive)

    def side(self, epoch: int) -> int:
        """Give the side of the images in an epoch, from 0."""
        for side, epochs in self.smaller:
            if epoch < epochs:
                return side
            epoch -= epochs
        return self.size


def _of_key(key: str, rule: str, value: object) -> ValidationError:
    error = PydanticCustomError("rule", "{rule}", {"rule": rule})
    details = InitErrorDetails(type=error, loc=(key,), input=value)
    return ValidationError.from_exception_data("Recipe", [details])


def _first_fault(error: ValidationError) -> str:
    """Say what is wrong with the changes of a member."""
    first = error.errors()[0]
    key, rule = ".".join(map(str, first["loc"])), str(first["msg"])
    if first["type"] != "extra_forbidden":
        return f"{key}: {rule.replace('Input should', 'it should')}"
    if key in keys() and len(first["loc"]) == 1:
        group, _, name = key.partition(".")
        return f"{key}: write it as {group}: {{{name}: VALUE}}"
    return f"unknown key {key!r}{nearest(key, keys())}"


def keys() -> list[str]:
    """Name all keys of a recipe, those of groups as `loss.gamma`."""
    return [
        *Recipe.model_fields,
        *(f"augment.{key}" for key in AUGMENTATIONS.names),
        *(f"loss.{key}" for key in Loss.model_fields),
    ]
