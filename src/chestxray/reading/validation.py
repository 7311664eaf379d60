"""External validation: one bundle on several data sets, from raw trees to one page.

    OUT/validation.json            typed results, see `evaluation.validation_results`
    OUT/validation.html            the page, with its figures in OUT/validation_figures
    OUT/sets/NAME/dataset/         prepared from a raw tree; a dataset that is given stays in place
    OUT/sets/NAME/predictions.csv  and predictions.json, which images and model it is of
    OUT/sets/NAME/evaluation/      all that `chestxray evaluate` writes

Images that the bundle was trained, tuned or calibrated on are left out as far as they are known,
with all others of their patients, see `evaluation.seen_images`; so are those that files of the user
name, see `evaluation.leave_out`. Whatever part of its own split an
image is in, it is evaluated otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from chestxray import hub
from chestxray.artifacts import read_json, sha256, write_json
from chestxray.dataset.preparation import prepare
from chestxray.dataset.remote import is_dataset
from chestxray.dataset.split import PARTS
from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError, SourceError
from chestxray.evaluation.bootstrap import LEVEL, RESAMPLES
from chestxray.evaluation.bundle_thresholds import BundleThresholds
from chestxray.evaluation.evaluation import Evaluation
from chestxray.evaluation.external_validation import (
    described,
    flagged_of,
    judged,
    measured,
    warnings_of,
)
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.leave_out import Named, check_used, read_lists
from chestxray.evaluation.result_details import LeftOut, ResampleSettings
from chestxray.evaluation.seen_images import seen_images, seen_names, shares_a_set
from chestxray.evaluation.validation_results import ExternalValidation, Relation, ValidatedSet
from chestxray.findings import Findings
from chestxray.model import model_card
from chestxray.model.model_card import ModelCard
from chestxray.reading.inputs import find
from chestxray.reading.prediction import predict
from chestxray.reading.prediction_rows import plan_of
from chestxray.reading.reader import Reader, opened
from chestxray.reporting.validation_page import validation_page
from chestxray.sources import ReadOptions, options_of_each
from chestxray.storage import is_url, mirrored, path_of, staged_folder
from chestxray.training.leakage import evaluated, unrecorded

FEWEST_RESAMPLES: Final = 100
_FINISHED: Final = "predictions.json"  # which images and model a finished table is of
_TEST: Final = "test"  # the part that predictions are evaluated of
_TRAIN: Final = "train"  # the part that images are put into which are left out


@dataclass(frozen=True)
class _Unseen:
    """The images of a data set that a bundle may be judged by.

    Attributes:
        dataset: they are its part `test`.
        relation: to the training images.
        left_out: part → images that were left out.
        doubts: what the model may have seen of the others, in words.
        left_out_images: what files of the user leave out besides; None without such files.
    """

    dataset: Dataset
    relation: Relation
    left_out: dict[str, int]
    doubts: tuple[str, ...] = ()
    left_out_images: LeftOut | None = None


def validate(  # noqa: PLR0913 - the options of one command
    bundle: str | Path,
    sets: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    source: str | None = None,
    options: ReadOptions | None = None,
    engine: str | Path = "auto",
    allow_missing: bool = False,
    leave_out: str | Path | Sequence[str | Path] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ExternalValidation:
    """Validate a bundle on other data sets, and write results and one page.

    Called again with the same arguments after an interruption, it resumes.

    Args:
        bundle: its folder, or `hub:OWNER/NAME@REVISION`.
        sets: prepared datasets of the bundle's size, which are taken as they are, and raw trees,
            which are prepared first.
        out: path or URL of the folder to write; so are the bundle and the sets.
        source: name of the source of all raw trees; recognised by their content when None.
        options: what is asked of the sources of raw trees.
        engine: see `chestxray.load`.
        allow_missing: accept that more than half of the rows of a tree have no image file.
        leave_out: files of `chestxray overlap`, or tables with a column `image`: the images that
            they name are left out, with all others of their patients. Each names images of one
            of the sets at least.
        resamples: of patients, for the intervals, at least 100: without intervals there is no
            verdict.
        seed: of the resamples, and of the halves by which recalibration is measured.

    Raises:
        BundleError: not a bundle.
        SourceError: a tree that cannot be read, or a data set all of whose images the bundle was
            trained, tuned or calibrated on, or a file of images to leave out that cannot be used.
        PredictionsError: no finding in common, or too few resamples.
        ArtifactError: a dataset that is damaged or does not fit the bundle.
    """
    if resamples < FEWEST_RESAMPLES:
        raise PredictionsError(
            f"resamples = {resamples}: every verdict follows from an interval; give at least "
            f"{FEWEST_RESAMPLES}"
        )
    given = [sets] if isinstance(sets, str | Path) else list(sets)
    bundle = hub.local(bundle)
    card, thresholds = model_card.read(bundle).card, BundleThresholds.read(bundle)
    names = _names([path_of(each) for each in given])
    raws = [path for path in names.values() if not is_dataset(path)]
    own = dict(zip(raws, options_of_each(raws, source, options), strict=True))
    with staged_folder(out, "validate") as folder:
        datasets = {}
        for name, each in names.items():  # what cannot be read is said before anything is predicted
            packed = folder / "sets" / name / "dataset"
            dataset = _dataset(each, packed, card.size, source, own.get(each), allow_missing)
            _check_common(each, dataset.findings, card.findings)
            datasets[name] = dataset
        named = _named(leave_out, list(datasets.values()))
        unseen = {
            name: _unseen(dataset, card, of)
            for (name, dataset), of in zip(datasets.items(), named, strict=True)
        }
        reader = opened(bundle, engine, None, None)
        results = ExternalValidation(
            model=thresholds.model,
            trained_on=card.trained_on.title,
            operating_point=thresholds.operating_point,
            intervals=ResampleSettings(level=LEVEL, resamples=resamples, seed=seed),
            sets=[
                _validated(name, of, folder / "sets" / name, reader, thresholds, resamples, seed)
                for name, of in unseen.items()
            ],
        )
        results.write(folder)
        validation_page(folder)
    return results


def _dataset(
    given: Path,
    folder: Path,
    size: int,
    source: str | None,
    options: ReadOptions | None,
    allow_missing: bool,
) -> Dataset:
    """Open a dataset, or prepare a raw tree into a folder."""
    if is_dataset(given):
        return Dataset.open(given)
    return prepare(
        given,
        folder,
        size=size,
        source=source,
        options=options,
        allow_missing=allow_missing,
        allow_empty=True,
    )


def _check_common(given: Path, labelled: Findings, predicted: Findings) -> None:
    if not predicted.common(labelled):
        raise PredictionsError(
            f"{given} labels {', '.join(labelled)}, but the bundle predicts "
            f"{', '.join(predicted)}: no finding in common; leave this data set out"
        )


def _names(given: Sequence[Path]) -> dict[str, Path]:
    """Name each data set after its folder; several of one name are numbered.

    A folder called `dataset`, as `chestxray run` makes it, has the name of the one above.
    """
    found: dict[str, Path] = {}
    for path in (path if is_url(path) else path.absolute() for path in given):
        plain = (path.parent.name if path.name == "dataset" else path.name) or "set"
        name = next(
            name
            for number in range(1, len(given) + 1)
            if (name := plain if number == 1 else f"{plain}-{number}") not in found
        )
        found[name] = path if is_dataset(path) else mirrored(path)
    return found


def _named(files: str | Path | Sequence[str | Path], datasets: Sequence[Dataset]) -> list[Named]:
    """Find the patients whom files name in each dataset; each file names some in one at least."""
    lists, truths = read_lists(files), [Labels.of_dataset(dataset) for dataset in datasets]
    named = Named.of_each(lists, truths)
    check_used(lists, list(zip(named, truths, strict=True)))
    return named


def _unseen(dataset: Dataset, card: ModelCard, named: Named | None = None) -> _Unseen:
    """Leave out the images that a bundle was trained, tuned or calibrated on, and their patients.

    With the part of this split that it was trained on goes the validation part, and with what files
    of the user name all images of these patients.

    Raises:
        SourceError: no image is left.
    """
    index, lists = dataset.index, (*card.seen, *card.calibrated_on)
    everything = evaluated(dataset, index["split"].isin(PARTS))
    out = index["image"].isin(list(seen_names(lists, everything)))
    if any(of.certain and of.public_list is None for of in seen_images(card.seen, everything)):
        out |= index["split"] == "val"
    out = index["patient"].isin(index["patient"][out])
    counts = index["split"][out].value_counts()
    named = named or Named.of((), Labels.of_dataset(dataset))
    left = named.left_out(index["patient"][named.rows & ~out])
    seen, out = out, out | named.rows
    _check_some(dataset, seen, out, left)
    kept = evaluated(dataset, ~out)
    found = seen_images(lists, kept)
    doubts = tuple(dict.fromkeys((*(of.sentence for of in found), *unrecorded(card))))
    relation: Relation = "unknown"
    if doubts and left is not None and all(of.images is None for of in found):
        relation = "unknown" if named.lacking else "listed"
        but = f" This does not lift the doubt: {named.lacking}." if named.lacking else ""
        doubts = tuple(f"{left.after(doubt)}{but}" for doubt in doubts)
    elif not doubts:
        relation = "held out" if shares_a_set(lists, kept.measured) or seen.any() else "independent"
    parts: pd.Series[str] = out.map({True: _TRAIN, False: _TEST})
    return _Unseen(
        dataset.with_split(parts, "validate"),
        relation,
        {part: int(counts[part]) for part in PARTS if part in counts},
        doubts,
        left,
    )


def _check_some(
    dataset: Dataset, seen: pd.Series[bool], out: pd.Series[bool], left: LeftOut | None
) -> None:
    if not out.all():
        return
    if left is not None and left.images:
        others = ", and the bundle was trained or tuned on all others" if seen.any() else ""
        raise SourceError(
            f"no image of {dataset.folder} is left: {left} were left out{others}; give a data set "
            f"that it has not seen"
        )
    raise SourceError(
        f"the bundle was trained or tuned on all images of {dataset.folder}: give a data set "
        f"that it has not seen"
    )


def _predicted(reader: Reader, dataset: Dataset, folder: Path) -> Path:
    """Predict a data set, unless a finished table of the same images and model is there."""
    table, note = folder / "predictions.csv", folder / _FINISHED
    plan = plan_of(reader.bundle, find(dataset, _TEST, reader.bundle.card), force=False)
    made = {"plan": plan, "engine": reader.engine.name}
    if table.is_file() and note.is_file():
        kept = read_json(note, "chestxray validate")
        if kept == made | {"predictions_sha256": sha256(table)}:
            return table
    predict(reader, dataset, table, split=_TEST)
    write_json(note, made | {"predictions_sha256": sha256(table)})
    return table


def _validated(
    name: str,
    unseen: _Unseen,
    folder: Path,
    reader: Reader,
    bundle: BundleThresholds,
    resamples: int,
    seed: int,
) -> ValidatedSet:
    """Predict and measure one data set."""
    dataset, manifest = unseen.dataset, unseen.dataset.manifest
    folder.mkdir(parents=True, exist_ok=True)
    table = _predicted(reader, dataset, folder)
    evaluation = Evaluation.of(
        table, Labels.of_dataset(dataset), resamples=resamples, seed=seed, bundle=bundle
    )
    results, _ = measured(evaluation)
    results.write(folder / "evaluation")
    synthetic = reader.bundle.card.trained_on.synthetic
    return ValidatedSet(
        name=name,
        source=manifest.title,
        release=manifest.release,
        synthetic=manifest.synthetic,
        label_origins={of.title: of.label_origin for of in manifest.sources if of.label_origin},
        relation=unseen.relation,
        left_out=unseen.left_out,
        left_out_images=unseen.left_out_images,
        unread=len(manifest.failures),
        images=results.images,
        patients=results.patients,
        mean=results.mean.auroc,
        flagged=flagged_of(results),
        not_labelled=[name for name, why in results.left_out.items() if why == "not labelled"],
        findings=judged(evaluation, results, bundle, unseen.relation),
        warnings=warnings_of(results, unseen.relation, unseen.doubts, synthetic=synthetic),
        **described(evaluation.pairs),
    )
