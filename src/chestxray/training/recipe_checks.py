"""The recipe of a run, checked against this machine and the dataset before torch is imported.

All that is wrong with a recipe is said at once, within a second: unknown keys, impossible values,
a backbone that timm does not have, weights that are not there, another image size than the
dataset's. What needs the network itself is checked by `fit.check_recipe`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic_core import PydanticCustomError

from chestxray import hub
from chestxray.artifacts import read_json
from chestxray.dataset.remote import fetched_tables
from chestxray.errors import ArtifactError, ChestXrayError
from chestxray.model import model_card
from chestxray.model.model_card import ModelCard
from chestxray.training import recipe as recipes
from chestxray.training.recipe import Overrides, Recipe
from chestxray.training.recipe_keys import (
    NO_TEACHER,
    PHANTOMS,
    TEACHER_WANTED,
    WORDS,
    changes_of_members,
)

TARGETS: Final = "teacher.safetensors"
"""In a run's folder: the teacher's probabilities of the training images, see `distillation`."""

ORIGIN: Final = "initial_weights.json"
"""In a run's folder: what the network started from, see `initial_weights.origin`."""
MEMBERS: Final = "members"
"""In the folder of a run of several networks: a run of each, from 1; see `members`."""
FOLDS: Final = "folds.csv"
"""In the folder of a cross-validation: the fold of each image, see `dataset.folds.folds`."""

_LAST: Final = "checkpoints/last.safetensors"  # see `callbacks.Checkpoints`
_MANIFEST: Final = "dataset.json"
_MADE_BY: Final = "chestxray prepare RAW OUT"
_RECIPE: Final = "recipe.yaml"
_MODEL: Final = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)


def for_run(
    run: Path,
    recipe: str | Path | Recipe | None,
    overrides: Overrides = (),
    resume: bool = False,
    dataset: Path | None = None,
    first: bool = True,
    size: int | None = None,
) -> Recipe:
    """Choose the recipe of a run: the one given, or on resume the run's own, or else `baseline`.

    Args:
        run: the folder of the run.
        recipe: as `recipe.load` takes it, or None.
        overrides: as `recipe.load` takes them.
        resume: whether the run is to be continued.
        dataset: folder of the dataset to train on.
        first: whether this is the machine that writes the run, so that its folder is checked.
        size: of the images that are trained on; None where they are as the dataset's manifest says.

    Raises:
        RecipeError: all that is wrong with the recipe, as `recipe.load` and `checked` say.
        ArtifactError: there is no run to resume, the folder holds one already, or there is no
            dataset; as `check_folder` says.
    """
    if first:
        check_folder(run, resume)
    if recipe is None:
        recipe = run / _RECIPE if resume and not overrides else recipes.DEFAULT
    return checked(recipe, overrides, dataset, run if resume else None, size)


def check_folder(run: Path, resume: bool) -> None:
    """Check that a run can be started in a folder, or continued there.

    Raises:
        ArtifactError: there is no run to resume, the folder holds one already, or its checkpoints
            are not of a run that this version started.
    """
    own, files = run / _RECIPE, sorted((run / "checkpoints").glob("[!.]*"))
    if files and not own.exists():
        raise ArtifactError(
            f"{run} holds checkpoints but no {_RECIPE}, so they cannot be resumed: choose another "
            f"--out, or remove {files[0].parent}"
        )
    if resume and not own.exists():
        raise ArtifactError(f"{run} holds no run to resume: leave out --resume to start one")
    if own.exists() and not resume:
        raise ArtifactError(
            f"{run} holds a run: resume it with `chestxray train --resume`, or choose another --out"
        )
    for old in (file for file in files if file.suffix == ".ckpt"):
        raise ArtifactError(
            f"{old} is a checkpoint in the format of PyTorch, which can run code when it is "
            f"opened: this version does not open it; train again with another --out"
        )


