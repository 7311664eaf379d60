"""Pretraining on phantoms: a folder whose run's bundle other trainings start from.

`phantom_weights` says what is in the folder, and keeps the networks of `weights: phantoms`.
"""

from __future__ import annotations

from pathlib import Path

from chestxray.training.fit import Run, check_recipe, train
from chestxray.training.phantom_weights import Pretraining
from chestxray.training.recipe import Overrides
from chestxray.training.recipe_checks import checked
from chestxray.training.recipe_keys import PHANTOMS


def pretrain(out: str | Path = "pretrained", overrides: Overrides | None = None) -> Run:
    """Draw phantoms and train on their findings and masks, or finish what was interrupted.

    The bundle of the run is what the key `weights` of a recipe takes. One phantom in twenty, by
    patient, chooses the epoch.

    Args:
        out: folder to write: new, empty, or of the same call.
        overrides: keys of the recipe `phantoms` to change, as for `train`, such as
            `{"phantoms": 2000, "backbone": "resnet18", "size": 64, "seed": 1}`. Number, size and
            seed are those of the phantoms too.

    Returns:
        The finished run; at once where it is there.

    Raises:
        RecipeError: all that is wrong with the recipe.
        ArtifactError: `out` holds something else, or was started with other overrides.
        TrainingError, WorkerError: as `train` and `prepare` say.
        KeyboardInterrupt: it was interrupted; the same call resumes.
    """
    wanted = Pretraining(checked(PHANTOMS, overrides or ()))
    if not wanted.made(Path(out)):
        check_recipe(wanted.recipe)
    try:
        return Run.open(wanted.make(Path(out), train))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted: the same call resumes") from error
