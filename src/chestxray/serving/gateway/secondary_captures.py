"""Which secondary captures are radiographs: decided by their tags, before anything is decoded.

Many archives hold radiographs of the class Secondary Capture, such as scanned films and images that
a program has written again; so do most public data sets. The same class has screenshots, reports as
pictures, and the results of this gateway. A secondary capture counts as a radiograph where

- Modality says that its pixels come from CR or DX (screenshots and results say OT),
- it is one grey image: PhotometricInterpretation MONOCHROME1 or 2, one frame,
- BurnedInAnnotation is not YES, unless that is allowed,
- its Manufacturer is not this package, and
- nothing says that it was computed from another image: no SourceImageSequence, an empty
  DerivationDescription, and a ContentQualification that is not RESEARCH. The results of other
  products are marked so, and may be grey and have the Modality of the radiograph.

What passes is judged by the gate like any other radiograph, and each reading of it has the notice
`secondary-capture`. References: PS3.3 A.8.1 (the object), C.7.3.1 (Modality), C.7.6.1 (General
Image), C.8.13.2.1.1 (Content Qualification).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.uid import UID, SecondaryCaptureImageStorage

from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.sop_uids import header_texts, transfer_syntax
from chestxray.serving.gateway.spool import BEGINNING, data_set_starts

SECONDARY_CAPTURE: Final = SecondaryCaptureImageStorage

MAKER: Final = "chestxray"
"""Manufacturer of the results of every gateway of this package."""

_MODALITY: Final = 0x00080060
_MANUFACTURER: Final = 0x00080070
_DERIVATION: Final = 0x00082111
_SOURCE_IMAGES: Final = 0x00082112
_QUALIFICATION: Final = 0x00189004
_PHOTOMETRIC: Final = 0x00280004
_FRAMES: Final = 0x00280008
_BURNED_IN: Final = 0x00280301
_TAGS: Final = frozenset({
    _MODALITY, _MANUFACTURER, _DERIVATION, _SOURCE_IMAGES, _QUALIFICATION,
    _PHOTOMETRIC, _FRAMES, _BURNED_IN,
})  # fmt: skip
_MODALITIES: Final = ("CR", "DX")
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")


class NotARadiographError(ChestXrayError):
    """A secondary capture does not count as a radiograph; the message says why."""


@dataclass(frozen=True)
class CaptureRule:
    """Which secondary captures are received.

    Attributes:
        accepted: those that count as radiographs; otherwise none.
        burned_in: also those whose BurnedInAnnotation is YES.
    """

    accepted: bool = False
    burned_in: bool = False

    def modality(self, beginning: bytes, syntax: UID) -> str:
        """Give the modality of a secondary capture that is received: CR or DX.

        Args:
            beginning: first bytes of its data set as encoded.
            syntax: its transfer syntax.

        Raises:
            NotARadiographError: it is not received; the message quotes no value of the file.
        """
        if not self.accepted:
            raise NotARadiographError("neither a radiograph nor a result of this gateway")
        found, whole = header_texts(beginning, syntax, _TAGS)
        stated = {tag: text.upper() for tag, text in found.items()}
        if not whole:
            reason = f"its header is damaged or longer than {BEGINNING // 1024} KiB"
        elif stated.get(_MANUFACTURER) == MAKER.upper():
            reason = "it is a result of a gateway of this package"
        elif stated.get(_MODALITY) not in _MODALITIES:
            reason = "its Modality is not CR or DX"
        elif derived := _derived(stated):
            reason = f"it was made from another image ({derived})"
        elif stated.get(_PHOTOMETRIC) not in _GREY:
            reason = "it is in colour (PhotometricInterpretation)"
        elif stated.get(_FRAMES, "1") not in ("", "1"):
            reason = "it has more than one frame (NumberOfFrames)"
        elif stated.get(_BURNED_IN) == "YES" and not self.burned_in:
            reason = "text is part of its pixels (BurnedInAnnotation), see burned_in_annotation"
        else:
            return stated[_MODALITY]
        raise NotARadiographError(f"the secondary capture is no radiograph: {reason}")


NO_CAPTURES: Final = CaptureRule()


def _derived(stated: dict[int, str]) -> str:
    """Give the attribute by which an image was made from another one; empty where none says so."""
    if _SOURCE_IMAGES in stated:
        return "SourceImageSequence"
    if stated.get(_DERIVATION):
        return "DerivationDescription"
    if stated.get(_QUALIFICATION) == "RESEARCH":
        return "ContentQualification RESEARCH"
    return ""


def recovered_modality(path: Path) -> str:
    """Give the modality of a secondary capture that was received before; empty where unknown."""
    with path.open("rb") as file:
        start = data_set_starts(file)
        file.seek(0)
        head = file.read(start)
        found, _ = header_texts(file.read(BEGINNING), transfer_syntax(head), (_MODALITY,))
    modality = found.get(_MODALITY, "").upper()
    return modality if modality in _MODALITIES else ""
