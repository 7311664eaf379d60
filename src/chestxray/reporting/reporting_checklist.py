"""What a paper about a run must report, and how much of it the page already does.

The items are those of CLAIM 2024 (Tejani et al., doi:10.1148/ryai.240300) and of TRIPOD+AI (Collins
et al. 2024, doi:10.1136/bmj-2023-078378), paraphrased and shortened, in their order but without
their numbers; the originals are authoritative. A status follows from what the run contains: no item
is marked as reported by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chestxray.reporting.run_files import RunFiles

REPORTED: Final = "reported here"
MISSING: Final = "not available"
_UNKNOWN: Final = "not recorded"
_AUTHORS: Final = "to be completed by the authors"


@dataclass(frozen=True)
class _Item:
    """One item of a guideline.

    Attributes:
        topic: what it asks for.
        section: of the page that answers it; empty where none can.
        needs: what the run must contain for that, as `_contained` names it.
        otherwise: the status where no section can answer.
        remark: a restriction of the answer.
    """

    topic: str
    section: str = ""
    needs: str = ""
    otherwise: str = _AUTHORS
    remark: str = ""

    def status(self, has: frozenset[str]) -> str:
        """Give the status in a run that contains `has`."""
        if not self.section:
            return self.otherwise
        return REPORTED if set(self.needs.split()) <= has else MISSING


def statuses(files: RunFiles) -> dict[str, list[tuple[_Item, str]]]:
    """Give each guideline's items with their status in a run."""
    has = _contained(files)
    return {
        name: [(item, item.status(has)) for item in items] for name, items in _GUIDELINES.items()
    }


def _contained(files: RunFiles) -> frozenset[str]:
    """Name what a run contains, as items need it."""
    metrics = files.metrics
    facts = {
        "run": files.run is not None,
        "bundle": files.bundle is not None,
        "history": files.history is not None and files.run is not None,
        "recipe": files.recipe is not None and files.run is not None,
        "metrics": metrics is not None,
        "intervals": metrics is not None and metrics["mean"]["auroc"]["low"] is not None,
        "thresholds": metrics is not None
        and (metrics["fit_on"] or metrics.get("thresholds_of")) is not None,
        "external": files.external,
        "reliability": files.reliability is not None,
        "subgroups": files.subgroups is not None,
        "boxes": bool(files.marked),
        "reference": files.adjudicated,
        "explanations": files.explanations is not None,
        "label_origin": bool(files.label_origins),
    }
    return frozenset(name for name, there in facts.items() if there)


_CLAIM: Final = (
    _Item("Title names the kind of AI"),
    _Item("Structured abstract"),
    _Item("Background, intended use and role of the AI"),
    _Item("Aims and hypotheses"),
    _Item("Prospective or retrospective"),
    _Item("Study goal"),
    _Item("Sources of the data", "data", "run"),
    _Item("Inclusion and exclusion criteria", otherwise=_UNKNOWN),
    _Item("Preprocessing", "model", "bundle"),
    _Item("Selection of data subsets", "model", "run bundle"),
    _Item("De-identification", otherwise=_UNKNOWN),
    _Item("Missing data", "results", "metrics", remark="unreadable and unlabelled images"),
    _Item("Image acquisition", otherwise=_UNKNOWN),
    _Item("Definition of the reference standard", "card", "label_origin"),
    _Item("Rationale for the reference standard"),
    _Item("Annotators and their qualification", otherwise=_UNKNOWN),
    _Item("Annotation of the test set", "reference", "reference"),
    _Item("Agreement within and between readers", otherwise=_UNKNOWN),
    _Item("Data partitions", "data", "run"),
    _Item("Level at which partitions are disjoint", "data", "run"),
    _Item("Intended sample size"),
    _Item("The model, its input and output", "model", "bundle"),
    _Item("Software and hardware", "model", "run"),
    _Item("Initial weights", "model", "run"),
    _Item("Training: augmentation and hyperparameters", "recipe", "recipe"),
    _Item("Selection of the final model", "training", "history"),
    _Item("Ensembling", "card", "bundle", remark="single model"),
    _Item("Metrics", "results", "metrics"),
    _Item("Uncertainty and significance", "results", "intervals"),
    _Item("Robustness", "subgroups", "subgroups", remark="by subgroup only"),
    _Item("Explainability methods and their validation", "localization", "boxes"),
    _Item("Internal testing", "results", "metrics"),
    _Item("External testing", "results", "external"),
    _Item("Trial registration"),
    _Item(
        "Numbers of participants included and excluded",
        "results",
        "metrics",
        remark="from the split onwards",
    ),
    _Item("Demographics by partition", "subgroups", "subgroups", remark="evaluated split only"),
    _Item("Performance with uncertainty", "results", "intervals"),
    _Item("Diagnostic accuracy with intervals", "operating_points", "intervals thresholds"),
    _Item("Failure analysis", "examples", "explanations"),
    _Item("Limitations", "interpretation", "metrics"),
    _Item("Implications for practice"),
    _Item("Availability of the protocol"),
    _Item("Availability of software, model and data"),
    _Item("Funding"),
)

