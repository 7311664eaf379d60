"""What a paper about this run must report, and how much of it the page already does.

The items are those of CLAIM 2024 (Tejani et al., doi:10.1148/ryai.240300) and of TRIPOD+AI (Collins
et al. 2024, doi:10.1136/bmj-2023-078378), each put shortly in our own words, in their order but
without their numbers; the originals decide. A status follows from what the run contains: nothing is
ticked because it usually is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chestxray.report.run_files import Files

REPORTED: Final = "reported here"
MISSING: Final = "not in this run"
UNKNOWN: Final = "not known to this software"
AUTHORS: Final = "for the authors to fill in"


@dataclass(frozen=True)
class Item:
    """One item of a guideline.

    Attributes:
        topic: what it asks for.
        section: of the page that answers it; empty where none can.
        needs: what the run must contain for that, in the words of `contained`.
        otherwise: the status where no section can answer.
        remark: what the answer leaves open.
    """

    topic: str
    section: str = ""
    needs: str = ""
    otherwise: str = AUTHORS
    remark: str = ""

    def status(self, has: frozenset[str]) -> str:
        """Give the status in a run that contains `has`."""
        if not self.section:
            return self.otherwise
        return REPORTED if set(self.needs.split()) <= has else MISSING


def contained(files: Files) -> frozenset[str]:
    """Name what a run contains, as items need it."""
    metrics = files.metrics
    facts = {
        "run": True,
        "bundle": files.bundle is not None,
        "history": files.history is not None,
        "recipe": files.recipe is not None,
        "metrics": metrics is not None,
        "intervals": metrics is not None and metrics["mean"]["auroc"]["low"] is not None,
        "thresholds": metrics is not None and metrics["fit_on"] is not None,
        "external": files.external,
        "reliability": files.reliability is not None,
        "subgroups": files.subgroups is not None,
        "boxes": bool(files.marked),
        "standing": files.standing is not None,
        "reference": files.adjudicated,
        "explanations": files.explanations is not None,
        "nih": "nih" in files.run["source"].lower(),
    }
    return frozenset(name for name, there in facts.items() if there)


def statuses(files: Files) -> dict[str, list[tuple[Item, str]]]:
    """Give each guideline's items with their status in a run."""
    has = contained(files)
    return {
        name: [(item, item.status(has)) for item in items] for name, items in GUIDELINES.items()
    }


_CLAIM: Final = (
    Item("Title names the kind of AI"),
    Item("Structured abstract"),
    Item("Background, intended use and role of the AI"),
    Item("Aims and hypotheses"),
    Item("Prospective or retrospective"),
    Item("Goal of the study"),
    Item("Sources of the data", "data", "run"),
    Item("Who was included and excluded", otherwise=UNKNOWN),
    Item("Preprocessing", "trained", "bundle"),
    Item("Which part of the data or image was used", "trained", "run bundle"),
    Item("De-identification", otherwise=UNKNOWN),
    Item("Missing data", "results", "metrics", remark="unread and unlabelled images"),
    Item("How images were acquired", otherwise=UNKNOWN),
    Item("What the reference standard is", "card", "nih"),
    Item("Why this reference standard"),
    Item("Who annotated, and how qualified", otherwise=UNKNOWN),
    Item("Annotation of the test set", "reference", "reference"),
    Item("Agreement within and between readers", otherwise=UNKNOWN),
    Item("How data were divided", "data", "run"),
    Item("Level at which parts are disjoint", "data", "run"),
    Item("Intended sample size"),
    Item("The model, its input and output", "trained", "bundle"),
    Item("Software and hardware", "trained", "run"),
    Item("Initial weights", "trained", "run"),
    Item("Training: augmentation, settings", "recipe", "recipe"),
    Item("How the final model was selected", "training", "history"),
    Item("Ensembling", "card", "bundle", remark="one model"),
    Item("Metrics", "results", "metrics"),
    Item("Uncertainty and significance", "results", "intervals"),
    Item("Robustness", "subgroups", "subgroups", remark="by subgroup only"),
    Item("Explanations, and how they were checked", "localisation", "boxes"),
    Item("Evaluation on internal data", "results", "metrics"),
    Item("Evaluation on external data", "results", "external"),
    Item("Registration as a trial"),
    Item("Numbers included and excluded", "results", "metrics", remark="from the split on"),
    Item("Demographics of each part", "subgroups", "subgroups", remark="evaluated part"),
    Item("Performance with its uncertainty", "results", "intervals"),
    Item("Diagnostic accuracy with its precision", "calls", "intervals thresholds"),
    Item("Failures", "examples", "explanations"),
    Item("Limitations", "support", "metrics"),
    Item("Meaning for practice"),
    Item("Where the protocol is"),
    Item("Where software, model and data are"),
    Item("Funding"),
)

