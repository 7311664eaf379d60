"""From stored values to shown ones: one table with an entry for each value that can be stored.

Modality LUT or rescale, VOI LUT sequence or window, the nominal range of the last step (never the
image's own minimum and maximum), inversion, pixel padding black. Of several windows or tables the
first counts. MONOCHROME1 is inverted once, whether PresentationLUTShape says so too or is absent.
Where the two disagree, which the Standard forbids (PS3.3 C.8.11.3), the shape counts: it defines
what the output means (C.11.6), and dcmtk follows it as well. The disagreement is noted.

Not here: presentation states, overlays, calibration of displays.

References: PS3.4 section N.2 (order); PS3.3 sections C.7.5.1.1.2 (padding), C.7.6.3.1.2
(photometric interpretation), C.11.1 (modality), C.11.2 (VOI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.dataset.dicom.pixel_data import Form
from chestxray.dicom_elements import Elements, MalformedError

_INVERSE: Final = {"MONOCHROME1": True, "MONOCHROME2": False}
_SHAPE_INVERSE: Final = {"INVERSE": True, "IDENTITY": False}


@dataclass(frozen=True)
class _Stage:
    """Values [2^bits] float64 after a step, and the least and greatest that it can put out."""

    values: npt.NDArray[np.float64]
    low: float
    high: float


def display_table(elements: Elements, form: Form) -> tuple[npt.NDArray[np.uint16], tuple[str, ...]]:
    """Make the table that turns stored bits into grey.

    Args:
        elements: the data set.
        form: its image pixel attributes, grey.

    Returns:
        uint16 [2 ** form.stored], indexed by a sample's bits read as unsigned: 0 black to 65535
        white over the nominal range, bright = dense. And notes of what is doubtful.

    Raises:
        MalformedError: a table, a window or a rescale that the Standard does not allow.
    """
    stored = np.arange(2**form.stored, dtype=np.float64)
    if form.signed:
        stored[stored.size // 2 :] -= stored.size
    stage, notes = _voi(_modality(stored, elements, form), elements)
    shown = np.clip((stage.values - stage.low) / (stage.high - stage.low), 0, 1)
    shape = elements.text("PresentationLUTShape")
    inverse = _SHAPE_INVERSE.get(shape, _INVERSE[form.photometric])
    if inverse != _INVERSE[form.photometric]:
        notes += (f"PresentationLUTShape {shape} contradicts {form.photometric} and is followed",)
    if inverse:
        shown = 1 - shown
    shown[_padding(stored, elements, form)] = 0
    return np.rint(shown * 65535).astype(np.uint16), notes


def _modality(stored: npt.NDArray[np.float64], elements: Elements, form: Form) -> _Stage:
    table = elements.first("ModalityLUTSequence")
    if table is not None:
        return _looked_up(stored, table, signed=form.signed)
    slope, intercept = (
        next(iter(elements.numbers(keyword)), default)
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    values = stored * slope + intercept
    low, high = float(values.min()), float(values.max())
    if not low < high < float("inf"):
        raise MalformedError(
            f"RescaleSlope {slope:g} and RescaleIntercept {intercept:g} give no range of values"
        )
    return _Stage(values, low, high)


def _voi(stage: _Stage, elements: Elements) -> tuple[_Stage, tuple[str, ...]]:
    table = elements.first("VOILUTSequence")
    if table is not None:
        return _looked_up(np.rint(stage.values), table, signed=stage.low < 0), ()
    centers, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    if not centers or not widths:
        return stage, ()
    function = elements.text("VOILUTFunction") or "LINEAR"
    if widths[0] <= 0 or (function == "LINEAR" and widths[0] < 1):
        return stage, (f"WindowWidth {widths[0]:g} is not possible, so the window is ignored",)
    return _Stage(_windowed(stage.values, centers[0], widths[0], function), 0, 1), ()


def _windowed(
    values: npt.NDArray[np.float64], center: float, width: float, function: str
) -> npt.NDArray[np.float64]:
    """Apply a window to values of any shape, giving [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function == "SIGMOID":
        steepness = np.clip(-4 * (values - center) / width, -500, 500)
        return np.asarray(1 / (1 + np.exp(steepness)))
    elif function != "LINEAR_EXACT":
        raise MalformedError("VOILUTFunction has a value that the DICOM Standard does not define")
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _looked_up(values: npt.NDArray[np.float64], table: Elements, *, signed: bool) -> _Stage:
    """Apply a LUT (PS3.3 C.11.1.1, C.11.2.1.1): entries beyond its ends are those at its ends."""
    if "LUTDescriptor" in table and table.vr("LUTDescriptor") in {b"US", b"SS"}:
        signed = table.vr("LUTDescriptor") == b"SS"
    descriptor = table.words("LUTDescriptor")
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        raise MalformedError(
            f"LUTDescriptor is {descriptor}: it must hold length, first value and 8 to 16 bits"
        )
    length = descriptor[0] or 65536
    first = table.words("LUTDescriptor", signed=signed)[1]
    narrow = descriptor[2] == 8 and len(table.value("LUTData")) < 2 * length
    entries = table.array("LUTData", "u1" if narrow else "u2")
    if len(entries) < length:
        raise MalformedError(f"LUTData has {len(entries)} entries, LUTDescriptor says {length}")
    index = np.clip(values - first, 0, length - 1).astype(np.intp)
    return _Stage(entries[index].astype(np.float64), 0, 2.0 ** descriptor[2] - 1)


def _padding(
    stored: npt.NDArray[np.float64], elements: Elements, form: Form
) -> npt.NDArray[np.bool_]:
    """Tell which stored values are no image (PS3.3 C.7.5.1.1.2)."""
    values = elements.words("PixelPaddingValue", signed=form.signed)
    if not values:
        return np.zeros(stored.shape, dtype=bool)
    limit = elements.words("PixelPaddingRangeLimit", signed=form.signed) or values
    low, high = sorted((values[0], limit[0]))
    return np.asarray((stored >= low) & (stored <= high))