_TRIPOD: Final = (
    _Item("Title"),
    _Item("Abstract"),
    _Item("Healthcare context and rationale"),
    _Item("Target population, purpose and users"),
    _Item("Known health inequalities"),
    _Item("Objectives"),
    _Item("Sources of the data", "data", "run"),
    _Item("Dates of the data", otherwise=_UNKNOWN),
    _Item("Setting and centres", otherwise=_UNKNOWN),
    _Item("Eligibility", otherwise=_UNKNOWN),
    _Item("Treatments received", otherwise=_UNKNOWN),
    _Item("Preparation of the data", "model", "bundle"),
    _Item("Outcome and its assessment", "card", "label_origin"),
    _Item("Outcome assessors", otherwise=_UNKNOWN),
    _Item("Blinding of the assessment", otherwise=_UNKNOWN),
    _Item("Choice of predictors", "card", "bundle", remark="the image only"),
    _Item("Definition of predictors", "model", "bundle"),
    _Item("Predictor assessors", otherwise=_UNKNOWN),
    _Item("Sample size"),
    _Item("Missing data", "results", "metrics", remark="unreadable and unlabelled images"),
    _Item("Use and partition of the data", "data", "run"),
    _Item("Handling of predictors", "model", "bundle"),
    _Item("Model type, building and tuning", "recipe", "recipe bundle"),
    _Item("Heterogeneity between clusters", otherwise=_UNKNOWN),
    _Item("Performance measures and plots", "curves", "metrics"),
    _Item("Model updating, such as recalibration", "calibration", "reliability"),
    _Item("Computation of predictions", "card", "bundle metrics"),
    _Item("Class imbalance", "recipe", "recipe"),
    _Item("Fairness", "subgroups", "subgroups"),
    _Item("Output and thresholds", "operating_points", "thresholds"),
    _Item("Differences between training and evaluation data", "data", "run metrics"),
    _Item("Ethical approval"),
    _Item("Funding"),
    _Item("Conflicts of interest"),
    _Item("Protocol"),
    _Item("Registration"),
    _Item("Data sharing"),
    _Item("Code sharing"),
    _Item("Patient and public involvement"),
    _Item("Flow of participants", "results", "metrics", remark="from the split onwards"),
    _Item("Participant characteristics", "subgroups", "subgroups",
         remark="evaluated split only"),
    _Item("Comparison of development and evaluation data", "data", "run"),
    _Item("Participants and events in each analysis", "results", "metrics"),
    _Item("Full model, for use by others", "card", "bundle"),
    _Item("Performance with intervals, including subgroups", "results", "intervals subgroups"),
    _Item("Heterogeneity between clusters, results", otherwise=_UNKNOWN),
    _Item("Results of model updating", "calibration", "reliability"),
    _Item("Interpretation, including fairness"),
    _Item("Limitations", "interpretation", "metrics"),
    _Item("Handling of poor or missing input"),
    _Item("Requirements for users"),
    _Item("Next steps of research"),
)  # fmt: skip

_GUIDELINES: Final = {"CLAIM 2024": _CLAIM, "TRIPOD+AI": _TRIPOD}
