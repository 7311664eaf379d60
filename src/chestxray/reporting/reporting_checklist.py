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
class Item:
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


def statuses(files: RunFiles) -> dict[str, list[tuple[Item, str]]]:
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
        "thresholds": metrics is not None and metrics["fit_on"] is not None,
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
    Item("Title names the kind of AI"),
    Item("Structured abstract"),
    Item("Background, intended use and role of the AI"),
    Item("Aims and hypotheses"),
    Item("Prospective or retrospective"),
    Item("Study goal"),
    Item("Sources of the data", "data", "run"),
    Item("Inclusion and exclusion criteria", otherwise=_UNKNOWN),
    Item("Preprocessing", "model", "bundle"),
    Item("Selection of data subsets", "model", "run bundle"),
    Item("De-identification", otherwise=_UNKNOWN),
    Item("Missing data", "results", "metrics", remark="unreadable and unlabelled images"),
    Item("Image acquisition", otherwise=_UNKNOWN),
    Item("Definition of the reference standard", "card", "label_origin"),
    Item("Rationale for the reference standard"),
    Item("Annotators and their qualification", otherwise=_UNKNOWN),
    Item("Annotation of the test set", "reference", "reference"),
    Item("Agreement within and between readers", otherwise=_UNKNOWN),
    Item("Data partitions", "data", "run"),
    Item("Level at which partitions are disjoint", "data", "run"),
    Item("Intended sample size"),
    Item("The model, its input and output", "model", "bundle"),
    Item("Software and hardware", "model", "run"),
    Item("Initial weights", "model", "run"),
    Item("Training: augmentation and hyperparameters", "recipe", "recipe"),
    Item("Selection of the final model", "training", "history"),
    Item("Ensembling", "card", "bundle", remark="single model"),
    Item("Metrics", "results", "metrics"),
    Item("Uncertainty and significance", "results", "intervals"),
    Item("Robustness", "subgroups", "subgroups", remark="by subgroup only"),
    Item("Explainability methods and their validation", "localization", "boxes"),
    Item("Internal testing", "results", "metrics"),
    Item("External testing", "results", "external"),
    Item("Trial registration"),
    Item(
        "Numbers of participants included and excluded",
        "results",
        "metrics",
        remark="from the split onwards",
    ),
    Item("Demographics by partition", "subgroups", "subgroups", remark="evaluated split only"),
    Item("Performance with uncertainty", "results", "intervals"),
    Item("Diagnostic accuracy with intervals", "operating_points", "intervals thresholds"),
    Item("Failure analysis", "examples", "explanations"),
    Item("Limitations", "interpretation", "metrics"),
    Item("Implications for practice"),
    Item("Availability of the protocol"),
    Item("Availability of software, model and data"),
    Item("Funding"),
)

_TRIPOD: Final = (
    Item("Title"),
    Item("Abstract"),
    Item("Healthcare context and rationale"),
    Item("Target population, purpose and users"),
    Item("Known health inequalities"),
    Item("Objectives"),
    Item("Sources of the data", "data", "run"),
    Item("Dates of the data", otherwise=_UNKNOWN),
    Item("Setting and centres", otherwise=_UNKNOWN),
    Item("Eligibility", otherwise=_UNKNOWN),
    Item("Treatments received", otherwise=_UNKNOWN),
    Item("Preparation of the data", "model", "bundle"),
    Item("Outcome and its assessment", "card", "label_origin"),
    Item("Outcome assessors", otherwise=_UNKNOWN),
    Item("Blinding of the assessment", otherwise=_UNKNOWN),
    Item("Choice of predictors", "card", "bundle", remark="the image only"),
    Item("Definition of predictors", "model", "bundle"),
    Item("Predictor assessors", otherwise=_UNKNOWN),
    Item("Sample size"),
    Item("Missing data", "results", "metrics", remark="unreadable and unlabelled images"),
    Item("Use and partition of the data", "data", "run"),
    Item("Handling of predictors", "model", "bundle"),
    Item("Model type, building and tuning", "recipe", "recipe bundle"),
    Item("Heterogeneity between clusters", otherwise=_UNKNOWN),
    Item("Performance measures and plots", "curves", "metrics"),
    Item("Model updating, such as recalibration", "calibration", "reliability"),
    Item("Computation of predictions", "card", "bundle metrics"),
    Item("Class imbalance", "recipe", "recipe"),
    Item("Fairness", "subgroups", "subgroups"),
    Item("Output and thresholds", "operating_points", "thresholds"),
    Item("Differences between training and evaluation data", "data", "run metrics"),
    Item("Ethical approval"),
    Item("Funding"),
    Item("Conflicts of interest"),
    Item("Protocol"),
    Item("Registration"),
    Item("Data sharing"),
    Item("Code sharing"),
    Item("Patient and public involvement"),
    Item("Flow of participants", "results", "metrics", remark="from the split onwards"),
    Item("Participant characteristics", "subgroups", "subgroups",
         remark="evaluated split only"),
    Item("Comparison of development and evaluation data", "data", "run"),
    Item("Participants and events in each analysis", "results", "metrics"),
    Item("Full model, for use by others", "card", "bundle"),
    Item("Performance with intervals, including subgroups", "results", "intervals subgroups"),
    Item("Heterogeneity between clusters, results", otherwise=_UNKNOWN),
    Item("Results of model updating", "calibration", "reliability"),
    Item("Interpretation, including fairness"),
    Item("Limitations", "interpretation", "metrics"),
    Item("Handling of poor or missing input"),
    Item("Requirements for users"),
    Item("Next steps of research"),
)  # fmt: skip

_GUIDELINES: Final = {"CLAIM 2024": _CLAIM, "TRIPOD+AI": _TRIPOD}
