"""A model's output for one radiograph, and how it is shown: as text, in a notebook, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.pixels import Canonical, Placement
from chestxray.errors import Notice
from chestxray.findings import Findings, label
from chestxray.reading.evidence import no_place
from chestxray.reading.judged_image import WHOLE
from chestxray.reading.overlay import blend

_T = TypeVar("_T")

_SHOWN: Final = 3  # findings that are not called, in `repr`
_DISPLAY: Final = 512  # pixels, side of the picture in a notebook
_CALL: Final = {True: "called", False: "", None: "not assessed"}


@dataclass(frozen=True, repr=False, eq=False)
class Reading:
    """A model's output for one radiograph.

    Attributes:
        probabilities: finding → calibrated probability in [0, 1].
        calls: finding → whether the probability reaches the finding's threshold; None where the
            finding is not assessed.
        heatmaps: finding → float32 [h, w] over the canonical square image, at least 0, on one
            scale per finding, the same for every image: a typical true call peaks at 0.8.
        warnings: reasons not to trust the reading; refusals among them where it was forced.
        model: identity of the weights.
        image: uint8 [S, S], the canonical image that the model saw.
        thresholds: finding → probability from which it is called; None where it is not assessed.
        placement: x, y, w, h of the radiograph in the canonical image, as fractions of its side;
            what lies outside is padding.
        not_assessed: finding that is not called at any probability → why.
        operating_point: name of the rule that chose the thresholds.
        origin: `hub:OWNER/NAME@COMMIT` of a model of the hub; None of any other.
        measures: figures of the image that are watched for drift, see `model.image_measures`.
    """

    probabilities: dict[str, float]
    calls: dict[str, bool | None]
    heatmaps: dict[str, npt.NDArray[np.float32]]
    warnings: tuple[Notice, ...]
    model: str
    image: Canonical
    thresholds: dict[str, float | None]
    placement: Placement = WHOLE
    not_assessed: dict[str, str] = field(default_factory=dict)
    operating_point: str = ""
    origin: str | None = None
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def findings(self) -> Findings:
        """The model's findings, in its order."""
        return Findings(self.probabilities)

    @property
    def forced(self) -> bool:
        """Whether the gate refuses the radiograph, and it was read all the same."""
        return any(notice.refuses for notice in self.warnings)

    @property
    def not_localised(self) -> dict[str, str]:
        """Finding → why its heatmap points to no place; localised findings are absent."""
        reasons = {finding: no_place(heat) for finding, heat in self.heatmaps.items()}
        return {finding: reason for finding, reason in reasons.items() if reason}

    def limited_to(self, findings: Collection[str]) -> Reading:
        """Give the reading of some of its findings, in its own order; its warnings stay.

        Args:
            findings: as this reading names them.
        """
        return replace(
            self,
            probabilities=_some(self.probabilities, findings),
            calls=_some(self.calls, findings),
            heatmaps=_some(self.heatmaps, findings),
            thresholds=_some(self.thresholds, findings),
            not_assessed=_some(self.not_assessed, findings),
        )

    def overlay(self, finding: str, *, per_image: bool = False) -> npt.NDArray[np.uint8]:
        """Lay a finding's heatmap over the canonical image.

        Args:
            finding: under any of its spellings in the vocabulary.
            per_image: scale the heatmap to its own peak; label such a picture so, since it has a
                bright place even where there is hardly any evidence.

        Returns:
            RGB uint8 [S, S, 3].

        Raises:
            KeyError: the model does not have this finding.
        """
        place = self.findings.place(finding)
        if place is None:
            raise KeyError(
                f"{finding!r} is not a finding of this model: {', '.join(self.findings)}"
            )
        return blend(self.image, self.heatmaps[self.findings[place]], per_image=per_image)

    def to_dict(self, heatmaps: bool = False) -> dict[str, Any]:
        """Give the reading as values that JSON can hold.

        Args:
            heatmaps: include the heatmaps, as lists of rows.
        """
        not_localised = self.not_localised
        findings = [
            {
                "finding": finding,
                "probability": probability,
                "threshold": self.thresholds[finding],
                "called": self.calls[finding],
                "not_assessed": self.not_assessed.get(finding),
                "not_localised": not_localised.get(finding),
            }
            | ({"heatmap": self.heatmaps[finding].tolist()} if heatmaps else {})
            for finding, probability in self.probabilities.items()
        ]
        warnings = [
            {
                "code": notice.code,
                "sentence": notice.sentence,
                "values": dict(notice.values),
                "refuses": notice.refuses,
            }
            for notice in self.warnings
        ]
        return {
            "model": self.model,
            "origin": self.origin,
            "operating_point": self.operating_point,
            "findings": findings,
            "warnings": warnings,
            "placement": list(self.placement),
        }

    def __repr__(self) -> str:
        ranked = self._ranked()
        called = [finding for finding in ranked if self.calls[finding]]
        others = [finding for finding in ranked if self.calls[finding] is False]
        none = [finding for finding in ranked if self.calls[finding] is None]
        count = len(self.warnings)
        return (
            f"<Reading by {self._named}: called {self._listed(called) or 'nothing'}; "
            f"{'next' if called else 'highest'} {self._listed(others[:_SHOWN]) or 'nothing'}; "
            f"{f'not assessed {len(none)} of {len(ranked)} findings; ' if none else ''}"
            f"{count} warning{'' if count == 1 else 's'}>"
        )

    def _repr_html_(self) -> str:
        """Show the radiograph, the first finding of the table over it, and the table of all.

        Findings are in the order of their probability, those that are not assessed at the end.
        """
        ranked = self._ranked()
        top = ranked[0]
        rows = "".join(self._row(finding) for finding in ranked)
        warnings = "".join(
            f"<li><code>{escape(notice.code)}</code> {escape(str(notice))}</li>"
            for notice in self.warnings
        )
        unassessed = "".join(
            f"<li>{escape(label(finding))}: {escape(reason)}</li>"
            for finding, reason in self.not_assessed.items()
        )
        return (
            '<div style="display:flex;gap:1.5em;flex-wrap:wrap;align-items:flex-start">'
            f"{_figure('Radiograph', 'radiograph', self._enlarged())}"
            f"{_figure(f'Heatmap of {label(top)}', self._caption(top), self._picture(top))}"
            "<table><thead><tr><th>Finding</th><th>Probability</th><th>Threshold</th>"
            f"<th>Call</th></tr></thead><tbody>{rows}</tbody></table></div>"
            f"{f'<p>Warnings</p><ul>{warnings}</ul>' if warnings else ''}"
            f"{f'<p>Not assessed</p><ul>{unassessed}</ul>' if unassessed else ''}"
            f"<p><small>{escape(self._named)}. For research, not a medical device.</small></p>"
        )

    @property
    def _named(self) -> str:
        return f"{self.model} ({self.origin})" if self.origin else self.model

    def _ranked(self) -> list[str]:
        """Give the findings by probability, those that are not assessed last."""

        def place(finding: str) -> tuple[bool, float]:
            return self.calls[finding] is None, -self.probabilities[finding]

        return sorted(self.probabilities, key=place)

    def _listed(self, findings: list[str]) -> str:
        return ", ".join(f"{finding} {self.probabilities[finding]:.2f}" for finding in findings)

    def _row(self, finding: str) -> str:
        threshold = self.thresholds[finding]
        cells = (
            label(finding),
            f"{self.probabilities[finding]:.3f}",
            "–" if threshold is None else f"{threshold:.3f}",
            _CALL[self.calls[finding]],
        )
        weight = ' style="font-weight:bold"' if self.calls[finding] else ""
        return f"<tr{weight}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"

    def _caption(self, finding: str) -> str:
        reason = self.not_localised.get(finding)
        return f"{label(finding)}: {reason}" if reason else label(finding)

    def _enlarged(self) -> npt.NDArray[np.uint8]:
        large = cv2.resize(self.image, (_DISPLAY, _DISPLAY), interpolation=cv2.INTER_LINEAR)
        return np.asarray(large, np.uint8)

    def _picture(self, finding: str) -> npt.NDArray[np.uint8]:
        return blend(self._enlarged(), self.heatmaps[finding])


def _some(of_findings: dict[str, _T], findings: Collection[str]) -> dict[str, _T]:
    return {finding: value for finding, value in of_findings.items() if finding in findings}


def _figure(alternative: str, caption: str, image: npt.NDArray[np.uint8]) -> str:
    """Give an image, grey or RGB, as a figure of a notebook."""
    _, png = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    data = base64.b64encode(png.tobytes()).decode()
    return (
        f'<figure style="margin:0;width:320px"><img alt="{escape(alternative)}" width="320" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
    )