def checked(
    recipe: str | Path | Recipe,
    overrides: Overrides = (),
    dataset: Path | None = None,
    resumed: Path | None = None,
    size: int | None = None,
    in_folds: bool = False,
) -> Recipe:
    """Load a recipe and check it against this machine and a dataset.

    Args:
        recipe: as `recipe.load` takes it.
        overrides: as `recipe.load` takes them.
        dataset: folder of the dataset to train on; None where there is none yet.
        resumed: the folder of the run to continue; what it `keeps` need not be there any more.
        size: as for `for_run`.
        in_folds: in cross-validation, where the teacher may be another one, see `fold_teachers`.

    Raises:
        RecipeError: as `recipe.load` says, and together with it: timm has no such backbone, the
            weights file does not exist, the teacher is no bundle or does not fit the dataset, or
            the dataset has another image size.
        ArtifactError: there is no dataset.
    """
    manifest = {} if dataset is None else _manifest_of(dataset)
    if size is not None:
        manifest = {**manifest, "size": size}

    def faults(values: Mapping[str, Any]) -> list[str]:
        networks, found = _networks(values), dict[str, list[str]]()
        for number, own in enumerate(networks, 1):
            size = manifest.get("size") if own.get("size") == values.get("size") else own["size"]
            kept = keeps(resumed, number if len(networks) > 1 else None)
            own_faults = _backbone_faults(own)
            if "weights" not in kept:
                own_faults += _weights_faults(own)
            if "teacher" not in kept:
                own_faults += _teacher_faults(own, {**manifest, "size": size}, in_folds)
            for fault in own_faults:
                found.setdefault(fault, []).append(str(number))
        return [
            *(_of_networks(fault, of, len(networks)) for fault, of in found.items()),
            *_size_faults(values, dataset, manifest.get("size")),
        ]

    return recipes.load(recipe, overrides, faults)


def keeps(run: Path | None, member: int | None = None) -> frozenset[str]:
    """Name the keys of models that a network needs no more, since its run has what they gave.

    Args:
        run: the folder of the run; None where it has not begun.
        member: number of the network, from 1, where the run has several.
    """
    if run is None:
        return frozenset()
    folder = run if member is None else run / MEMBERS / str(member)
    needed = {"teacher": (TARGETS,), "weights": (ORIGIN, _LAST)}
    if member is not None and (folder / "run.json").exists():
        return frozenset(needed)
    return frozenset(
        key for key, files in needed.items() if all((folder / file).exists() for file in files)
    )


