"""Bundles and readers with one, five and forty findings, also with names outside the vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from chestxray.evaluation.calibration import Calibration, Logistic
from chestxray.findings import Findings, vocabulary
from chestxray.model import bundle as bundles
from chestxray.model.bundle import Bundle
from chestxray.model.model_card import ModelCard
from chestxray.model.network import Classifier

# Spaces, a slash, letters outside ASCII, markup without the characters that a name cannot have.
ONE: Final = Findings(["Rib Fracture"])
FIVE: Final = Findings(
    ["Effusion", "Pacemaker", "Tube/Line (misplaced)", "Pneumopéritoine", "Pleural_Thickening"]
)
HOSTILE: Final = Findings(
    ["&ltb&gt&ampcopy alert(1) %3Cscript%3E", "__proto__", "javascript:alert(1)", "../../v1/model"]
)
FORTY: Final = Findings(
    [*list(vocabulary())[:23], *(f"Private finding {n}" for n in range(23, 40))]
)


def described(card: ModelCard, findings: Findings) -> ModelCard:
    """A model's card with other findings: each fourth has no threshold, the last no calibration."""
    logits = Logistic(family="offset")
    rows = range(len(findings))
    limits = [None if n % 4 == 3 else round(0.05 + 0.9 * n / 40, 3) for n in rows]
    thresholds = dict(zip(findings, limits, strict=True))
    return card.model_copy(
        update={
            "findings": findings,
            "calibration": Calibration(
                calibrators=dict.fromkeys(findings, logits),
                unfitted={findings[-1]: "1 positive in validation"} if len(findings) > 1 else {},
            ),
            "thresholds": thresholds,
            "operating_points": {card.operating_point: thresholds},
            "not_assessed": {
                finding: "no evidence in validation"
                for finding, threshold in thresholds.items()
                if threshold is None
            },
            "heat_references": dict.fromkeys(findings, 0.0),
            "heat_scales": dict.fromkeys(findings, 1.0),
        }
    )


def with_findings(bundle: Bundle, findings: Findings) -> Bundle:
    """A bundle in memory with the card of other findings; its network is not to be run."""
    return replace(bundle, card=described(bundle.card, findings), detector=None)


def write_bundle(run: Path, folder: Path, findings: Findings) -> Path:
    """An untrained bundle on disk, otherwise as that of a run."""
    card = described(bundles.load(run / "bundle").card, findings)
    classifier = Classifier(card.backbone, findings, card.size)
    rng = np.random.default_rng(0)
    bias = rng.normal(size=len(findings)).astype(np.float32)
    classifier.head.bias.data = classifier.head.bias.data.new_tensor(bias)
    bundles.save(folder, classifier, card)
    return folder
