"""From one finding's logit to a probability: the families of calibration, as plain data.

    offset        sigmoid(logit + offset)                             prior shift, Saerens 2002
    temperature   sigmoid(slope × logit), slope = 1 / T               Guo 2017, arXiv 1706.04599
    platt         sigmoid(slope × logit + offset)                     Platt 1999
    beta          sigmoid(a log q - b log(1 - q) + c), q = sigmoid(logit)    Kull 2017
    isotonic      steps that never fall, joined by straight lines     Zadrozny and Elkan 2002

Every one rises with the logit, so the ranking of images by a finding stays as the model gave it.
Isotonic alone makes ties: images on the same step get the same probability, which can move AUROC
and AUPRC a little. How they are fitted is told in `calibration_fits`, how one is chosen in
`calibration`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Column = npt.NDArray[np.float64]

_MODEL = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Logistic(BaseModel):
    """A straight line in log-odds; `offset` holds the slope at 1, `temperature` the offset at 0."""

    model_config = _MODEL

    family: Literal["offset", "temperature", "platt"]
    slope: float = Field(default=1.0, gt=0)
    offset: float = 0.0

    @model_validator(mode="after")
    def _is_of_its_family(self) -> Self:
        if self.family == "offset" and self.slope != 1:
            raise ValueError(f"family offset has slope 1, not {self.slope}")
        if self.family == "temperature" and self.offset != 0:
            raise ValueError(f"family temperature has offset 0, not {self.offset}")
        return self

    def apply(self, logit: Column) -> Column:
        """Turn logits, float64 [n], into probabilities, float64 [n]."""
        return sigmoid(logit * self.slope + self.offset)


class Beta(BaseModel):
    """A line in log-odds whose slope may differ between low and high probabilities.

    Kull, Silva Filho and Flach 2017, AISTATS, "Beta calibration". Slopes below 0 would turn the
    ranking round and two of 0 would flatten it, so neither is allowed.
    """

    model_config = _MODEL

    family: Literal["beta"] = "beta"
    a: float = Field(ge=0)
    b: float = Field(ge=0)
    c: float

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.a == 0 and self.b == 0:
            raise ValueError("a or b must be > 0 to keep the ranking, both are 0")
        return self

    def apply(self, logit: Column) -> Column:
        """Turn logits, float64 [n], into probabilities, float64 [n]."""
        low, high = beta_features(logit)
        return sigmoid(self.a * low + self.b * high + self.c)


class Isotonic(BaseModel):
    """Straight lines between knots, level beyond the outermost ones.

    Attributes:
        logit: where the knots lie, rising.
        probability: their height, never falling, strictly inside (0, 1).
    """

    model_config = _MODEL

    family: Literal["isotonic"] = "isotonic"
    logit: list[float] = Field(min_length=1)
    probability: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.logit) != len(self.probability):
            raise ValueError("logit and probability must have the same number of knots")
        if (np.diff(self.logit) <= 0).any() or (np.diff(self.probability) < 0).any():
            raise ValueError("knots must rise in logit and never fall in probability")
        return self

    def apply(self, logit: Column) -> Column:
        """Turn logits, float64 [n], into probabilities, float64 [n]."""
        return np.asarray(np.interp(logit, self.logit, self.probability), dtype=np.float64)


Calibrator = Annotated[Logistic | Beta | Isotonic, Field(discriminator="family")]


def beta_features(logit: Column) -> tuple[Column, Column]:
    """Give log q and -log(1 - q) of q = sigmoid(logit), whose sum is the logit."""
    return -np.logaddexp(0.0, -logit), np.logaddexp(0.0, logit)


def sigmoid(x: Column) -> Column:
    """Logistic function without overflow, precise in the far tail, where it keeps the ranking."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))
