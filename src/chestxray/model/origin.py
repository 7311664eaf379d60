"""Where an imported model comes from, and which parts of an image it reads.

Models that others trained are read as their authors read them: from crops of an image where they
did, and with the record of the file, its authors and its licence.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

_Text = Annotated[str, Field(max_length=2000)]


class Crops(BaseModel):
    """The square parts of an image that the network sees at their own size.

    Attributes:
        side: of each part, in pixels; smaller than the image.
        rule: `centre`, the middle alone; or `ten`, the four corners and the middle, each mirrored
            too, whose probabilities are averaged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: Annotated[int, Field(ge=16, le=4096)]
    rule: Literal["centre", "ten"]

    @property
    def number(self) -> int:
        """Parts of an image that are read."""
        return 10 if self.rule == "ten" else 1


class Origin(BaseModel):
    """The file that a model was imported from; what is not known is None.

    Attributes:
        format: name of the format, as `chestxray import --from` takes it.
        file: name of the file; `sha256` is of its content.
        url: where its authors publish it.
        citation: the work to cite.
        licence: what is known of its licence.
        preprocessing: how its authors make the network's input from an image.
        differences: where the canonical image differs from that.
        training_list: name of the public list of the images that it was trained on.
        converted: whether the file was a pickle of whole objects, which was converted by a
            restricted reader in a process of its own.
    """

    model_config = ConfigDict(extra="forbid")

    format: Annotated[str, Field(max_length=80)]
    file: Annotated[str, Field(max_length=255)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    url: _Text | None = None
    citation: _Text | None = None
    licence: _Text | None = None
    preprocessing: _Text | None = None
    differences: _Text | None = None
    training_list: Annotated[str, Field(max_length=80)] | None = None
    converted: bool = False


_Finite = Annotated[float, Field(allow_inf_nan=False)]

PerChannel = _Finite | tuple[_Finite, _Finite, _Finite]
"""One number for a network of one grey channel, or one for each of three."""

MEANS: Final = (-10.0, 10.0)
DEVIATIONS: Final = (1e-6, 1e6)
"""Ranges of what is subtracted from grey values in [0, 1], and of what they are divided by."""


def channels_of(values: PerChannel) -> int:
    """Give the number of channels that a mean or a standard deviation is for."""
    return len(values) if isinstance(values, tuple) else 1


def check_normalisation(mean: PerChannel, std: PerChannel) -> None:
    """Raise `ValueError` where the two are of other channels or out of their range.

    Beyond the range float32 cannot tell grey values apart, or the network's own numbers overflow.
    """
    if channels_of(mean) != channels_of(std):
        raise ValueError("mean and std must be of the same channels")
    for name, values, (low, high) in (("mean", mean, MEANS), ("std", std, DEVIATIONS)):
        for value in values if isinstance(values, tuple) else (values,):
            if not low <= value <= high:  # NaN is not
                raise ValueError(
                    f"{name} must be from {low:g} to {high:g}, {value:g} is not: it is of grey "
                    f"values from 0 to 1, so divide one of values from 0 to 255 by 255"
                )