_TRIPOD: Final = (
    Item("Title"),
    Item("Abstract"),
    Item("Healthcare context and reasons"),
    Item("Target population, purpose and users"),
    Item("Known health inequalities"),
    Item("Objectives"),
    Item("Sources of the data", "data", "run"),
    Item("Dates of the data", otherwise=UNKNOWN),
    Item("Setting and centres", otherwise=UNKNOWN),
    Item("Eligibility", otherwise=UNKNOWN),
    Item("Treatments received", otherwise=UNKNOWN),
    Item("Preparation of the data", "trained", "bundle"),
    Item("Outcome and how it was assessed", "card", "nih"),
    Item("Who assessed the outcome", otherwise=UNKNOWN),
    Item("Blinding of the assessment", otherwise=UNKNOWN),
    Item("Choice of the predictors", "card", "bundle", remark="the image alone"),
    Item("Definition of the predictors", "trained", "bundle"),
    Item("Who assessed the predictors", otherwise=UNKNOWN),
    Item("Sample size and its justification"),
    Item("Missing data", "results", "metrics", remark="unread and unlabelled images"),
    Item("How data were used and divided", "data", "run"),
    Item("Handling of the predictors", "trained", "bundle"),
    Item("Type of model, its making and tuning", "recipe", "recipe bundle"),
    Item("Differences between clusters", otherwise=UNKNOWN),
    Item("Measures and plots of performance", "curves", "metrics"),
    Item("Updating, such as recalibration", "calibration", "reliability"),
    Item("How predictions were computed", "card", "bundle metrics"),
    Item("Class imbalance", "recipe", "recipe"),
    Item("Fairness", "subgroups", "subgroups"),
    Item("Output and thresholds", "calls", "thresholds"),
    Item("Training against evaluation data", "data", "run metrics"),
    Item("Ethical approval"),
    Item("Funding"),
    Item("Conflicts of interest"),
    Item("Protocol"),
    Item("Registration"),
    Item("Sharing of data"),
    Item("Sharing of code"),
    Item("Patients and public involved"),
    Item("Flow of participants", "results", "metrics", remark="from the split on"),
    Item("Characteristics of participants", "subgroups", "subgroups",
         remark="evaluated part"),
    Item("Development beside evaluation data", "data", "run"),
    Item("Participants and events in each analysis", "results", "metrics"),
    Item("The whole model, for use by others", "card", "bundle"),
    Item("Performance with intervals, subgroups too", "results", "intervals subgroups"),
    Item("Differences between clusters, results", otherwise=UNKNOWN),
    Item("Results of updating", "calibration", "reliability"),
    Item("Interpretation, fairness included"),
    Item("Limitations", "support", "metrics"),
    Item("Poor or missing input at use"),
    Item("What users must do and know"),
    Item("Next steps of research"),
)  # fmt: skip

GUIDELINES: Final = {"CLAIM 2024": _CLAIM, "TRIPOD+AI": _TRIPOD}
