"""What a paper about this run must report, and how much of it the page already does.

The items are those of CLAIM 2024 (Tejani et al., doi:10.1148/ryai.240300) and of TRIPOD+AI (Collins
et al. 2024, doi:10.1136/bmj-2023-078378), each put shortly in our own words; the originals decide.
A status follows from what the run contains: nothing is ticked because it usually is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chestxray.report.files import Files

REPORTED: Final = "reported here"
MISSING: Final = "not in this run"
UNKNOWN: Final = "not known to this software"
AUTHORS: Final = "for the authors to fill in"


@dataclass(frozen=True)
class Item:
    """One item of a guideline.

    Attributes:
        number: as the guideline counts.
        topic: what it asks for.
        section: of the page that answers it; empty where none can.
        needs: what the run must contain for that, in the words of `contained`.
        otherwise: the status where no section can answer.
        remark: what the answer leaves open.
    """

    number: str
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
    Item("1", "Title names the kind of AI"),
    Item("2", "Structured abstract"),
    Item("3", "Background, intended use and role of the AI"),
    Item("4", "Aims and hypotheses"),
    Item("5", "Prospective or retrospective"),
    Item("6", "Goal of the study"),
    Item("7", "Sources of the data", "data", "run"),
    Item("8", "Who was included and excluded", otherwise=UNKNOWN),
    Item("9", "Preprocessing", "trained", "bundle"),
    Item("10", "Which part of the data or image was used", "trained", "run bundle"),
    Item("11", "De-identification", otherwise=UNKNOWN),
    Item("12", "Missing data", "results", "metrics", remark="unread and unlabelled images"),
    Item("13", "How images were acquired", otherwise=UNKNOWN),
    Item("14", "What the reference standard is", "card", "nih"),
    Item("15", "Why this reference standard"),
    Item("16", "Who annotated, and how qualified", otherwise=UNKNOWN),
    Item("17", "Annotation of the test set", "reference", "reference"),
    Item("18", "Agreement within and between readers", otherwise=UNKNOWN),
    Item("19", "How data were divided", "data", "run"),
    Item("20", "Level at which parts are disjoint", "data", "run"),
    Item("21", "Intended sample size"),
    Item("22", "The model, its input and output", "trained", "bundle"),
    Item("23", "Software and hardware", "trained", "run"),
    Item("24", "Initial weights", "trained", "run"),
    Item("25", "Training: augmentation, settings", "recipe", "recipe"),
    Item("26", "How the final model was selected", "training", "history"),
    Item("27", "Ensembling", "card", "bundle", remark="one model"),
    Item("28", "Metrics", "results", "metrics"),
    Item("29", "Uncertainty and significance", "results", "intervals"),
    Item("30", "Robustness", "subgroups", "subgroups", remark="by subgroup only"),
    Item("31", "Explanations, and how they were checked", "localisation", "boxes"),
    Item("32", "Evaluation on internal data", "results", "metrics"),
    Item("33", "Evaluation on external data", "results", "external"),
    Item("34", "Registration as a trial"),
    Item("35", "Numbers included and excluded", "results", "metrics", remark="from the split on"),
    Item("36", "Demographics of each part", "subgroups", "subgroups", remark="evaluated part"),
    Item("37", "Performance with its uncertainty", "results", "intervals"),
    Item("38", "Diagnostic accuracy with its precision", "calls", "intervals thresholds"),
    Item("39", "Failures", "examples", "explanations"),
    Item("40", "Limitations", "support", "metrics"),
    Item("41", "Meaning for practice"),
    Item("42", "Where the protocol is"),
    Item("43", "Where software, model and data are"),
    Item("44", "Funding"),
)

_TRIPOD: Final = (
    Item("1", "Title"),
    Item("2", "Abstract"),
    Item("3a", "Healthcare context and reasons"),
    Item("3b", "Target population, purpose and users"),
    Item("3c", "Known health inequalities"),
    Item("4", "Objectives"),
    Item("5a", "Sources of the data", "data", "run"),
    Item("5b", "Dates of the data", otherwise=UNKNOWN),
    Item("6a", "Setting and centres", otherwise=UNKNOWN),
    Item("6b", "Eligibility", otherwise=UNKNOWN),
    Item("6c", "Treatments received", otherwise=UNKNOWN),
    Item("7", "Preparation of the data", "trained", "bundle"),
    Item("8a", "Outcome and how it was assessed", "card", "nih"),
    Item("8b", "Who assessed the outcome", otherwise=UNKNOWN),
    Item("8c", "Blinding of the assessment", otherwise=UNKNOWN),
    Item("9a", "Choice of the predictors", "card", "bundle", remark="the image alone"),
    Item("9b", "Definition of the predictors", "trained", "bundle"),
    Item("9c", "Who assessed the predictors", otherwise=UNKNOWN),
    Item("10", "Sample size and its justification"),
    Item("11", "Missing data", "results", "metrics", remark="unread and unlabelled images"),
    Item("12a", "How data were used and divided", "data", "run"),
    Item("12b", "Handling of the predictors", "trained", "bundle"),
    Item("12c", "Type of model, its making and tuning", "recipe", "recipe bundle"),
    Item("12d", "Differences between clusters", otherwise=UNKNOWN),
    Item("12e", "Measures and plots of performance", "curves", "metrics"),
    Item("12f", "Updating, such as recalibration", "calibration", "reliability"),
    Item("12g", "How predictions were computed", "card", "bundle metrics"),
    Item("13", "Class imbalance", "recipe", "recipe"),
    Item("14", "Fairness", "subgroups", "subgroups"),
    Item("15", "Output and thresholds", "calls", "thresholds"),
    Item("16", "Training against evaluation data", "data", "run metrics"),
    Item("17", "Ethical approval"),
    Item("18a", "Funding"),
    Item("18b", "Conflicts of interest"),
    Item("18c", "Protocol"),
    Item("18d", "Registration"),
    Item("18e", "Sharing of data"),
    Item("18f", "Sharing of code"),
    Item("19", "Patients and public involved"),
    Item("20a", "Flow of participants", "results", "metrics", remark="from the split on"),
    Item("20b", "Characteristics of participants", "subgroups", "subgroups",
         remark="evaluated part"),
    Item("20c", "Development beside evaluation data", "data", "run"),
    Item("21", "Participants and events in each analysis", "results", "metrics"),
    Item("22", "The whole model, for use by others", "card", "bundle"),
    Item("23a", "Performance with intervals, subgroups too", "results", "intervals subgroups"),
    Item("23b", "Differences between clusters, results", otherwise=UNKNOWN),
    Item("24", "Results of updating", "calibration", "reliability"),
    Item("25", "Interpretation, fairness included"),
    Item("26", "Limitations", "support", "metrics"),
    Item("27a", "Poor or missing input at use"),
    Item("27b", "What users must do and know"),
    Item("27c", "Next steps of research"),
)  # fmt: skip

GUIDELINES: Final = {"CLAIM 2024": _CLAIM, "TRIPOD+AI": _TRIPOD}
