"""Calibrate a bundle again, for the patients of one site.

Where a bundle is used, findings are more or less frequent than in its validation images, and look
different on other equipment. Predictions by the bundle for labelled images of the site are enough
to correct its probabilities: a second calibration follows the bundle's own, by the same rule and
the same families (`evaluation.calibration`), so that its simplest form is a correction for the
prevalence. Both rise strictly, so the ranking of images stays.

Calls stay too: each threshold becomes the corrected probability of the same images. A bundle
without any threshold, such as an imported one, gets its operating points from these images. What
the calls cost and find at the site is for `evaluate` to measure, on other images than these.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chestxray import hub
from chestxray.artifacts import write_json, written
from chestxray.dataset.store import Dataset
from chestxray.errors import BundleError, PredictionsError
from chestxray.evaluation.bootstrap import Values
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.evaluation.calibration import Calibration, fit_calibration, stated_log_odds
from chestxray.evaluation.drift import Distribution
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.predictions import Predictions
from chestxray.evaluation.prior_shift import prevalences
from chestxray.evaluation.seen_images import Seen, list_sha256, seen_names
from chestxray.evaluation.thresholds import MAIN, fit_operating_points
from chestxray.findings import Findings
from chestxray.model.model_card import GATE, WEIGHTS, Facts, ModelCard, Recalibration, read
from chestxray.version import __version__


def calibrate(
    bundle: Path | str,
    predictions: Predictions | Path | str,
    labels: Labels | Dataset | Path | str,
    out: Path | str,
    *,
    split: str | None = None,
) -> Facts:
    """Write a bundle that is calibrated for a site; the given one stays as it is.

    Args:
        bundle: a bundle.
        predictions: by this bundle, for images that it was not trained on.
        labels: of these images: a prepared dataset, a label table, or either opened.
        out: folder of the new bundle, which must not exist or be empty.
        split: which split the predictions are of, `test` by default.

    Returns:
        The new bundle without its network.

    Raises:
        BundleError: not a bundle, or `out` is a file or not empty.
        PredictionsError: predictions that do not fit the labels, that another model made, that do
            not name their model or that are of training images, or no finding to calibrate.
        SourceError: a label table that cannot be read.
        ArtifactError: a file that does not exist.
    """
    folder, out = hub.local(bundle), Path(out)
    facts = read(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} is not empty: give a new folder for the calibrated bundle")
    truth = Labels.of(labels)
    pairs = pair(
        predictions if isinstance(predictions, Predictions) else Path(predictions), truth, split
    )
    _check_made(pairs, facts.identity)
    _check_not_trained_on(pairs, truth, facts.card)
    card = _recalibrated(facts, pairs, truth)
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, *((GATE,) if facts.detector else ())):
        with written(out / name) as temporary:
            shutil.copyfile(folder / name, temporary)
    write_json(out / CARD, card.model_dump(mode="json"))
    return read(out)


def _check_made(pairs: Pairs, identity: str) -> None:
    """Refuse predictions that this bundle did not make."""
    if pairs.models != (identity,):
        made = ", ".join(pairs.models) or "a model that the table does not name"
        raise PredictionsError(
            f"the predictions were made by {made}, the bundle is {identity}: predict the images "
            f"of the site with this bundle (chestxray predict)"
        )


def _check_not_trained_on(pairs: Pairs, truth: Labels, card: ModelCard) -> None:
    """Refuse images that the bundle was trained on, by its split, or by the lists on its card."""
    splits = {of.split_sha256 for of in card.trainings} - {None, ""}
    if pairs.split == "train" and truth.split_sha256 in splits:
        raise PredictionsError(
            f"the bundle was trained on these images of {truth.source}, where its probabilities "
            f"are too sure: give predictions for images that it was not trained on"
        )
    images = truth.evaluated(pairs.images.tolist())
    if count := len(seen_names(card.seen, images)):
        raise PredictionsError(
            f"the bundle was trained on {count:,} of the {images.images:,} images of {truth.source}"
            f", where its probabilities are too sure: give predictions for images that it was not "
            f"trained on"
        )


def _recalibrated(facts: Facts, pairs: Pairs, truth: Labels) -> ModelCard:
    card = facts.card
    probabilities, labels = _columns(pairs, card.findings)
    if all(one_sided(y) for y in labels.T):
        raise PredictionsError(
            f"the labels have no finding of the bundle with positives and negatives: give more "
            f"images; {len(labels)} were given"
        )
    log_odds = stated_log_odds(probabilities)
    site = fit_calibration(
        log_odds, labels, pairs.patients, card.findings, where="the images of the site"
    )
    return card.model_copy(
        update={
            "package_version": __version__,
            "calibration": card.calibration.followed_by(site),
            **_operating_points(card, site, site.apply(log_odds), labels, pairs.patients),
            "probability_distributions": _moved(card, site),
            "prevalences": _prevalences(card, labels),
            "bfloat16": None,  # it was measured on the old probabilities
            "recalibrated_on": Recalibration(
                source=truth.source,
                images=len(labels),
                patients=len(np.unique(pairs.patients)),
                of=facts.identity,
                seen=_calibrated_on(card, pairs, truth),
            ),
        }
    )


def _operating_points(
    card: ModelCard,
    site: Calibration,
    probabilities: Values,
    labels: npt.NDArray[Any],
    patients: npt.NDArray[Any],
) -> dict[str, Any]:
    """Move the thresholds with the probabilities; choose them where the bundle has none at all."""
    if any(t is not None for of in card.operating_points.values() for t in of.values()):
        points = {
            name: _through(site, thresholds, card.findings)
            for name, thresholds in card.operating_points.items()
        }
        point, not_assessed = card.operating_point, card.not_assessed
    else:
        found = fit_operating_points(probabilities, labels, patients, card.findings)
        points = {name: found.thresholds(name) for name in found.chosen}
        point, not_assessed = MAIN, found.not_assessed
    return {
        "operating_points": points,
        "operating_point": point,
        "thresholds": points[point],
        "not_assessed": not_assessed,
    }


def _moved(card: ModelCard, site: Calibration) -> dict[str, Distribution]:
    """Give the distributions that the validation images have after calibration."""
    known = card.probability_distributions
    if not known:
        return {}
    columns = [known[finding].quantiles for finding in card.findings]
    after = site.apply(stated_log_odds(np.array(columns, dtype=np.float64).T)).T
    return {
        finding: Distribution(quantiles=tuple(column.tolist()), patients=known[finding].patients)
        for finding, column in zip(card.findings, after, strict=True)
    }


def _calibrated_on(card: ModelCard, pairs: Pairs, truth: Labels) -> tuple[Seen, ...]:
    """Give the list of the images of the site, and those of each calibration before."""
    before = card.recalibrated_on
    site = Seen(
        through="calibration",
        sources=truth.sources or (truth.source,),
        synthetic=truth.synthetic,
        training_list_sha256=list_sha256(pairs.images),
    )
    return tuple(dict.fromkeys((site, *(before.seen if before else ()))))


def _prevalences(card: ModelCard, labels: npt.NDArray[Any]) -> dict[str, float]:
    """Give the prevalences that the probabilities contain now.

    Those of the site; the bundle's own where the site has no labels, so that nothing was fitted.
    None where all labels of the site are equal: the offset was fitted to them.
    """
    kept = {
        finding: card.prevalences[finding]
        for finding, y in zip(card.findings, labels.T, strict=True)
        if finding in card.prevalences and np.isnan(y).all()
    }
    return kept | prevalences(labels, card.findings)


def _columns(pairs: Pairs, findings: Findings) -> tuple[Values, npt.NDArray[Any]]:
    """Give probabilities and labels, float64 [n, K], unknown where the site has no labels."""
    probabilities = np.full((len(pairs.images), len(findings)), 0.5)
    labels = np.full(probabilities.shape, np.nan)
    for place, finding in enumerate(findings):
        theirs = pairs.findings.place(finding)
        if theirs is not None:
            probabilities[:, place] = pairs.probabilities[:, theirs]
            labels[:, place] = pairs.labels[:, theirs]
    return probabilities, labels


def _through(
    site: Calibration, thresholds: dict[str, float | None], findings: Findings
) -> dict[str, float | None]:
    """Give the thresholds that make the same calls after calibration."""
    before = [[0.5 if thresholds[finding] is None else thresholds[finding] for finding in findings]]
    after = site.apply(stated_log_odds(np.array(before, dtype=np.float64)))[0]
    return {
        finding: None if thresholds[finding] is None else float(p)
        for finding, p in zip(findings, after, strict=True)
    }
