"""The image that was read: what results take over from it, as it stands there.

Patient and study are copied value for value, what breaks a rule of the Standard included: a result
must lie beside its image, and the archive knows the patient by just these values. Text is decoded
by the image's own character set; results are written in UTF-8, which holds every name.

References: PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study), C.12.1.1.2 (character sets).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

from chestxray.errors import ImageError

CHARACTERS: Final = "ISO_IR 192"

# Type 2: present in every object, empty where the image does not have them.
_ALWAYS: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_WHERE_KNOWN: Final = ("IssuerOfPatientID", "StudyDescription")
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_IMAGE: Final = (
    "BodyPartExamined",
    "Laterality",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)


@dataclass(frozen=True)
class Source:
    """The header of an image, as far as results need it.

    Attributes:
        values: keyword → the text of its value, decoded; what is absent or empty has no entry.
    """

    values: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a DICOM file's header.

        Raises:
            ImageError: it has no UID to refer to, or is in no study.
        """
        wanted = [*_ALWAYS, *_WHERE_KNOWN, *_UIDS, *_IMAGE]
        with config.disable_value_validation():
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(wanted))
            values = {keyword: _text(header, keyword) for keyword in wanted}
        missing = [keyword for keyword in _UIDS if not values[keyword]]
        if missing:
            raise ImageError(path, f"has no {', '.join(missing)}: results cannot refer to it")
        return cls({keyword: text for keyword, text in values.items() if text})

    @property
    def uid(self) -> str:
        """SOP instance UID."""
        return self.values["SOPInstanceUID"]

    @property
    def sop_class(self) -> str:
        """SOP class UID."""
        return self.values["SOPClassUID"]

    def reference(self) -> Dataset:
        """Give a data set with the image's UIDs and nothing of the patient."""
        image = Dataset()
        for keyword in _UIDS:
            setattr(image, keyword, self.values[keyword])
        for keyword in _ALWAYS:
            setattr(image, keyword, None)
        return image

    def copy_to(self, result: Dataset) -> None:
        """Put patient and study into a result."""
        result.SpecificCharacterSet = CHARACTERS
        result.StudyInstanceUID = self.values["StudyInstanceUID"]
        for keyword in _ALWAYS:
            _put(result, keyword, self.values.get(keyword, ""))
        self.copy_known(result, *_WHERE_KNOWN)

    def copy_known(self, result: Dataset, *keywords: str) -> None:
        """Put attributes into a result, those that the image has."""
        for keyword in keywords:
            if keyword in self.values:
                _put(result, keyword, self.values[keyword])


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _put(result: Dataset, keyword: str, text: str) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    result.add(DataElement(tag, dictionary_VR(tag), text, validation_mode=config.IGNORE))