def _networks(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the keys of each network of a recipe, as far as they are checked here."""
    try:
        members = changes_of_members(values.get("members", 1))
    except PydanticCustomError:  # `recipe.load` says why
        return [values]
    each = [{**values, **changes} for changes in members]
    learned = Recipe().method
    return [
        own if own.get("method", learned) == learned else {**own, "teacher": NO_TEACHER}
        for own in each
    ] or [values]


def _of_networks(fault: str, numbers: Sequence[str], count: int) -> str:
    """Say which networks of a recipe have a fault, where others have not."""
    if len(numbers) == count:
        return fault
    return f"members: network{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {fault}"


def _manifest_of(dataset: Path) -> Mapping[str, Any]:
    dataset = fetched_tables(dataset, (), _MADE_BY)
    if not (dataset / _MANIFEST).exists() and dataset.is_dir():
        return {}  # `Dataset.open` says what the folder is
    return read_json(dataset / _MANIFEST, _MADE_BY)


def _backbone_faults(values: Mapping[str, Any]) -> list[str]:
    backbone = values.get("backbone", Recipe().backbone)
    text = _timm_text()
    if not isinstance(backbone, str) or hub.BACKBONE.fullmatch(backbone):
        return []  # one of the hub is asked for when the network is made
    if ":" in backbone or "/" in backbone:
        rule = (
            "a bundle must be readable without a hub; give the name of an architecture in timm, or "
            "hub:OWNER/NAME of a repository that names one"
        )
        return [f"backbone = {backbone!r}: {rule}"]
    if not text:
        return []
    name, _, tag = backbone.partition(".")
    if f"\ndef {name}(" not in text and f"'{name}'" not in text and f'"{name}"' not in text:
        near = recipes.nearest(name, _MODEL.findall(text))
        return [f"backbone = {backbone!r}: timm has no backbone of this name{near}"]
    tags = sorted(set(re.findall(rf"[\"']{re.escape(name)}\.(\w+)[\"']", text))) if tag else []
    if not tags or tag in tags:  # a few models make their tags up
        return []
    return [f"backbone = {backbone!r}: timm has no such weights; there are {', '.join(tags)}"]


@cache
def _timm_text() -> str:
    """Give the source of timm's models, which name them all; importing timm imports torch."""
    spec = importlib.util.find_spec("timm")
    places = spec.submodule_search_locations if spec else None
    files = sorted(Path(places[0], "models").glob("*.py")) if places else []
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def _weights_faults(values: Mapping[str, Any]) -> list[str]:
    weights = values.get("weights", Recipe().weights)
    if not isinstance(weights, str) or weights in {"imagenet", "none", PHANTOMS}:
        return []
    if Path(weights).is_file() or hub.NAME.fullmatch(weights):
        return []
    if Path(weights).is_dir():
        return _bundle_faults(weights, values.get("backbone", Recipe().backbone))
    choices = "`imagenet`, `none`, `phantoms`, a file, a bundle's folder, or hub:OWNER/NAME"
    return [f"weights = {weights!r}: the weights file does not exist; give {choices}"]


def _bundle_faults(weights: str, backbone: object) -> list[str]:
    try:
        own = model_card.read(Path(weights)).card.backbone
    except ChestXrayError as error:
        return [f"weights = {weights!r}: {error}"]
    if own == model_card.ENSEMBLE:
        rule = "this bundle is an ensemble of several networks; give one of its members"
        return [f"weights = {weights!r}: {rule}, or learn from it with --set teacher={weights}"]
    if str(backbone).startswith(hub.PREFIX):
        return []
    if str(backbone).partition(".")[0] == own.partition(".")[0]:
        return []
    rule = f"the backbone of this bundle is {own}, that of the recipe {backbone}"
    return [f"weights = {weights!r}: {rule}; use --set backbone={own}, or other weights"]


def is_study(teacher: str) -> bool:
    """Tell whether the teacher of a recipe is the folder of a cross-validation."""
    return teacher not in WORDS and (Path(teacher) / FOLDS).is_file()


def _teacher_faults(
    values: Mapping[str, Any], manifest: Mapping[str, Any], in_folds: bool
) -> list[str]:
    teacher = values.get("teacher", NO_TEACHER)
    if teacher == NO_TEACHER or not isinstance(teacher, str):
        return []
    if teacher == TEACHER_WANTED:
        rule = "this recipe learns from another model; give its bundle with --set teacher=BUNDLE"
        return [f"teacher = {teacher!r}: {rule}"]
    if is_study(teacher):
        rule = (
            "it is a cross-validation, whose models teach the folds that they have not seen, only "
            "in `chestxray crossval`; give a bundle"
        )
        return [] if in_folds else [f"teacher = {teacher!r}: {rule}"]
    try:
        card = model_card.read(hub.local(teacher)).card
    except ChestXrayError as error:
        return [f"teacher = {teacher!r}: {error}"]
    return [f"teacher = {teacher!r}: {fault}" for fault in _unfit_teacher(card, manifest)]


def _unfit_teacher(card: ModelCard, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Say why a teacher cannot label the images of a dataset, which may be reduced."""
    lacking = [name for name in manifest.get("findings", ()) if card.findings.place(name) is None]
    if lacking:
        yield f"it lacks the findings {', '.join(lacking)} of the dataset; give another teacher"
    size = manifest.get("size")
    if isinstance(size, int) and card.size > size:
        yield (
            f"it reads images of {card.size} px, the network that learns from it {size} px; give a "
            f"teacher of {size} px or less, or train at {card.size} px"
        )


def _size_faults(values: Mapping[str, Any], dataset: Path | None, size: object) -> list[str]:
    wanted = values.get("size", Recipe().size)
    if size is None or not isinstance(wanted, int) or wanted == size:
        return []
    text = f"{dataset} holds images of {size} px; prepare with --size {wanted}, or train with"
    return [f"size = {wanted}: {text} --set size={size}"]
