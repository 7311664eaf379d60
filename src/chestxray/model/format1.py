"""Cards of format 1, in which every finding was calibrated by Platt's slope and offset.

They are understood as they are: the same logits give the same probabilities and heatmaps, to the
bit.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Final = 1


class Card(BaseModel):
    """What a card of format 1 says about calibration; the rest is as it is today."""

    model_config = ConfigDict(extra="allow")

    class Platt(BaseModel):
        """A slope and an offset a finding; `unfitted` names those left at 1, or at 1 and 0."""

        model_config = ConfigDict(extra="forbid")

        method: Literal["platt"] = "platt"
        slope: dict[str, float]
        offset: dict[str, float]
        unfitted: dict[str, str] = {}

    calibration: Platt


def upgraded(card: dict[str, Any]) -> dict[str, Any]:
    """Give a card of format 1, as read from JSON, in the fields of format 2.

    Raises:
        ValidationError: its calibration is not of format 1.
    """
    platt = Card.model_validate(card).calibration
    calibrators = {
        finding: {"family": "platt", "slope": slope, "offset": platt.offset.get(finding)}
        for finding, slope in platt.slope.items()
    }
    calibration = {"calibrators": calibrators, "unfitted": platt.unfitted}
    return card | {"calibration": calibration, "heat_slopes": platt.slope}
