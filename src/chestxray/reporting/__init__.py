"""One HTML page with figures about a run or an evaluation. Reads artefacts, computes nothing."""

from chestxray.reporting.page import report

__all__ = ["report"]
