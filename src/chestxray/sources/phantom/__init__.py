"""Phantoms: synthetic frontal chest radiographs whose truth is known exactly.

    population → anatomy → skeleton, signs, devices → render → tree

`population` draws who is radiographed and what they have. `anatomy` derives the measures of the
chest and draws the organs and vessels as path lengths, `skeleton`, `signs` and `devices` add to
them. `render` turns attenuation into grey values, and `tree` writes it all in NIH's own layout and
reads it as the source `phantoms`. `intervention` draws pairs, the same radiograph without and with
one finding, and `fingerprint` tells one state of the drawing from another. Phantoms teach and test
a pipeline; they prove nothing about patients.
"""

from __future__ import annotations

from chestxray.sources.phantom.fingerprint import drawing_sha256
from chestxray.sources.phantom.intervention import Pair, pairs

__all__ = ["Pair", "drawing_sha256", "pairs"]
