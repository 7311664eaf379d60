"""Networks that are pretrained on phantoms: what decides one, how it is made, where it is kept.

    FOLDER/pretraining.json   what decides the network, written first
    FOLDER/raw/               phantoms as drawn; deleted when they are packed
    FOLDER/split.csv          which patients train and which choose the epoch
    FOLDER/dataset/           phantoms and their masks, packed
    FOLDER/run/               an ordinary run, whose bundle is the pretrained network

Each stage resumes where it was interrupted. `chestxray pretrain` makes such a folder. For a recipe
with `weights: phantoms` it is made once and kept in the cache, under the SHA-256 of what decides
it; there the phantoms and the checkpoints are deleted in the end. Each takes the network from the
other where it is finished there. The cache is `$CHESTXRAY_CACHE`, or else `chestxray` in
`$XDG_CACHE_HOME` or in `~/.cache`.

Nothing here trains: `fit.train` is handed over, since it needs the networks of this module itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import pandas as pd

from chestxray import sources
from chestxray.artifacts import lock, read_json, write_json, write_table
from chestxray.dataset.manifest import MANIFEST
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.dataset.preparation import prepare
from chestxray.dataset.split import draw
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, RecipeError, StorageError
from chestxray.findings import Findings
from chestxray.progress import say
from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom.fingerprint import drawing_sha256
from chestxray.storage import cache
from chestxray.training import recipe as recipes
from chestxray.training.recipe import Recipe
from chestxray.training.recipe_keys import PHANTOMS
from chestxray.version import __version__

Train = Callable[..., object]
"""`fit.train`."""

RUN: Final = "run"  # of a folder of `Pretraining.make`
_RECORD: Final = "pretraining.json"
_RAW, _SPLIT, _DATASET, _LOCK = "raw", "split.csv", "dataset", ".lock"
_SOURCE: Final = "phantoms"
_SHARES: Final = {"train": 0.95, "val": 0.05}  # of the patients; nothing is tested
_SEED: Final = 3_000_000  # of the first population: no tree that people draw for tests has it
_SMALLEST: Final = 64  # pixels; smaller phantoms are not drawn
_INHERITED: Final = ("backbone", "head", "phantoms", "size", "drop_path", "threads")
_INDIFFERENT: Final = {"name", "description", "cost", "expected", "phantoms", "threads"}
_SECONDS: Final = 1.0  # between looks at the lock of another process


@dataclass(frozen=True)
class _Drawn:
    """What is drawn, as `sources.synth` takes it."""

    images: int
    pixels: int
    seed: int
    balanced: bool = True


@dataclass(frozen=True)
class Pretraining:
    """A network that is trained on phantoms alone.

    Attributes:
        recipe: by which it is trained. Its size and seed are those of the phantoms too, and
            `phantoms` is their number, those for validation included.
    """

    recipe: Recipe

    def __post_init__(self) -> None:
        """Refuse a recipe that starts from such a network itself, has members or a teacher."""
        if self.recipe.weights == PHANTOMS:
            raise RecipeError(
                "weights = 'phantoms': pretraining on phantoms cannot start from a network that is "
                "pretrained on phantoms; give `none`, `imagenet`, a file or a bundle"
            )
        if self.recipe.members:
            raise RecipeError(
                f"members = {len(self.recipe.members)}: no training can start from several "
                f"networks; give 1, and the members to the training that starts from this one"
            )
        if self.recipe.taught:
            raise RecipeError(
                f"teacher = '{self.recipe.teacher}': pretraining on phantoms learns from their own "
                f"labels and masks alone; leave the teacher out, or give it to the training that "
                f"starts from the pretrained network"
            )

    @classmethod
    def of(cls, recipe: Recipe) -> Pretraining:
        """Give the network that a recipe with `weights: phantoms` starts from.

        It has the recipe's backbone, head, size and drop path; all else is that of the recipe
        `phantoms`, also the seed, so that trainings with several seeds share it.
        """
        return cls(recipes.load(PHANTOMS, {key: getattr(recipe, key) for key in _INHERITED}))

    @property
    def record(self) -> dict[str, Any]:
        """All that decides the network, for `pretraining.json`."""
        recipe = self.recipe.model_dump(mode="json", exclude=_INDIFFERENT)
        return {
            "package_version": __version__,
            "phantoms": asdict(self._drawn),
            "drawing_sha256": drawing_sha256(self._drawn.balanced),
            "pixel_rule": PIXEL_RULE,
            "recipe": recipe,
        }

    @property
    def sha256(self) -> str:
        """The SHA-256 of what decides the network, in hexadecimal."""
        text = json.dumps(self.record, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def cached(self) -> Path:
        """The folder of the cache that is this network's, whether it is there or not."""
        return cache.folder() / "phantoms" / self.sha256

    @property
    def _shared(self) -> Path | None:
        """The same; None where this user has no cache, which a folder elsewhere does not need."""
        try:
            return self.cached
        except StorageError:
            return None

    @property
    def origin(self) -> dict[str, Any]:
        """Describe the phantoms, for the record of a run that starts from the network."""
        drawn = self._drawn
        return {"images": drawn.images, "seed": drawn.seed, "sha256": self.sha256}

    @property
    def _drawn(self) -> _Drawn:
        size = max(self.recipe.size, _SMALLEST)
        return _Drawn(self.recipe.phantoms, size, _SEED + self.recipe.seed)

    def make(self, folder: Path, train: Train, keep: bool = True) -> Path:
        """Draw phantoms, pack them and train on them, or finish what was interrupted.

        Where the cache has the network, a folder that is new gets a copy. Where a recipe with
        `weights: phantoms` may start from the network, the cache gets one. Another process that
        works in the folder is waited for.

        Args:
            folder: to write; new, empty, or of the same pretraining.
            train: `fit.train`.
            keep: the packed phantoms and the checkpoints.

        Returns:
            The folder of the run.

        Raises:
            ArtifactError: the folder holds something else, or another pretraining.
            TrainingError, WorkerError: as `fit.train`, `synth` and `prepare` say.
        """
        run, cached = folder / RUN, self._shared
        self.made(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _awaited(folder):
            done = self.made(folder)
            write_json(folder / _RECORD, self.record)
            if not done and cached and _trained(cached) and not (folder / _SPLIT).exists():
                say("pretrain", f"taken from {cached}, where it was made before")
                _copy(cached, folder)
                shutil.rmtree(folder / _RAW, ignore_errors=True)  # of an interrupted drawing
            elif not done:
                dataset = self._dataset(folder)
                started = (run / "recipe.yaml").exists()
                train(dataset, None if started else self.recipe, run, resume=started)
            if not keep:
                for left in (run / "checkpoints", folder / _DATASET):  # the last one is looked for
                    shutil.rmtree(left, ignore_errors=True)
        self._share(folder)
        return run

    def made(self, folder: Path) -> bool:
        """Tell whether the network of a folder is finished.

        Raises:
            ArtifactError: the folder holds something else, or another pretraining.
        """
        if (folder / _RECORD).exists():
            there = read_json(folder / _RECORD, "chestxray pretrain")
            if different := _differences(there, self.record):
                raise ArtifactError(
                    f"{folder} holds another pretraining ({'; '.join(different)}): give the same "
                    f"options as then, or another folder"
                )
        elif folder.exists() and not (folder.is_dir() and _empty(folder)):
            raise ArtifactError(
                f"{folder} holds something else than a pretraining: name a new folder"
            )
        return _trained(folder)

    def _share(self, folder: Path) -> None:
        """Copy the network of a folder to the cache, for recipes with `weights: phantoms`.

        The folder is finished without that: a pretraining in the cache, which makes the same
        network, is not waited for, and a cache that cannot be written is no failure.
        """
        cached = self._shared
        asked_for = Pretraining.of(self.recipe).sha256 == self.sha256
        if cached is None or _trained(cached) or not asked_for or not _writable(cached):
            return
        try:
            cached.mkdir(parents=True, exist_ok=True)
            with lock(cached / _LOCK, _busy(cached)):
                if not _trained(cached):
                    write_json(cached / _RECORD, self.record)
                    _copy(folder, cached)
        except (OSError, ArtifactError) as error:
            say("pretrain", f"the network is not kept for recipes with weights: phantoms: {error}")

    def _dataset(self, folder: Path) -> Dataset:
        """Draw and pack the phantoms, unless they are there."""
        raw, packed = folder / _RAW, folder / _DATASET
        if not (packed / MANIFEST).exists():
            sources.synth(raw, **asdict(self._drawn))
            split = folder / _SPLIT
            write_table(split, _split(raw, self.recipe.seed))
            size = self.recipe.size
            prepare(raw, packed, size, str(split), source=_SOURCE, allow_empty=True)
        shutil.rmtree(raw, ignore_errors=True)
        return Dataset.open(packed)


def bundle_of(recipe: Recipe) -> Path | None:
    """Give the bundle that a recipe with `weights: phantoms` starts from.

    Returns:
        None where `provide` has something left to do.
    """
    folder = Pretraining.of(recipe).cached
    done = _trained(folder) and not (folder / _DATASET).exists()
    return folder / RUN / "bundle" if done else None


def check(recipe: Recipe) -> None:
    """Check that the network of a recipe with `weights: phantoms` is there or can be kept.

    Raises:
        RecipeError: the cache cannot be written.
    """
    folder = Pretraining.of(recipe).cached
    if not _trained(folder) and not _writable(folder):
        raise RecipeError(
            f"weights = 'phantoms': the pretrained network would be kept in {folder}, but "
            f"{_existing(folder)} cannot be written; set the environment variable CHESTXRAY_CACHE "
            f"to another folder"
        )


def provide(recipe: Recipe, train: Train) -> None:
    """Make the network that a recipe with `weights: phantoms` starts from, or finish making it.

    Args:
        recipe: that starts from it.
        train: `fit.train`.

    Raises:
        TrainingError, WorkerError: as `Pretraining.make` says.
    """
    wanted = Pretraining.of(recipe)
    folder = wanted.cached
    if not _trained(folder):
        own = wanted.recipe
        say(
            "pretrain",
            f"{own.backbone} is trained on {own.phantoms:,} phantoms of {own.size} px first; it is "
            f"kept in {folder}, so this is done once (cost of the recipe {PHANTOMS}: {own.cost})",
        )
    wanted.make(folder, train, keep=False)
    say("pretrain", "done; now the training itself")


def tell_origin(recipe: Recipe) -> None:
    """Say from which network of the cache a recipe with `weights: phantoms` starts."""
    wanted = Pretraining.of(recipe)
    say(
        "pretrain",
        f"not needed: {wanted.cached} has been trained on {wanted.recipe.phantoms:,} phantoms",
    )


def _empty(folder: Path) -> bool:
    """Tell whether there is nothing but locks and the unfinished files of a killed process."""
    return all(path.name.startswith(".") for path in folder.iterdir())


def _copy(made: Path, folder: Path) -> None:
    """Copy a finished network and its split; its run is there as a whole or not at all."""
    new = folder / f".{RUN}.tmp"
    for old in (new, folder / RUN):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(made / RUN, new, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copy(made / _SPLIT, folder / _SPLIT)  # a folder with a split and no run trains its own
    new.rename(folder / RUN)


def _existing(folder: Path) -> Path:
    """Give the folder itself, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _writable(folder: Path) -> bool:
    """Tell whether a folder can be written, or be made where it is missing."""
    there = _existing(folder)
    return there.is_dir() and os.access(there, os.W_OK)


def _trained(folder: Path) -> bool:
    return (folder / RUN / "run.json").exists()


def _split(raw: Path, seed: int) -> pd.DataFrame:
    """Give the part of each patient."""
    rows = sources.read(raw, _SOURCE).rows
    parts = draw(rows, Findings(FINDINGS), _SHARES, seed)
    return rows[["patient"]].assign(split=parts).drop_duplicates()


def _differences(there: dict[str, Any], here: dict[str, Any], within: str = "") -> list[str]:
    """List what differs, as `recipe.size was 64, now 128`."""
    found = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{within}{key}.")
        elif old != new:
            found.append(f"{within}{key} was {old}, now {new}")
    return found


def _awaited(folder: Path) -> IO[bytes]:
    """Lock a folder, after waiting for another process."""
    busy, told = _busy(folder), False
    while True:
        try:
            return lock(folder / _LOCK, busy)
        except ArtifactError:
            if not told:
                say("pretrain", f"{busy}: waiting until it ends")
            told = True
            time.sleep(_SECONDS)


def _busy(folder: Path) -> ArtifactError:
    return ArtifactError(f"another pretraining is running in {folder}")
