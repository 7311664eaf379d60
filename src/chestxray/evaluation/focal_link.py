"""The link of focal loss: from the logit that minimises the loss to log-odds.

Training with cross-entropy drives sigmoid(logit) towards the probability of the finding. Focal loss
(Lin et al., arXiv 1708.02002) does not: its minimiser q = sigmoid(logit) lies closer to 1/2. Where
the finding has probability p, the minimiser solves

    p φ(q) = (1 - p) φ(1 - q),    φ(q) = (1 - q)^gamma / q - gamma (1 - q)^(gamma - 1) log q

(Charoenphakdee et al. 2021, arXiv 2011.09172), so the log-odds of p are

    log φ(1 - q) - log φ(q) = (gamma + 1) logit + log(1 + gamma r(-logit)) - log(1 + gamma r(logit))

with r(z) = e^z log(1 + e^-z), which rises from 0 to 1. The link rises strictly; its slope lies
between 2.68 and 3 for gamma = 2. It is the identity for gamma = 0, which is cross-entropy.

Weights of the two classes, w1 for present and w0 for absent, multiply the two sides of the
equation, so they add log(w1 / w0) to the log-odds. So does drawing positives more often than
negatives. An offset after the link removes both exactly; an offset before it cannot. Balanced
drawing over several findings shifts the log-odds of a finding by an amount that depends on the
other findings of the image; there an offset is an approximation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from chestxray.evaluation.bootstrap import Values

_FAR: Final = 500.0  # beyond it r is 0 or 1 to full precision, and e^z would overflow


class FocalLink(BaseModel):
    """The link of a focal loss.

    Attributes:
        gamma: focusing of the loss that the logits were trained with; 0 for cross-entropy.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    gamma: float = Field(default=0.0, ge=0, le=10)

    def log_odds(self, logits: Values) -> Values:
        """Turn logits, float64 of any shape, into log-odds of the same shape."""
        if self.gamma == 0:
            return logits
        bend = np.log1p(self.gamma * _rise(-logits)) - np.log1p(self.gamma * _rise(logits))
        return np.asarray((self.gamma + 1) * logits + bend)


def _rise(z: Values) -> Values:
    """Give e^z log(1 + e^-z), which rises from 0 to 1."""
    near = np.clip(z, -_FAR, _FAR)
    return np.asarray(np.exp(near) * np.logaddexp(0.0, -near))
