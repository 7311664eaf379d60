"""Bootstrap weights of very many patients: Poisson(1), drawn from counters instead of stored.

The counts of a resample of P patients are multinomial, nearly independent of each other, and each
nearly Poisson with mean 1. For many patients independent Poisson weights give the same intervals
(Hanley and MacGibbon 2006, doi:10.1016/j.cmpb.2006.04.006; Chamandy et al. 2012, "Estimating
Uncertainty for Massive Data Streams"): the number of patients drawn then varies by 1 / sqrt(P), and
all figures are ratios.

The weight of a patient in a resample is a function of the seed, the block of `LANES` resamples that
it belongs to, and the patient's number. So nothing is kept: a block is drawn when it is needed, as
often as it is needed, by whatever process or machine. The generator is Philox, keyed by seed and
block, with the patient as its counter (Salmon et al. 2011, doi:10.1145/2063384.2063405). The
resamples do not depend on their number: the first 100 of 1,000 are those of 100.

A weight takes 16 random bits. Its distribution is Poisson(1) in units of 1 / 65,536, cut off above
8, with a mean and a variance of exactly 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

LANES: Final = 128  # resamples in a block: 32 random words for each patient
MOST: Final = 8
"""The largest weight."""

_SHARES: Final = (24106, 24115, 12055, 4015, 1005, 201, 33, 5, 1)  # of weights 0 to 8, in 65,536ths
_CUTS: Final = tuple(np.cumsum(_SHARES)[:-1].astype(np.uint16).tolist())
_WORDS: Final = LANES // 4
_PATIENTS: Final = 1024  # drawn at a time, so that the words stay in the cache

Weights = npt.NDArray[np.uint8]
"""How often each patient counts in each resample of a block, [P, b]."""


def poisson_weights(seed: int, block: int, out: Weights) -> None:
    """Draw the weights of one block of resamples.

    Args:
        seed: of the random numbers, in [0, 2**64).
        block: number of the block, from 0.
        out: uint8 [P, b], b ≤ `LANES`, filled with the first b resamples of the block.
    """
    stream = np.random.Philox(key=np.array([seed, block], dtype=np.uint64))
    for start in range(0, len(out), _PATIENTS):
        some = out[start : start + _PATIENTS]
        words = np.asarray(stream.random_raw(len(some) * _WORDS)).astype("<u8", copy=False)
        bits = words.view("<u2").reshape(len(some), LANES)[:, : out.shape[1]]
        drawn = np.zeros(bits.shape, dtype=np.uint8)
        for cut in _CUTS:
            drawn += bits >= cut
        some[:] = drawn


def without_groups(group: npt.NDArray[np.int64], first: int, out: Weights) -> None:
    """Give the weights of the jackknife: 1, and 0 for the patients of the group left out.

    Args:
        group: int64 [P] in [0, 65,536), of each patient.
        first: the group that the first resample leaves out.
        out: uint8 [P, b], filled.
    """
    lanes = np.arange(first, first + out.shape[1], dtype=np.uint16)
    small = group.astype(np.uint16)[:, None]
    for start in range(0, len(group), _PATIENTS):
        some = slice(start, start + _PATIENTS)
        np.not_equal(small[some], lanes, out=out[some].view(np.bool_))
